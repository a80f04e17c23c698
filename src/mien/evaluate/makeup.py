"""How true make-up is that is put on and taken off, on people and colours never trained on.

Held-out bare photos get the make-up of other held-out photos that the make-up artist painted in
colours that training never draws, and are compared with the exact result: the same paint on the
same face. It is synthetic make-up; what real make-up becomes is only looked at
(``mien grid makeup``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mien.data.cache import FaceCache
from mien.data.kept import LFW
from mien.data.makeup_artist import draw_parameters
from mien.data.makeup_pairs import photo_rows
from mien.data.table import Table
from mien.evaluate.cache import default_folder
from mien.evaluate.encoders import Encoder
from mien.evaluate.figures import new_figure, save
from mien.evaluate.identity_swaps import SPLITS, trained_on
from mien.evaluate.judges import directions, judge_of, pictures, short_name, take
from mien.evaluate.makeup_measures import (
    LEAST_OF_TONE,
    Measure,
    Pairs,
    System,
    baselines,
    by_tone,
    exact_slopes,
    largest_gap,
    left_of_skin,
    mean,
    measure,
    paint_pairs,
    run,
    share,
)
from mien.evaluate.report import markdown_table, package_versions
from mien.evaluate.sheets import write_sheet
from mien.faces.colours import TONES
from mien.faces.face import Image
from mien.faces.image import decode_image, encode_image
from mien.files.atomic import write_json, write_text
from mien.files.errors import ConfigError, TableError, nearest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mien.methods.base import Method

    Rows = NDArray[np.int64]

COLOURS = ("test", "train")
EDITED, EXACT = "edited", "exact"
LIKENESS = "likeness to x, % of a re-encoded x's"
LEAST_PAIRS = 200
_SHOWN = 12  # pairs on the sheet
_CANDIDATES = 6  # of which the reference that is turned most like x is taken, as in training
_QUALITY = 90  # of the JPEG that edited and unedited pictures are judged as
_WANTED = {
    "hue slope": "> 0.7",
    "make-up left": "< 50",
    "likeness": "≥ 90",
    "change outside": "< 1",
}

Spec = str | Encoder | Callable[[Image], Any]


@dataclass(frozen=True)
class MakeupReport:
    """Measures of make-up.

    Attributes:
        measures: Name → ``edited`` with its 95 % ``interval`` by whole persons, ``others``: what
            baselines, other weights and the exact result get, by name.
        tones: Name → bin of skin tone → ``n``, ``value`` and ``interval``, of the edited faces.
        gaps: Name → ``gap`` between the ``highest`` and the ``lowest`` of the bins that have 20
            pairs or more; None if fewer than two have.
        data: Pairs, persons, splits, colours and the table's fingerprint.
        settings: Weights, crop size, judge and seed.
        notes: Sentences on what was measured how.
        versions: Versions of Python and packages.
    """

    measures: dict[str, dict[str, Any]]
    tones: dict[str, dict[str, dict[str, Any]]]
    gaps: dict[str, dict[str, Any] | None]
    data: dict[str, Any]
    settings: dict[str, Any]
    notes: list[str]
    versions: dict[str, str] = field(default_factory=package_versions)

    def markdown(self) -> str:
        """Return one row a measure, then one a measure by skin tone, then the notes."""
        columns = list(dict.fromkeys(k for e in self.measures.values() for k in e["others"]))
        rows = [["measure", "edited [95 %]", *columns, "wanted"]]
        for name, entry in self.measures.items():
            cells = [_cell(entry["others"].get(column)) for column in columns]
            wanted = next((v for k, v in _WANTED.items() if name.startswith(k)), "")
            rows.append([name, _cell(entry["edited"], entry["interval"]), *cells, wanted])
        counts = {k: e["n"] for values in self.tones.values() for k, e in values.items()}
        shown = [tone for tone in TONES if tone in counts]
        tones = [["by skin tone of x", *(f"{t} (n {counts[t]})" for t in shown), "largest gap"]]
        for name, values in self.tones.items():
            gap = self.gaps[name]
            said = "–" if gap is None else f"{gap['gap']:.3f} ({gap['highest']}, {gap['lowest']})"
            cells = [_cell(values[t]["value"], values[t]["interval"]) for t in shown]
            tones.append([name, *cells, said])
        return "\n".join([markdown_table(rows), markdown_table(tones), *self.notes, ""])

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON values; what is not known is null."""
        told: dict[str, Any] = _known(
            {
                "task": "make-up",
                "measures": self.measures,
                "tones": self.tones,
                "gaps": self.gaps,
                "data": self.data,
                "settings": self.settings,
                "notes": self.notes,
                "versions": self.versions,
            }
        )
        return told


def evaluate_makeup(
    weights: str | Path | Method,
    table: str | Path,
    *,
    judge: Spec,
    others: Sequence[str | Path] = (),
    pairs: int = 400,
    splits: Sequence[str] = ("test",),
    colours: str = "test",
    out: str | Path | None = None,
    seed: int = 0,
    cache: str | Path | bool = True,
    progress: bool = True,
) -> MakeupReport:
    """Measure ``apply_makeup`` and ``remove_makeup``.

    Args:
        weights: Shipped name, ``.safetensors`` file, or a method in memory.
        table: Table of photos of faces with landmarks and a split.
        judge: Encoder that says whether it is still the person.
        others: Other weights to stand beside, e.g. of runs without D_S or without L_S.
        pairs: Pairs of a face and a reference.
        splits: Splits of the table whose faces are taken.
        colours: Of the make-up artist: ``test``, which training never draws, or ``train``.
        out: Folder for ``makeup.json``, ``makeup.md``, the sheet of faces ``makeup.png`` and the
            figure ``makeup-figure.png``.
        seed: Seed of pairs, paint and bootstrap.
        cache: Folder for the judge's embeddings; True: the user's cache folder; False: none.
        progress: Show progress bars.

    Raises:
        ConfigError: The method puts on no make-up, or the judge is that network.
        TableError: No split, no landmarks, FER-2013, or nobody is left that was not trained on.
        MissingExtraError: scikit-image or matplotlib is not installed.
    """
    from tqdm import tqdm

    for name in splits:
        if name not in SPLITS:
            raise ConfigError(f"No split {name!r}{nearest(name, SPLITS)}")
    if pairs < 2:
        raise ConfigError(f"pairs must be at least 2, not {pairs}.")
    if colours not in COLOURS:
        raise ConfigError(f"No colours {colours!r}{nearest(colours, COLOURS)}")
    method, cards = _loaded(weights)
    loaded = {str(spec): _loaded(spec) for spec in others}
    for other, _ in loaded.values():
        if other.config.regions != method.config.regions:
            raise ConfigError("All weights that are compared must have the same regions.")
    who = judge_of(judge, weights)
    faces = FaceCache(table, int(Table(table).info["size"]))
    seen = trained_on(cards, faces) or any(trained_on(c, faces) for _, c in loaded.values())
    rows = held_out_photos(faces, splits, seen)
    x_rows, y_rows = draw_rows(faces, rows, pairs, seed)
    drawn = _painted(faces, x_rows, y_rows, colours, tuple(method.config.regions), seed)

    systems: dict[str, System] = {}
    jobs: dict[str, Any] = {EDITED: method} | {name: m for name, (m, _) in loaded.items()}
    for name, one in tqdm(jobs.items(), desc="make-up", leave=False, disable=not progress):
        systems[name] = run(one, drawn)
    systems |= baselines(drawn)
    folder = default_folder() if cache is True else Path(cache) if cache else None
    found = {name: measure(drawn, system) for name, system in systems.items()}
    made = {name: system.images for name, system in systems.items()} | {EXACT: drawn.exact}
    found[EXACT] = exact_slopes(drawn)
    if "skin" in drawn.regions:
        found[EDITED] |= left_of_skin(method, drawn)
    for name, measures in _likenesses(who, drawn, made, folder).items():
        found[name] |= measures

    edited = found.pop(EDITED)
    entries = {
        name: {
            "edited": m.value(),
            "interval": m.interval(drawn.persons, seed),
            "others": {k: v[name].value() for k, v in found.items() if name in v},
        }
        for name, m in edited.items()
    }
    tones = {name: by_tone(drawn, m, seed) for name, m in edited.items()}
    data = {
        "pairs": len(drawn),
        "persons_known": int((faces.person[x_rows] >= 0).sum()),
        "splits": list(splits),
        "colours": colours,
        "trained_on_this_set": seen,
        "fingerprint": faces.fingerprint,
        "datasets": faces.info["datasets"],
    }
    settings = {
        "weights": str(weights) if isinstance(weights, (str, Path)) else method.name,
        "others": list(loaded),
        "size": faces.size,
        "regions": list(drawn.regions),
        "judge": {"encoder": short_name(who), "key": who.key},
        "landmarks": "the table's",
        "seed": seed,
    }
    gaps = {name: largest_gap(values) for name, values in tones.items()}
    report = MakeupReport(entries, tones, gaps, data, settings, _notes(data, settings))
    if out is not None:
        folder = Path(out)
        write_json(folder / "makeup.json", report.as_json())
        write_text(folder / "makeup.md", report.markdown())
        write_sheet(folder / "makeup.png", _sheet(drawn, systems), "makeup", weights)
        save(_figure(report), folder / "makeup-figure.png")
    return report


def held_out_photos(faces: FaceCache, splits: Sequence[str], seen: bool) -> Rows:
    """Return the rows of photos of some splits that make-up can be put on.

    Args:
        faces: Table.
        splits: Of ``train``, ``val`` and ``test``; faces without a split belong to ``train``.
        seen: The method was (or may have been) trained on the split ``train``: no person in it
            counts.

    Raises:
        ConfigError: ``train`` is asked for although it was trained on.
        TableError: FER-2013, or fewer than two photos are left.
    """
    folder = faces.table.folder
    if (faces.dataset == "fer2013").any():
        raise TableError("FER-2013 may not be edited; name another table.")
    if seen and "train" in splits:
        raise ConfigError(
            "The method was, or may have been, trained on the split 'train'; name val or test."
        )
    own = np.where(faces.split == "", "train", faces.split)
    usable = np.isin(own, list(splits)) & (faces.makeup != 1)
    if seen:
        usable &= (faces.person < 0) | ~np.isin(faces.person, faces.person[own == "train"])
        usable &= faces.kept | (faces.dataset != LFW)  # whatever the table calls its splits
    rows = photo_rows(faces, np.flatnonzero(usable))
    if len(rows) < 2:
        raise TableError(
            f"{folder} has fewer than two coloured photos with landmarks in "
            f"{' and '.join(splits)} of people who are not in its training split."
        )
    return rows


def draw_rows(faces: FaceCache, rows: Rows, count: int, seed: int) -> tuple[Rows, Rows]:
    """Draw faces x, none twice, and for each a reference y of another person turned alike."""
    rng = np.random.default_rng(seed)
    x = rng.permutation(rows)[:count]
    candidates = rng.choice(rows, (len(x), _CANDIDATES))
    pose = np.nan_to_num(faces.pose)
    apart = np.abs(pose[candidates] - pose[x][:, None])[:, :, :2].sum(2)
    same = (faces.person[candidates] == faces.person[x][:, None]) & (faces.person[candidates] >= 0)
    apart += 1e3 * (same | (candidates == x[:, None]))
    return x, candidates[np.arange(len(x)), apart.argmin(1)]


def _loaded(weights: str | Path | Method) -> tuple[Any, dict[str, Any] | None]:
    """Return the method and its card, None in memory.

    Raises:
        ConfigError: It puts no make-up on, or takes none off.
    """
    from mien import weights as store

    card: dict[str, Any] | None = None
    method: Any = weights
    if isinstance(weights, (str, Path)):
        card, method = store.card(weights), store.load(weights)
    for name in ("apply_makeup", "remove_makeup"):
        if not callable(getattr(method, name, None)):
            raise ConfigError(f"The method {method.name} has no edit {name!r}.")
    return method.eval(), card


def _painted(
    faces: FaceCache, x: Rows, y: Rows, colours: str, regions: tuple[str, ...], seed: int
) -> Pairs:
    generator = torch.Generator().manual_seed(seed)
    worn = draw_parameters(len(x), generator, colours, always=True)  # type: ignore[arg-type]
    points = [torch.from_numpy(faces.landmarks[rows]) for rows in (x, y)]
    # Photos of unknown persons are persons of their own.
    persons = np.where(faces.person[x] >= 0, faces.person[x], -1 - np.arange(len(x)))
    images = take(faces, x), take(faces, y)
    return paint_pairs(images[0], points[0], images[1], points[1], worn, persons, regions)


def _likenesses(
    judge: Encoder, pairs: Pairs, made: dict[str, Any], folder: Path | None
) -> dict[str, dict[str, Measure]]:
    """Return how like x a judge finds results, all as JPEG files, by system."""

    def look(images: Any) -> Any:
        crops = pictures(images)
        coded = [decode_image(encode_image(c, "JPEG", quality=_QUALITY)) for c in crops]
        return directions(judge, np.stack(coded), folder)

    x = directions(judge, pictures(pairs.x), folder)
    again = (look(pairs.x) * x).sum(1)
    reference = look(pairs.y)
    found: dict[str, dict[str, Measure]] = {}
    for name, images in made.items():
        seen = look(images)
        to_x, to_y = (seen * x).sum(1), (seen * reference).sum(1)
        found[name] = {
            LIKENESS: share(to_x, again),
            "more like x than like the reference's person, %": mean(100.0 * (to_x > to_y)),
        }
    return found


def _sheet(pairs: Pairs, systems: dict[str, System]) -> list[torch.Tensor]:
    """Return a row a pair, from light to dark skin.

    x, y, exact, G(x, y), what each of the others makes of x, F(exact), F(G(x, y)).
    """
    order = np.argsort(pairs.tones, kind="stable")
    shown = order[np.unique(np.linspace(0, len(order) - 1, _SHOWN).round().astype(int))]
    others = [s for name, s in systems.items() if name not in (EDITED, "copy")]
    edited = systems[EDITED]
    columns = [pairs.x, pairs.y, pairs.exact, edited.images, *(s.images for s in others)]
    columns += [z for z in (edited.removed, edited.back) if z is not None]
    return [torch.stack([column[i] for column in columns]) for i in shown]


def _figure(report: MakeupReport) -> Any:
    """Draw ΔE by region and system, and by region and skin tone."""
    names = [f"ΔE to exact, {region}" for region in report.settings["regions"]]
    figure = new_figure(10.0, 4.0)
    left, right = figure.subplots(1, 2, sharey=True)
    entries = [report.measures[name] for name in names]
    systems = [EDITED, *entries[0]["others"]]
    place = np.arange(len(names))
    for k, system in enumerate(systems):
        drawn = [e["edited"] if system == EDITED else e["others"][system] for e in entries]
        label = system if len(system) < 32 else f"…{system[-30:]}"
        at = place + (k - (len(systems) - 1) / 2) * 0.8 / len(systems)
        left.bar(at, drawn, 0.8 / len(systems), label=label)
    left.set_ylabel("ΔE2000 to the exact result")
    left.set_title("by what made it", fontsize=10)
    shown = [tone for tone in TONES if tone in report.tones[names[0]]]
    for k, tone in enumerate(shown):
        cells = [report.tones[name][tone] for name in names]
        values = np.array([c["value"] for c in cells])
        ends = np.array([c["interval"] for c in cells])
        bars = np.nan_to_num(np.maximum(np.stack([values - ends[:, 0], ends[:, 1] - values]), 0))
        at = place + (k - (len(shown) - 1) / 2) * 0.8 / len(shown)
        label = f"{tone} (n {cells[0]['n']})"
        # A list, as matplotlib 3.9 takes the errors of a single bar in an array for a number.
        right.bar(at, values, 0.8 / len(shown), yerr=bars.tolist(), label=label)
    right.set_title("edited, by skin tone of x", fontsize=10)
    for axes in (left, right):
        axes.set_xticks(place, report.settings["regions"])
        axes.legend(fontsize=7)
    return figure


def _notes(data: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    held = "never drawn in training" if data["colours"] == "test" else "of training"
    notes = [
        f"{data['pairs']} pairs of the split {' and '.join(data['splits'])}, {settings['size']} px "
        f"crops; paint of the make-up artist in colours {held}; the face, its reference and the "
        "exact result are known pixel by pixel, but the make-up is synthetic. Intervals are by "
        "whole persons, or pictures where persons are not known.",
        "ΔE2000 is a mean over the region's mask on x, lower is better. Histogram matches the "
        "whole picture to the reference's; by region, each region alone, blended in.",
        "Hue slope: each face gets two references; the difference of the results' hues on that of "
        "the references' hues. The exact result's slope is what following perfectly gives.",
        f"Likeness: cosine by {settings['judge']['encoder']} of the result to x, over that of x "
        f"itself, both as JPEG of quality {_QUALITY}; make-up itself costs what exact shows.",
        f"Skin tone is measured in the photo, under its light; bins with fewer than "
        f"{LEAST_OF_TONE} pairs do not count in the largest gap.",
        "Outside the mask nothing is added by construction; what paste-back does to a photo is not "
        "measured here (mien edit --report).",
    ]
    if data["pairs"] < LEAST_PAIRS:
        notes.append(f"Fewer than {LEAST_PAIRS} pairs: the figures say little.")
    return notes


def _cell(value: float | None, ends: Sequence[float] | None = None) -> str:
    if value is None or not np.isfinite(value):
        return "–"
    return f"{value:.3f}" + (f" [{ends[0]:.3f}, {ends[1]:.3f}]" if ends else "")


def _known(node: Any) -> Any:
    """Replace NaN by None."""
    if isinstance(node, dict):
        return {k: _known(v) for k, v in node.items()}
    if isinstance(node, list):
        return [_known(v) for v in node]
    return None if isinstance(node, float) and not np.isfinite(node) else node
