"""What a task is: a test set read once, run for any number of encoders, and its result."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from mien.files.errors import TableError

if TYPE_CHECKING:
    from mien.evaluate.encoders import Encoder
    from mien.evaluate.tables import Faces


@dataclass(frozen=True)
class Settings:
    """Settings that tasks share.

    Attributes:
        clean: FER-2013: train without the pictures that also lie in validation or test.
        flip: Average the embeddings of each picture and its mirror image.
        align: FER-2013: embed the crop ``tight`` that the landmark network finds in each picture,
            not the picture as it was published.
        seed: Seed of PCA and bootstrap.
        batch_size: Pictures in a call of the encoder.
        protocol: ``mien``, or a publication whose probe and choices are taken: ``facecycle``,
            ``pcl`` (``mien.evaluate.official``).
        knn: Expressions: measure nearest neighbours too.
        few_labels: Expressions: measure with 1 % and 10 % of the labels too.
        folds: Folds of whole persons, where a table has no test split; 0: as the task has it.
        cut: Intensity from which an action unit counts as present; None: as the set has it.
    """

    clean: bool = False
    flip: bool = False
    align: bool = False
    seed: int = 0
    batch_size: int = 64
    protocol: str = "mien"
    knn: bool = False
    few_labels: bool = False
    folds: int = 0
    cut: float | None = None


@dataclass(frozen=True)
class Result:
    """One encoder on one task.

    Attributes:
        task: Name of the task.
        encoder: Name of the encoder.
        key: Content hash of the encoder; empty for a plain callable.
        value: Headline figure: accuracy or mean F1 in [0, 1]; pose: mean error in degrees.
        interval: 95 % interval of ``value``; LFW and CPLFW: plus and minus 1.96 standard errors.
        error: Standard error over folds, where the task has folds.
        dims: Length of an embedding.
        settings: Everything that was chosen before the run.
        details: Everything that came out of it: choices, confusion, curves.
        data: Counts and the fingerprint of the test set.
        seconds: Wall time, embedding included.
        images_seen: Images that the training of the encoder saw; 0: none known.
    """

    task: str
    encoder: str
    key: str
    value: float
    interval: tuple[float, float]
    dims: int
    error: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    images_seen: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return dataclasses.asdict(self)


class Task(Protocol):
    """A test set in memory.

    Attributes:
        name: How ``mien evaluate --task NAME`` calls it.
        factor: Factor of the codes that it asks for.
        published: Published figures, name → accuracy in per cent.
        headings: Columns of the report.
        published_column: Which of them the published figures stand in.
    """

    name: ClassVar[str]
    factor: ClassVar[str]
    published: ClassVar[dict[str, float]]
    headings: ClassVar[tuple[str, ...]]
    published_column: ClassVar[int]

    def run(
        self, encoder: Encoder, settings: Settings, cache: Path | None, progress: bool
    ) -> Result:
        """Measure one encoder."""
        ...

    @staticmethod
    def cells(result: Result) -> list[str]:
        """Return the cells under ``headings``."""
        ...

    @staticmethod
    def note(results: Sequence[Result]) -> str:
        """Return a sentence on how the figures were made."""
        ...


class SetTask(Task, Protocol):
    """A public test set; its folder is called like the task."""

    @classmethod
    def read(cls, folder: Path) -> SetTask:
        """Read the set; TableError says which layout is expected."""
        ...


class TableTask(Task, Protocol):
    """A label of any table of faces."""

    @classmethod
    def of(cls, faces: Faces) -> TableTask:
        """Take the faces that have the label; TableError if there are none."""
        ...


def percent(value: float, interval: tuple[float, float]) -> str:
    """Return a share with its interval in per cent."""
    return f"{100 * value:.2f} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def need_folder(folder: Path, layout: str) -> Path:
    """Return ``folder`` if it exists.

    Raises:
        TableError: It does not; names the layout.
    """
    if not folder.is_dir():
        raise TableError(f"{folder} does not exist; expected: {layout}")
    return folder
