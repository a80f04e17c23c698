"""Readers of public data sets: each yields records, ``mien prepare`` makes the table of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from mien.data.table import Row
from mien.faces.face import Array, Image
from mien.faces.image import read_image
from mien.files.errors import ConfigError, TableError, nearest


@dataclass(frozen=True)
class Record:
    """A picture of a data set, not yet decoded.

    Attributes:
        source: Unique within the data set, e.g. the path inside its folder.
        file: Where the pixels are.
        index: Frame of a video, row of an array or csv; -1 for a picture file.
        labels: Every label the data set has; ``image`` is empty.
        landmarks: ``(68, 2)`` iBUG points in pixels of the picture, where the data set has them.
        crop: The picture already is a face crop: no detector is needed.
    """

    source: str
    file: Path
    index: int = -1
    labels: Row = field(default_factory=lambda: Row(b"", ""))
    landmarks: Array | None = None
    crop: bool = False


class Reader(ABC):
    """Reads a data set's own layout.

    Attributes:
        name: How ``mien prepare NAME:DIR`` calls it.
        licence: Terms of the data, written into every row.
        layout: The expected tree, shown when it is not found.
    """

    name: ClassVar[str]
    licence: ClassVar[str] = ""
    layout: ClassVar[str]

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        if not self.root.exists():
            raise TableError(f"{self.root} does not exist; {self.name} expects: {self.layout}")

    @abstractmethod
    def records(self) -> Iterator[Record]:
        """Yield every picture in a fixed order.

        Raises:
            TableError: The layout is another one.
        """

    def photo(self, record: Record) -> Image:
        """Return the pixels of a record, uint8 ``(H, W, 3)`` RGB.

        Raises:
            ImageError: They cannot be read.
        """
        return read_image(record.file)


_READERS: dict[str, type[Reader]] = {}


def register(cls: type[Reader]) -> type[Reader]:
    """Register a reader under its ``name``."""
    _READERS[cls.name] = cls
    return cls


def reader_names() -> list[str]:
    """Return the names of all readers."""
    _import_all()
    return sorted(_READERS)


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
