"""What the web app does with photos. Knows nothing of the browser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mien.edit.chain import Chain, Step
from mien.edit.photos import Editor
from mien.edit.tasks import TASKS, task_names
from mien.faces.face import Face, Image
from mien.faces.find import Finder, choose, face_from_landmarks
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
        faces: At least one; each weights' edits cut their own crop of it.
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
        opened: Opened,
        number: int,
        strengths: Mapping[str, float],
        driver: Opened | None = None,
    ) -> Image:
        """Edit the crop of a face alone, uint8 ``(S, S, 3)``: what sliders show at once."""
        face = _cut_for(self.editor(name), opened, number)
        chain = self._chain(name, strengths, driver)
        return face.crop if chain is None else chain.changes([face])[0].new

    def apply(
        self,
        name: str,
        opened: Opened,
        number: int,
        strengths: Mapping[str, float],
        driver: Opened | None = None,
    ) -> tuple[Image, EditRecord]:
        """Edit the face ``number`` of a photo by all tasks in one chain; return the record too.

        Raises:
            FaceError: The face, or the driver's, is not fit for it.
        """
        editor, chain = self.editor(name), self._chain(name, strengths, driver)
        wanted = [] if chain is None else [(s.task, s.strength) for s in chain.steps]
        said = " + ".join(f"{task} {strength:g}" for task, strength in wanted) or "nothing"
        record = editor.record(said, max((s for _, s in wanted), default=0.0))
        if chain is None:
            return opened.image.copy(), record
        faces, _ = chain.fit([_cut_for(editor, opened, number)])
        return chain.apply(opened.image, faces), record

    def encode(
        self,
        name: str,
        opened: Opened,
        number: int,
        strengths: Mapping[str, float],
        driver: Opened | None = None,
    ) -> bytes:
        """Edit as ``apply`` does; return a signed PNG file."""
        image, record = self.apply(name, opened, number, strengths, driver)
        return encode_edited(image, record, "PNG", opened.data)

    def compare(
        self, opened: Opened, number: int, task: str, strength: float, driver: Opened | None = None
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

    def _chain(
        self, name: str, strengths: Mapping[str, float], driver: Opened | None
    ) -> Chain | None:
        """Return the tasks above zero that the weights can do; those without driver first."""
        editor = self.editor(name)
        able = [t for t in self.tasks(name) if driver is not None or not TASKS[t].driver]
        able.sort(key=lambda task: TASKS[task].driver)
        steps = []
        for task in able:
            if strengths.get(task, 0) > 0:
                guide = None
                if driver is not None and TASKS[task].driver:
                    guide = _cut_for(editor, driver, 0)
                steps.append(Step(task, guide, strengths[task], editor))
        return Chain(steps, finder=editor.finder) if steps else None


def _cut_for(editor: Editor, opened: Opened, number: int) -> Face:
    """Return a face with the crop that an editor works on, whoever found it."""
    face = opened.faces[number]
    crop = editor.method.photo_crop[0]
    if face.crop_name == crop and len(face.crop) == editor.size:
        return face
    return face_from_landmarks(
        opened.image, face.landmarks, crop, editor.size, face.source,
        box=face.box, score=face.score, pose=face.pose,
    )  # fmt: skip
