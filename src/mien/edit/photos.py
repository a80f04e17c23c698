"""Edits of whole photos: find the face, edit its crop, carry the change back into the photo."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from torch import Tensor

from mien import weights as shelf
from mien.data.warp import warp
from mien.edit.sources import photo_files
from mien.edit.tasks import Task, find_task
from mien.faces.align import invert, transform_points
from mien.faces.face import Array, Face, Image
from mien.faces.find import Finder, choose
from mien.faces.image import IMAGE_SUFFIXES, check_image, encode_image, read_image, write_image
from mien.faces.paste import face_mask, paste_change, warp_photo
from mien.faces.provenance import EditRecord, write_edited
from mien.files.errors import ConfigError, MienError

if TYPE_CHECKING:
    from mien.methods.base import Method

Photo = str | Path | Image

# In sides of the crop: over how much of its edge a change fades, and how far it goes beyond the
# landmarks' hull.
_FEATHER, _RIM = 0.1, 0.1


@dataclass(frozen=True, eq=False)
class Edited:
    """An edited photo.

    Attributes:
        image: uint8 ``(H, W, 3)`` RGB, the size of the photo.
        photo: The photo as it was.
        faces: The faces that were edited.
        record: What was done.
        source: Path of the photo; empty for a picture in memory.
        path: Where it was written; None if it was not.
        warnings: What may have gone wrong with make-up (``mien.edit.makeup``).
    """

    image: Image = field(repr=False)
    photo: Image = field(repr=False)
    faces: list[Face]
    record: EditRecord
    source: str = ""
    path: Path | None = None
    warnings: tuple[str, ...] = ()


class Editor:
    """Weights and a face finder, ready for any number of photos.

    Args:
        weights: Shipped name, ``.safetensors`` file, or a method in memory.
        detector: Face detector (``mien.faces.detectors``).
        finder: Replaces the finder that ``detector`` names.
        crop: Named crop of the faces; that which the method wants of photos if empty.

    Attributes:
        method: The method, in evaluation mode.
        name: Name of the weights.
        sha256: Of the weight file; empty for a method in memory.
        size: Side in pixels of the crops that the method works on.

    Raises:
        WeightsError: No such weights, or a damaged file.
        ConfigError: Unknown detector.
    """

    def __init__(
        self,
        weights: str | Path | Method = "facecycle",
        detector: str = "dlib",
        finder: Finder | None = None,
        crop: str = "",
    ) -> None:
        if isinstance(weights, torch.nn.Module):
            self.method, self.name, self.sha256 = weights.eval(), weights.name, ""
        else:
            self.method = shelf.load(weights)
            self.name = Path(weights).stem
            self.sha256 = str(shelf.card(weights)["sha256"])
        wanted, self.size = self.method.photo_crop
        self.finder = finder or Finder(detector, crop or wanted, self.size)

    def find(self, photo: Image, source: str = "") -> list[Face]:
        """Return the faces of a photo, the largest first."""
        return self.finder([photo], [source])[0]

    def record(self, task: str, strength: float) -> EditRecord:
        """Return what an edited picture says about its edit."""
        return EditRecord(task, strength, self.name, self.sha256, self.method.name)

    def apply(
        self,
        task: str,
        photo: Image,
        faces: Sequence[Face],
        driver: Face | Sequence[Face] | None = None,
        strength: float = 1.0,
        regions: Mapping[str, float] | None = None,
        shares: Sequence[float] | None = None,
    ) -> Image:
        """Edit faces of a photo.

        Args:
            task: Name of a task (``mien.edit.tasks``).
            photo: uint8 ``(H, W, 3)`` RGB.
            faces: Of this photo, as ``find`` returns them.
            driver: The face that says how, for tasks that need one; of several references of
                make-up each face gets the one that is turned and lit most like it.
            strength: From 0 (the photo unchanged, bit for bit) to 1.
            regions: Strength by region of the face, for make-up.
            shares: How much each of several references counts; their mixture is put on.

        Returns:
            The edited photo, a new array.

        Raises:
            ConfigError: Unknown task, one that the method cannot do, no driver, or a strength out
                of range.
        """
        check_task(task, self.method, driver is not None, strength)
        check_image(photo)
        image = photo.copy()
        if strength == 0 or not faces:
            return image
        drivers = None if driver is None else [driver] if isinstance(driver, Face) else list(driver)
        if drivers is not None and shares is None:
            from mien.edit.makeup import nearest_reference

            drivers = [nearest_reference(face, drivers) for face in faces]
        changes = self.generate(task, faces, drivers, strength, regions, shares)
        for face, change in zip(faces, changes, strict=True):
            image = change.carry(image, face)
        return image

    @torch.inference_mode()
    def generate(
        self,
        task: str,
        faces: Sequence[Face],
        drivers: Sequence[Face] | None = None,
        strength: float = 1.0,
        regions: Mapping[str, float] | None = None,
        shares: Sequence[float] | None = None,
    ) -> list[Change]:
        """Edit the crops of faces in one batch.

        Args:
            task: Name of a task.
            faces: What is edited.
            drivers: One a face, for tasks that need them; with ``shares`` any number.
            strength: From 0 to 1.
            regions: Strength by region of the face, for make-up.
            shares: How much each driver counts; all faces get their mixture.

        Raises:
            ConfigError: As for ``apply``.
        """
        found = check_task(task, self.method, drivers is not None, strength)
        check_options(found, regions, shares)
        images = crops_to_tensor([face.crop for face in faces], self.size)
        inputs = [images]
        options: dict[str, Any] = {}
        if drivers is not None:
            inputs.append(crops_to_tensor([face.crop for face in drivers], self.size))
        if found.landmarks:
            options = {"landmarks": crop_points(faces, self.size), "regions": regions}
            if drivers is not None:
                options["driver_landmarks"] = crop_points(drivers, self.size)
            if shares is not None:
                options["shares"] = torch.tensor(list(shares), dtype=torch.float32)
        edit = getattr(self.method, found.function)(*inputs, strength=strength, **options)
        flows: list[Array | None] = [None] * len(images)
        if edit.flow is not None:
            flow = edit.flow.float()
            images, flows = warp(images, flow), list(flow.numpy())
        pairs = zip(tensor_to_images(images), tensor_to_images(edit.images), flows, strict=True)
        return [Change(old, new, moved) for old, new, moved in pairs]

    @torch.inference_mode()
    def encode(self, crops: Sequence[Image]) -> dict[str, Array]:
        """Return the codes of crops in one batch: factor → float32 ``(B, D)``.

        Args:
            crops: uint8 ``(s, s, 3)`` each.

        Raises:
            ConfigError: The method has no codes.
        """
        try:
            codes = self.method.encode(crops_to_tensor(crops, self.size))
        except NotImplementedError:
            raise ConfigError(f"The method {self.method.name} has no codes.") from None
        return {factor: values.float().numpy() for factor, values in codes.items()}


@dataclass(frozen=True, eq=False)
class Change:
    """An edited crop, ready to be carried into the photo.

    Attributes:
        old: uint8 ``(S, S, 3)``, the crop, moved by the flow if there is one.
        new: uint8 ``(S, S, 3)``, the edited crop.
        flow: ``(2, h, w)``, see ``mien.data.warp``; None if nothing moves.
    """

    old: Image
    new: Image
    flow: Array | None = None

    def carry(self, photo: Image, face: Face) -> Image:
        """Return the photo, moved by the flow at its own resolution, with the change added."""
        if self.flow is not None:
            photo = warp_photo(photo, face, self.flow, feather=_FEATHER)
        return paste_change(photo, face, self.old, self.new, mask=_face_and_rim(face))


def _face_and_rim(face: Face) -> Array:
    """Return a mask ``(S, S)``: the face with a rim, as far as the crop goes.

    A ``tight`` crop ends at the chin: a mask that fades inside the face would halve every edit of
    the lower lip, one of the whole crop would touch the background.
    """
    side = len(face.crop)
    reach = 2 * round(_RIM * side) + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))
    wide = cv2.dilate(face_mask(face, "hull", feather=0.0), kernel)
    soft = cv2.GaussianBlur(wide, (0, 0), _RIM * side / 3)
    return np.minimum(soft, face_mask(face, "crop", _FEATHER)).astype(np.float32)


def edit(
    task: str,
    photos: Photo | Iterable[Photo],
    driver: Photo | Sequence[Photo] | None = None,
    *,
    out: str | Path | None = None,
    strength: float = 1.0,
    weights: str | Path | Method = "facecycle",
    face: str | int = "only",
    driver_face: str | int = "only",
    detector: str = "dlib",
    finder: Finder | None = None,
    regions: Mapping[str, float] | None = None,
    shares: Sequence[float] | None = None,
    provenance: bool = True,
) -> list[Edited]:
    """Edit whole photos.

    Args:
        task: ``neutralise``, ``frontalise``, ``expression``, ``pose``, ``identity``,
            ``attributes``, ``mean-face``, ``makeup`` or ``remove-makeup``, as the weights can
            (``mien.edit.tasks``).
        photos: One or more of: path of a picture, folder of pictures, uint8 ``(H, W, 3)`` RGB.
        driver: The photo whose expression, pose, identity or make-up is put on, for the tasks that
            need it. Of make-up it may be several photos, or a folder: each face gets the one that
            is turned and lit most like it.
        out: File (``.png``, ``.jpg``, ``.webp``) for one photo, else a folder. Every file says that
            it was edited (``mien.faces.provenance``). None writes nothing.
        strength: From 0 (unchanged) to 1.
        weights: Shipped name, ``.safetensors`` file, or a method in memory.
        face: Which face of a photo: ``only`` (several are an error), ``largest``, ``central``,
            ``all``, or a number (0 is the largest).
        driver_face: The same for the driver, without ``all``.
        detector: Face detector; ``crop`` for pictures that are face crops already.
        finder: Replaces the finder that ``detector`` names.
        regions: Strength by region (``lips``, ``eyes``, ``skin``), for make-up.
        shares: How much each of several references of make-up counts; their mixture is put on.
        provenance: Sign what is written; False leaves no mark that it was edited.

    Returns:
        One edited photo each.

    Raises:
        FaceError: No face, several and none chosen, or one that is turned too far for make-up.
        ImageError: A photo cannot be read.
        ConfigError: Unknown task, no driver, or a strength out of range.
        WeightsError: No such weights, or a damaged file.

    With ``out``, photos that cannot be edited are left out, and the error is raised at the end.
    """
    return list(
        edit_each(
            task,
            photos,
            driver,
            out=out,
            strength=strength,
            weights=weights,
            face=face,
            driver_face=driver_face,
            detector=detector,
            finder=finder,
            regions=regions,
            shares=shares,
            provenance=provenance,
        )
    )


def edit_each(
    task: str,
    photos: Photo | Iterable[Photo],
    driver: Photo | Sequence[Photo] | None = None,
    *,
    out: str | Path | None = None,
    strength: float = 1.0,
    weights: str | Path | Method = "facecycle",
    face: str | int = "only",
    driver_face: str | int = "only",
    detector: str = "dlib",
    finder: Finder | None = None,
    regions: Mapping[str, float] | None = None,
    shares: Sequence[float] | None = None,
    provenance: bool = True,
) -> Iterator[Edited]:
    """Edit whole photos as ``edit`` does, one at a time, so that memory does not grow."""
    from mien.edit.inputs import face_of
    from mien.edit.makeup import check_shares, fit_faces, read_references

    editor = Editor(weights, detector, finder)
    found = check_task(task, editor.method, driver is not None, strength)
    check_options(found, regions, shares)
    sources = _sources(photos)
    guides: list[Face] | None = None
    notes: list[str] = []
    if driver is not None and found.several:
        guides, notes = read_references(driver, editor.finder, driver_face, regions)
        check_shares(shares, len(guides))
    elif driver is not None:
        guides = [face_of(one_driver(found, driver), editor.finder, driver_face)]
    names = [None] * len(sources) if out is None else targets(sources, Path(out), task)
    record = editor.record(task, strength)
    failed: list[MienError] = []
    for source, target in zip(sources, names, strict=True):
        try:
            name, picture, data = _read(source)
            faces = editor.find(picture, name)
            chosen = (
                faces if face == "all" and faces else [choose(faces, face, name, picture.shape)]
            )
            said = list(notes)
            if found.landmarks and strength:
                chosen, more = fit_faces(chosen, regions)
                said += more
            image = editor.apply(task, picture, chosen, guides, strength, regions, shares)
            if target is not None and provenance:
                write_edited(target, image, record, data)
            elif target is not None:
                write_image(target, image)
        except MienError as error:
            if target is None or len(sources) == 1:
                raise
            failed.append(error)
            continue
        yield Edited(image, picture, chosen, record, name, target, tuple(said))
    if failed:
        raise type(failed[0])(
            f"{len(failed)} of {len(sources)} photos were not edited (the others are in {out}); "
            f"the first: {failed[0]}"
        )


def check_task(name: str, method: Method, driver: bool, strength: float) -> Task:
    """Return the task ``name``.

    Raises:
        ConfigError: It is unknown, the method cannot do it, a driver is missing or needless, or
            the strength is out of range.
    """
    task = find_task(name, method)
    if task.driver and not driver:
        raise ConfigError(f"{name} needs a driver: the photo of the face that says how (--driver).")
    if driver and not task.driver:
        raise ConfigError(f"{name} takes no driver; leave it out.")
    if not 0 <= strength <= 1:
        raise ConfigError(f"strength goes from 0 (unchanged) to 1, not {strength}.")
    return task


def check_options(
    task: Task, regions: Mapping[str, float] | None, shares: Sequence[float] | None
) -> None:
    """Raise ConfigError for regions or shares of a task that has none."""
    if regions and not task.landmarks:
        raise ConfigError(f"{task.name} has no regions; leave them out.")
    if shares is not None and not task.several:
        raise ConfigError(f"{task.name} takes one driver; leave the shares out.")


def one_driver(task: Task, driver: Any) -> Any:
    """Return the driver of a task that takes only one.

    Raises:
        ConfigError: Several are given.
    """
    if isinstance(driver, (list, tuple)):
        if len(driver) != 1:
            raise ConfigError(f"{task.name} takes one driver, not {len(driver)}.")
        return driver[0]
    return driver


def _sources(photos: Photo | Iterable[Photo]) -> list[Path | Image]:
    if isinstance(photos, (str, Path, np.ndarray)):
        photos = [photos]
    sources: list[Path | Image] = []
    for photo in photos:
        sources += [photo] if isinstance(photo, np.ndarray) else photo_files([photo])
    return sources or list(photo_files([]))


def _read(photo: Photo) -> tuple[str, Image, bytes]:
    """Return name, pixels and file content of a photo."""
    if isinstance(photo, np.ndarray):
        check_image(photo)
        return "", photo, encode_image(photo)
    picture = read_image(photo)
    return str(photo), picture, Path(photo).read_bytes()


def targets(sources: Sequence[Path | Image], out: Path, task: str) -> list[Path]:
    """Return one file name a photo, no two equal and none that of a photo.

    Raises:
        ConfigError: One file for several photos, or a name that is a photo's.
    """
    names = []
    for i, source in enumerate(sources):
        stem, suffix = f"photo{i}", ".png"
        if isinstance(source, Path):
            stem, suffix = source.stem, source.suffix.lower()
        names.append((stem, suffix if suffix in IMAGE_SUFFIXES else ".png"))
    originals = [s for s in sources if isinstance(s, Path)]
    one = out.suffix.lower() in IMAGE_SUFFIXES
    return name_results(names, originals, out, task, one=one, kind="photo")


def name_results(
    names: Sequence[tuple[str, str]],
    originals: Sequence[Path],
    out: Path,
    task: str,
    *,
    one: bool,
    kind: str,
) -> list[Path]:
    """Return one file name for each stem and suffix, no two equal and none of the originals.

    Args:
        names: Stem and suffix each.
        originals: Files that must stay.
        out: The file itself, or a folder.
        task: Goes into the names in a folder.
        one: Whether ``out`` is a file.
        kind: What the error calls an original.

    Raises:
        ConfigError: One file for several, or a name that is an original's.
    """
    if one and len(names) > 1:
        raise ConfigError(f"{out} is one file but there are {len(names)} {kind}s; name a folder.")
    named = [out] if one else list[Path]()
    for stem, suffix in [] if one else names:
        target, number = out / f"{stem}-{task}{suffix}", 2
        while target in named:
            target, number = out / f"{stem}-{task}-{number}{suffix}", number + 1
        named.append(target)
    kept = {original.resolve() for original in originals}
    for target in named:
        if target.resolve() in kept:
            raise ConfigError(f"{target} is one of the {kind}s; choose another --out to keep it.")
    return named


def crop_points(faces: Sequence[Face], size: int) -> Tensor:
    """Return landmarks ``(B, 68, 2)`` in pixels of the crops at ``size``."""
    found = [
        (transform_points(f.landmarks, invert(f.to_photo)) + 0.5) * (size / len(f.crop)) - 0.5
        for f in faces
    ]
    return torch.from_numpy(np.stack(found).astype(np.float32))


def crops_to_tensor(crops: Sequence[Image], size: int) -> Tensor:
    """Return crops as ``(B, 3, size, size)`` in [-1, 1]."""
    sized = [
        crop
        if len(crop) == size
        else cv2.resize(
            crop,
            (size, size),
            interpolation=cv2.INTER_AREA if len(crop) > size else cv2.INTER_LINEAR,
        )
        for crop in crops
    ]
    return torch.from_numpy(np.stack(sized)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def tensor_to_images(images: Tensor) -> list[Image]:
    """Return ``(B, 3, S, S)`` in [-1, 1] as uint8 ``(S, S, 3)`` each."""
    pixels = ((images.float() + 1) * 127.5).round_().clamp_(0, 255).byte()
    return list(pixels.permute(0, 2, 3, 1).contiguous().numpy())
