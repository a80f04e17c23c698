"""Several edits of the same faces, one after the other, as one change of the photo.

Each face is found once and its change is carried into the photo once. Every step edits the crop
that the step before it left. What the steps move adds up to one flow: if the first samples its crop
at p + F1(p) and the second at p + F2(p), both together sample it at p + F2(p) + F1(p + F2(p)). What
they draw is the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mien.data.warp import resize_flow, warp
from mien.edit.best import best
from mien.edit.photos import (
    Change,
    Editor,
    check_options,
    check_task,
    crop_points,
    crops_to_tensor,
    one_driver,
    tensor_to_images,
)
from mien.edit.tasks import TASKS
from mien.faces.face import Face, Image
from mien.faces.find import Finder
from mien.faces.provenance import EditRecord
from mien.files.errors import ConfigError, nearest

if TYPE_CHECKING:
    from mien.methods.base import Edit, Method

_BATCH = 64


@dataclass(frozen=True, eq=False)
class Step:
    """One edit of a chain.

    Attributes:
        task: Name of a task (``mien.edit.tasks``).
        driver: The face that says how: a photo's path, its pixels, or a ``Face``; for the tasks
            that need one. Of make-up it may be several, or a folder: each face gets the one that
            is turned and lit most like it.
        strength: From 0 (unchanged) to 1.
        method: Shipped weights, a weight file, a method in memory, or an editor that has them
            loaded; None takes the best for the task (``mien.edit.best``).
        regions: Strength by region of the face, for make-up.
        shares: How much each of several references of make-up counts; their mixture is put on.
    """

    task: str
    driver: str | Path | Image | Face | Sequence[str | Path | Image | Face] | None = None
    strength: float = 1.0
    method: str | Path | Method | Editor | None = None
    regions: Mapping[str, float] | None = None
    shares: Sequence[float] | None = None


class Chain:
    """Steps with their weights loaded, ready for any number of faces.

    Args:
        steps: In the order in which they are done.
        detector: Face detector (``mien.faces.detectors``).
        finder: Replaces the finder that ``detector`` names.
        driver_face: Which face of a driver's photo.

    Attributes:
        steps: The steps.
        drivers: The face of each step's driver, the first of several; None where there is none.
        references: All faces of each step's drivers.
        warnings: What may go wrong with the references of make-up.
        finder: Finds faces; its crops are as large as the largest that a step works on.
        size: Side of these crops.

    Raises:
        ConfigError: No step, an unknown task, one that its method cannot do, a driver that is
            missing or needless, or a strength out of range.
        FaceError: A driver without a face, or with several.
        ImageError: A driver cannot be read.
        WeightsError: No such weights, or a damaged file.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        detector: str = "dlib",
        finder: Finder | None = None,
        driver_face: str | int = "only",
    ) -> None:
        from mien.edit.inputs import face_of
        from mien.edit.makeup import check_shares, read_references

        if not steps:
            raise ConfigError("Say what to do with the faces: at least one step (--neutralise …).")
        self.steps = list(steps)
        loaded: dict[str, Editor] = {}
        self._editors: list[Editor] = []
        for step in self.steps:
            weights = best(step.task) if step.method is None else step.method
            key = str(weights) if isinstance(weights, (str, Path)) else str(id(weights))
            if key not in loaded:
                # One finder serves all steps; an editor's own is never asked.
                loaded[key] = (
                    weights
                    if isinstance(weights, Editor)
                    else Editor(weights, finder=finder or _no_finder())
                )
            method = loaded[key].method
            task = check_task(step.task, method, step.driver is not None, step.strength)
            check_options(task, step.regions, step.shares)
            self._editors.append(loaded[key])
        self.size = max(editor.size for editor in self._editors)
        crops = {editor.method.photo_crop[0] for editor in self._editors}
        if len(crops) > 1:  # one crop is edited by all steps
            raise ConfigError(
                f"These steps want other crops of a face ({', '.join(sorted(crops))}) and cannot "
                "be done in one call: edit twice."
            )
        self.finder = finder or Finder(detector, crops.pop(), self.size)
        self.warnings: list[str] = []
        self.references: list[list[Face]] = []
        for step in self.steps:
            task, faces = TASKS[step.task], list[Face]()
            if step.driver is not None and task.several:
                faces, said = read_references(step.driver, self.finder, driver_face, step.regions)
                check_shares(step.shares, len(faces))
                self.warnings += said
            elif step.driver is not None:
                faces = [face_of(one_driver(task, step.driver), self.finder, driver_face)]
            self.references.append(faces)
        self.drivers = [faces[0] if faces else None for faces in self.references]

    @property
    def name(self) -> str:
        """The tasks in order, as file names and records tell them."""
        return "+".join(step.task for step in self.steps)

    @property
    def record(self) -> EditRecord:
        """What an edited picture says about the edit.

        Several strengths are given by the largest, several weights in the order of the steps.
        """
        used = list({id(e): e for e in self._editors}.values())
        hashes = [e.sha256 for e in used]
        return EditRecord(
            self.name,
            max(step.strength for step in self.steps),
            "+".join(e.name for e in used),
            "+".join(hashes) if all(hashes) else "",
            "+".join(dict.fromkeys(e.method.name for e in used)),
        )

    def wanted_pose(self, face: Face) -> tuple[float, float, float] | None:
        """Return yaw, pitch and roll in degrees that the steps aim at; None: as they are.

        Crops are level, so no step changes the roll.
        """
        if not any(step.task in ("frontalise", "pose", "attributes") for step in self.steps):
            return None
        yaw, pitch, roll = face.pose
        for step, driver in zip(self.steps, self.drivers, strict=True):
            if step.task == "frontalise":
                yaw *= 1 - step.strength
            elif step.task in ("pose", "attributes") and driver is not None:
                yaw += step.strength * (driver.pose[0] - yaw)
                pitch += step.strength * (driver.pose[1] - pitch)
        return yaw, pitch, roll

    def fit(self, faces: Sequence[Face]) -> tuple[list[Face], list[str]]:
        """Return those of a photo's faces that are fit for the steps, and warnings.

        Only make-up asks for something: ``mien.edit.makeup.fit_faces``.

        Raises:
            FaceError: None is fit.
        """
        from mien.edit.makeup import fit_faces

        fit, warnings = list(faces), []
        for step in self.steps:
            if TASKS[step.task].landmarks and step.strength:
                fit, said = fit_faces(fit, step.regions)
                warnings += said
        return fit, list(dict.fromkeys(warnings))

    def changes(self, faces: Sequence[Face], batch_size: int = _BATCH) -> list[Change]:
        """Edit faces, of however many photos, in batches.

        Args:
            faces: As ``finder`` returns them.
            batch_size: Faces in a call of a network.

        Returns:
            One change each, to be carried into its photo (``Change.carry``).
        """
        found: list[Change] = []
        for start in range(0, len(faces), batch_size):
            found += self._batch(faces[start : start + batch_size])
        return found

    def apply(self, photo: Image, faces: Sequence[Face]) -> Image:
        """Return the photo with these of its faces edited, a new array."""
        return carry(photo, faces, self.changes(faces))

    @torch.inference_mode()
    def _batch(self, faces: Sequence[Face]) -> list[Change]:
        from mien.edit.makeup import nearest_reference

        first = crops_to_tensor([face.crop for face in faces], self.size)
        images, flow = first, None
        for step, editor, given in zip(self.steps, self._editors, self.references, strict=True):
            if step.strength == 0:
                continue
            inputs = [_resized(images, editor.size)]
            options: dict[str, Any] = {}
            task = TASKS[step.task]
            if task.landmarks:
                options = {"landmarks": crop_points(faces, editor.size), "regions": step.regions}
            if given:
                drivers = given
                if step.shares is None:
                    drivers = [nearest_reference(face, given) for face in faces]
                else:
                    options["shares"] = torch.tensor(list(step.shares), dtype=torch.float32)
                inputs.append(crops_to_tensor([each.crop for each in drivers], editor.size))
                if task.landmarks:
                    options["driver_landmarks"] = crop_points(drivers, editor.size)
            function = getattr(editor.method, task.function)
            edit: Edit = function(*inputs, strength=step.strength, **options)
            images = edit.images.float()
            if edit.flow is not None:
                flow = compose(flow, edit.flow.float())
        # The crop as the flow moves it, at the size of the last step: the rest is drawn.
        old = _resized(first, images.shape[-1])
        if flow is not None:
            old = warp(old, flow)
        flows = [None] * len(faces) if flow is None else list(flow.numpy())
        pairs = zip(tensor_to_images(old), tensor_to_images(images), flows, strict=True)
        return [Change(a, b, moved) for a, b, moved in pairs]


def carry(photo: Image, faces: Sequence[Face], changes: Sequence[Change]) -> Image:
    """Return the photo with the changes of its faces, a new array."""
    image = photo.copy()
    for face, change in zip(faces, changes, strict=True):
        image = change.carry(image, face)
    return image


def compose(first: Tensor | None, second: Tensor) -> Tensor:
    """Return the flow of two steps, ``(B, 2, h, w)`` of the finer of the two.

    Args:
        first: Flow of the earlier step; None if it moved nothing.
        second: Flow of the later step.
    """
    if first is None:
        return second
    side = max(first.shape[-1], second.shape[-1])
    first, second = (resize_flow(f, (side, side)) for f in (first, second))
    return second + warp(first, second)


def parse_face(which: str | int) -> str | int:
    """Check how a face of a photo is chosen.

    Raises:
        ConfigError: Neither a number nor ``only``, ``largest``, ``central`` or ``all``.
    """
    names = ("only", "largest", "central", "all")
    if isinstance(which, int) or which in names or which.isdecimal():
        return which
    raise ConfigError(f"No face {which!r}{nearest(which, names)} (or a number, 0 is the largest)")


def _resized(images: Tensor, size: int) -> Tensor:
    if images.shape[-1] == size:
        return images
    if images.shape[-1] > size:
        return F.interpolate(images, size=(size, size), mode="area")
    return F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)


def _no_finder() -> Finder:
    """Return a stand-in for the finder of an editor that is only asked for its network."""
    return Finder("crop")
