"""Plain folders of photos and videos; video files."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from mien.data.readers import Reader, Record, register
from mien.faces.image import IMAGE_SUFFIXES
from mien.faces.video import VIDEO_SUFFIXES


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
    """Every photo and video below a folder; a video is a clip."""

    name = "folder"
    layout = "photos (.jpg, .png, .webp) and videos (.mp4, .mov, .mkv, .webm, .avi) at any depth"
    suffixes: ClassVar[tuple[str, ...]] = IMAGE_SUFFIXES + VIDEO_SUFFIXES
    persons: ClassVar[bool] = False

    def records(self) -> Iterator[Record]:
        """Yield every photo and video."""
        listed = {row["file"]: row for row in csv_rows(self.root / "CLIPS.csv")}
        for path in pictures(self.root, self.suffixes):
            source = below(path, self.root)
            labels = self.labels(person=source.rpartition("/")[0] if self.persons else "")
            if path.suffix.lower() in VIDEO_SUFFIXES:
                row = listed.get(source, {})
                labels.person = row.get("person") or labels.person
                labels.licence = row.get("licence") or self.licence
                labels.clip = source
                yield from self.stretches(Record(source, path, labels=labels))
            else:
                yield Record(source, path, labels=labels)


@register
class Persons(Folder):
    """Photos in one folder a person."""

    name = "persons"
    layout = "PERSON/*.jpg: one sub-folder a person"
    persons = True


@register
class Video(Folder):
    """Every video below a folder, or one video file."""

    name = "video"
    layout = "videos (.mp4, …) at any depth; optional CLIPS.csv (file,person,licence)"
    suffixes = VIDEO_SUFFIXES
