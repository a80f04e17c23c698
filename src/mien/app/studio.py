"""What the web app does with photos. Knows nothing of the browser."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mien.edit.photos import Editor
from mien.edit.tasks import TASKS, task_names
from mien.faces.align import warp_crop
from mien.faces.face import Face, Image
from mien.faces.find import Finder, choose
from mien.faces.image import read_image
from mien.faces.provenance import EditRecord, encode_edited
from mien.files.errors import ConfigError, nearest

if TYPE_CHECKING:
    from mien.methods.base import Method


@dataclass(frozen=True, eq=False)
class Opened:
    """A photo with its faces, the largest first.

    Attributes:
        image: uint8 ``(H, W, 3)`` RGB.
        faces: At least one.
        data: Content of the file: its C2PA history is carried on.
    """

    image: Image
    faces: list[Face]
    data: bytes


class Studio:
    """Weights that can edit, and the faces of the photos they edit.

    Args:
        weights: Shipped names, ``.safetensors`` files, or methods in memory.
        detector: Face detector (``mien.faces.detectors``).
        finder: Replaces the finder that ``detector`` names.

    Raises:
        ConfigError: None of the weights can edit.
        WeightsError: No such weights, or a damaged file.
    """

    def __init__(
        self,
        weights: Sequence[str | Path | Method],
        detector: str = "dlib",
        finder: Finder | None = None,
    ) -> None:
        editors = [Editor(each, detector, finder) for each in weights]
        self.editors = {e.name: e for e in editors if task_names(e.method)}
        if not self.editors:
            raise ConfigError("None of the weights can edit; see mien weights.")

    def tasks(self, name: str) -> list[str]:
        """Return what the weights ``name`` can do."""
        return task_names(self.editor(name).method)

    def editor(self, name: str) -> Editor:
        """Return the editor of the weights ``name``.

        Raises:
            ConfigError: There are none of that name.
        """
        if name not in self.editors:
            raise ConfigError(f"No weights {name!r}{nearest(name, self.editors)}")
        return self.editors[name]

    def open(self, file: str | Path) -> Opened:
        """Read a photo and find its faces.

        Raises:
            ImageError: It cannot be read.
            FaceError: It shows no face.
        """
        image = read_image(file)
        faces = next(iter(self.editors.values())).find(image)
        choose(faces, "largest", "The photo", image.shape)
        return Opened(image, faces, Path(file).read_bytes())

    def preview(
        self,
        name: str,
        face: Face,
        strengths: Mapping[str, float],
        driver: Face | None = None,
    ) -> Image:
        """Edit a crop alone, uint8 ``(S, S, 3)``: what sliders show at once."""
        editor = self.editor(name)
        for task, strength in self._wanted(name, strengths, driver):
            drivers = [driver] if driver is not None and TASKS[task].driver else None
            edited = editor.generate(task, [face], drivers, strength)[0].new
            face = dataclasses.replace(face, crop=edited)
        return face.crop

    def apply(
        self,
        name: str,
        opened: Opened,
        number: int,
        strengths: Mapping[str, float],
        driver: Face | None = None,
    ) -> tuple[Image, EditRecord]:
        """Edit the face ``number`` of a photo, one task after the other; return the record too."""
        editor, image, face = self.editor(name), opened.image, opened.faces[number]
        wanted = self._wanted(name, strengths, driver)
        for task, strength in wanted:
            crop = warp_crop(image, face.to_photo, len(face.crop))
            now = dataclasses.replace(face, crop=crop)
            needed = driver if TASKS[task].driver else None
            image = editor.apply(task, image, [now], needed, strength)
        said = " + ".join(f"{task} {strength:g}" for task, strength in wanted) or "nothing"
        return image, editor.record(said, max((s for _, s in wanted), default=0.0))

    def encode(
        self,
        name: str,
        opened: Opened,
        number: int,
        strengths: Mapping[str, float],
        driver: Face | None = None,
    ) -> bytes:
        """Edit as ``apply`` does; return a signed PNG file."""
        image, record = self.apply(name, opened, number, strengths, driver)
        return encode_edited(image, record, "PNG", opened.data)

    def compare(
        self, opened: Opened, number: int, task: str, strength: float, driver: Face | None = None
    ) -> dict[str, Image]:
        """Return the photo as every method that can do ``task`` edits it, by name of the weights.

        Raises:
            ConfigError: None can, or the task needs a driver and there is none.
        """
        if TASKS[task].driver and driver is None:
            raise ConfigError(f"{task} needs a driver: the photo of the face that says how.")
        able = [name for name in self.editors if task in self.tasks(name)]
        if not able:
            raise ConfigError(f"None of the weights can do {task!r}.")
        strengths = {task: strength}
        return {name: self.apply(name, opened, number, strengths, driver)[0] for name in able}

    def _wanted(
        self, name: str, strengths: Mapping[str, float], driver: Face | None
    ) -> list[tuple[str, float]]:
        """Return the tasks above zero that the weights can do; those without driver first."""
        able = [t for t in self.tasks(name) if driver is not None or not TASKS[t].driver]
        able.sort(key=lambda task: TASKS[task].driver)
        return [(task, strengths[task]) for task in able if strengths.get(task, 0) > 0]
