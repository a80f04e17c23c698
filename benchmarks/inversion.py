"""How much faster are faces inverted from the encoder than from the mean face, and as well?

The peer is the paper's way: plain steps from w_avg, no encoder, no early end, float32. Faces,
generator, losses and weights of losses are the same; both run in this one process, in turns, on
faces that the generator never saw.

    python benchmarks/inversion.py runs/styletransfer/weights.safetensors tables/lfw --steps 60
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from pathlib import Path

import numpy as np
import torch

import mien.weights
from mien.data.cache import FaceCache
from mien.evaluate.judges import take
from mien.evaluate.quality import psnr
from mien.files.atomic import write_json
from mien.files.errors import MienError
from mien.files.memory import keep_memory
from mien.methods.styletransfer import StyleTransfer
from mien.methods.styletransfer.inversion import Settings


def main() -> None:
    """Invert both ways and print what each took and reached."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("weights")
    parser.add_argument("table", help="table of faces; those of its test split are taken")
    parser.add_argument("--faces", type=int, default=16)
    parser.add_argument("--steps", type=int, default=60, help="after the encoder")
    parser.add_argument("--plain", type=int, default=1000, help="steps from w_avg")
    parser.add_argument("--half", action="store_true", help="bfloat16 after the encoder")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    keep_memory()
    torch.set_num_threads(args.threads)
    try:
        method = mien.weights.load(args.weights)
        if not isinstance(method, StyleTransfer):
            parser.error(f"{args.weights} is of {method.name}, not of styletransfer")
        faces = FaceCache(args.table, method.config.size)
        rows = faces.select("test")
    except MienError as error:
        parser.error(str(error))
    rows = np.sort(np.random.default_rng(0).permutation(rows)[: args.faces])
    x = take(faces, rows)
    runs = {
        "from the encoder": ("encoder", Settings(args.steps, half=args.half)),
        "plain from w_avg": ("mean", Settings(args.plain, patience=0)),
    }
    method.invert(x, Settings(1))  # what is loaded or compiled once does not count
    result: dict[str, dict[str, float]] = {}
    for name, (start, settings) in runs.items():
        began = time.perf_counter()
        found = method.invert(x, settings, start, progress=True)
        seconds = time.perf_counter() - began
        quality = psnr(method.inverter.draw(found.codes), x)
        result[name] = {
            "seconds": seconds,
            "psnr": quality.mean().item(),
            "loss": found.loss.mean().item(),
            "steps": found.steps.float().mean().item(),
        }
        print(f"{name}: {seconds:.1f} s, {quality.mean():.2f} dB, loss {found.loss.mean():.4f}")
    ours, plain = result.values()
    print(f"{plain['seconds'] / ours['seconds']:.1f} x, {ours['psnr'] - plain['psnr']:+.2f} dB")
    if args.out:
        machine = {"processor": platform.processor(), "threads": args.threads}
        about = {"torch": torch.__version__, "faces": len(x), "machine": machine}
        write_json(args.out, {**about, "runs": result})


if __name__ == "__main__":
    main()
