"""Does a face cost the same in a table of 1,000 as in one of 100,000?

Codes of tables of drawn faces, from the first look at the table to the finished Parquet file. The
peer is the smallest table: every other size is the ratio of its cost per face to that.

    python benchmarks/scaling.py --faces 1000 10000 100000 --out scaling.json
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

import torch

from mien.data.procedural import ProceduralFaces
from mien.data.table import Row, TableWriter
from mien.faces.image import encode_image
from mien.files.atomic import write_json
from mien.scale import embed_files


def write_table(folder: Path, count: int) -> None:
    """Write a table of ``count`` crops out of 64 drawn ones."""
    drawn = ProceduralFaces(size=112)
    crops = [
        encode_image(drawn.draw(drawn.parameters(i, 2)[0])[0], "JPEG")
        for i in range(min(count, 64))
    ]
    with TableWriter(folder, crop="tight", size=112) as writer:
        for number, crop in enumerate(islice(cycle(crops), count)):
            writer.add(Row(crop, str(number)))


def main() -> None:
    """Time every size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", default="pcl")
    parser.add_argument("--faces", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    cost: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for count in [min(args.faces), *sorted(args.faces)]:  # the first is done again: warm
            table = Path(folder) / f"table-{count}"
            if not table.exists():
                write_table(table, count)
            out = Path(folder) / f"codes-{count}.parquet"
            out.unlink(missing_ok=True)
            start = time.perf_counter()
            found = embed_files(args.encoder, table, out)
            cost[count] = (time.perf_counter() - start) / count
            if found.faces != count:
                raise SystemExit(f"{found.faces} of {count} faces were embedded")
    least = cost[min(cost)]
    ratios = {str(count): value / least for count, value in cost.items()}
    for count, ratio in ratios.items():
        print(f"{count:>8} faces: {ratio:6.3f} of the cost per face of {min(cost)}")
    if args.out:
        write_json(
            args.out,
            {
                "question": "cost per face by the size of a table, over that of the smallest",
                "encoder": args.encoder,
                "threads": args.threads,
                "ratios": ratios,
                "machine": {"cpus": os.cpu_count(), "processor": platform.processor()},
                "torch": torch.__version__,
            },
        )


if __name__ == "__main__":
    main()
