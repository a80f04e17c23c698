"""Plain folders of photos and videos."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from mien.data.readers import Reader, Record, register
from mien.faces.image import IMAGE_SUFFIXES


def pictures(root: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> Iterator[Path]:
    """Yield the files below ``root`` with one of ``suffixes``, sorted, hidden ones left out."""
    if root.is_file():
        if root.suffix.lower() in suffixes:
            yield root
        return
    for path in sorted(root.iterdir()):
        if not path.name.startswith("."):
            yield from pictures(path, suffixes)


def below(path: Path, root: Path) -> str:
    """Return the path of a file inside ``root`` (its name, if it is ``root``) with slashes."""
    return path.name if path == root else path.relative_to(root).as_posix()


def csv_rows(file: Path) -> list[dict[str, str]]:
    """Return the rows of a csv with a header; none if there is no such file."""
    if not file.is_file():
        return []
    with file.open(newline="", encoding="utf-8-sig") as lines:
        return list(csv.DictReader(lines))


@register
class Folder(Reader):
    """Every photo below a folder."""

    name = "folder"
    layout = "photos (.jpg, .png, .webp) in any sub-folders"
    persons: ClassVar[bool] = False

    def records(self) -> Iterator[Record]:
        """Yield every photo."""
        for path in pictures(self.root):
            source = below(path, self.root)
            person = source.rpartition("/")[0] if self.persons else ""
            yield Record(source, path, labels=self.labels(person=person))


@register
class Persons(Folder):
    """Photos in one folder a person."""

    name = "persons"
    layout = "PERSON/*.jpg: one sub-folder a person"
    persons = True
