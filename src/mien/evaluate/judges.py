"""Judges of edited faces that had no part in the edit: who is it, which expression does it show.

Edited and true pictures pass the same way: as uint8 crops of the size that the method works at.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mien.data.cache import FaceCache
from mien.evaluate.cache import embed
from mien.evaluate.descriptors import grey
from mien.evaluate.encoders import Encoder, encoder
from mien.evaluate.fer2013 import EXPRESSIONS, SIDE, Fer2013
from mien.evaluate.pca import Pca, fit_pca
from mien.evaluate.pictures import resize
from mien.evaluate.probe import Labels, Probe, bootstrap_interval, fit_probe
from mien.faces.face import Array, Image
from mien.faces.landmarks import tight_landmarks
from mien.files.errors import ConfigError

if TYPE_CHECKING:
    from mien.methods.base import Method

NEUTRAL = EXPRESSIONS.index("neutral")
# Where dlib's detector would see the face of a ``tight`` crop (left, top, right, bottom), and how
# far small crops are enlarged for it: nearest to MediaPipe's landmarks on London and LFW.
_DLIB_BOX = (0.1, 0.15, 0.9, 0.95)
_DLIB_UP = 3
LEAST_PERSONS = 30  # a rank among fewer says little


def judge_of(
    spec: str | Encoder | Callable[[Image], Any], weights: object, factor: str = "identity"
) -> Encoder:
    """Build the encoder of a judge.

    Args:
        spec: As in ``mien.evaluate.encoders``.
        weights: What is judged: a shipped name, a file, or a method in memory.
        factor: ``identity`` or ``expression``.

    Raises:
        ConfigError: The judge is the very network that is judged, or no encoder.
        WeightsError: No such weights.
    """
    if isinstance(spec, str) and spec.partition(",")[0].partition("@")[0] == str(weights):
        raise ConfigError(
            f"The judge {spec} is the network that is judged; name an encoder that had no part in "
            "the edit, e.g. dlib:FILE or onnx:FILE."
        )
    return encoder(spec, factor)


def short_name(judge: Encoder) -> str:
    """Return the name of a judge without the folders of its file."""
    kind, colon, file = judge.name.rpartition(":")
    return f"{kind}{colon}{Path(file).name}"


def native_size(method: Method) -> int:
    """Return the side in pixels of the crops that a method works at."""
    return int(getattr(getattr(method, "config", None), "size", 64))


def take(faces: FaceCache, rows: NDArray[np.int64]) -> Tensor:
    """Return rows of a table as images ``(N, 3, S, S)`` in [-1, 1]."""
    return faces.take(rows).float().div_(127.5).sub_(1.0)


def pictures(images: Tensor) -> Image:
    """Return images ``(B, 3, S, S)`` in [-1, 1] as uint8 ``(B, S, S, 3)``."""
    pixels = ((images.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1)
    return np.ascontiguousarray(pixels.cpu().numpy())


def landmarks(images: Tensor) -> Array:
    """Measure landmarks ``(B, 68, 2)`` of ``tight`` crops, in their pixels, by our network."""
    return np.asarray(tight_landmarks(images).numpy(), np.float32)


def landmark_judge(spec: str = "") -> tuple[str, Callable[[Tensor], Array]]:
    """Build what measures landmarks ``(B, 68, 2)`` of ``tight`` crops, in their pixels.

    Args:
        spec: Empty: the shipped landmark network. ``dlib:FILE``: dlib's regression trees
            (shape_predictor_68_face_landmarks.dat), which no method of this project learned from.

    Returns:
        Its name and the function.

    Raises:
        ConfigError: Another judge, or no such file.
    """
    if not spec:
        return "the shipped landmark network, on the crops", landmarks
    kind, _, name = spec.partition(":")
    if kind != "dlib":
        raise ConfigError(f"No judge of landmarks {spec!r}; write dlib:FILE, or leave it out.")
    import dlib

    file = Path(name)
    if not file.is_file():
        raise ConfigError(
            f"No file {file}; write dlib:PATH of shape_predictor_68_face_landmarks.dat, which "
            "http://dlib.net/files/ and the package face_recognition_models on PyPI hold."
        )
    try:
        predictor = dlib.shape_predictor(str(file))
    except RuntimeError as error:
        raise ConfigError(f"{file} is not a shape predictor of dlib: {error}") from None

    def measure(images: Tensor) -> Array:
        side = images.shape[-1]
        crops = resize(pictures(images), _DLIB_UP * side)
        box = dlib.rectangle(*(round(edge * _DLIB_UP * side) for edge in _DLIB_BOX))
        found = [[(p.x, p.y) for p in predictor(crop, box).parts()] for crop in crops]
        points = (np.array(found, np.float32).reshape(-1, 68, 2) + 0.5) / _DLIB_UP - 0.5
        return np.asarray(points, np.float32)

    return f"dlib:{file.name}, on the crops", measure


def directions(
    judge: Encoder, crops: Image, cache: Path | None = None, progress: bool = False
) -> Array:
    """Return the embeddings of uint8 crops ``(N, S, S, 3)`` at unit length, ``(N, D)``."""
    values = embed(judge, crops, cache=cache, progress=progress).astype(np.float32)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(values / np.maximum(length, 1e-12), np.float32)


@dataclass(frozen=True, eq=False)
class Ranks:
    """Pictures looked up in a gallery of persons, one picture each.

    Attributes:
        first: bool ``(N,)``: the nearest person of the gallery is the right one.
        own: ``(N,)`` cosine to the right person.
        margin: ``(N,)`` that cosine less the largest to anybody else.
    """

    first: NDArray[np.bool_]
    own: Array
    margin: Array


def rank(queries: Array, gallery: Array, places: NDArray[np.int64]) -> Ranks:
    """Look up queries among the persons of a gallery by cosine.

    Args:
        queries: ``(N, D)`` at unit length.
        gallery: ``(P, D)`` at unit length, P at least 2.
        places: ``(N,)`` row of the gallery that each query belongs to.

    Raises:
        ConfigError: A gallery of fewer than two persons.
    """
    if len(gallery) < 2:
        raise ConfigError("A gallery of one person ranks nothing; give a table with more persons.")
    cosine = queries @ gallery.T
    rows = np.arange(len(queries))
    own = cosine[rows, places]
    cosine[rows, places] = -np.inf
    best = cosine.max(1)
    return Ranks(own > best, own, own - best)


def wilson(share: float, count: int) -> tuple[float, float]:
    """Return the 95 % Wilson interval of a share of ``count``: not empty at 0 and 1."""
    z = 1.959964
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * (share * (1 - share) / count + z * z / (4 * count**2)) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True, eq=False)
class ExpressionJudge:
    """A linear probe on an encoder, fitted on FER-2013's training pictures.

    Attributes:
        encoder: What embeds.
        probe: Its seven classes are ``mien.evaluate.fer2013.EXPRESSIONS``.
        project: Principal components of the training pictures; None: the embeddings as they are.
        about: Choices and what it reaches on FER-2013's test pictures, as JSON values.
    """

    encoder: Encoder
    probe: Probe
    project: Pca | None
    about: dict[str, Any]

    def __call__(self, crops: Image, cache: Path | None = None) -> Labels:
        """Return the classes ``(N,)`` of ``tight`` crops uint8 ``(N, S, S, 3)``.

        They are judged as FER-2013's pictures are: grey, at 48 px.
        """
        small = resize(grey(crops).round().byte().numpy(), SIDE)
        values = embed(self.encoder, small, cache=cache, progress=False)
        return self.probe.classes(self.project(values) if self.project else values)


def fit_expression_judge(
    spec: str | Encoder | Callable[[Image], Any],
    data: str | Path | None,
    weights: object = "",
    *,
    align: bool = True,
    seed: int = 0,
    cache: Path | None = None,
    progress: bool = True,
) -> ExpressionJudge:
    """Fit a judge of expressions as the task ``fer2013`` fits its probe.

    Args:
        spec: An encoder as in ``mien.evaluate.encoders``.
        data: Folder that holds ``fer2013/``.
        weights: What is judged, which the judge may not be.
        align: Take FER-2013's pictures as ``tight`` crops too, not as they were published.
        seed: Seed of the components and of the interval.
        cache: Folder for embeddings, shared with the task.
        progress: Show progress bars.

    Raises:
        ConfigError: No data, or the judge is the network that is judged.
        TableError: No FER-2013 there.
    """
    if data is None:
        raise ConfigError("A judge of expressions needs --data, the folder that holds fer2013/.")
    judge = judge_of(spec, weights, "expression")
    faces = Fer2013.read(Path(data) / Fer2013.name)
    crops = faces.aligned(judge.input_size) if align else faces.crops
    values = embed(judge, crops, cache=cache, progress=progress)
    train, val, test = (faces.split == place for place in range(3))
    project = None
    if judge.pca and judge.pca < values.shape[1]:
        project = fit_pca(values[train], judge.pca, seed)
        values = project(values)
    probe = fit_probe(
        *(values[train], faces.labels[train], values[val], faces.labels[val]),
        classes=len(EXPRESSIONS),
        progress=progress,
    )
    called = probe.classes(values[test])
    correct = called == faces.labels[test]
    neutral = faces.labels[test] == NEUTRAL
    about = {
        "encoder": short_name(judge),
        "protocol": "linear probe on FER-2013's training pictures; judged pictures grey, 48 px",
        "align": align,
        "pca": len(project.deviation) if project else 0,
        "strength": probe.strength,
        "accuracy": float(correct.mean()),
        "interval": list(bootstrap_interval(correct, seed)),
        "recall_of_neutral": float((called[neutral] == NEUTRAL).mean()),
        "called_neutral_of_others": float((called[~neutral] == NEUTRAL).mean()),
        "fingerprint": faces.fingerprint,
    }
    return ExpressionJudge(judge, probe, project, about)
