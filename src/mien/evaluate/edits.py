"""How true edits are: on people with a neutral and another picture, never trained on.

The other picture is the truth of a transfer, the neutral one of a neutralised face; leaving the
picture as it is ("copy") is the baseline of both. Independent judges say whether the neutralised
face is still its person, and whether it looks neutral.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mien.data.cache import FaceCache
from mien.evaluate.bootstrap import Sums, interval, mean_of
from mien.evaluate.cache import default_folder
from mien.evaluate.encoders import Encoder
from mien.evaluate.judges import (
    LEAST_PERSONS,
    NEUTRAL,
    ExpressionJudge,
    directions,
    fit_expression_judge,
    judge_of,
    landmarks,
    native_size,
    pictures,
    rank,
    short_name,
    take,
    wilson,
)
from mien.evaluate.quality import NO_JAW, interocular, l1, nme, ssim, symmetry
from mien.evaluate.report import markdown_table, package_versions
from mien.evaluate.sheets import write_sheet
from mien.faces.face import Array, Image
from mien.files.atomic import write_json, write_text
from mien.files.errors import ConfigError, TableError

if TYPE_CHECKING:
    from mien.methods.base import Method

SHOWN = 12  # persons on the sheet
_BATCH = 32
_NME = "neutralise landmarks % eyes"


@dataclass(frozen=True)
class EditReport:
    """Measures of edits, each beside the baseline of leaving the picture as it is.

    Attributes:
        measures: Name → ``edited``, ``copy`` and ``interval`` (95 %, of the edited mean, by whole
            persons); of a judge also ``true``: what the true picture gets.
        data: Persons, pairs and the table's fingerprint.
        settings: Weights, crop size, judges, what the landmarks were measured by.
        versions: Versions of Python and packages.
    """

    measures: dict[str, dict[str, Any]]
    data: dict[str, Any]
    settings: dict[str, Any]
    versions: dict[str, str] = field(default_factory=package_versions)

    def markdown(self) -> str:
        """Return one row a measure."""
        with_true = any("true" in entry for entry in self.measures.values())
        rows = [["measure", "edited [95 %]", "copy", *(["true"] if with_true else [])]]
        for name, entry in self.measures.items():
            low, high = entry["interval"]
            row = [name, f"{entry['edited']:.4f} [{low:.4f}, {high:.4f}]", f"{entry['copy']:.4f}"]
            if with_true:
                row.append(f"{entry['true']:.4f}" if "true" in entry else "–")
            rows.append(row)
        persons = self.data["persons"]
        notes = [
            f"{self.data['pairs']} pairs of {persons} persons, {self.settings['size']} px crops."
        ]
        if self.settings["judges"]:
            notes.append(
                "Judges of identity: every neutralised picture is looked up by cosine among the "
                f"true neutral pictures of all {persons} persons; means over persons; chance of "
                f"rank-1 is {100 / persons:.2f} %."
            )
            if persons < LEAST_PERSONS:
                notes.append(
                    f"{persons} persons are too few to rank among: {LEAST_PERSONS} or more say "
                    "something."
                )
        about = self.settings["expression_judge"]
        if about:
            notes.append(
                f"Judge of expressions: {about['encoder']}, {about['protocol']}; "
                f"{100 * about['accuracy']:.1f} % of FER-2013's test pictures are right, "
                f"{100 * about['recall_of_neutral']:.1f} % of the neutral and "
                f"{100 * about['called_neutral_of_others']:.1f} % of the others are called neutral."
            )
        return "\n".join([markdown_table(rows), *notes, ""])

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "task": "edits",
            "measures": self.measures,
            "data": self.data,
            "settings": self.settings,
            "versions": self.versions,
        }


def evaluate_edits(
    weights: str | Path | Method,
    table: str | Path,
    *,
    judges: Sequence[str | Encoder | Callable[[Image], Any]] = (),
    expression_judge: str | Encoder | Callable[[Image], Any] = "",
    data: str | Path | None = None,
    align: bool = True,
    out: str | Path | None = None,
    seed: int = 0,
    cache: str | Path | bool = True,
    progress: bool = True,
) -> EditReport:
    """Measure ``neutralise`` and ``transfer_expression``, or the one that the method has.

    Args:
        weights: Shipped name, ``.safetensors`` file, or a method in memory.
        table: Table of faces with persons and expressions, one of them ``neutral``.
        judges: Encoders that say whether a neutralised face is still its person.
        expression_judge: Encoder that a probe on FER-2013 is fitted on, which says whether a
            neutralised face is neutral; empty: none.
        data: Folder that holds ``fer2013/``, for ``expression_judge``.
        align: Fit ``expression_judge`` on ``tight`` crops of FER-2013's pictures, which the judged
            pictures are too.
        out: Folder for ``edits.json``, ``edits.md`` and the sheet of faces ``edits.png``.
        seed: Seed of the bootstrap.
        cache: Folder for the judges' embeddings; True: the user's cache folder; False: none.
        progress: Show progress bars.

    Raises:
        ConfigError: The method can neither neutralise nor transfer expressions, or a judge has
            nothing to judge.
        TableError: No person has a neutral and another picture.
    """
    from mien import weights as store

    method = store.load(weights) if isinstance(weights, (str, Path)) else weights
    able = [e for e in ("neutralise", "transfer_expression") if callable(getattr(method, e, None))]
    if not able:
        raise ConfigError(
            f"The method {method.name} has no edit 'neutralise' and no edit 'transfer_expression'; "
            "nothing is measured here."
        )
    if (judges or expression_judge) and "neutralise" not in able:
        raise ConfigError(
            f"Judges look at neutralised faces, and the method {method.name} has no edit "
            "'neutralise'; leave them out."
        )
    named = [judge_of(spec, weights) for spec in judges]
    faces = FaceCache(table, native_size(method))
    neutral, other = _pairs(faces)
    folder = default_folder() if cache is True else Path(cache) if cache else None
    looks = None
    if expression_judge:
        looks = fit_expression_judge(
            expression_judge, data, weights, align=align, seed=seed, cache=folder, progress=progress
        )
    images = _edit_all(method, able, faces, neutral, other)
    persons = faces.person[neutral]
    measures = _measure(images, persons, seed)
    places = np.unique(persons, return_index=True, return_inverse=True)[1:]
    for judge in named:
        measures |= _judge_identity(judge, images, *places, folder, seed)
    if looks is not None:
        measures |= _judge_expression(looks, images, persons, folder, seed)
    report = EditReport(
        measures,
        {
            "pairs": len(neutral),
            "persons": len(places[0]),
            "fingerprint": faces.fingerprint,
            "datasets": faces.info["datasets"],
        },
        {
            "weights": str(weights) if isinstance(weights, (str, Path)) else method.name,
            "size": faces.size,
            "edits": able,
            "landmarks": "the shipped landmark network, on the crops",
            "judges": [{"encoder": short_name(j), "key": j.key} for j in named],
            "expression_judge": looks.about if looks else None,
            "seed": seed,
        },
    )
    if out is not None:
        write_json(Path(out) / "edits.json", report.as_json())
        write_text(Path(out) / "edits.md", report.markdown())
        shown = ["other", "neutralised", "neutral"] if "neutralised" in images else ["neutral"]
        shown += ["transferred", "other"] if "transferred" in images else []
        columns = [images[kind] for kind in shown]
        rows = [torch.stack([column[i] for column in columns]) for i in places[0][:SHOWN]]
        write_sheet(Path(out) / "edits.png", rows, " and ".join(able), weights)
    return report


def _pairs(cache: FaceCache) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of neutral pictures and of another expression of the same persons."""
    named = (cache.person >= 0) & (cache.expression != "")
    first: dict[int, int] = {}
    for row in np.flatnonzero(named & (cache.expression == "neutral")):
        first.setdefault(int(cache.person[row]), int(row))
    other = [r for r in np.flatnonzero(named & (cache.expression != "neutral"))
             if int(cache.person[r]) in first]  # fmt: skip
    if not other:
        raise TableError(
            f"{cache.table.folder} has no person with a neutral and another picture; prepare a set "
            "that has, e.g. `mien prepare london:DIR --out TABLE`."
        )
    return np.array([first[int(cache.person[r])] for r in other]), np.array(other)


def _edit_all(
    method: Any, able: Sequence[str], faces: FaceCache, neutral: np.ndarray, other: np.ndarray
) -> dict[str, Tensor]:
    """Return kind → images ``(N, 3, S, S)``: true pictures, and what the edits made of them."""
    images = {"neutral": take(faces, neutral), "other": take(faces, other)}
    batches = list(
        zip(*(torch.split(images[kind], _BATCH) for kind in ("neutral", "other")), strict=True)
    )
    with torch.inference_mode():
        if "neutralise" in able:
            images["neutralised"] = torch.cat([method.neutralise(o).images for _, o in batches])
        if "transfer_expression" in able:
            images["transferred"] = torch.cat(
                [method.transfer_expression(n, o).images for n, o in batches]
            )
    return images


def _measure(
    images: dict[str, Tensor], persons: NDArray[np.int64], seed: int
) -> dict[str, dict[str, Any]]:
    """Return the measures that need no judge."""
    points = {kind: landmarks(x) for kind, x in images.items()}

    def apart(a: str, b: str) -> Array:
        return 100 * nme(points[a], points[b], NO_JAW)

    def both(measure: Any, edited: str, copy: str, true: str) -> tuple[Array, Array]:
        x, y, z = (images[kind] for kind in (edited, copy, true))
        return measure(x, z).numpy(), measure(y, z).numpy()

    values: dict[str, tuple[Array, Array]] = {}
    if "transferred" in images:
        values |= {
            "transfer L1": both(l1, "transferred", "neutral", "other"),
            "transfer SSIM": both(ssim, "transferred", "neutral", "other"),
            "transfer landmarks % eyes": (apart("transferred", "other"), apart("neutral", "other")),
        }
    if "neutralised" in images:
        edited, copy = images["neutralised"], images["other"]
        values |= {
            "neutralise L1": both(l1, "neutralised", "other", "neutral"),
            "neutralise SSIM": both(ssim, "neutralised", "other", "neutral"),
            _NME: (apart("neutralised", "neutral"), apart("other", "neutral")),
            "asymmetry of neutralised": (symmetry(edited).numpy(), symmetry(copy).numpy()),
            "mouth width, eyes": (_mouth(points["neutralised"]), _mouth(points["other"])),
        }
    measures = {
        name: _entry(edited, copy, persons, seed) for name, (edited, copy) in values.items()
    }
    if _NME in values:
        sums = np.stack(values[_NME], 1)

        def closer(s: Sums) -> NDArray[Any]:
            return np.asarray(100 * (1 - s[..., 0] / np.maximum(s[..., 1], 1e-9)))

        measures["neutralise landmarks closer %"] = {
            "edited": float(closer(sums.sum(0))),
            "copy": 0.0,
            "interval": list(interval(sums, persons, closer, seed)),
        }
    return measures


def _entry(
    edited: NDArray[Any], copy: NDArray[Any], groups: NDArray[Any], seed: int
) -> dict[str, Any]:
    """Return the means of ``(N,)`` values, with the edited one's interval over whole groups."""
    sums = np.stack([edited, np.ones(len(edited))], 1).astype(np.float64)
    return {
        "edited": float(edited.mean()),
        "copy": float(copy.mean()),
        "interval": list(interval(sums, groups, mean_of, seed)),
    }


def _judge_identity(
    judge: Encoder,
    images: dict[str, Tensor],
    first: NDArray[np.int64],
    places: NDArray[np.int64],
    cache: Path | None,
    seed: int,
) -> dict[str, dict[str, Any]]:
    """Return how well neutralised faces are found among the true neutral ones.

    Args:
        judge: Encoder.
        images: Kind → ``(N, 3, S, S)``.
        first: ``(P,)`` a pair of each person.
        places: ``(N,)`` which of the persons each pair is.
        cache: Folder for embeddings.
        seed: Seed of the bootstrap.
    """
    gallery = directions(judge, pictures(images["neutral"][first]), cache)
    edited, copy = (
        rank(directions(judge, pictures(images[kind]), cache), gallery, places)
        for kind in ("neutralised", "other")
    )
    name = short_name(judge)
    everyone = np.arange(len(first))
    counts = np.bincount(places)

    def by_person(values: NDArray[Any]) -> NDArray[np.float64]:
        return np.asarray(np.bincount(places, values) / counts)

    share, before = (100 * by_person(r.first) for r in (edited, copy))
    low, high = wilson(float(share.mean()) / 100, len(first))
    return {
        f"neutralise rank-1 % ({name})": {
            "edited": float(share.mean()),
            "copy": float(before.mean()),
            "interval": [100 * low, 100 * high],
        },
        f"neutralise cosine to own ({name})": _entry(
            by_person(edited.own), by_person(copy.own), everyone, seed
        ),
        f"neutralise margin to others ({name})": _entry(
            by_person(edited.margin), by_person(copy.margin), everyone, seed
        ),
    }


def _judge_expression(
    judge: ExpressionJudge,
    images: dict[str, Tensor],
    persons: NDArray[np.int64],
    cache: Path | None,
    seed: int,
) -> dict[str, dict[str, Any]]:
    """Return how often neutralised, expressive and true neutral pictures are called neutral."""
    edited, copy, true = (
        100.0 * (judge(pictures(images[kind]), cache) == NEUTRAL)
        for kind in ("neutralised", "other", "neutral")
    )
    entry = _entry(edited, copy, persons, seed) | {"true": float(true.mean())}
    return {f"neutralise called neutral % ({short_name(judge.encoder)})": entry}


def _mouth(points: Array) -> Array:
    """Return the width of the mouth over the inter-ocular distance ``(B,)``."""
    return np.asarray(np.linalg.norm(points[:, 48] - points[:, 54], axis=-1) / interocular(points))
