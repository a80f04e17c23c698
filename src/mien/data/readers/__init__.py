"""Readers of public data sets: each yields records, ``mien prepare`` makes the table of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from mien.data.table import Row
from mien.faces.face import Array, Image
from mien.faces.image import read_image_sized
from mien.files.errors import ConfigError, ImageError, TableError, nearest

STRETCH = 1024  # frames of a video that one process takes at once


@dataclass(frozen=True)
class Record:
    """A picture of a data set, not yet decoded.

    Attributes:
        source: Unique within the data set, e.g. the path inside its folder.
        file: Where the pixels are.
        index: Frame of a video, row of an array or csv; -1 for a picture file.
        frames: Above 0 for a stretch of a video from frame ``index`` on, which ``Reader.frames``
            yields: how many frames it gives, about.
        labels: Every label the data set has; ``image`` is empty.
        landmarks: ``(68, 2)`` iBUG points in pixels of the picture, where the data set has them.
            Where it has a box only, that is ``labels.box``.
        align: ``(68, 2)`` points that the crop is fitted to, if not ``landmarks`` (the neutral twin
            of an expression, so that both crops show the same frame).
        crop: The picture already is a face crop: no detector is needed.
    """

    source: str
    file: Path
    index: int = -1
    frames: int = 0
    labels: Row = field(default_factory=lambda: Row(b"", ""))
    landmarks: Array | None = None
    align: Array | None = None
    crop: bool = False


class Reader(ABC):
    """Reads a data set's own layout.

    Attributes:
        name: How ``mien prepare NAME:DIR`` calls it.
        licence: Terms of the data, written into every row.
        layout: The expected tree, shown when it is not found.
        every: Of a video every n-th frame is taken.
    """

    name: ClassVar[str]
    licence: ClassVar[str] = ""
    layout: ClassVar[str]
    every: int = 5

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self._lengths: dict[Path, int] = {}  # of videos, in frames to take
        if not self.root.exists():
            raise TableError(f"{self.root} does not exist; {self.name} expects: {self.layout}")

    def labels(self, **known: Any) -> Row:
        """Return the labels of a record: the reader's name and licence, and what is ``known``."""
        return Row(b"", "", **{"dataset": self.name, "licence": self.licence, **known})

    def wrong(self, what: str) -> TableError:
        """Return the error that says ``what`` differs from the expected layout."""
        return TableError(f"{self.root} {what}; {self.name} expects: {self.layout}")

    @abstractmethod
    def records(self) -> Iterator[Record]:
        """Yield every picture in a fixed order.

        Raises:
            TableError: The layout is another one.
        """

    def stretches(self, record: Record) -> Iterator[Record]:
        """Yield the stretches of a video, so that a long one is shared and never held whole."""
        from mien.faces.video import probe_video

        if record.file not in self._lengths:
            try:
                length = probe_video(record.file).frames
            except ImageError:  # told when its frames are asked for
                length = 0
            self._lengths[record.file] = -(-length // self.every)
        left = self._lengths[record.file]
        first = 0
        while left > STRETCH:
            yield replace(record, index=first, frames=STRETCH)
            first += STRETCH * self.every
            left -= STRETCH
        # What a file declares may be wrong: the last stretch goes on to the end.
        yield replace(record, index=first, frames=min(max(left, 1), STRETCH - 1))

    def frames(self, record: Record) -> Iterator[tuple[Record, Image]]:
        """Yield the frames of a stretch of a video, each with a record of its own.

        Raises:
            ImageError: The video is damaged; frames before that have been yielded.
            MissingExtraError: PyAV is not installed.
        """
        from mien.faces.video import read_video

        limit = STRETCH if record.frames == STRETCH else None  # the last stretch is open
        for frame in read_video(
            record.file, every=self.every, first=max(record.index, 0), max_frames=limit
        ):
            labels = replace(record.labels, frame=frame.index)
            source = f"{record.source}#{frame.index}"
            own = replace(record, source=source, index=frame.index, frames=0, labels=labels)
            yield own, frame.image

    def photo(self, record: Record, max_side: int | None = None) -> tuple[Image, tuple[int, int]]:
        """Return the pixels of a record, uint8 ``(H, W, 3)`` RGB, and its true (width, height).

        Args:
            record: One of this reader's.
            max_side: The pixels may be shrunk so that no side is longer; faster for large photos.

        Raises:
            ImageError: They cannot be read.
        """
        return read_image_sized(record.file, max_side=max_side)


_READERS: dict[str, type[Reader]] = {}


def register(cls: type[Reader]) -> type[Reader]:
    """Register a reader under its ``name``."""
    _READERS[cls.name] = cls
    return cls


def reader_names() -> list[str]:
    """Return the names of all readers."""
    _import_all()
    return sorted(_READERS)


def reader_licences() -> dict[str, str]:
    """Return the terms of the data of every reader that is of one data set."""
    return {name: cls.licence for name in reader_names() if (cls := _READERS[name]).licence}


def reader(name: str, root: str | Path) -> Reader:
    """Return the reader ``name`` of the folder ``root``.

    Raises:
        ConfigError: No such reader.
        TableError: No such folder.
    """
    names = reader_names()
    if name not in names:
        raise ConfigError(f"No reader {name!r}{nearest(name, names)}")
    return _READERS[name](root)


def _import_all() -> None:
    """Import the modules of this package; each registers its readers."""
    import importlib
    import pkgutil

    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
