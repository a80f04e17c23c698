"""What does a training step of PCL cost beside SimCLR's, and how much of the machine's peak?

Both have one trunk and as many views in a step (SimCLR gets half as many images as PCL makes
views, each in two). SimCLR's loss is ``NTXentLoss`` of ``lightly`` where that is installed (it
needs torchvision), else the one of this package; the result says which. The share of the peak
is the step's convolutions and products over what one large product of matrices reaches.

    python benchmarks/pcl_step.py --width 32 --batch 64 --out pcl_step.json
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mien.files.atomic import write_json
from mien.files.memory import keep_memory
from mien.methods.pcl.method import PCL
from mien.methods.simclr import SimCLR, nt_xent


def peer_loss(temperature: float) -> tuple[str, Callable[[Tensor], Tensor]]:
    """Return name and loss over two views in halves of a batch."""
    try:
        from lightly.loss import NTXentLoss
    except ImportError:
        return "mien.methods.simclr.nt_xent", lambda z: nt_xent(z, temperature)
    loss = NTXentLoss(temperature)
    return "lightly.loss.NTXentLoss", lambda z: loss(*z.chunk(2))


def peak(side: int, seconds: float) -> float:
    """Return operations a second of a product of square matrices, the best of several."""
    a, b = torch.rand(side, side), torch.rand(side, side)
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def main() -> None:
    """Time both steps in turns."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--batch", type=int, default=64, help="images of steps (a) and (b) each")
    parser.add_argument("--pose-images", type=int, default=4)
    parser.add_argument("--negatives", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--side", type=int, default=2048, help="of the matrices of the peak")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()

    keep_memory()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    config = PCL.Config(width=args.width, pose_images=args.pose_images, negatives=args.negatives)
    pcl = PCL(config).to(memory_format=torch.channels_last).train()
    simclr = SimCLR(SimCLR.Config(width=args.width)).to(memory_format=torch.channels_last).train()
    counts = {"decoder": args.batch, "face": args.batch, "pose": args.pose_images}
    batch = {name: torch.rand(count, 3, 64, 64) * 2 - 1 for name, count in counts.items()}
    views = 2 * args.batch + (2 + args.negatives) * args.pose_images
    images = torch.rand(views // 2, 3, 64, 64) * 2 - 1
    adams = {"pcl": pcl.optimisers(1e-4)["pcl"], "simclr": simclr.optimisers(1e-4)["simclr"]}
    name, loss = peer_loss(simclr.config.temperature)

    def update(which: str, value: Tensor) -> None:
        adams[which].zero_grad()
        value.backward()
        adams[which].step()

    works: dict[str, Callable[[], object]] = {
        "pcl": lambda: pcl.step(batch, update),
        "simclr": lambda: update(
            "simclr", loss(simclr.projector(simclr.represent(simclr.two_views(images))))
        ),
    }
    times: dict[str, list[float]] = {key: [] for key in works}
    operations = {}
    for key, work in works.items():  # warms up as well
        with FlopCounterMode(display=False) as counter:
            work()
        operations[key] = counter.get_total_flops()
    for _ in range(args.rounds):
        for key, work in works.items():
            start = time.perf_counter()
            work()
            times[key].append(time.perf_counter() - start)
    median = {key: statistics.median(t) for key, t in times.items()}
    most = peak(args.side, 2.0)
    ratios = {
        "pcl step / simclr step": median["pcl"] / median["simclr"],
        "the same by operations": operations["pcl"] / operations["simclr"],
        **{f"{k}: share of the peak": operations[k] / median[k] / most for k in works},
    }
    for key, ratio in ratios.items():
        print(f"{key:28}{ratio:8.3f}")
    print(f"SimCLR's loss: {name}")
    if args.out:
        write_json(
            args.out,
            {
                "question": "a PCL step beside a SimCLR step on one trunk at equal views",
                "width": args.width,
                "counts": counts,
                "views": views,
                "simclr_loss": name,
                "threads": args.threads,
                "ratios": ratios,
                "machine": {"cpus": os.cpu_count(), "processor": platform.processor()},
                "torch": torch.__version__,
            },
        )


if __name__ == "__main__":
    main()
