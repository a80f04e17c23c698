"""Draw the figure of docs/pairedcyclegan.md: painted references on the demo's bare faces.

python tools/makeup_figure.py --out docs/images/makeup.jpg
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

import mien
from mien.data.makeup_artist import draw_parameters, paint_photo
from mien.edit.makeup_sheet import write_makeup_sheet
from mien.faces.find import Finder
from mien.faces.image import read_image, write_image

ASSETS = Path(mien.__file__).parent / "assets"


def main() -> None:
    """Paint each demo face with a look of its own, and put each look on the other faces."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/images/makeup.jpg"))
    parser.add_argument("--weights", default="pairedcyclegan")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    finder = Finder()
    photos = sorted(ASSETS.glob("*_neutral.jpg"))
    rng = torch.Generator().manual_seed(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        references = []
        for photo in photos:
            image = read_image(photo)
            look = draw_parameters(1, rng, "test", always=True)
            painted, _ = paint_photo(image, finder([image], [""])[0][0].landmarks, look)
            references.append(Path(folder) / f"{photo.stem}.png")
            write_image(references[-1], painted)
        write_makeup_sheet(photos, references, out=options.out, weights=options.weights)


if __name__ == "__main__":
    main()
