"""Labelled Faces in the Wild, with the pairs of View 2."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mien.data.kept import kept_folds
from mien.data.readers import Reader, Record, register
from mien.data.readers.folder import csv_rows
from mien.faces.image import read_image
from mien.files.errors import TableError

_CROP_SIDE = 160  # the published pictures have 250 px and show more than the face


@register
class Lfw(Reader):
    """One folder a person. With folds: persons of folds 1-7 train, 8 val, 9-10 test.

    Persons that ``mien.data.kept`` names are in val and test without a list of folds too.
    """

    name = "lfw"
    licence = "LFW: news photos, research use"
    layout = (
        "NAME/NAME_0001.jpg, pairs.txt; optional labels.csv (file,name,emotion) and folds.csv "
        "(name,fold)"
    )

    def records(self) -> Iterator[Record]:
        """Yield every picture of every person."""
        emotions = {r["file"]: r["emotion"] for r in csv_rows(self.root / "labels.csv")}
        listed = {r["name"]: int(r["fold"]) for r in csv_rows(self.root / "folds.csv")}
        folds = listed | kept_folds()
        crop: bool | None = None
        for folder in sorted(path for path in self.root.iterdir() if path.is_dir()):
            for path in sorted(folder.glob(f"{folder.name}_*.jpg")):
                if crop is None:
                    crop = max(read_image(path).shape) <= _CROP_SIDE
                source = f"{folder.name}/{path.name}"
                labels = self.labels(
                    person=folder.name,
                    expression=emotions.get(source, ""),
                    split=_split(folds.get(folder.name)),
                )
                yield Record(source, path, labels=labels, crop=crop)
        if crop is None:
            raise self.wrong("holds no picture named so")


def _split(fold: int | None) -> str:
    if fold is None:
        return ""
    return "train" if fold <= 7 else "val" if fold == 8 else "test"


def pairs(root: str | Path) -> list[tuple[int, str, str, bool]]:
    """Read ``pairs.txt`` of View 2.

    Returns:
        For each pair its fold (from 1), the two sources as the reader names them, and whether they
        show one person.

    Raises:
        TableError: No such file, or not the list of View 2.
    """
    file = Path(root) / "pairs.txt"
    try:
        lines = [line.split() for line in file.read_text(encoding="utf-8").splitlines()]
        folds, count = (int(word) for word in lines[0])
        found = []
        for i, words in enumerate(line for line in lines[1:] if line):
            first, second = words[:2], [words[0], words[2]] if len(words) == 3 else words[2:]
            names = [f"{name}/{name}_{int(number):04d}.jpg" for name, number in (first, second)]
            found.append((i // (2 * count) + 1, names[0], names[1], len(words) == 3))
    except OSError as error:
        raise TableError(f"{file} cannot be read ({error.strerror}); fetch it from LFW.") from None
    except (ValueError, IndexError):
        raise TableError(f"{file} is not LFW's list of pairs (View 2); fetch it again.") from None
    if len(found) != 2 * folds * count:
        raise TableError(
            f"{file} holds {len(found)} pairs, not {2 * folds * count}; fetch it again."
        )
    return found
