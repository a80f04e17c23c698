"""How true swapped identities are: an independent judge says whose face comes out.

A method draws the attribute picture's face with the source picture's identity,
``swap_identity(attributes, sources)``, for pairs of different persons that it was not trained on.
Beside it stand the attribute picture left as it is ("copy") and, where there is one, another real
photo of the source person ("real").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mien.data.cache import FaceCache
from mien.data.kept import LFW
from mien.evaluate import judges
from mien.evaluate.cache import default_folder
from mien.evaluate.encoders import Encoder, datasets, encoder
from mien.evaluate.judges import fit_expression_judge, judge_of, native_size, short_name, take
from mien.evaluate.report import markdown_table, package_versions
from mien.evaluate.sheets import blank, write_sheet
from mien.evaluate.swap_measures import (
    DIFFERENCE,
    KID,
    Measures,
    Pairs,
    Rows,
    Swaps,
    run_batches,
    swap,
)
from mien.faces.face import Image
from mien.files.atomic import write_json, write_text
from mien.files.errors import ConfigError, TableError, nearest

if TYPE_CHECKING:
    from mien.methods.base import Method

SPLITS = ("train", "val", "test")
LEAST_PAIRS = 200
LEAST_GALLERY = 50
KID_PICTURES = 500
_LEAST_REAL = 50  # pictures in no pair, which KID is measured against
_SHOWN = 6  # sources and attribute pictures on the sheet

Spec = str | Encoder | Callable[[Image], Any]


@dataclass(frozen=True)
class SwapReport:
    """Measures of swapped identities.

    Attributes:
        measures: Name → ``swapped`` and its 95 % ``interval`` by whole source persons; ``copy``:
            what the attribute picture as it is gets; ``real``: what another photo of the source
            person gets; ``chance``; None where there is none. ``p`` and ``p_copy`` are those of
            one-sided tests.
        data: Pairs, persons, gallery, splits and the table's fingerprint.
        settings: Weights, crop size, judges and seed.
        notes: Sentences on what was measured how, and on what was left out.
        versions: Versions of Python and packages.
    """

    measures: dict[str, dict[str, Any]]
    data: dict[str, Any]
    settings: dict[str, Any]
    notes: list[str]
    versions: dict[str, str] = field(default_factory=package_versions)

    def markdown(self) -> str:
        """Return one row a measure, then the notes."""
        rows = [["measure", "swapped [95 %]", "copy", "real", "chance"]]
        for name, entry in self.measures.items():
            low, high = entry["interval"]
            others = [entry[column] for column in rows[0][2:]]
            cells = ["–" if value is None else f"{value:.4f}" for value in others]
            rows.append([name, f"{entry['swapped']:.4f} [{low:.4f}, {high:.4f}]", *cells])
        return "\n".join([markdown_table(rows), *self.notes, ""])

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "task": "identity swaps",
            "measures": self.measures,
            "data": self.data,
            "settings": self.settings,
            "notes": self.notes,
            "versions": self.versions,
        }


def evaluate_swaps(
    weights: str | Path | Method,
    table: str | Path,
    *,
    judge: Spec,
    expression_judge: Spec = "",
    landmark_judge: str = "",
    data: str | Path | None = None,
    align: bool = True,
    features: Spec = "hog",
    pairs: int = 400,
    splits: Sequence[str] = ("test",),
    out: str | Path | None = None,
    seed: int = 0,
    cache: str | Path | bool = True,
    progress: bool = True,
) -> SwapReport:
    """Measure ``swap_identity``.

    Args:
        weights: Shipped name, ``.safetensors`` file, or a method in memory.
        table: Table of faces with persons and a split.
        judge: Encoder that says whose face it is.
        expression_judge: Encoder that a probe on FER-2013 is fitted on, which says whether the
            expression has stayed; empty: none.
        landmark_judge: Whose landmarks say whether the shape has stayed: ``dlib:FILE``, or ours.
        data: Folder that holds ``fer2013/``, for ``expression_judge``.
        align: Fit ``expression_judge`` on ``tight`` crops of FER-2013's pictures.
        features: Encoder whose features the kernel distance (KID) compares.
        pairs: Pairs of different persons.
        splits: Splits of the table whose persons are taken.
        out: Folder for ``swaps.json``, ``swaps.md`` and the sheet of faces ``swaps.png``.
        seed: Seed of pairs and bootstrap.
        cache: Folder for the judges' embeddings; True: the user's cache folder; False: none.
        progress: Show progress bars.

    Raises:
        ConfigError: The method cannot swap identities, or the judge is that network.
        TableError: No persons or no split, or nobody is left that was not trained on.
        MissingExtraError: SciPy is not installed.
    """
    from mien import weights as store

    for name in splits:
        if name not in SPLITS:
            raise ConfigError(f"No split {name!r}{nearest(name, SPLITS)}")
    if pairs < 2:
        raise ConfigError(f"pairs must be at least 2, not {pairs}.")
    card: dict[str, Any] | None = None
    method: Any = weights
    if isinstance(weights, (str, Path)):
        card, method = store.card(weights), store.load(weights)
    if not callable(getattr(method, "swap_identity", None)):
        raise ConfigError(
            f"The method {method.name} has no edit 'swap_identity'; `mien evaluate-edits` measures "
            "neutralising and expression transfer."
        )
    who, kernel = judge_of(judge, weights), encoder(features, "identity")
    landmarks_by, landmarks = judges.landmark_judge(landmark_judge)
    faces = FaceCache(table, native_size(method))
    seen = trained_on(card, faces)
    people = held_out_rows(faces, splits, seen)
    folder = default_folder() if cache is True else Path(cache) if cache else None
    looks = None
    if expression_judge:
        looks = fit_expression_judge(
            expression_judge, data, weights, align=align, seed=seed, cache=folder, progress=progress
        )
    # KID takes more pictures than the other measures, if the table has them.
    drawn = draw_pairs(faces.person, people, max(pairs, min(KID_PICTURES, len(people))), seed)
    images = run_batches(
        partial(swap, method), take(faces, drawn.attributes), take(faces, drawn.sources)
    )
    every = Swaps(faces, drawn, images, folder, seed)
    swaps = Swaps(faces, _first(drawn, pairs), images[:pairs], folder, seed)
    measures = swaps.identity(who) | swaps.attributes(landmarks)
    if looks is not None:
        measures |= swaps.expression(looks)
    measures |= swaps.reconstruction(method)
    real = np.setdiff1d(people, np.concatenate([drawn.sources, drawn.attributes]))
    if len(real) >= _LEAST_REAL:
        measures |= every.distance(kernel, real)
    data_used = {
        "pairs": pairs,
        "persons": len(drawn.gallery),
        "source_persons": len(np.unique(swaps.persons)),
        "pairs_with_another_picture": int(swaps.pairs.twice.sum()),
        "kid_pictures": [len(images), len(real)],
        "splits": list(splits),
        "trained_on_this_set": seen,
        "fingerprint": faces.fingerprint,
        "datasets": faces.info["datasets"],
    }
    settings = {
        "weights": str(weights) if card is not None else method.name,
        "size": faces.size,
        "judge": {"encoder": short_name(who), "key": who.key},
        "expression_judge": looks.about if looks else None,
        "features": short_name(kernel),
        "landmarks": landmarks_by,
        "seed": seed,
    }
    report = SwapReport(measures, data_used, settings, _notes(measures, data_used, settings))
    if out is not None:
        write_json(Path(out) / "swaps.json", report.as_json())
        write_text(Path(out) / "swaps.md", report.markdown())
        write_sheet(Path(out) / "swaps.png", _sheet(method, swaps), "identity", weights)
    return report


def trained_on(card: dict[str, Any] | None, faces: FaceCache) -> bool:
    """Return whether a card names the table or its data set; True where there is no card."""
    if card is None:
        return True
    for stage in (card, *card.get("earlier_stages", ())):
        told = stage.get("data")
        tables = told if isinstance(told, list) else [told]
        marks = {t.get("fingerprint") for t in tables if isinstance(t, dict)}
        if faces.fingerprint in marks or set(datasets(told)) & set(faces.info["datasets"]):
            return True
    return False


def held_out_rows(faces: FaceCache, splits: Sequence[str], seen: bool) -> Rows:
    """Return the rows of persons of some splits.

    Args:
        faces: Table.
        splits: Of ``train``, ``val`` and ``test``; faces without a split belong to ``train``.
        seen: The method was (or may have been) trained on the split ``train``: nobody in it counts.

    Raises:
        ConfigError: ``train`` is asked for although it was trained on.
        TableError: No persons, no split, or fewer than two persons are left.
    """
    folder = faces.table.folder
    known = faces.person >= 0
    if not known.any():
        raise TableError(
            f"{folder} does not say who is who; prepare a set that names its persons, e.g. "
            "`mien prepare lfw:DIR --out TABLE`."
        )
    if not (faces.split != "").any():
        raise TableError(
            f"{folder} has no split, so nobody in it is known to be held out; prepare a set whose "
            "persons are split into train, val and test."
        )
    if seen and "train" in splits:
        raise ConfigError(
            "The method was, or may have been, trained on the split 'train'; name val or test."
        )
    own = np.where(faces.split == "", "train", faces.split)
    usable = known & np.isin(own, list(splits))
    if seen:
        usable &= ~np.isin(faces.person, faces.person[own == "train"])
        usable &= faces.kept | (faces.dataset != LFW)  # whatever the table calls its splits
    rows = np.flatnonzero(usable)
    if len(np.unique(faces.person[rows])) < 2:
        raise TableError(
            f"{folder} has fewer than two persons in {' and '.join(splits)} that are not in its "
            "training split."
        )
    return rows


def draw_pairs(person: Rows, rows: Rows, count: int, seed: int) -> Pairs:
    """Pair pictures of different persons, every source person as often as any other.

    Sources are persons with another picture for the gallery where enough have one; attribute
    pictures are drawn without repetition as long as there are some.

    Args:
        person: ``(R,)`` of all rows of the table.
        rows: Rows to draw from, of at least two persons.
        count: Number of pairs.
        seed: Seed of the draw.
    """
    rng = np.random.default_rng(seed)
    names = np.unique(person[rows])
    own = [rng.permutation(rows[person[rows] == name]) for name in names]
    several = [i for i, pictures in enumerate(own) if len(pictures) > 1]
    able = np.array(several if len(several) >= LEAST_GALLERY else range(len(names)), np.int64)
    rounds = -(-count // len(able))
    places = np.concatenate([rng.permutation(able) for _ in range(rounds)])[:count]
    sources, attributes = [], []
    order, at = rng.permutation(rows), 0
    for i, place in enumerate(places):
        others = own[place][1:] if len(own[place]) > 1 else own[place]
        sources.append(others[i // len(able) % len(others)])
        while person[order[at % len(order)]] == names[place]:
            at += 1
        attributes.append(order[at % len(order)])
        at += 1
    twice = np.array([len(own[place]) > 1 for place in places])
    gallery = np.array([pictures[0] for pictures in own])
    return Pairs(np.array(sources), np.array(attributes), gallery, places, twice)


def _first(pairs: Pairs, count: int) -> Pairs:
    """Return the first ``count`` pairs, with the whole gallery."""
    return Pairs(
        pairs.sources[:count],
        pairs.attributes[:count],
        pairs.gallery,
        pairs.places[:count],
        pairs.twice[:count],
    )


def _sheet(method: Any, swaps: Swaps) -> list[Tensor]:
    """Return rows of a grid: sources across, attribute pictures down, swaps between."""
    pairs, person = swaps.pairs, swaps.faces.person
    across = pairs.sources[np.sort(np.unique(swaps.persons, return_index=True)[1])[:_SHOWN]]
    others = pairs.attributes[~np.isin(person[pairs.attributes], person[across])]
    if not len(others):  # few persons: some meet themselves
        others = pairs.attributes
    first = np.sort(np.unique(person[others], return_index=True)[1])
    top, left = take(swaps.faces, across), take(swaps.faces, others[first[:_SHOWN]])
    rows = [torch.cat([blank(top), top])]
    for one in left:
        attribute = one[None].expand_as(top)
        made = run_batches(partial(swap, method), attribute, top)
        rows.append(torch.cat([one[None], made]))
    return rows


def _notes(measures: Measures, data: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    """Return what a reader of the table has to know."""
    difference = measures[DIFFERENCE]
    notes = [
        f"{data['pairs']} pairs of different persons ({data['source_persons']} source persons) of "
        f"the split {' and '.join(data['splits'])}; {settings['size']} px crops; intervals by "
        "whole source persons.",
        f"Judge of identity: {settings['judge']['encoder']}. The swapped face is nearer to the "
        f"source than to the attribute picture: p = {difference['p']:.2g} (one-sided Wilcoxon test "
        f"over source persons); the copy: p = {difference['p_copy']:.2g}.",
        f"Rank 1 is among {data['persons']} persons, one picture each; in "
        f"{data['pairs_with_another_picture']} pairs it is another picture of the person than the "
        "source, and only these count under real: the gallery's picture in place of the swapped "
        "one, or for the rank the source itself.",
    ]
    if data["pairs"] < LEAST_PAIRS:
        notes.append(f"Fewer than {LEAST_PAIRS} pairs: the figures say little.")
    if data["persons"] < LEAST_GALLERY:
        notes.append(f"Fewer than {LEAST_GALLERY} persons in the gallery: the rank says little.")
    about = settings["expression_judge"]
    if about:
        notes.append(
            f"Judge of expressions: {about['encoder']}, {about['protocol']}; "
            f"{100 * about['accuracy']:.1f} % of FER-2013's test pictures are right."
        )
    if KID in measures:
        made, real = data["kid_pictures"]
        notes.append(
            f"KID: features of {settings['features']}, {made} swapped pictures against {real} real "
            "ones that are in no pair; the copy is real against real, the floor."
        )
    else:
        notes.append(f"KID is left out: fewer than {_LEAST_REAL} pictures are in no pair.")
    if not any(name.startswith("PCA of") for name in measures):
        notes.append(
            "PCA is left out: the table has no training split, or the method tells no codes."
        )
    return notes
