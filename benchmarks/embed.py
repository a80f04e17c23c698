"""How fast are codes of faces beside dlib's 128 numbers and a ResNet-18, and whole photos?

Faces: crops to codes by torch and by ONNX Runtime, in turns with dlib's recognition network (if its
file is given) and an untrained ResNet-18 of the usual layout in ONNX Runtime, all on the same
drawn 112 px crops. Photos: ``Finder`` and encoder against the detector alone. Ratios count.

    python benchmarks/embed.py --dlib dlib_face_recognition_resnet_model_v1.dat --out embed.json
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from mien.data.procedural import ProceduralFaces
from mien.edit.codes import Embedder
from mien.evaluate.encoders import encoder
from mien.export.onnx import export
from mien.faces.detectors import detector
from mien.files.atomic import write_json


class Block(nn.Module):
    """A residual block of two convolutions."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inner, outer, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outer),
            nn.ReLU(),
            nn.Conv2d(outer, outer, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outer),
        )
        self.short = nn.Sequential()
        if stride > 1 or inner != outer:
            self.short = nn.Sequential(
                nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer)
            )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.short(x))


def resnet18() -> nn.Module:
    """Return ResNet-18 up to its 512 features, as torchvision lays it out."""
    start = nn.Sequential(
        nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
    )
    sizes = [(64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1)]
    sizes += [(128, 256, 2), (256, 256, 1), (256, 512, 2), (512, 512, 1)]
    blocks = [Block(*size) for size in sizes]
    return nn.Sequential(start, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


def write_resnet(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the exporter that mien uses too
        torch.onnx.export(
            resnet18(),
            (torch.zeros(2, 3, 112, 112),),
            str(path),
            dynamo=False,
            opset_version=17,
            input_names=["images"],
            output_names=["embedding"],
            dynamic_axes={"images": {0: "batch"}, "embedding": {0: "batch"}},
        )


def in_turns(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return seconds of each work; the first turn warms up."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + 1):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if turn:
                times[name].append(time.perf_counter() - start)
    return times


def main() -> None:
    """Time crops, then photos."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", default="pcl")
    parser.add_argument("--dlib", type=Path, help="dlib_face_recognition_resnet_model_v1.dat")
    parser.add_argument("--faces", type=int, default=512)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--photos", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    drawn = ProceduralFaces(size=112)
    crops = np.stack([drawn.draw(drawn.parameters(i, 2)[0])[0] for i in range(args.faces)])
    batches = [list(crops[i : i + args.batch]) for i in range(0, len(crops), args.batch)]
    heads = ProceduralFaces(size=400)
    photos = []
    for i in range(args.photos):
        photo = np.full((600, 800, 3), 90, np.uint8)
        photo[100:500, 200:600] = heads.draw(heads.parameters(i, 2)[0], aligned=False)[0]
        photos.append(cv2.GaussianBlur(photo, (3, 3), 0))

    with tempfile.TemporaryDirectory() as folder:
        export(args.weights, Path(folder) / "codes.onnx")
        write_resnet(Path(folder) / "resnet18.onnx")
        ours = Embedder(args.weights)
        onnx = Embedder(f"onnx:{folder}/codes.onnx")
        resnet = encoder(f"onnx:{folder}/resnet18.onnx,size=112")
    find = detector("dlib")

    works: dict[str, Callable[[], object]] = {
        "torch": lambda: [ours(batch) for batch in batches],
        "onnx": lambda: [onnx(batch) for batch in batches],
        "resnet18 in onnx": lambda: [resnet(np.stack(batch)) for batch in batches],
    }
    if args.dlib:
        dlib = encoder(f"dlib:{args.dlib}")
        works["dlib"] = lambda: [dlib(np.stack(batch)) for batch in batches]
    times = in_turns(works, args.rounds)

    def whole() -> None:
        for start in range(0, len(photos), 8):
            found = ours.finder(photos[start : start + 8])
            ours([face.crop for faces in found for face in faces])

    ends = in_turns({"photo to codes": whole, "detection alone": lambda: find(photos)}, args.rounds)
    median = {name: statistics.median(t) for name, t in (times | ends).items()}
    ratios = {
        f"{own} / {peer}": median[peer] / median[own]
        for own in ("torch", "onnx")
        for peer in ("resnet18 in onnx", "dlib")
        if peer in median
    }
    ratios["photo to codes / detection alone"] = (
        median["photo to codes"] / median["detection alone"]
    )
    for name, ratio in ratios.items():
        print(f"{name:36}{ratio:8.2f}")
    if args.out:
        write_json(
            args.out,
            {
                "question": "faces a second over those of a peer; time of photos over detection's",
                "weights": args.weights,
                "faces": args.faces,
                "photos": args.photos,
                "batch": args.batch,
                "threads": args.threads,
                "ratios": ratios,
                "machine": {"cpus": os.cpu_count(), "processor": platform.processor()},
                "torch": torch.__version__,
            },
        )


if __name__ == "__main__":
    main()
