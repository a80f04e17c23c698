"""What a task is: a test set read once, run for any number of encoders, and its result."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from mien.files.errors import TableError

if TYPE_CHECKING:
    from mien.evaluate.encoders import Encoder


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
    """

    clean: bool = False
    flip: bool = False
    align: bool = False
    seed: int = 0
    batch_size: int = 64


@dataclass(frozen=True)
class Result:
    """One encoder on one task.

    Attributes:
        task: Name of the task.
        encoder: Name of the encoder.
        key: Content hash of the encoder; empty for a plain callable.
        value: Accuracy in [0, 1].
        interval: 95 % interval of ``value``; LFW: plus and minus 1.96 standard errors.
        error: Standard error over folds, where the task has folds.
        dims: Length of an embedding.
        settings: Everything that was chosen before the run.
        details: Everything that came out of it: choices, confusion, curves.
        data: Counts and the fingerprint of the test set.
        seconds: Wall time, embedding included.
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

    def as_json(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return dataclasses.asdict(self)


class Task(Protocol):
    """A test set in memory.

    Attributes:
        name: How ``mien evaluate --task NAME`` calls it; also its folder's name.
        factor: Factor of the codes that it asks for.
        published: Published figures, name → accuracy in per cent.
    """

    name: ClassVar[str]
    factor: ClassVar[str]
    published: ClassVar[dict[str, float]]

    @classmethod
    def read(cls, folder: Path) -> Task:
        """Read the set; TableError says which layout is expected."""
        ...

    def run(
        self, encoder: Encoder, settings: Settings, cache: Path | None, progress: bool
    ) -> Result:
        """Measure one encoder."""
        ...


def need_folder(folder: Path, layout: str) -> Path:
    """Return ``folder`` if it exists.

    Raises:
        TableError: It does not; names the layout.
    """
    if not folder.is_dir():
        raise TableError(f"{folder} does not exist; expected: {layout}")
    return folder
