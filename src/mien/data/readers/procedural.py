"""Drawn faces as a data set: ``procedural:50`` is 50 persons."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mien.data.procedural import LICENCE, ProceduralFaces, label
from mien.data.readers import Reader, Record, register
from mien.faces.face import Image
from mien.files.errors import ConfigError

FRAMES = 16  # of a person
SIZE = 192  # pixels a side; head and shoulders


@register
class Procedural(Reader):
    """Nothing is read: the same persons and pictures are drawn each time."""

    name = "procedural"
    licence = LICENCE
    layout = "a number of persons, e.g. procedural:50"

    def __init__(self, root: str | Path) -> None:
        if not str(root).isdecimal() or int(str(root)) < 1:
            raise ConfigError(f"procedural takes {self.layout}, not {str(root)!r}.")
        self.root = Path(root)
        self.faces = ProceduralFaces(size=SIZE)

    def records(self) -> Iterator[Record]:
        """Yield the frames of every person."""
        for person in range(int(str(self.root))):
            for frame in range(FRAMES):
                parameters, name = self.faces.parameters(person, frame)
                yield Record(
                    f"{person:05d}/{frame:04d}",
                    self.root,
                    frame,
                    labels=label(parameters, name, person, frame),
                    landmarks=self.faces.landmarks(parameters, aligned=False),
                )

    def photo(self, record: Record, max_side: int | None = None) -> tuple[Image, tuple[int, int]]:
        """Draw a record."""
        person, frame = int(record.labels.person), record.labels.frame
        image, _ = self.faces.draw(self.faces.parameters(person, frame)[0], aligned=False)
        return image, (SIZE, SIZE)
