"""What the service does with photos, many requests at a time. Knows nothing of HTTP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mien import weights as shelf
from mien.edit.makeup import concerns
from mien.edit.photos import Change, Editor, check_task
from mien.edit.tasks import TASKS, task_names
from mien.faces.face import Array, Face, Image
from mien.faces.find import Finder, choose
from mien.faces.image import read_image
from mien.faces.provenance import encode_edited
from mien.files.errors import ConfigError, FaceError, MienError, WeightsError, nearest

if TYPE_CHECKING:
    from mien.methods.base import Method

_BATCH = 64  # faces in a call of a network


@dataclass(frozen=True)
class Limits:
    """What the service takes on.

    Attributes:
        max_bytes: Largest photo.
        max_pixels: Largest declared width x height of a photo.
        requests: Requests with photos that are read, wait or are worked on; the next gets 503.
        batch: Requests worked on together. Together they hold at most ``max_pixels`` pixels, so
            memory is bounded; a larger one goes alone.
        linger: Seconds that a lone request waits for company.
        upload_seconds: Within which a request has to arrive.
        seconds: Within which it has to be answered; then it gets 503.
    """

    max_bytes: int = 10 * 2**20
    max_pixels: int = 40_000_000
    requests: int = 64
    batch: int = 16
    linger: float = 0.005
    upload_seconds: float = 20.0
    seconds: float = 30.0

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            if getattr(self, name) < 0 or (name != "linger" and not getattr(self, name)):
                raise ConfigError(f"{name} is above 0, not {getattr(self, name)}.")


@dataclass(frozen=True, eq=False)
class Job:
    """A request.

    Attributes:
        verb: ``embed``, ``edit`` or ``compare``.
        weights: Name of weights of the service.
        photos: Content of the files: one, or two (edit: photo and driver).
        faces: Which face of each photo (``mien.faces.find.choose``), or ``all``.
        task: Name of the task, for ``edit``.
        strength: From 0 to 1, for ``edit``.
        format: ``PNG``, ``JPEG`` or ``WEBP``, for ``edit``.
        pixels: Declared pixels of the photos.
    """

    verb: Literal["embed", "edit", "compare"]
    weights: str
    photos: tuple[bytes, ...]
    faces: tuple[str, ...]
    task: str = ""
    strength: float = 1.0
    format: str = "PNG"
    pixels: int = 0


@dataclass(frozen=True, eq=False)
class Found:
    """A face with its codes: ``face`` is its number in the photo (0: the largest)."""

    number: int
    face: Face
    codes: dict[str, Array]


# embed: the faces; compare: factor -> cosine; edit: the encoded picture
Result = list[Found] | dict[str, float] | bytes


@dataclass(eq=False)
class _Work:
    """A job on its way: what is known of it so far."""

    job: Job
    images: list[Image]
    chosen: list[list[tuple[int, Face]]]
    changes: list[Change] = field(default_factory=list)
    result: Result | Exception | None = None


class Service:
    """Weights, ready to work on many requests at a time.

    Args:
        weights: Shipped names, ``.safetensors`` files, or methods in memory; the first is the
            default of requests.
        detector: Face detector (``mien.faces.detectors``).
        finder: Replaces the finder that ``detector`` names.
        threads: For decoding, encoding and signing.

    Raises:
        WeightsError: No such weights, or a damaged file.
        ConfigError: No weights, two of one name, or an unknown detector.
    """

    def __init__(
        self,
        weights: Sequence[str | Path | Method] = ("facecycle",),
        detector: str = "dlib",
        finder: Finder | None = None,
        threads: int = 2,
    ) -> None:
        self.editors: dict[str, Editor] = {}
        self._about: list[dict[str, Any]] = []
        for each in weights:
            editor = Editor(each, detector, finder)
            if editor.name in self.editors:
                raise ConfigError(f"Two weights are called {editor.name!r}; rename a file.")
            self.editors[editor.name] = editor
            self._about.append(_about(editor, each))
        if not self.editors:
            raise ConfigError("Name at least one set of weights to serve.")
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="mien-photos")

    @property
    def default(self) -> str:
        """Name of the weights that a request gets if it names none."""
        return next(iter(self.editors))

    def about(self) -> list[dict[str, Any]]:
        """Return what each set of weights is and can do."""
        return self._about

    def check(self, job: Job) -> None:
        """Raise MienError for what is wrong with a request, before anything is decoded."""
        if job.weights not in self.editors:
            raise WeightsError(f"No weights {job.weights!r}{nearest(job.weights, self.editors)}")
        about = self._about[list(self.editors).index(job.weights)]
        if job.verb == "edit":
            method = self.editors[job.weights].method
            check_task(job.task, method, len(job.photos) == 2, job.strength)
        elif not about["codes"]:
            raise ConfigError(f"The method {about['method']} has no codes.")

    def __call__(self, jobs: Sequence[Job]) -> list[Result | Exception]:
        """Work on requests together: one pass of detection, landmarks and networks for all.

        Returns:
            A result each, or the MienError that says why there is none.
        """
        works = [_Work(job, [], []) for job in jobs]
        self._each(works, self._decode)
        for name, editor in self.editors.items():
            mine = [w for w in works if w.job.weights == name and w.result is None]
            photos = [image for w in mine for image in w.images]
            found = iter(editor.finder(photos, [""] * len(photos))) if photos else iter(())
            for work in mine:
                faces = [next(found) for _ in work.images]
                try:
                    work.chosen = [
                        _chosen(*each)
                        for each in zip(faces, work.job.faces, work.images, strict=True)
                    ]
                except MienError as error:
                    work.result = error
            mine = [w for w in mine if w.result is None]
            _encode(editor, [w for w in mine if w.job.verb != "edit"])
            self._edit(editor, [w for w in mine if w.job.verb == "edit"])
        return [w.result if w.result is not None else FaceError("No result.") for w in works]

    def _each(self, works: Sequence[_Work], do: Callable[[_Work], None]) -> None:
        def safely(work: _Work) -> None:
            try:
                do(work)
            except MienError as error:
                work.result = error

        list(self._pool.map(safely, works))

    def _decode(self, work: _Work) -> None:
        self.check(work.job)
        work.images = [read_image(data) for data in work.job.photos]

    def _edit(self, editor: Editor, works: Sequence[_Work]) -> None:
        """Generate each group of equal task and strength in one batch, then paste and sign."""
        groups: dict[tuple[str, float], list[_Work]] = {}
        self._each([w for w in works if TASKS[w.job.task].landmarks], _check_fit)
        works = [w for w in works if w.result is None]
        for work in works:
            groups.setdefault((work.job.task, work.job.strength), []).append(work)
        for (task, strength), group in groups.items():
            faces = [face for w in group for _, face in w.chosen[0]]
            drivers = None
            if TASKS[task].driver:
                drivers = [w.chosen[1][0][1] for w in group for _ in w.chosen[0]]
            if strength == 0:
                continue
            changes = [
                change
                for part in _parts(len(faces))
                for change in editor.generate(
                    task, faces[part], drivers[part] if drivers else None, strength
                )
            ]
            for work in group:
                count = len(work.chosen[0])
                work.changes, changes = changes[:count], changes[count:]

        def finish(work: _Work) -> None:
            job, image = work.job, work.images[0]
            for (_, face), change in zip(work.chosen[0], work.changes, strict=False):
                image = change.carry(image, face)
            record = editor.record(job.task, job.strength)
            work.result = encode_edited(image, record, job.format, job.photos[0])

        self._each(works, finish)


def _check_fit(work: _Work) -> None:
    """Raise FaceError for a face or a reference that is not fit for make-up."""
    for k, photo in enumerate(work.chosen):
        for _, face in photo:
            concerns(face, reference=k == 1)


def _chosen(faces: list[Face], which: str, image: Image) -> list[tuple[int, Face]]:
    if which == "all" and faces:
        return list(enumerate(faces))
    face = choose(faces, "largest" if which == "all" else which, "", image.shape)
    return [(faces.index(face), face)]


def _encode(editor: Editor, works: Sequence[_Work]) -> None:
    """Compute the codes of all faces of all requests together."""
    faces = [found for w in works for photo in w.chosen for found in photo]
    if not faces:
        return
    crops = [face.crop for _, face in faces]
    parts = [editor.encode(crops[part]) for part in _parts(len(crops))]
    codes = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    row = 0
    for work in works:
        photos = []
        for photo in work.chosen:
            photos.append(
                [
                    Found(number, face, {name: values[row + i] for name, values in codes.items()})
                    for i, (number, face) in enumerate(photo)
                ]
            )
            row += len(photo)
        if work.job.verb == "embed":
            work.result = photos[0]
        else:
            (a, *_), (b, *_) = photos
            work.result = {name: _cosine(a.codes[name], b.codes[name]) for name in codes}


def _cosine(a: Array, b: Array) -> float:
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.dot(a, b)) / length if length > 0 else 0.0


def _parts(count: int) -> list[slice]:
    return [slice(start, start + _BATCH) for start in range(0, count, _BATCH)]


def _about(editor: Editor, weights: str | Path | Method) -> dict[str, Any]:
    card = shelf.card(weights) if isinstance(weights, (str, Path)) else {}
    blank = np.zeros((editor.size, editor.size, 3), np.uint8)
    try:
        codes = {name: values.shape[1] for name, values in editor.encode([blank]).items()}
    except ConfigError:
        codes = {}
    return {
        "weights": editor.name,
        "method": editor.method.name,
        "sha256": editor.sha256,
        "licence": str(card.get("licence", "not stated")),
        "codes": codes,
        "edits": [
            {"task": t, "driver": TASKS[t].driver, "summary": TASKS[t].summary}
            for t in task_names(editor.method)
        ],
    }
