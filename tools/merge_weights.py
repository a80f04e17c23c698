"""Put the networks of one weight file over those of another, to go on from both.

    python tools/merge_weights.py facecycle runs/motion/weights.safetensors --out runs/merged

The result holds every parameter that either has, the second one's where both do. Buffers are the
first one's.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import mien.weights
from mien.files.errors import MienError
from mien.files.weights import load_weights, save_weights


def main() -> None:
    """Merge weights."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("below", help="weights, a name or a file")
    parser.add_argument("above", help="weights whose networks count where both have them")
    parser.add_argument("--out", type=Path, required=True, help="folder of the result")
    args = parser.parse_args()
    try:
        below, above = (mien.weights.load(name) for name in (args.below, args.above))
        tensors, card = load_weights(mien.weights.path(args.below))
    except MienError as error:
        parser.error(str(error))
    trained = {name for name, _ in below.named_parameters()}
    taken = {k: v for k, v in above.state_dict().items() if k in trained}
    if not taken or any(tensors[k].shape != v.shape for k, v in taken.items()):
        parser.error(f"{args.above} holds no network that fits one of {args.below}")
    args.out.mkdir(parents=True, exist_ok=True)
    del card["sha256"]
    save_weights(args.out / "weights.safetensors", tensors | taken, card)
    changed = sum(not tensors[k].equal(v) for k, v in taken.items())
    print(f"{args.out}: {len(tensors)} tensors, {changed} of them new")


if __name__ == "__main__":
    main()
