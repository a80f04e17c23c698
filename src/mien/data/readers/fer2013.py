"""FER-2013: 48 px grey crops in folders or in the challenge's csv."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from mien.data.readers import Reader, Record, register
from mien.faces.face import Image
from mien.files.errors import ImageError

_EXPRESSIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
_SPLITS = {
    "training": "train",
    "publictest": "val",
    "privatetest": "test",
    "train": "train",
    "validation": "val",
    "val": "val",
    "test": "test",
}


@register
class Fer2013(Reader):
    """Seven expressions, official split (PublicTest is val, PrivateTest is test)."""

    name = "fer2013"
    licence = "FER-2013: research only; recognition of expressions, no editing"
    layout = (
        "train|validation|test/EXPRESSION/*.jpg, or Training|PublicTest|PrivateTest/…, or "
        "fer2013.csv (emotion,pixels,Usage)"
    )

    def records(self) -> Iterator[Record]:
        """Yield every picture; of a csv row by row."""
        file = self.root if self.root.is_file() else self.root / "fer2013.csv"
        if file.is_file():
            yield from self._rows(file)
            return
        found = False
        for path in sorted(self.root.glob("*/*/*")):
            split, expression = _SPLITS.get(path.parts[-3].lower()), path.parts[-2].lower()
            if split and expression in _EXPRESSIONS:
                found = True
                source = path.relative_to(self.root).as_posix()
                labels = self.labels(expression=expression, split=split)
                yield Record(source, path, labels=labels, crop=True)
        if not found:
            raise self.wrong("holds no such folders")

    def _rows(self, file: Path) -> Iterator[Record]:
        with file.open(encoding="ascii", errors="replace") as lines:
            if not next(lines, "").lower().startswith("emotion,pixels"):
                raise self.wrong("does not begin with 'emotion,pixels'")
            for index, line in enumerate(lines):
                emotion, _, rest = line.partition(",")
                usage = rest.rpartition(",")[2].strip().lower()
                known = emotion.isdigit() and int(emotion) < len(_EXPRESSIONS)
                labels = self.labels(
                    expression=_EXPRESSIONS[int(emotion)] if known else "",
                    split=_SPLITS.get(usage, ""),
                )
                yield Record(f"{file.name}#{index}", file, index, labels=labels, crop=True)

    def photo(self, record: Record, max_side: int | None = None) -> tuple[Image, tuple[int, int]]:
        """Return a picture as RGB; a row of the csv is found by its place in the file."""
        if record.index < 0:
            return super().photo(record, max_side)
        if not hasattr(self, "_places"):
            with record.file.open("rb") as lines:
                self._places = np.cumsum([len(line) for line in lines], dtype=np.int64)
        with record.file.open("rb") as file:
            file.seek(int(self._places[record.index]))
            words = file.readline().split(b",")
        try:
            grey = np.array(words[1].strip(b'" ').split(), np.uint8).reshape(48, 48)
        except (ValueError, IndexError, OverflowError):
            raise ImageError(f"{record.source} does not hold 48 x 48 grey values.") from None
        return np.asarray(cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB), np.uint8), (48, 48)
