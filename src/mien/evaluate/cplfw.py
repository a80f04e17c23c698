"""CPLFW, cross-pose LFW: verification as on LFW, with pairs that differ in pose."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from mien.evaluate.lfw import Lfw, Pair
from mien.evaluate.task import Result, need_folder
from mien.files.errors import TableError

FOLDS = 10
LAYOUT = (
    "pairs_CPLFW.txt (two lines a pair: NAME_1.jpg 1) and the aligned crops in 'aligned images/'"
)
_FOLDERS = ("aligned images", "aligned_images", "images", ".")


class Cplfw(Lfw):
    """The set in memory, scored as LFW is.

    The list has no folds: the pairs of one person and those of two are each cut into ten in their
    order, as the distributed folds are. A person may be in several folds.
    """

    name: ClassVar[str] = "cplfw"
    published: ClassVar[dict[str, float]] = {"FaceCycle": 58.52, "HoG": 51.73, "LBP": 51.50}
    headings: ClassVar[tuple[str, ...]] = ("CPLFW %", "CPLFW % raw cosine")
    folds: ClassVar[str] = "10 folds in the order of the list"

    @classmethod
    def read(cls, folder: Path) -> Cplfw:
        """Read the pairs and the pictures that they name.

        Raises:
            TableError: Another layout, pictures missing, or pictures that are not cropped.
            ImageError: A file that is not a picture.
        """
        listed = read_pairs(need_folder(folder, LAYOUT))
        first = min(name for _, *pair, _ in listed for name in pair)
        base = next((folder / f for f in _FOLDERS if (folder / f / first).is_file()), folder)
        return cls.of_pairs(listed, base, folder / "pairs_CPLFW.txt", LAYOUT)

    @staticmethod
    def note(results: Sequence[Result]) -> str:
        """Return the protocol."""
        return (
            "CPLFW: as LFW; folds in the order of the list, which do not part the persons; mean of "
            "ten folds ± standard error."
        )


def read_pairs(folder: Path) -> list[Pair]:
    """Read ``pairs_CPLFW.txt``: two lines a pair (name, label) or one (two names, label).

    Raises:
        TableError: No such list, or another format.
    """
    file = folder / "pairs_CPLFW.txt"
    try:
        lines = [line.split() for line in file.read_text(encoding="utf-8").splitlines() if line]
        if lines and len(lines[0]) == 2:
            both = list(zip(lines[::2], lines[1::2], strict=True))
            if any(a[1] != b[1] for a, b in both):
                raise ValueError
            words = [(a[0], b[0], int(a[1])) for a, b in both]
        else:
            words = [(a, b, int(label)) for a, b, label in lines]
    except OSError as error:
        raise TableError(f"{file} cannot be read ({error.strerror}); expected: {LAYOUT}") from None
    except (ValueError, IndexError):
        raise TableError(f"{file} is not CPLFW's list of pairs; expected: {LAYOUT}") from None
    counts = {same: sum((label > 0) == same for *_, label in words) for same in (True, False)}
    if min(counts.values()) < FOLDS:
        raise TableError(f"{file} has too few pairs for {FOLDS} folds; expected: {LAYOUT}")
    seen = {True: 0, False: 0}
    out = []
    for a, b, label in words:
        same = label > 0
        out.append((seen[same] * FOLDS // counts[same], a, b, same))
        seen[same] += 1
    return out
