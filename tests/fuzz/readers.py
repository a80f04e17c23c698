"""Feed the readers of pictures, tables, weights and torch files with what no one meant to write.

A reader returns or raises a ``MienError``; anything else is a finding. Needs ``atheris``.

    python tests/fuzz/readers.py image -max_total_time=60
    python tests/fuzz/readers.py table -max_total_time=60
    python tests/fuzz/readers.py weights -max_total_time=60
    python tests/fuzz/readers.py torch -runs=1000000
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["mien", "PIL"]):
    from mien.data.table import Table
    from mien.faces.image import read_image
    from mien.files.errors import MienError
    from mien.files.torch_file import read_torch_file
    from mien.files.weights import load_weights

FOLDER = Path(tempfile.mkdtemp())


def image(data: bytes) -> None:
    read_image(data)


def table(data: bytes) -> None:
    info = {"format": 1, "crop": "tight", "size": 8, "faces": 1, "fingerprint": ""}
    (FOLDER / "table.json").write_text(json.dumps(info))
    (FOLDER / "part-00000.parquet").write_bytes(data)
    Table(FOLDER).column("source")


def weights(data: bytes) -> None:
    file = FOLDER / "w.safetensors"
    file.write_bytes(data)
    card = {"sha256": hashlib.sha256(data).hexdigest()}
    file.with_suffix(".json").write_text(json.dumps(card))
    load_weights(file)


def torch(data: bytes) -> None:
    (FOLDER / "w.pth").write_bytes(data)
    read_torch_file(FOLDER / "w.pth")


def seeds() -> Path:
    """Write one valid file of each kind, from which the fuzzer starts: it gets past their heads."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch as t

    from mien.data.table import SCHEMA
    from mien.faces.image import encode_image
    from mien.files.weights import save_weights

    folder = Path(tempfile.mkdtemp())
    ramp = np.arange(16 * 16 * 3, dtype=np.uint16).reshape(16, 16, 3).astype(np.uint8)
    for kind in ("jpg", "png", "webp"):
        (folder / kind).write_bytes(encode_image(ramp, kind))
    row = {name: [None] for name in SCHEMA.names} | {"image": [b"x"], "source": ["a"]}
    pq.write_table(pa.table(row, schema=SCHEMA), folder / "parquet")
    save_weights(FOLDER / "s.safetensors", {"a": t.zeros(2)}, {})
    (FOLDER / "s.safetensors").replace(folder / "safetensors")
    t.save({"a": t.zeros(2)}, folder / "torch")
    return folder


READERS = {"image": image, "table": table, "weights": weights, "torch": torch}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in READERS:
        raise SystemExit(f"Name a reader: {', '.join(READERS)}.")
    reader = READERS[sys.argv.pop(1)]

    def once(data: bytes) -> None:
        with contextlib.suppress(MienError):
            reader(data)

    atheris.Setup([*sys.argv, str(seeds())], once)
    atheris.Fuzz()
