"""What each code of an encoder gives away: every factor, decoded from every code.

Each factor is decoded by a linear probe and by a small non-linear one (the same solvers on 500
kernel features), on people that the probe was not trained on; identity on pictures that it was not
trained on. A score runs from 0 (chance) to 1 (decoded without error): balanced accuracy above
chance, or R². Beside the codes stand all of them together, and the whole face, which is a
hand-made descriptor of the picture (HOG and a small colour picture) under the same probes: what
could be had at all.

``factors`` finds what there is to decode, ``codes`` what it is decoded from, ``probes`` decodes;
``disentanglement`` and ``swaps`` measure what follows from it; ``report`` shows all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mien.evaluate.cache import default_folder
from mien.evaluate.encoders import Encoder, encoder
from mien.evaluate.leakage.codes import ALL, WHOLE, WHOLE_FACE, coder_of, cut_apart, together
from mien.evaluate.leakage.disentanglement import dci, lasso_importance, measure_dci
from mien.evaluate.leakage.factors import Factor, described, factors_of, home, split_for
from mien.evaluate.leakage.probes import DIMS, KERNEL, decode, decode_each
from mien.evaluate.leakage.report import LeakageReport
from mien.evaluate.leakage.swaps import measure_swaps, swap_consistency
from mien.evaluate.tables import Faces, open_faces
from mien.evaluate.task import Settings
from mien.faces.face import Image
from mien.files.errors import ConfigError, TableError, nearest

__all__ = [
    "WHOLE_FACE",
    "Factor",
    "LeakageReport",
    "dci",
    "decode",
    "evaluate_leakage",
    "factors_of",
    "home",
    "lasso_importance",
    "split_for",
    "swap_consistency",
]


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
    splits: Sequence[str] = (),
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
        splits: Take faces of these splits alone, e.g. of persons whom weights never saw; all if
            empty.
        cache: Folder for embeddings; True: the user's cache folder; False: none.
        progress: Show progress bars.

    Raises:
        ConfigError: No such factor, or an unknown option of an encoder.
        TableError: Not a table, or none with labels enough.
        WeightsError: No such weights.
        MissingExtraError: scikit-learn is not installed.
    """
    coder, sizes = coder_of(spec)
    reference = encoder(whole) if whole else WHOLE_FACE
    faces = open_faces(tables, seed=seed, limit=limit, splits=splits)
    found = _chosen(faces, factors)
    settings = Settings(seed=seed, batch_size=batch_size)
    folder = default_folder() if cache is True else Path(cache) if cache else None
    embedded = faces.embed(coder, settings, folder, progress)
    codes = cut_apart(embedded, sizes or {coder.name: embedded.shape[1]})
    # The trunk holds all that the codes are made of.
    apart = [name for name in codes if name != "trunk"] or list(codes)
    joined = together([codes[name] for name in apart])
    rows = {**codes, ALL: joined} if len(apart) > 1 else dict(codes)
    rows[WHOLE] = faces.embed(reference, settings, folder, progress).astype(np.float32)
    parts = {f.name: split_for(faces, f, seed) for f in found}
    cells = decode_each(rows, found, parts, faces.groups, seed, progress)
    report = LeakageReport(
        encoder=spec if isinstance(spec, str) else coder.name,
        cells=cells,
        factors={f.name: described(f, parts[f.name], list(codes)) for f in found},
        dci=measure_dci(joined, found, parts, cells, apart, seed),
        swaps=measure_swaps(spec, faces, seed),
        data={
            "sets": faces.sets,
            "names": faces.names,
            "fingerprint": faces.fingerprint,
            "faces": len(faces),
            "splits": list(splits),
            "seen": sorted(set(coder.seen) & set(faces.dataset.tolist())),
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


def _chosen(faces: Faces, names: Sequence[str]) -> list[Factor]:
    """Return the factors of these names, or all."""
    found = factors_of(faces)
    for name in names:
        if name not in {f.name for f in found}:
            raise ConfigError(
                f"{faces.names} has no factor {name!r}{nearest(name, [f.name for f in found])}"
            )
    found = [f for f in found if not names or f.name in names]
    if not found:
        raise TableError(
            f"{faces.names} has no labels to decode; prepare a set that has persons, expressions "
            "or head pose."
        )
    return found
