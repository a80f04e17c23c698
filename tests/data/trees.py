"""Files of miniature data sets."""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image as Pillow


def picture(path: Path, size: tuple[int, int] = (64, 64), value: int = 128) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.full((size[1], size[0], 3), value, np.uint8)
    if path.suffix in (".bmp", ".tiff"):
        Pillow.fromarray(image).save(path)
    else:
        assert cv2.imwrite(str(path), image)


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
