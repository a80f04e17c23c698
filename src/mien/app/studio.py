"""What the web app does with photos. Knows nothing of the browser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mien.edit.chain import Chain, Step, carry
from mien.edit.grids import draw_grid, grid_names
from mien.edit.photos import Change, Editor
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


@dataclass(frozen=True, eq=False)
class Made:
    """An edited photo.

    Attributes:
        image: uint8 ``(H, W, 3)`` RGB, the photo after the edit.
        record: What the file will say about it.
        faces: The face that was edited; none if no slider was above zero.
        changes: What was done to it.
        wanted: Yaw, pitch, roll in degrees that the edit aimed at; None: as before.
        warnings: What was only guessed, in sentences.
    """

    image: Image
    record: EditRecord
    faces: list[Face] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    wanted: tuple[float, float, float] | None = None
    warnings: list[str] = field(default_factory=list)


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
    ) -> Made:
        """Edit the face ``number`` of a photo by all tasks in one chain.

        Raises:
            FaceError: The face, or the driver's, is not fit for it.
        """
        editor, chain = self.editor(name), self._chain(name, strengths, driver)
        wanted = [] if chain is None else [(s.task, s.strength) for s in chain.steps]
        said = " + ".join(f"{task} {strength:g}" for task, strength in wanted) or "nothing"
        record = editor.record(said, max((s for _, s in wanted), default=0.0))
        if chain is None:
            return Made(opened.image.copy(), record)
        faces, warnings = chain.fit([_cut_for(editor, opened, number)])
        changes = chain.changes(faces)
        image = carry(opened.image, faces, changes)
        aim = chain.wanted_pose(faces[0])
        return Made(image, record, faces, changes, aim, [*chain.warnings, *warnings])

    def encode(self, opened: Opened, made: Made) -> bytes:
        """Return an edited photo as a signed PNG file."""
        return encode_edited(made.image, made.record, "PNG", opened.data)

    def report(self, opened: Opened, made: Made) -> tuple[Image, list[tuple[str, str, str]]]:
        """Return the sheet of an edit and its measures: name, value, mark (or nothing).

        Raises:
            ConfigError: Nothing was edited.
        """
        from mien.edit.report_card import report_card, report_sheet

        if not made.faces:
            raise ConfigError("Nothing was edited: move a slider first.")
        card = report_card(
            opened.image, made.image, made.faces[0], made.record.weights, made.wanted
        )
        rows = [
            ("identity", f"{card.identity:.3f} (cosine by {card.judge})"),
            ("expression_change", f"{card.expression_change:.2f} % of the eye distance"),
            ("pose_error", f"{card.pose_error:.1f}°"),
            ("outside", f"{card.outside:.0f} grey levels"),
            ("sharpness", f"{card.sharpness:.2f} of the photo's"),
        ]
        sheet = report_sheet(opened.image, made.image, made.faces, made.changes)
        return sheet, [
            (what.replace("_", " "), how, card.marks.get(what, "")) for what, how in rows
        ]

    def residue(self, name: str, opened: Opened, number: int) -> list[Image]:
        """Return the face, its neutral face and where the network's layers tell them apart.

        Raises:
            ConfigError: The weights have no such maps.
        """
        editor = self.editor(name)
        if "residue" not in grid_names(editor.method):
            can = [n for n, e in self.editors.items() if "residue" in grid_names(e.method)]
            raise ConfigError(
                f"{name} has no residue maps; these have: {', '.join(can) or 'none'}."
            )
        return draw_grid("residue", editor.method, [_cut_for(editor, opened, number).crop])[0]

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
        return {name: self.apply(name, opened, number, strengths, driver).image for name in able}

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
