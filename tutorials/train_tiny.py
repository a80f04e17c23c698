"""Train a network from nothing, stop, go on, and use the weights.

    python tutorials/train_tiny.py

The faces are drawn by the package, so nothing is downloaded and nobody's photo is used. Twenty
steps of a tiny network teach it next to nothing; a real training differs in its numbers alone.
"""

import json
from pathlib import Path

import yaml

import mien
from mien.data.procedural import write_table
from mien.data.table import Table

# A table of faces: one row a face, with everything that is known about it. From photos:
# `mien prepare photos/ --out faces`.
write_table("faces", persons=10, frames=4, size=32)
print(f"{Table('faces').info['faces']} faces")

# A recipe says all that decides what a training computes. `recipes/` holds those of the methods,
# e.g. `mien train simclr/laptop`.
recipe = {
    "method": "simclr",
    "tables": ["faces"],
    "size": 32,
    "batch_size": 16,
    "steps": 20,
    "learning_rate": 1e-3,
    "checkpoint_every": 10,
    "preview_every": 20,
    "log_every": 5,
    "config": {"width": 4, "size": 32, "norm": "batch"},
}
Path("tiny.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")

# The same as `mien train tiny.yaml --out run`. Ctrl-C saves a checkpoint; `resume` goes on from the
# newest one, and the result is the same, bit for bit. Here it has nothing left to do.
run = mien.train("tiny.yaml", out="run", accelerator="cpu", threads=1)
mien.train("tiny.yaml", out="run", accelerator="cpu", threads=1, resume=True)

for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
    values = json.loads(line)
    print(f"step {values['step']}: loss {values['loss']:.3f}")
print("look at", *sorted((run / "previews").iterdir()))

# Weights and their card, which says how they came about; every command takes them by their path.
weights = run / "weights.safetensors"
card = json.loads(weights.with_suffix(".json").read_text(encoding="utf-8"))
print(f"made by: {card['command']}")
codes = mien.embed(weights, "faces").table
print(f"{codes.num_rows} codes of {len(codes['trunk'][0])} numbers")
