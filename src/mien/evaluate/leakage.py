"""What each code of an encoder gives away: every factor, decoded from every code.

Each factor is decoded by a linear probe and by a small non-linear one (the same solvers on 500
kernel features), on people that the probe was not trained on; identity on pictures that it was not
trained on. A score runs from 0 (chance) to 1 (decoded without error): balanced accuracy above
chance, or R². Beside the codes stand all of them together, and the whole face, which is a
hand-made descriptor of the picture (HOG and a small colour picture) under the same probes: what
could be had at all.

Disentanglement, completeness and informativeness are those of Eastwood and Williams, *A framework
for the quantitative evaluation of disentangled representations*, ICLR 2018: of the dimensions, by
the weights of a lasso, and of whole codes, by their scores.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from mien.evaluate.bootstrap import Sums, interval
from mien.evaluate.cache import default_folder
from mien.evaluate.descriptors import hog
from mien.evaluate.encoders import Encoder, code_sizes, encoder, with_code
from mien.evaluate.pca import fit_pca
from mien.evaluate.pictures import resize
from mien.evaluate.probe import fit_probe, fit_ridge
from mien.evaluate.report import markdown_table, package_versions
from mien.evaluate.tables import (
    ANGLES,
    Faces,
    Mask,
    Rows,
    Split,
    arrange,
    as_numbers,
    open_faces,
)
from mien.evaluate.task import Settings
from mien.faces.face import Array, Image
from mien.files.atomic import write_json, write_text
from mien.files.errors import ConfigError, MissingExtraError, TableError, nearest

if TYPE_CHECKING:
    from mien.methods.base import Method

LEAST = 10  # faces of a class; rarer classes are left out
CLASSES = 20  # of an attribute at most
PERSONS = 200  # told apart at most, those with the most pictures
PICTURES = 5  # of a person at least: three parts need them
NUMBERS = 10  # distinct values from which an attribute counts as a number
DIMS = 512  # longer codes are projected on so many components, fitted on train
KERNEL = 500  # features of the non-linear probe
DCI_ROWS = 2000  # that the lasso sees
DCI_CLASSES = 20  # persons, for the lasso
ALL, WHOLE = "all codes", "whole face"
# Where a factor is at home, in order: the first of the encoder's codes. FaceCycle has no code of
# pose, which is motion to it; PCL's face-aware code, its identity, holds all but the pose.
HOMES = {
    "identity": ("identity",),
    "expression": ("expression", "identity"),
    "pose": ("pose", "expression"),
    "appearance": ("appearance", "identity"),
}
_APPEARANCE = ("light", "makeup", "lip", "eyeshadow", "blush")
SWAPS = {
    "transfer_expression": "expression",
    "transfer_pose": "pose",
    "swap_identity": "identity",
}

Memory = dict[bytes, tuple[list[Array], list[Array]]]

_FORMAT = 1
_PAIRS = 256
_BATCH = 32


@dataclass(frozen=True, eq=False)
class Factor:
    """Something that faces differ in.

    Attributes:
        name: Its name.
        kind: ``class`` or ``number``.
        values: ``(N,)`` class numbers (-1 unknown), or float32 (NaN unknown).
        classes: Names of the classes.
        personal: It never differs between pictures of one person.
    """

    name: str
    kind: Literal["class", "number"]
    values: NDArray[Any]
    classes: tuple[str, ...] = ()
    personal: bool = False

    @property
    def known(self) -> Mask:
        """``(N,)``."""
        return np.asarray(self.values >= 0 if self.kind == "class" else ~np.isnan(self.values))


@dataclass(frozen=True)
class LeakageReport:
    """What each code gives away.

    Attributes:
        encoder: Its spec.
        cells: Row (code, ``all codes``, ``whole face``) → factor → ``score`` and ``interval`` (0
            chance, 1 everything), ``probe`` (the better one on validation), ``value`` and
            ``chance`` in its own unit (balanced accuracy or R²), and the scores ``linear`` and
            ``nonlinear``.
        factors: Factor → ``kind``, number of ``classes``, counts of faces, ``home`` (the code that
            it belongs in; empty where none of the encoder's is).
        dci: ``codes`` and ``dimensions`` → ``disentanglement``, ``completeness``,
            ``informativeness``, and each code's or factor's own.
        swaps: Edit → for each code the share of pairs in which it ``follows`` the driver or
            ``stays``; empty where the encoder edits nothing.
        data: The table.
        settings: What was chosen.
        versions: Versions of Python and packages.
    """

    encoder: str
    cells: dict[str, dict[str, dict[str, Any]]]
    factors: dict[str, dict[str, Any]]
    dci: dict[str, dict[str, Any]]
    swaps: dict[str, dict[str, Any]]
    data: dict[str, Any]
    settings: dict[str, Any]
    versions: dict[str, str] = field(default_factory=package_versions)

    @property
    def leaks(self) -> list[tuple[str, str, float]]:
        """Code, factor and score of what a code gives away and is not there for, worst first."""
        found = [
            (code, factor, cell["score"])
            for code, row in self.cells.items()
            if code in HOMES
            for factor, cell in row.items()
            if self.factors[factor]["home"] not in ("", code) and cell["interval"][0] > 0.05
        ]
        return sorted(found, key=lambda leak: -leak[2])

    def markdown(self) -> str:
        """Return the matrix, then disentanglement, swaps and the worst leaks."""
        rows = [["", *self.factors]]
        for code, row in self.cells.items():
            cells = [
                f"{c['score']:.2f} [{c['interval'][0]:.2f}, {c['interval'][1]:.2f}]"
                for c in row.values()
            ]
            rows.append([code, *cells])
        parts = [
            f"What each code of {self.encoder} gives away: 0 chance, 1 everything [95 %]; the "
            "better of a linear and a small non-linear probe.\n",
            markdown_table(rows),
        ]
        if self.dci:
            names = ("disentanglement", "completeness", "informativeness")
            table = [["of", *names]]
            table += [[of, *(f"{entry[n]:.2f}" for n in names)] for of, entry in self.dci.items()]
            parts.append(markdown_table(table))
        if self.swaps:
            table = [["edit", "code", "share of pairs", "should be 1.00 because it"]]
            for edit, codes in self.swaps.items():
                for code, entry in codes.items():
                    word = "follows" if "follows" in entry else "stays"
                    why = "follows the driver" if word == "follows" else "stays with the face"
                    table.append([edit, code, f"{entry[word]:.2f}", why])
            parts.append(markdown_table(table))
        worst = [f"{code} gives away {factor} ({score:.2f})" for code, factor, score in self.leaks]
        if worst:
            parts.append(f"Largest leaks: {'; '.join(worst[:5])}.\n")
        parts.append(f"Faces: {self.data['faces']} of {self.data['names']}.\n")
        return "\n".join(parts)

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "format": _FORMAT,
            "task": "leakage",
            "encoder": self.encoder,
            "cells": self.cells,
            "factors": self.factors,
            "dci": self.dci,
            "swaps": self.swaps,
            "leaks": [list(leak) for leak in self.leaks],
            "data": self.data,
            "settings": self.settings,
            "versions": self.versions,
        }

    def save(self, out: Path) -> None:
        """Write ``leakage.json``, ``leakage.md`` and, if matplotlib is installed, the picture."""
        from mien.evaluate.figures import have_matplotlib, save

        write_json(out / "leakage.json", self.as_json())
        write_text(out / "leakage.md", self.markdown())
        if have_matplotlib():
            save(_picture(self), out / "leakage.png")


def evaluate_leakage(
    spec: str | Encoder | Callable[[Image], Any],
    tables: Sequence[str | Path],
    *,
    factors: Sequence[str] = (),
    whole: str | Encoder | Callable[[Image], Any] = "",
    out: str | Path | None = None,
    seed: int = 0,
    batch_size: int = 64,
    limit: int = 0,
    cache: str | Path | bool = True,
    progress: bool = True,
) -> LeakageReport:
    """Measure what each code of an encoder gives away.

    Args:
        spec: An encoder as in ``mien.evaluate.encoders``. Weights are taken apart into their codes;
            any other encoder, or weights with ``@``, is one code.
        tables: Tables of faces (or ``READER:DIR``); every labelled factor of theirs is decoded.
        factors: Names of factors; empty: all.
        whole: Encoder that stands for the whole face; empty: HOG and small colour pictures.
        out: Folder for ``leakage.json``, ``leakage.md`` and ``leakage.png``; None writes nothing.
        seed: Seed of splits, components and kernel.
        batch_size: Faces in a call of an encoder.
        limit: Take so many faces of each table at random; 0: all.
        cache: Folder for embeddings; True: the user's cache folder; False: none.
        progress: Show progress bars.

    Raises:
        ConfigError: No such factor, or an unknown option of an encoder.
        TableError: Not a table, or none with labels enough.
        WeightsError: No such weights.
        MissingExtraError: scikit-learn is not installed.
    """
    sizes = code_sizes(spec) if isinstance(spec, str) else {}
    # All codes in one pass; they are cut apart below.
    coder = encoder(with_code(spec, "+".join(sizes)) if isinstance(spec, str) and sizes else spec)
    reference = encoder(whole) if whole else WHOLE_FACE
    faces = open_faces(tables, seed=seed, limit=limit)
    found = factors_of(faces)
    for name in factors:
        if name not in {f.name for f in found}:
            raise ConfigError(
                f"{faces.names} has no factor {name!r}{nearest(name, [f.name for f in found])}"
            )
    found = [f for f in found if not factors or f.name in factors]
    if not found:
        raise TableError(
            f"{faces.names} has no labels to decode; prepare a set that has persons, expressions "
            "or head pose."
        )
    settings = Settings(seed=seed, batch_size=batch_size)
    folder = default_folder() if cache is True else Path(cache) if cache else None
    embedded = faces.embed(coder, settings, folder, progress).astype(np.float32)
    values = {coder.name: embedded}
    if sizes:
        cuts = np.cumsum(list(sizes.values()))[:-1]
        values = dict(zip(sizes, np.split(embedded, cuts, axis=1), strict=True))
    apart = [name for name in values if name != "trunk"] or list(values)
    rows = dict(values)
    if len(apart) > 1:
        rows[ALL] = np.concatenate([_scaled(values[name]) for name in apart], 1)
    rows[WHOLE] = faces.embed(reference, settings, folder, progress).astype(np.float32)
    splits = {f.name: split_for(faces, f, seed) for f in found}
    groups = faces.groups
    cells: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in rows}
    bar = tqdm(total=len(rows) * len(found), desc="probes", disable=not progress, leave=False)
    with bar:
        for name, code in rows.items():
            memory: Memory = {}
            for factor in found:
                cells[name][factor.name] = decode(
                    code, factor, splits[factor.name], groups, seed, memory
                )
                bar.update()
    joined = rows[ALL] if len(apart) > 1 else _scaled(rows[apart[0]])
    scores = np.array([[cells[c][f.name]["score"] for f in found] for c in apart])
    dci = {}
    if len(found) > 1:
        importance = np.stack(
            [lasso_importance(joined, f, splits[f.name], seed) for f in found], axis=1
        )
        informative = np.array([cells[ALL if len(apart) > 1 else apart[0]][f.name]["score"]
                                for f in found])  # fmt: skip
        names = [f.name for f in found]
        dci["dimensions"] = _dci_entry(importance, informative, [], names)
        if len(apart) > 1:
            dci["codes"] = _dci_entry(scores, informative, apart, names)
    report = LeakageReport(
        encoder=spec if isinstance(spec, str) else coder.name,
        cells=cells,
        factors={f.name: _described(f, splits[f.name], list(values)) for f in found},
        dci=dci,
        swaps=_swaps(spec, faces, seed),
        data={
            "sets": faces.sets,
            "names": faces.names,
            "fingerprint": faces.fingerprint,
            "faces": len(faces),
        },
        settings={
            "protocol": "others than identity: a third of the persons held out, or the sets' own "
            "split; identity: pictures (clips, where there are several) held out",
            "whole_face": reference.name,
            "dims": {name: int(code.shape[1]) for name, code in rows.items()},
            "components": DIMS,
            "kernel_features": KERNEL,
            "seed": seed,
        },
    )
    if out is not None:
        report.save(Path(out))
    return report


def _whole_face(crops: Image) -> Array:
    """Return HOG and the colours of 16 x 16 px ``(B, D)`` of crops ``(B, 64, 64, 3)``."""
    colours = resize(crops, 16).reshape(len(crops), -1).astype(np.float32) / 255
    return np.concatenate([hog(crops), colours], 1)


WHOLE_FACE = Encoder("HOG and colours", "whole/1", 64, _whole_face)


# Factors ------------------------------------------------------------------------------------------


def factors_of(faces: Faces) -> list[Factor]:
    """Return every factor that enough faces are labelled with."""
    found = [_persons(faces), _classes("expression", faces.expression.tolist())]
    found += [_number(angle, faces.pose[:, i]) for i, angle in enumerate(ANGLES)]
    worn = ["" if np.isnan(m) else ("yes" if m else "no") for m in faces.makeup]
    found.append(_classes("makeup", worn))
    for name in sorted({key for row in faces.attributes for key in row}):
        texts = [row.get(name, "") for row in faces.attributes]
        values = as_numbers(texts)
        if values.dtype.kind == "f" and len(np.unique(values[~np.isnan(values)])) > NUMBERS:
            found.append(_number(name, values))
        else:
            found.append(_classes(name, texts))
    return [
        replace(factor, personal=_personal(faces, factor)) for factor in found if factor is not None
    ]


def _personal(faces: Faces, factor: Factor) -> bool:
    """Whether persons have several pictures, and each person one value."""
    rows = np.flatnonzero(factor.known & (faces.person != ""))
    groups = faces.groups[rows]
    persons = len(np.unique(groups))
    pairs = {(g, v) for g, v in zip(groups.tolist(), factor.values[rows].tolist(), strict=True)}
    return persons > 1 and len(rows) > persons and len(pairs) == persons


def _persons(faces: Faces) -> Factor | None:
    keys = [f"{d}/{p}" if p else "" for d, p in zip(faces.dataset, faces.person, strict=True)]
    names, counts = np.unique([k for k in keys if k], return_counts=True)
    order = np.argsort(-counts, kind="stable")[:PERSONS]
    kept = [str(names[i]) for i in sorted(order) if counts[i] >= PICTURES]
    return _factor("identity", keys, kept)


def _classes(name: str, texts: Sequence[str]) -> Factor | None:
    values, counts = np.unique([t for t in texts if t], return_counts=True)
    kept = [str(v) for v, c in zip(values, counts, strict=True) if c >= LEAST]
    return _factor(name, texts, kept) if len(kept) <= CLASSES else None


def _factor(name: str, texts: Sequence[str], kept: Sequence[str]) -> Factor | None:
    if len(kept) < 2:
        return None
    place = {value: i for i, value in enumerate(kept)}
    labels = np.array([place.get(t, -1) for t in texts], np.int64)
    return Factor(name, "class", labels, tuple(kept))


def _number(name: str, values: NDArray[Any]) -> Factor | None:
    known = values[~np.isnan(values)]
    if len(known) < 5 * LEAST or float(known.std()) < 1e-3 * max(1.0, float(np.abs(known).max())):
        return None
    return Factor(name, "number", np.asarray(values, np.float32))


def split_for(faces: Faces, factor: Factor, seed: int = 0) -> Split:
    """Split the faces that have the factor: by person, or for identity by clip or picture."""
    if factor.name != "identity":
        return arrange(faces, factor.known, folds=3, seed=seed)[0][0]
    rng = np.random.default_rng(seed)
    rows = np.flatnonzero(factor.known)
    persons = factor.values[rows]
    clips = faces.clip[rows]
    most = [len(np.unique(clips[persons == p])) for p in range(len(factor.classes))]
    units = clips if min(most) >= 3 else rows.astype(np.str_)
    part = np.zeros(len(rows), np.int64)
    for person in range(len(factor.classes)):
        own = np.flatnonzero(persons == person)
        names = rng.permutation(np.unique(units[own]))
        few = max(1, len(names) // 5)
        part[own] = np.select(
            [np.isin(units[own], names[:few]), np.isin(units[own], names[few : 2 * few + 1])],
            [1, 2],
            0,
        )
    return Split(rows[part == 0], rows[part == 1], rows[part == 2], carved=True)


def home(factor: Factor, codes: Sequence[str]) -> str:
    """Return the code that a factor belongs in, empty if the encoder has none."""
    if factor.name in ANGLES:
        kind = "pose"
    elif factor.name.startswith("expression"):
        kind = "expression"
    elif factor.name.startswith(_APPEARANCE):
        kind = "appearance"
    elif factor.name == "identity" or factor.personal:
        kind = "identity"
    else:
        return ""
    return next((code for code in HOMES[kind] if code in codes), "")


def _described(factor: Factor, split: Split, codes: Sequence[str]) -> dict[str, Any]:
    return {
        "kind": factor.kind,
        "classes": len(factor.classes),
        "home": home(factor, codes),
        "split": [len(split.train), len(split.val), len(split.test)],
    }


# Probes -------------------------------------------------------------------------------------------


def decode(
    code: Array,
    factor: Factor,
    split: Split,
    groups: NDArray[np.str_],
    seed: int = 0,
    memory: Memory | None = None,
) -> dict[str, Any]:
    """Decode a factor from a code ``(N, D)`` by both probes; the better one on validation counts.

    Args:
        code: All faces.
        factor: What is decoded.
        split: Rows to train on, to choose by and to measure on.
        groups: ``(N,)`` whom the bootstrap draws whole.
        seed: Seed of components, kernel and bootstrap.
        memory: Features of this code by split, so that factors of one split share them.

    Returns:
        See ``LeakageReport.cells``.
    """
    parts, curved = _features(code, split, seed, {} if memory is None else memory)
    labels = [factor.values[rows] for rows in (split.train, split.val, split.test)]
    tried = {}
    for name, features in (("linear", parts), ("nonlinear", curved)):
        guess = _guess(features, labels, factor)
        validation = _score(_sums(factor, labels[1], guess[0]).sum(0), factor)
        tried[name] = (float(validation), guess[1])
    best = max(tried, key=lambda name: tried[name][0])
    # Everybody is in the test part of identity: there the pictures are drawn.
    own = split.test.astype(np.str_) if factor.name == "identity" else groups[split.test]
    sums = {name: _sums(factor, labels[2], guess) for name, (_, guess) in tried.items()}
    total = sums[best].sum(0)
    chance = 1 / _present(total) if factor.kind == "class" else 0.0
    score = float(_score(total, factor))
    return {
        "score": score,
        "interval": list(interval(sums[best], own, lambda s: _score(s, factor), seed)),
        "probe": best,
        "value": score * (1 - chance) + chance,
        "chance": float(chance),
        "measure": "balanced accuracy" if factor.kind == "class" else "R²",
        **{name: float(_score(s.sum(0), factor)) for name, s in sums.items()},
    }


def _features(
    code: Array, split: Split, seed: int, memory: Memory
) -> tuple[list[Array], list[Array]]:
    """Return the features of the linear and of the non-linear probe, of train, val and test."""
    rows = (split.train, split.val, split.test)
    key = b"/".join(part.tobytes() for part in rows)
    if key not in memory:
        parts = [code[part] for part in rows]
        if code.shape[1] > DIMS:
            project = fit_pca(parts[0], DIMS, seed)
            parts = [project(part) for part in parts]
        memory[key] = parts, _kernel(parts, seed)
    return memory[key]


def _kernel(parts: Sequence[Array], seed: int) -> list[Array]:
    """Return kernel features (Nyström, radial basis, width by the median distance)."""
    try:
        from sklearn.kernel_approximation import Nystroem
        from sklearn.metrics import pairwise_distances
        from sklearn.preprocessing import StandardScaler
    except ImportError:
        raise MissingExtraError("scikit-learn", "evaluate") from None
    scaler = StandardScaler().fit(parts[0])
    scaled = [scaler.transform(part) for part in parts]
    few = scaled[0][np.random.default_rng(seed).permutation(len(scaled[0]))[:500]]
    distance = pairwise_distances(few, metric="sqeuclidean")
    median = float(np.median(distance[np.triu_indices(len(few), 1)])) if len(few) > 1 else 1.0
    count = min(KERNEL, len(scaled[0]))
    model = Nystroem(gamma=1 / max(median, 1e-6), n_components=count, random_state=seed)
    model.fit(scaled[0])
    return [np.asarray(model.transform(part), np.float32) for part in scaled]


def _guess(
    parts: Sequence[Array], labels: Sequence[NDArray[Any]], factor: Factor
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return what a probe says of validation and of test."""
    if factor.kind == "number":
        targets = [part[:, None] for part in labels]
        ridge = fit_ridge(parts[0], targets[0], parts[1], targets[1])
        return ridge.outputs(parts[1])[:, 0], ridge.outputs(parts[2])[:, 0]
    count = len(factor.classes)
    probe = fit_probe(parts[0], labels[0], parts[1], labels[1], classes=count, progress=False)
    # Balanced accuracy is measured: a class may not win by being frequent.
    prior = np.log(np.bincount(labels[0], minlength=count) + 1.0)
    val, test = ((probe.outputs(part) - prior).argmax(1) for part in parts[1:])
    return val, test


def _sums(factor: Factor, truth: NDArray[Any], guess: NDArray[Any]) -> Sums:
    if factor.kind == "class":
        onehot = np.eye(len(factor.classes))[truth]
        return np.concatenate([onehot * (guess == truth)[:, None], onehot], 1)
    t = truth.astype(np.float64)
    return np.stack([(guess - t) ** 2, t, t**2, np.ones_like(t)], 1)


def _score(sums: Sums, factor: Factor) -> NDArray[Any]:
    """Return the score in [0, 1]: balanced accuracy above chance, or R²."""
    if factor.kind == "number":
        square, total, squares, count = (sums[..., i] for i in range(4))
        spread = squares - total**2 / np.maximum(count, 1)
        return np.asarray(np.clip(1 - square / np.maximum(spread, 1e-12), 0, 1))
    right, count = np.split(sums, 2, -1)
    present = _present(sums)
    accuracy = (right / np.maximum(count, 1)).sum(-1) / present
    return np.asarray(np.clip((accuracy - 1 / present) / np.maximum(1 - 1 / present, 1e-12), 0, 1))


def _present(sums: Sums) -> NDArray[Any]:
    """Return the number of classes that the test faces show, 1 at least."""
    return np.asarray(np.maximum((np.split(sums, 2, -1)[1] > 0).sum(-1), 1))


# Disentanglement ----------------------------------------------------------------------------------


def lasso_importance(code: Array, factor: Factor, split: Split, seed: int = 0) -> Array:
    """Return how much each dimension ``(D,)`` of a code tells of a factor.

    The norm of the dimension's weights in a lasso (a multi-task lasso on the classes), its strength
    chosen on validation; zero where the factor cannot be decoded.
    """
    from sklearn.linear_model import MultiTaskLasso

    rng = np.random.default_rng(seed)
    train, val = (rng.permutation(rows)[:DCI_ROWS] for rows in (split.train, split.val))
    if factor.kind == "class" and len(factor.classes) > DCI_CLASSES:
        train, val = (rows[factor.values[rows] < DCI_CLASSES] for rows in (train, val))
    mean, scale = code[train].mean(0), code[train].std(0)
    x, z = ((code[rows] - mean) / np.maximum(scale, 1e-6) for rows in (train, val))
    y, true = _targets(factor, train), _targets(factor, val)
    centre, size = y.mean(0), np.maximum(y.std(0), 1e-6)
    y, true = (y - centre) / size, (true - centre) / size
    largest = float(np.linalg.norm(x.T @ y, axis=1).max()) / len(x)
    best, importance = 0.0, np.zeros(code.shape[1], np.float32)
    model = MultiTaskLasso(warm_start=True, max_iter=300, tol=1e-3)
    for share in (0.3, 0.1, 0.03, 0.01):
        model.set_params(alpha=max(share * largest, 1e-9))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # not converged to the last digit: good enough here
            model.fit(x, y)
        error = ((model.predict(z) - true) ** 2).sum()
        told = 1 - error / max(float((true**2).sum()), 1e-12)
        if told > best + 1e-3:
            best = told
            importance = np.linalg.norm(model.coef_, axis=0).astype(np.float32)
    return importance


def _targets(factor: Factor, rows: Rows) -> NDArray[np.float64]:
    values = factor.values[rows]
    if factor.kind == "number":
        return values.astype(np.float64)[:, None]
    return np.asarray(np.eye(min(len(factor.classes), DCI_CLASSES))[values])


def dci(importance: NDArray[Any]) -> dict[str, Any]:
    """Return disentanglement and completeness of a matrix of importances.

    Args:
        importance: ``(D, K)`` of dimensions (or codes) for factors, at least 0.

    Returns:
        ``disentanglement`` (whether a dimension tells of one factor only) and ``completeness``
        (whether a factor is told by one dimension only), 0 to 1, weighted by importance; and
        ``by_row`` ``(D,)`` and ``by_factor`` ``(K,)``, NaN where nothing is told.
    """
    r = np.asarray(importance, np.float64)
    total = r.sum()
    rows, columns = _concentration(r), _concentration(r.T)
    if total <= 0:
        return {"disentanglement": 0.0, "completeness": 0.0, "by_row": rows, "by_factor": columns}
    return {
        "disentanglement": float(np.nansum(rows * r.sum(1) / total)),
        "completeness": float(np.nansum(columns * r.sum(0) / total)),
        "by_row": rows,
        "by_factor": columns,
    }


def _concentration(r: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 1 minus the entropy of each row, in units of the largest possible one."""
    total = r.sum(1, keepdims=True)
    p = r / np.where(total > 0, total, 1)
    entropy = -(p * np.log(np.where(p > 0, p, 1))).sum(1)
    out = 1 - entropy / np.log(max(r.shape[1], 2))
    return np.where(total[:, 0] > 0, out, np.nan)


def _dci_entry(
    importance: NDArray[Any],
    informative: NDArray[Any],
    rows: Sequence[str],
    factors: Sequence[str],
) -> dict[str, Any]:
    found = dci(importance)
    entry = {
        "disentanglement": found["disentanglement"],
        "completeness": found["completeness"],
        "informativeness": float(informative.mean()),
        "by_factor": dict(zip(factors, _plain(found["by_factor"]), strict=True)),
    }
    if rows:
        entry["by_code"] = dict(zip(rows, _plain(found["by_row"]), strict=True))
    return entry


def _plain(values: NDArray[Any]) -> list[float | None]:
    return [None if np.isnan(v) else float(v) for v in values]


# Swaps --------------------------------------------------------------------------------------------


def _swaps(
    spec: str | Encoder | Callable[[Image], Any], faces: Faces, seed: int
) -> dict[str, dict[str, Any]]:
    if not isinstance(spec, str) or not code_sizes(spec):
        return {}
    from mien import weights

    name = spec.partition(",")[0]
    if name.startswith("untrained:"):
        return {}
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(faces.parts[0]))[: 2 * _PAIRS]
    order = order[: len(order) // 2 * 2]
    crops = np.stack([faces.parts[0][i] for i in order])
    return swap_consistency(weights.load(name), crops[::2], crops[1::2])


def swap_consistency(method: Method, crops: Image, drivers: Image) -> dict[str, dict[str, Any]]:
    """Measure whether an edit changes the code that it is about, and no other.

    Args:
        method: Any; its edits of ``SWAPS`` are measured by its own codes.
        crops: uint8 ``(N, S, S, 3)``.
        drivers: uint8 ``(N, S, S, 3)``, other faces.

    Returns:
        Edit → code → ``follows``: share of pairs in which the edited face's code is nearer to the
        driver's than to the face's own (for the code that is swapped), or ``stays``: nearer to the
        face's own. 0.5 is chance, 1 is right.
    """
    import torch

    size = int(getattr(method.config, "size", 64))

    def tensor(images: Image) -> torch.Tensor:
        x = torch.from_numpy(np.ascontiguousarray(resize(images, size)))
        return x.permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)

    a, b = tensor(crops), tensor(drivers)
    out: dict[str, dict[str, Any]] = {}
    with torch.inference_mode():
        own, other = _encode(method, a), _encode(method, b)
        spread = {n: torch.cat([own[n], other[n]]).std(0).clamp(min=1e-6) for n in own}
        for edit, swapped in SWAPS.items():
            run = getattr(method, edit, None)
            if not callable(run) or swapped not in own:
                continue
            batches = zip(torch.split(a, _BATCH), torch.split(b, _BATCH), strict=True)
            parts = [run(x, y).images for x, y in batches]
            edited = _encode(method, torch.cat(parts).clamp(-1, 1))
            out[edit] = {}
            for name in own:
                if name == "trunk":
                    continue
                to_own = ((edited[name] - own[name]) / spread[name]).norm(dim=1)
                to_driver = ((edited[name] - other[name]) / spread[name]).norm(dim=1)
                near = float((to_driver < to_own).double().mean())
                out[edit][name] = {"follows": near} if name == swapped else {"stays": 1 - near}
    return out


def _encode(method: Method, images: Any) -> dict[str, Any]:
    import torch

    parts = [method.encode(x) for x in torch.split(images, _BATCH)]
    return {name: torch.cat([p[name].flatten(1) for p in parts]) for name in parts[0]}


def _scaled(values: Array) -> Array:
    """Return a code with unit variance in the mean of its dimensions, so that codes weigh alike."""
    spread = float(np.sqrt(values.var(0).mean()))
    return np.asarray((values - values.mean(0)) / max(spread, 1e-6), np.float32)


# Picture ------------------------------------------------------------------------------------------


def _picture(report: LeakageReport) -> Any:
    from matplotlib.patches import Rectangle

    from mien.evaluate.figures import new_figure

    rows, columns = list(report.cells), list(report.factors)
    scores = np.array([[report.cells[r][c]["score"] for c in columns] for r in rows])
    figure = new_figure(2.6 + 0.75 * len(columns), 2.0 + 0.55 * len(rows))
    axes = figure.subplots()
    picture = axes.imshow(scores, cmap="Reds", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(columns)), [c.replace("_", " ") for c in columns])
    axes.tick_params(axis="x", labelrotation=35, top=True, labeltop=True, bottom=False,
                     labelbottom=False)  # fmt: skip
    for label in axes.get_xticklabels():
        label.set_ha("left")
    axes.set_yticks(range(len(rows)), [f"{r} code" if r in HOMES else r for r in rows])
    framed = False
    for (row, column), value in np.ndenumerate(scores):
        colour = "white" if value > 0.6 else "black"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=9)
        if report.factors[columns[column]]["home"] == rows[row]:
            framed = True
            frame = Rectangle((column - 0.47, row - 0.46), 0.94, 0.92, fill=False, linewidth=2.2)
            axes.add_patch(frame)
    kept = sum(r not in (ALL, WHOLE) for r in rows)
    axes.axhline(kept - 0.5, color="black", linewidth=1)
    figure.colorbar(picture, ax=axes, label="0 chance, 1 everything")
    figure.suptitle(f"What each code of {report.encoder} gives away", fontsize=12)
    if framed:
        axes.set_xlabel("framed: what the code is there for; the rest should be pale", fontsize=9)
    return figure
