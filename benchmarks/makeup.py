"""How fast is make-up on a photo, and how fast are small region networks against a whole face?

Three times, in turns in one process:

- ``photo``: a photo of SIDE px (the drawn face fills it), all regions, from the face that was found
  to the finished photo; weights are loaded and the face is found before.
- ``regions``: a batch of crops in one pass a region: lips, both eyes together, skin.
- ``whole face``: BeautyGAN's generator on as many pixels: two stems, two strided convolutions, six
  residual blocks, two transposed convolutions, width 64 and instance normalisation throughout, as
  its public code has it. It gives both directions of a swap; so it is timed as it is and for half.

Networks have random weights unless --weights names some: speed does not depend on them.

    python benchmarks/makeup.py --side 1024 --batch 64 --rounds 3 --out makeup.json
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
from torch import Tensor, nn

from mien import weights as shelf
from mien.data.procedural import Parameters, ProceduralFaces
from mien.edit.photos import Editor
from mien.faces.face import Face, Image
from mien.faces.find import face_from_landmarks
from mien.faces.regions import CROPS, REGIONS
from mien.files.atomic import write_json
from mien.methods import config_from
from mien.methods.base import Method
from mien.methods.pairedcyclegan import PairedCycleGAN
from mien.train.recipe import load_recipe


class WholeFace(nn.Module):
    """BeautyGAN's generator: (x, y) ``(B, 3, S, S)`` each → both with the other's make-up."""

    def __init__(self, width: int = 64, blocks: int = 6) -> None:
        super().__init__()
        w = width

        def layer(conv: nn.Module, channels: int) -> list[nn.Module]:
            return [conv, nn.InstanceNorm2d(channels, affine=True), nn.ReLU()]

        def stem() -> nn.Sequential:
            return nn.Sequential(
                *layer(nn.Conv2d(3, w, 7, 1, 3, bias=False), w),
                *layer(nn.Conv2d(w, 2 * w, 4, 2, 1, bias=False), 2 * w),
            )

        self.stems = nn.ModuleList(stem() for _ in range(2))
        self.down = nn.Sequential(*layer(nn.Conv2d(4 * w, 4 * w, 4, 2, 1, bias=False), 4 * w))
        self.blocks = nn.ModuleList(
            nn.Sequential(
                *layer(nn.Conv2d(4 * w, 4 * w, 3, 1, 1, bias=False), 4 * w),
                nn.Conv2d(4 * w, 4 * w, 3, 1, 1, bias=False),
                nn.InstanceNorm2d(4 * w, affine=True),
            )
            for _ in range(blocks)
        )
        self.up = nn.Sequential(
            *layer(nn.ConvTranspose2d(4 * w, 2 * w, 4, 2, 1, bias=False), 2 * w),
            *layer(nn.ConvTranspose2d(2 * w, w, 4, 2, 1, bias=False), w),
        )
        self.ends = nn.ModuleList(
            nn.Sequential(
                *layer(nn.Conv2d(w, w, 3, 1, 1, bias=False), w),
                *layer(nn.Conv2d(w, w, 3, 1, 1, bias=False), w),
                nn.Conv2d(w, 3, 7, 1, 3, bias=False),
                nn.Tanh(),
            )
            for _ in range(2)
        )

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        z = self.down(torch.cat([stem(i) for stem, i in zip(self.stems, (x, y), strict=True)], 1))
        for block in self.blocks:
            z = z + block(z)
        z = self.up(z)
        return self.ends[0](z), self.ends[1](z)


def drawn_photo(side: int, crop: tuple[str, int]) -> tuple[Image, Face, Face]:
    """Return a drawn photo, its face, and the face of a reference."""
    artist = ProceduralFaces(size=side)
    drawn = [artist.draw(Parameters(artist.identity(person))) for person in range(2)]
    faces = [face_from_landmarks(image, points, *crop) for image, points in drawn]
    return drawn[0][0], faces[0], faces[1]


def build(name: str) -> PairedCycleGAN:
    """Return the method of weights, or that of the laptop recipe with random ones."""
    method: Method
    if name:
        method = shelf.load(name)
    else:
        torch.manual_seed(0)
        recipe = load_recipe("pairedcyclegan/laptop")
        method = PairedCycleGAN(config_from(PairedCycleGAN.Config, recipe.config))
    if not isinstance(method, PairedCycleGAN):
        raise SystemExit(f"{name} is of {method.name}, not of pairedcyclegan")
    return method.eval()


def pieces(method: PairedCycleGAN, batch: int) -> tuple[dict[str, tuple[Tensor, Tensor]], int]:
    """Return crops and masks for each region, ``batch`` faces in one pass, and their pixels."""
    size = method.config.size
    found = {}
    pixels = 0
    for region in REGIONS:
        if region in method.config.regions:
            count = batch * sum(("eye" in c) if region == "eyes" else c == region for c in CROPS)
            x = torch.rand(count, 3, size, size) * 2 - 1
            found[region] = (x, torch.ones(count, 1, size, size))
            pixels += count * size * size
    return found, pixels


def main() -> None:
    """Time the three in turns and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--weights", default="", help="shipped name or file; random if empty")
    parser.add_argument("--side", type=int, default=1024, help="of the photo, px")
    parser.add_argument("--batch", type=int, default=64, help="faces in a pass")
    parser.add_argument("--face-side", type=int, default=256, help="of BeautyGAN's pictures, px")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    method = build(args.weights)
    editor = Editor(method, finder=lambda images, names: [])  # type: ignore[arg-type]
    photo, face, reference = drawn_photo(args.side, method.photo_crop)
    crops, pixels = pieces(method, args.batch)
    # As many pixels in whole faces; what is left of a face is a smaller one.
    whole = max(1, round(pixels / args.face_side**2))
    side = 4 * round((pixels / whole) ** 0.5 / 4)
    faces = torch.rand(whole, 3, side, side) * 2 - 1
    peer = WholeFace().eval()

    def on_photo() -> None:
        editor.apply("makeup", photo, [face], reference)

    def by_region() -> None:
        for region, (x, mask) in crops.items():
            method.nets(region).apply_to(x, x.flip(0), mask, mask)

    def on_faces() -> None:
        for x in torch.split(faces, 8):  # memory of a whole batch would not fit a laptop
            peer(x, x.flip(0))

    jobs: dict[str, Callable[[], None]] = {
        "photo": on_photo, "regions": by_region, "whole face": on_faces,
    }  # fmt: skip
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    with torch.inference_mode():
        for job in jobs.values():
            job()
        for _ in range(args.rounds):
            for name, job in jobs.items():
                began = time.perf_counter()
                job()
                seconds[name].append(time.perf_counter() - began)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"{args.side} px photo, all regions: {median['photo']:.2f} s")
    print(f"{args.batch} faces, one pass a region ({pixels} pixels): {median['regions']:.2f} s")
    print(f"BeautyGAN-style, {whole} faces of {side} px: {median['whole face']:.2f} s")
    ratio = median["whole face"] / median["regions"] * pixels / (whole * side**2)
    print(f"regions are {ratio:.1f} x as fast a pixel; {ratio / 2:.1f} x for one of its directions")
    if args.out:
        machine = {
            "processor": platform.processor(), "threads": args.threads, "load": os.getloadavg(),
        }  # fmt: skip
        about = {"torch": torch.__version__, "machine": machine, "side": args.side}
        sizes = {"batch": args.batch, "pixels": pixels, "faces": [whole, side]}
        write_json(args.out, {**about, **sizes, "seconds": seconds, "ratio": ratio})


if __name__ == "__main__":
    main()
