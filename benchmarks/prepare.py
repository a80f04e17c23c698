"""How fast is ``mien prepare`` against a plain dlib loop on the same photos? Does it stay small?

The peer is what one writes in ten lines: read every photo whole, run dlib's frontal detector once
upsampled, cut the chip of every rectangle, save it. It finds no landmarks, pose, duplicates or
scores. Both run in processes of their own, in turns, on the same photos.

Without ``--photos`` the photos are drawn: a head of random size and place before a blurred
background. Recall is the share of photos in which a face was found at the right place (drawn
photos) or at all (your own).

    python benchmarks/prepare.py --photos DIR --count 200 --memory 1000 10000 --out prepare.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mien.data.prepare import prepare
from mien.data.procedural import ProceduralFaces
from mien.data.readers.folder import pictures
from mien.data.table import Table
from mien.faces.image import read_image, write_image
from mien.files.atomic import write_json


def draw_photos(folder: Path, count: int) -> dict[str, list[float]]:
    """Draw photos with one head each; return name → left, top, right, bottom of the face."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    truth = {}
    for i in range(count):
        height, width = 960, 1280
        noise = rng.integers(0, 256, (12, 16, 3), np.uint8)
        photo = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
        side = int(rng.uniform(260, 900))
        faces = ProceduralFaces(seed=1, size=side)
        parameters, _ = faces.parameters(i, int(rng.integers(4)))
        head, points = faces.draw(parameters, aligned=False)
        x, y = int(rng.integers(width - side + 1)), int(rng.integers(height - side + 1))
        photo[y : y + side, x : x + side] = head
        name = f"{i:05d}.jpg"
        write_image(folder / name, photo, quality=90)
        points = points + np.array([x, y], np.float32)
        truth[name] = [float(v) for v in np.concatenate([points.min(0), points.max(0)])]
    return truth


def draw_small(folder: Path, count: int) -> None:
    """Draw portraits, no two alike, for the measurement of memory."""
    folder.mkdir()
    faces = ProceduralFaces(seed=2, size=160)
    for i in range(count):
        parameters, _ = faces.parameters(i, 1)
        write_image(folder / f"{i:05d}.jpg", faces.draw(parameters, aligned=False)[0], quality=90)


def plain(folder: Path, out: Path) -> dict[str, Any]:
    """The peer."""
    import dlib

    out.mkdir()
    start = time.perf_counter()
    find = dlib.get_frontal_face_detector()
    boxes: dict[str, list[list[float]]] = {}
    for path in pictures(folder):
        photo = read_image(path)
        found = find(photo, 1)
        for k, box in enumerate(found):
            chip = dlib.extract_image_chip(photo, dlib.chip_details(box, dlib.chip_dims(112, 112)))
            cv2.imwrite(str(out / f"{path.stem}_{k}.jpg"), chip[:, :, ::-1])
        boxes[path.name] = [[b.left(), b.top(), b.right(), b.bottom()] for b in found]
    return {"seconds": time.perf_counter() - start, "boxes": boxes}


def ours(folder: Path, out: Path, workers: int) -> dict[str, Any]:
    """``mien prepare``, every face, no face left out for another reason than that it is none."""
    start = time.perf_counter()
    prepare(
        folder, out, faces="all", min_size=0, deduplicate=False, workers=workers, progress=False
    )
    seconds = time.perf_counter() - start
    table = Table(out)
    boxes: dict[str, list[list[float]]] = {}
    for source, box in zip(table.column("source"), table.column("box"), strict=True):
        boxes.setdefault(source.partition("@")[0], []).append(box)
    return {"seconds": seconds, "boxes": boxes}


def memory(folder: Path, out: Path, workers: int) -> dict[str, Any]:
    """Peak memory of a whole run."""
    info = prepare(folder, out, workers=workers, progress=False)
    unit = 1 if platform.system() == "Darwin" else 1024
    megabytes = {
        who: resource.getrusage(which).ru_maxrss * unit / 2**20
        for who, which in (("main", resource.RUSAGE_SELF), ("worker", resource.RUSAGE_CHILDREN))
    }
    return {"faces": info["faces"], "peak_mib": megabytes}


def recall(boxes: dict[str, list[list[float]]], names: list[str], truth: dict[str, Any]) -> float:
    """Share of photos with a found box whose centre lies in the true face."""

    def hit(name: str) -> bool:
        found = boxes.get(name, [])
        if name not in truth:
            return bool(found)
        left, top, right, bottom = truth[name]
        return any(
            left < (b[0] + b[2]) / 2 < right and top < (b[1] + b[3]) / 2 < bottom for b in found
        )

    return statistics.mean(hit(name) for name in names)


def in_process(what: str, folder: Path, out: Path, workers: int) -> dict[str, Any]:
    """Run one of the functions above in a process of its own."""
    command = [sys.executable, __file__, "--child", what, str(folder), str(out), str(workers)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, help="folder of photos; drawn if not given")
    parser.add_argument("--count", type=int, default=100, help="photos at most")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--memory", type=int, nargs="*", default=[], help="numbers of pictures")
    parser.add_argument("--out", type=Path, help="JSON file")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        what, folder, out, workers = options.child
        if what == "plain":
            result = plain(Path(folder), Path(out))
        else:
            result = {"ours": ours, "memory": memory}[what](Path(folder), Path(out), int(workers))
        print(json.dumps(result))
        return

    report: dict[str, Any] = {"python": platform.python_version(), "processors": os.cpu_count()}
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch)
        truth: dict[str, Any] = {}
        folder = base / "photos"
        if options.photos:
            folder.mkdir()
            for i, path in enumerate(itertools.islice(pictures(options.photos), options.count)):
                (folder / f"{i:05d}{path.suffix.lower()}").symlink_to(path.resolve())
        else:
            truth = draw_photos(folder, options.count)
        names = [path.name for path in pictures(folder)]
        variants = [("plain dlib loop", "plain", 1), ("mien prepare, 1 process", "ours", 1)]
        if options.workers > 1:
            variants.append((f"mien prepare, {options.workers} processes", "ours", options.workers))
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name, _, _ in variants}
        for turn in range(options.rounds):
            for k, (name, what, workers) in enumerate(variants):
                runs[name].append(in_process(what, folder, base / f"out{turn}_{k}", workers))
        report["photos"] = len(names)
        report["speed"] = {
            name: {
                "images_per_second": len(names) / statistics.median(r["seconds"] for r in results),
                "recall": recall(results[0]["boxes"], names, truth),
            }
            for name, results in runs.items()
        }
        slow = report["speed"]["plain dlib loop"]["images_per_second"]
        for name, result in report["speed"].items():
            result["ratio"] = result["images_per_second"] / slow
            print(
                f"{name:28s} {result['images_per_second']:7.1f} images/s  x {result['ratio']:.2f}  "
                f"recall {100 * result['recall']:.1f} %"
            )
        report["memory"] = {}
        for count in options.memory:
            draw_small(base / f"m{count}", count)
            result = in_process("memory", base / f"m{count}", base / f"mt{count}", options.workers)
            report["memory"][str(count)] = result
            peak = result["peak_mib"]
            print(
                f"{count:6d} pictures: main {peak['main']:.0f} MiB, worker {peak['worker']:.0f} MiB"
            )
    if options.out:
        write_json(options.out, report)


if __name__ == "__main__":
    main()
