"""How much faster are PCL's views made as one batch than one by one, and what do they leave?

The peer is the published pipeline, picture by picture in PIL: colour jitter, grey, a blur by a
convolution of its own, edges, tensor. It runs in as many processes as the batch has threads, and
the way of its pictures back to the training is part of its time, as it is with a data loader.
Pictures, counts and strengths are the same.

The second number is the share of a whole training step (three forward passes, backward passes and
updates) that is not spent on views.

    python benchmarks/pcl_views.py --width 32 --batch 64 --pose-images 4 --negatives 16
    python benchmarks/pcl_views.py --width 64 --batch 256 --pose-images 10 --negatives 100
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from torch import Tensor
from torch.nn import functional as F

from mien.data.views import ViewSettings
from mien.files.atomic import write_json
from mien.files.memory import keep_memory
from mien.methods.pcl import PCL

SIZE = 64
VIEW = ViewSettings()


# The peer -----------------------------------------------------------------------------------------


def turned_hue(picture: Image.Image, share: float) -> Image.Image:
    hue, saturation, value = picture.convert("HSV").split()
    moved = np.asarray(hue).astype(np.int16) + int(share * 255)
    channels = (Image.fromarray((moved % 256).astype(np.uint8)), saturation, value)
    return Image.merge("HSV", channels).convert("RGB")


def jittered(picture: Image.Image) -> Image.Image:
    def factor(strength: float) -> float:
        return random.uniform(max(0.0, 1 - strength), 1 + strength)

    steps = [
        lambda p: ImageEnhance.Brightness(p).enhance(factor(VIEW.brightness)),
        lambda p: ImageEnhance.Contrast(p).enhance(factor(VIEW.contrast)),
        lambda p: ImageEnhance.Color(p).enhance(factor(VIEW.saturation)),
        lambda p: turned_hue(p, random.uniform(-VIEW.hue, VIEW.hue)),
    ]
    for step in random.sample(steps, len(steps)):
        picture = step(picture)
    return picture


def to_tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float().div_(255)


def to_picture(x: Tensor) -> Image.Image:
    return Image.fromarray(x.mul(255).byte().permute(1, 2, 0).numpy())


def blurred(picture: Image.Image) -> Image.Image:
    sigma = random.uniform(*VIEW.sigma)
    line = torch.exp(-(torch.arange(-3.0, 4.0) ** 2) / (2 * sigma**2))
    line = (line / line.sum()).repeat(3, 1, 1)
    x = F.pad(to_tensor(picture)[None], (3, 3, 3, 3), mode="reflect")
    x = F.conv2d(F.conv2d(x, line[:, :, :, None], groups=3), line[:, :, None], groups=3)
    return to_picture(x[0].clamp(0, 1))


def edges(picture: Image.Image) -> Image.Image:
    weights = np.array([65.738, 129.057, 25.064]) / 256
    grey = np.pad(np.asarray(picture) / 255 @ weights, 1)
    across, down = grey[1:-1, 2:] - grey[1:-1, :-2], grey[2:, 1:-1] - grey[:-2, 1:-1]
    strength = np.sqrt(across**2 + down**2 + 1e-6).clip(0, 1) * 255
    return Image.fromarray(np.repeat(strength.astype(np.uint8)[:, :, None], 3, 2))


def view(picture: Image.Image) -> Tensor:
    if picture.size != (SIZE, SIZE):
        picture = picture.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    if random.random() < VIEW.jitter:
        picture = jittered(picture)
    if random.random() < VIEW.gray:
        picture = picture.convert("L").convert("RGB")
    if random.random() < VIEW.blur:
        picture = blurred(picture)
    if random.random() < VIEW.sobel:
        picture = edges(picture)
    return to_tensor(picture)


def face_views(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return two changed crops of different quadrants ``(2, 3, S, S)``."""
    border = int(0.2 * SIZE)
    views = []
    for quadrant in random.sample(range(4), 2):
        x, y = (
            SIZE // 2 * part + random.randint(border, SIZE // 2 - border)
            for part in (quadrant % 2, quadrant // 2)
        )
        box = (x - border, y - border, x + border, y + border)
        views.append(view(Image.fromarray(picture).crop(box)))
    return torch.stack(views).numpy()


def pose_views(picture: NDArray[np.uint8], negatives: int) -> NDArray[np.float32]:
    """Return two views of a picture and ``negatives`` of its mirror image."""
    whole = Image.fromarray(picture)
    mirror = whole.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    views = [view(whole), view(whole), *(view(mirror) for _ in range(negatives))]
    return torch.stack(views).numpy()


class OneByOne:
    """The published pipeline in ``processes`` workers, which stay."""

    def __init__(self, processes: int) -> None:
        self.pool = ProcessPoolExecutor(
            processes, get_context("spawn"), torch.set_num_threads, (1,)
        )

    def __call__(self, face: NDArray[np.uint8], pose: NDArray[np.uint8], negatives: int) -> int:
        """Make all views of an iteration; return their number."""
        crops = self.pool.map(face_views, face, chunksize=4)
        views = self.pool.map(pose_views, pose, [negatives] * len(pose))
        return sum(len(torch.from_numpy(v)) for v in (*crops, *views))


# The measurement ----------------------------------------------------------------------------------


def seconds(work: object, device: str) -> float:
    start = time.perf_counter()
    work()  # type: ignore[operator]
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Time views one by one, views as a batch, and whole steps, in turns."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--batch", type=int, default=64, help="images of steps (a) and (b) each")
    parser.add_argument("--pose-images", type=int, default=4)
    parser.add_argument("--negatives", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1, help="of the batch, workers of the peer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    args = parser.parse_args()

    keep_memory()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    config = PCL.Config(width=args.width, pose_images=args.pose_images, negatives=args.negatives)
    method = PCL(config).to(args.device).to(memory_format=torch.channels_last).train()
    adam = method.optimisers(1e-4)["pcl"]
    rng = np.random.default_rng(0)
    counts = {"decoder": args.batch, "face": args.batch, "pose": args.pose_images}
    pictures = {
        name: rng.integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)
        for name, count in counts.items()
    }
    batch = {
        name: (torch.from_numpy(p).permute(0, 3, 1, 2).float() / 127.5 - 1)
        .to(args.device)
        .contiguous(memory_format=torch.channels_last)
        for name, p in pictures.items()
    }
    generator = torch.Generator(device=args.device).manual_seed(0)
    one_by_one = OneByOne(args.threads)

    def update(name: str, loss: Tensor) -> None:
        adam.zero_grad()
        loss.backward()
        adam.step()

    def as_batch() -> None:
        method.face_views(batch["face"], generator)
        method.pose_views(batch["pose"], generator)

    works = {
        "one by one": lambda: one_by_one(pictures["face"], pictures["pose"], args.negatives),
        "as a batch": as_batch,
        "step": lambda: method.step(batch, update),
    }
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(args.rounds + 1):  # the first warms up
        for name, work in works.items():
            taken = seconds(work, args.device)
            if turn:
                times[name].append(taken)
    one_by_one.pool.shutdown()

    median = {name: statistics.median(t) for name, t in times.items()}
    views = 2 * args.batch + (2 + args.negatives) * args.pose_images
    ratio = median["one by one"] / median["as a batch"]
    share = 1 - median["as a batch"] / median["step"]
    for name in ("one by one", "as a batch"):
        print(f"{name}  {views / median[name]:9.0f} views/s")
    print(f"ratio       {ratio:9.1f}")
    print(f"step        {median['step']:9.3f} s, the network takes {100 * share:.1f} % of it")
    if args.out:
        write_json(
            args.out,
            {
                "question": "views of a PCL iteration: batched tensors against PIL, and the step",
                "width": args.width,
                "counts": counts,
                "negatives": args.negatives,
                "views": views,
                "threads": args.threads,
                "device": args.device,
                "seconds": times,
                "ratio": ratio,
                "network_share": share,
                "machine": {"cpus": os.cpu_count(), "processor": platform.processor()},
                "torch": torch.__version__,
            },
        )


if __name__ == "__main__":
    main()
