"""Find the directions of style codes away from a neutral face, so that `neutralise` can go back.

    python tools/fit_neutral.py runs/styletransfer/weights.safetensors tables/ict_clips \
        --out runs/styletransfer_neutral

For each expression of the tables the mean difference between the encoder's codes of its pictures
and of the neutral pictures of the same persons (of all, where persons are unknown). The directions,
made orthonormal, and the mean neutral code go into a copy of the weights. Faces of FER-2013 are
left out: they are no source of edits.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

import mien.weights
from mien.data.cache import FaceCache
from mien.evaluate.judges import take
from mien.evaluate.swap_measures import run_batches
from mien.files.errors import MienError, TableError
from mien.files.weights import load_weights, save_weights
from mien.methods.styletransfer import StyleTransfer
from mien.methods.styletransfer.method import TRANSFERS


def differences(method: StyleTransfer, cache: FaceCache) -> tuple[torch.Tensor, dict]:
    """Return the mean neutral code ``(L, W)`` and expression → sum of differences and count."""
    usable = (cache.expression != "") & np.isin(cache.split, ("", "train")) & ~cache.kept
    usable &= cache.dataset != "fer2013"
    rows = np.flatnonzero(usable)
    neutral = rows[cache.expression[rows] == "neutral"]
    if not len(neutral):
        raise TableError(f"{cache.table.folder} has no face that is called neutral.")
    codes = {
        int(r): c for r, c in zip(rows, run_batches(method.codes, take(cache, rows)), strict=True)
    }
    mean = torch.stack([codes[int(r)] for r in neutral]).mean(0)
    own = {
        int(p): torch.stack([codes[int(r)] for r in neutral if cache.person[r] == p]).mean(0)
        for p in np.unique(cache.person[neutral])
        if p >= 0
    }
    found: dict[str, list] = {}
    for r in rows:
        if cache.expression[r] == "neutral":
            continue
        entry = found.setdefault(str(cache.expression[r]), [torch.zeros_like(mean), 0])
        entry[0] += (codes[int(r)] - own.get(int(cache.person[r]), mean)) / method.w_std
        entry[1] += 1
    return mean, found


def main() -> None:
    """Fit and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("weights", help="weights of styletransfer")
    parser.add_argument("table", nargs="+", help="tables of faces with expressions")
    parser.add_argument("--out", type=Path, required=True, help="folder of the result")
    parser.add_argument(
        "--transfer", choices=TRANSFERS, help="how expressions are put on; as before without"
    )
    parser.add_argument("--least", type=int, default=20, help="pictures that an expression needs")
    args = parser.parse_args()
    try:
        method = mien.weights.load(args.weights)
        tensors, card = load_weights(mien.weights.path(args.weights))
        if not isinstance(method, StyleTransfer):
            parser.error(f"{args.weights} is of {method.name}, not of styletransfer")
        caches = [FaceCache(t, method.config.size) for t in args.table]
        parts = [differences(method, cache) for cache in caches]
    except MienError as error:
        parser.error(str(error))
    sums: dict[str, list] = {}
    for _, found in parts:
        for name, (total, count) in found.items():
            entry = sums.setdefault(name, [0, 0])
            entry[0], entry[1] = entry[0] + total, entry[1] + count
    kept = sorted((n for n, e in sums.items() if e[1] >= args.least), key=lambda n: -sums[n][1])
    kept = kept[: method.config.directions]
    if not kept:
        parser.error(f"no expression has {args.least} pictures")
    stacked = torch.stack([(sums[n][0] / sums[n][1]).flatten() for n in kept])
    basis = torch.linalg.qr(stacked.mT)[0].mT
    directions = torch.zeros_like(method.neutral_directions)
    directions[: len(kept)] = basis.view(len(kept), *directions.shape[1:])
    tensors["neutral_directions"] = directions
    tensors["neutral_mean"] = torch.stack([mean for mean, _ in parts]).mean(0)
    card["neutral"] = {n: sums[n][1] for n in kept}
    card["tasks"] = ["neutralise"]
    if args.transfer:
        card["config"]["transfer"] = args.transfer
    card["data"] = [*card["data"], *(cache.named() for cache in caches)]

    del card["sha256"]
    args.out.mkdir(parents=True, exist_ok=True)
    save_weights(args.out / "weights.safetensors", tensors, card)
    print(f"{args.out}: away from neutral along {', '.join(kept)}")


if __name__ == "__main__":
    main()
