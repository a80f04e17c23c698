"""CelebA: attributes, identities, five landmarks, official split."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from mien.data.readers import Reader, Record, register
from mien.faces.face import Array
from mien.files.errors import TableError

_SPLITS = {"0": "train", "1": "val", "2": "test"}


@register
class CelebA(Reader):
    """The aligned pictures; the lists are read side by side, never held whole."""

    name = "celeba"
    licence = "CelebA: non-commercial research only"
    layout = (
        "img_align_celeba/000001.jpg and, beside it or in Anno/ and Eval/, list_attr_celeba.txt, "
        "list_landmarks_align_celeba.txt, identity_CelebA.txt, list_eval_partition.txt"
    )

    def records(self) -> Iterator[Record]:
        """Yield every picture in the order of the lists."""
        folder = next(iter(sorted(self.root.rglob("img_align_celeba"))), None)
        if folder is None:
            raise self.wrong("has no folder img_align_celeba")
        nested = folder / "img_align_celeba"  # as some archives unpack
        folder = nested if nested.is_dir() else folder
        attributes = self._list("list_attr_celeba.txt", skip=1)
        names = next(attributes)
        rows = [
            self._list("list_landmarks_align_celeba.txt", skip=2),
            self._list("identity_CelebA.txt"),
            self._list("list_eval_partition.txt"),
        ]
        for words in attributes:
            file, values = words[0], words[1:]
            points, person, split = (next(each, [""]) for each in rows)
            if not file == points[0] == person[0] == split[0]:
                raise TableError(f"The lists of {self.root} differ at {file}; fetch them again.")
            said = dict(zip(names, values, strict=True))
            labels = self.labels(
                person=person[1],
                split=_SPLITS.get(split[1], ""),
                attributes=said,
                makeup=said.get("Heavy_Makeup") == "1",
                box=_face_box(np.array(points[1:], np.float32).reshape(5, 2)),
            )
            yield Record(file, folder / file, labels=labels, crop=True)

    def _list(self, name: str, skip: int = 0) -> Iterator[list[str]]:
        file: Path | None = next(iter(sorted(self.root.rglob(name))), None)
        if file is None:
            raise self.wrong(f"has no {name}")
        with file.open(encoding="utf-8", errors="replace") as lines:
            for line in islice(lines, skip, None):
                if line.strip():
                    yield line.split()


def _face_box(five: Array) -> Array:
    """Return the box from brows to chin that eyes, nose and mouth corners imply."""
    eyes, mouth = five[:2].mean(0), five[3:].mean(0)
    down = mouth - eyes
    half = 1.15 * float(np.hypot(*down))
    centre = eyes + 0.65 * down
    return np.concatenate([centre - half, centre + half]).astype(np.float32)
