"""What faces differ in, and the code that each factor is at home in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mien.evaluate.tables import ANGLES, Faces, Mask, Split, arrange, as_numbers

LEAST = 10  # faces of a class; rarer classes are left out
CLASSES = 20  # of an attribute at most
PERSONS = 200  # told apart at most, those with the most pictures
PICTURES = 5  # of a person at least: three parts need them
NUMBERS = 10  # distinct values from which an attribute counts as a number
# Where a factor is at home, in order: the first of the encoder's codes. FaceCycle has no code of
# pose, which is motion to it; PCL's face-aware code, its identity, holds all but the pose.
HOMES = {
    "identity": ("identity",),
    "expression": ("expression", "identity"),
    "pose": ("pose", "expression"),
    "appearance": ("appearance", "identity"),
}
_APPEARANCE = ("light", "makeup", "lip", "eyeshadow", "blush")


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
    if set(codes) == {"identity", "appearance"} and kind != "identity":
        return "appearance"  # IP-GAN's attributes: all but the identity
    return next((code for code in HOMES[kind] if code in codes), "")


def described(factor: Factor, split: Split, codes: Sequence[str]) -> dict[str, Any]:
    """Return the entry of ``LeakageReport.factors``."""
    return {
        "kind": factor.kind,
        "classes": len(factor.classes),
        "home": home(factor, codes),
        "split": [len(split.train), len(split.val), len(split.test)],
    }
