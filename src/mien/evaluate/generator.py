"""How good a style-based generator's faces are, and whether it has learned pictures by heart.

Drawn faces are compared with photos of the tables' test split, which no training sees: KID on the
features of one or several encoders, precision and recall on those of the first. Photos of the
training split, measured in the place of drawn ones, give the floor of KID and what precision and
recall can reach.

Memorising: the nearest of the training photos and of as many held-out photos is a training photo in
half of the cases where nothing is memorised, and always where training photos are drawn again.
Mirror images count, as trainings mirror.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mien.data.cache import FaceCache, take_rows
from mien.evaluate.cache import default_folder, embed
from mien.evaluate.encoders import Encoder, encoder
from mien.evaluate.figures import have_matplotlib, new_figure, save, stem
from mien.evaluate.judges import pictures, short_name, wilson
from mien.evaluate.kernel_distance import kernel_distance
from mien.evaluate.neighbours import NEIGHBOURS, nearest, precision_recall
from mien.evaluate.pictures import fingerprint
from mien.evaluate.report import markdown_table, package_versions
from mien.evaluate.sheets import write_sheet
from mien.faces.face import Image
from mien.files.atomic import write_json, write_text
from mien.files.errors import ConfigError, TableError
from mien.nets.stylegan import Generator

if TYPE_CHECKING:
    from mien.methods.base import Method

FLOOR = "training photos"
FEATURES = ("landmarks", "hog")
LEAST = 2 * NEIGHBOURS  # photos and drawn pictures
_FEW = 500  # held-out photos below which a note is due
_SIDE = 12  # drawn faces along a side of the sheet
_ROWS, _COLUMNS = 6, 5  # of the nearest and of other drawn faces; training photos beside each
_CLOSE = 0.01  # quantile of the held-out photos' distances that counts as very near

Spec = str | Encoder | Callable[[Image], Any]
Entry = dict[str, Any]


@dataclass(frozen=True)
class GeneratorReport:
    """Measures of generators, one entry for each weights.

    Attributes:
        rows: Weights → measure → value and 95 % ``interval`` (where there is one); the row
            ``training photos`` is real against real.
        best: The weights with the least KID on the first features.
        data: Numbers of pictures, tables and their fingerprint.
        settings: Features, truncation, seed, sizes.
        notes: Sentences on what was measured how.
        versions: Versions of Python and packages.
    """

    rows: dict[str, dict[str, Entry]]
    best: str
    data: dict[str, Any]
    settings: dict[str, Any]
    notes: list[str]
    versions: dict[str, str] = field(default_factory=package_versions)

    def markdown(self) -> str:
        """Return a row for each weights, the floor, then the notes."""
        names = list(dict.fromkeys(name for row in self.rows.values() for name in row))
        table = [["weights", *names]]
        table += [[who, *(_cell(row.get(n)) for n in names)] for who, row in self.rows.items()]
        return "\n".join([markdown_table(table), *self.notes, ""])

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "task": "generator",
            "rows": self.rows,
            "best": self.best,
            "data": self.data,
            "settings": self.settings,
            "notes": self.notes,
            "versions": self.versions,
        }


def evaluate_generator(
    weights: Sequence[str | Path | Method],
    tables: Sequence[str | Path],
    *,
    images: int = 2000,
    truncation: float = 1.0,
    features: Sequence[Spec] = FEATURES,
    limit: int = 0,
    out: str | Path | None = None,
    seed: int = 0,
    cache: str | Path | bool = True,
    progress: bool = True,
) -> GeneratorReport:
    """Measure generators of faces.

    Args:
        weights: Shipped names, ``.safetensors`` files or methods in memory, whose ``g`` is a
            ``mien.nets.stylegan.Generator``; all of one size.
        tables: Tables of faces with the splits train and test.
        images: Pictures that each of them draws.
        truncation: ψ: 1 is all variety, 0 the mean face.
        features: Encoders. All give a KID; the first also what needs neighbours.
        limit: So many training photos at random are looked through for neighbours; 0: all.
        out: Folder for ``generator.json``, ``generator.md`` and, for each weights, sheets of drawn
            faces and of drawn faces beside the nearest training photos, and a figure of distances.
        seed: Seed of z, of the photos taken, and of the bootstrap.
        cache: Folder for embeddings of photos; True: the user's cache folder; False: none.
        progress: Show progress bars.

    Raises:
        ConfigError: No weights, too few pictures, no generator, or generators of several sizes.
        TableError: No tables, no such split, or too few photos in it.
        WeightsError: No such weights.
    """
    if not weights or not features:
        raise ConfigError("Nothing to measure: name weights and at least one encoder of features.")
    if not tables:
        raise TableError("Name a table of faces with the splits train and test.")
    if images < LEAST:
        raise ConfigError(f"At least {LEAST} pictures are drawn, not {images}.")
    if not 0 <= truncation <= 1:
        raise ConfigError(f"truncation is from 0 to 1, not {truncation}.")
    encoders = [encoder(spec, "identity") for spec in features]
    made = [_Made.open(spec) for spec in weights]
    names = [one.name for one in made]
    if len(set(names)) < len(names):
        raise ConfigError("The same weights are named twice.")
    if len({one.g.size for one in made}) > 1:
        raise ConfigError("The generators draw pictures of several sizes; measure each size alone.")
    folder = default_folder() if cache is True else Path(cache) if cache else None
    photos = _Photos.open(tables, made[0].g.size, limit, seed)
    space = _Space(encoders, photos, folder, seed, progress)
    rows: dict[str, dict[str, Entry]] = {}
    for one in made:
        x = one.g.draw(images, truncation, seed)
        found = _Found(space, pictures(x))
        rows[one.name] = found.measures()
        if out is not None:
            target = Path(out)
            tag = stem(one.name)
            side = min(_SIDE, int(images**0.5))
            sheet = list(torch.split(x[: side * side], side))
            write_sheet(target / f"samples-{tag}.png", sheet, "generated", one.weights)
            shown = _beside(x, found, photos)
            write_sheet(target / f"neighbours-{tag}.png", shown, "generated", one.weights)
            if have_matplotlib():
                save(_figure(one.name, found), target / f"distances-{tag}.png")
    best = min(rows, key=lambda name: rows[name][space.kid_names[0]]["value"])
    rows[FLOOR] = space.floor(images)
    data = {
        "drawn": images,
        "held_out": len(photos.held),
        "training": len(photos.train),
        "fingerprint": photos.fingerprint,
        "tables": photos.info,
    }
    settings = {
        "features": [{"encoder": short_name(e), "key": e.key} for e in encoders],
        "truncation": truncation,
        "size": photos.caches[0].size,
        "k": NEIGHBOURS,
        "precision_recall_pictures": space.equal(images),
        "neighbours_compared": space.rivals,
        "seed": seed,
    }
    report = GeneratorReport(
        rows, best, data, settings, _notes(made, best, photos, data, settings, space)
    )
    if out is not None:
        write_json(Path(out) / "generator.json", report.as_json())
        write_text(Path(out) / "generator.md", report.markdown())
    return report


@dataclass(frozen=True)
class _Made:
    """A generator, what it came from, and the fingerprints of what it was trained on."""

    name: str
    weights: str | Path | Method
    g: Generator
    fingerprints: frozenset[str]

    @classmethod
    def open(cls, weights: str | Path | Method) -> _Made:
        from mien import weights as store

        card: Mapping[str, Any] = {}
        method: Any = weights
        if isinstance(weights, (str, Path)):
            card, method = store.card(weights), store.load(weights)
        g = getattr(method, "g", None)
        if not isinstance(g, Generator):
            raise ConfigError(
                f"The method {method.name} has no style-based generator; give weights of stylegan "
                "or styletransfer."
            )
        stages = [card, *card.get("earlier_stages", ())]
        told = [t for stage in stages for t in stage.get("data") or () if isinstance(t, dict)]
        marks = frozenset(str(t.get("fingerprint")) for t in told)
        return cls(str(weights) if card else method.name, weights, g.eval(), marks)


@dataclass(frozen=True, eq=False)
class _Photos:
    """Photos of several tables; ``held`` and ``train`` are ``(N, 2)``: table and row."""

    caches: list[FaceCache]
    held: NDArray[np.int64]
    train: NDArray[np.int64]

    @classmethod
    def open(cls, tables: Sequence[str | Path], size: int, limit: int, seed: int) -> _Photos:
        caches = [FaceCache(table, size) for table in tables]
        held, train = (
            np.concatenate(
                [
                    np.stack([np.full(len(rows), t), rows], 1)
                    for t, rows in enumerate(cache.select(split) for cache in caches)
                ]
            )
            for split in ("test", "train")
        )
        for name, rows in (("test", held), ("train", train)):
            if len(rows) < LEAST:
                raise TableError(f"The split {name!r} has {len(rows)} photos; {LEAST} are needed.")
        if limit:
            keep = np.random.default_rng(seed).permutation(len(train))[: max(limit, LEAST)]
            train = train[np.sort(keep)]
        return cls(caches, held, train)

    @property
    def fingerprint(self) -> str:
        """Of all tables together."""
        marks = [cache.fingerprint for cache in self.caches]
        return marks[0] if len(marks) == 1 else fingerprint(marks)

    @property
    def info(self) -> list[dict[str, Any]]:
        """Name, data sets and fingerprint of each table."""
        return [
            {
                "table": cache.table.folder.name,
                "datasets": cache.info["datasets"],
                "fingerprint": cache.fingerprint,
            }
            for cache in self.caches
        ]

    def take(self, rows: NDArray[np.int64]) -> Tensor:
        """Return photos ``(n, 3, S, S)`` in [-1, 1]."""
        return take_rows(self.caches, rows[:, 0], rows[:, 1])


class _Space:
    """Features of the photos, embedded once for all generators."""

    def __init__(
        self,
        encoders: list[Encoder],
        photos: _Photos,
        folder: Path | None,
        seed: int,
        progress: bool,
    ) -> None:
        self.encoders, self.photos, self.folder = encoders, photos, folder
        self.seed, self.progress = seed, progress
        self.kid_names = [f"KID {short_name(e)}, 1e-3 [95 %]" for e in encoders]
        held = pictures(photos.take(photos.held))
        self.held = [self.embed(e, held) for e in encoders]
        self.mirrored = self.embed(encoders[0], np.ascontiguousarray(held[:, :, ::-1]))
        self.train = self.embed(encoders[0], pictures(photos.take(photos.train)))
        self.rivals = min(len(photos.held), len(photos.train))
        rng = np.random.default_rng(seed)
        self.sample = np.sort(rng.permutation(len(photos.train))[: self.rivals])
        # How near a face that was never trained on lies to the training photos.
        ways = (self.held[0], self.mirrored)
        self.apart = np.minimum(*(nearest(x, self.train)[0][:, 0] for x in ways))

    def embed(self, one: Encoder, crops: Image, keep: bool = True) -> NDArray[Any]:
        """Return features ``(N, D)`` of uint8 crops."""
        return embed(one, crops, cache=self.folder if keep else None, progress=self.progress)

    def equal(self, count: int) -> int:
        """Return how many pictures of each kind precision and recall take."""
        return min(count, len(self.photos.held))

    def compared(self, found: list[NDArray[Any]]) -> dict[str, Entry]:
        """Return KID, precision and recall of pictures from their features."""
        row: dict[str, Entry] = {}
        for name, x, y in zip(self.kid_names, found, self.held, strict=True):
            value, ends = kernel_distance(x, y, seed=self.seed)
            row[name] = {"value": 1e3 * value, "interval": [1e3 * end for end in ends]}
        count = self.equal(len(found[0]))
        ways = precision_recall(found[0][:count], self.held[0][:count])
        for name, hits in zip(("precision, %", "recall, %"), ways, strict=True):
            row[name] = _share(hits)
        return row

    def floor(self, count: int) -> dict[str, Entry]:
        """Measure training photos in the place of drawn ones."""
        rng = np.random.default_rng(self.seed + 1)
        rows = self.photos.train[rng.permutation(len(self.photos.train))[:count]]
        crops = pictures(self.photos.take(rows))
        return self.compared([self.embed(e, crops) for e in self.encoders])


class _Found:
    """Drawn pictures among the photos, by the first features.

    Attributes:
        apart: ``(N,)`` distance to the nearest training photo.
        rows: ``(N, 5)`` the nearest training photos, as rows of ``_Photos.train``.
        mirrored: ``(N, 5)`` whether the drawn picture's mirror image is what lies near.
    """

    def __init__(self, space: _Space, crops: Image) -> None:
        self.space = space
        self.features = [space.embed(e, crops, keep=False) for e in space.encoders]
        turned = space.embed(space.encoders[0], np.ascontiguousarray(crops[:, :, ::-1]), keep=False)
        self.ways = (self.features[0], turned)
        count = min(_COLUMNS, len(space.train))
        apart, rows = zip(*(nearest(x, space.train, count) for x in self.ways), strict=True)
        both, places = np.concatenate(apart, 1), np.concatenate(rows, 1)
        order = np.argsort(both, axis=1, kind="stable")
        # A photo that is near both ways counts once, where it is nearer.
        first = [
            np.unique(row, return_index=True)[1] for row in np.take_along_axis(places, order, 1)
        ]
        kept = np.stack([np.sort(row)[:count] for row in first])
        order = np.take_along_axis(order, kept, 1)
        self.apart = np.take_along_axis(both, order, 1)[:, 0]
        self.rows = np.take_along_axis(places, order, 1)
        self.mirrored = order >= count

    def measures(self) -> dict[str, Entry]:
        """Return all measures of the generator."""
        space = self.space
        near = space.train[space.sample]
        rivals = (near, space.held[0])
        if len(near) < len(space.held[0]):
            rivals = (near, space.held[0][: len(near)])
        to_train, to_held = (
            np.minimum(*(nearest(x, others)[0][:, 0] for x in self.ways)) for others in rivals
        )
        edge = np.quantile(space.apart, _CLOSE)
        return space.compared(self.features) | {
            "nearest is a training photo, %": _share(to_train < to_held),
            "very near to a training photo, %": _share(self.apart < edge),
        }


def _share(hits: NDArray[np.bool_]) -> Entry:
    value = float(hits.mean())
    return {"value": 100 * value, "interval": [100 * end for end in wilson(value, len(hits))]}


def _cell(entry: Entry | None) -> str:
    if entry is None:
        return "–"
    low, high = entry["interval"]
    return f"{entry['value']:.1f} [{low:.1f}, {high:.1f}]"


def _beside(x: Tensor, found: _Found, photos: _Photos) -> list[Tensor]:
    """Return rows of a sheet: drawn faces, each before the training photos nearest to it.

    The upper rows are those that lie nearest to any training photo, the lower ones are others.
    """
    order = np.argsort(found.apart, kind="stable")
    chosen = [*order[:_ROWS], *order[len(order) // 2 :][:_ROWS]]
    rows = []
    for i in chosen:
        beside = photos.take(photos.train[found.rows[i]])
        turned = torch.from_numpy(found.mirrored[i])[:, None, None, None]
        rows.append(torch.cat([x[i][None], torch.where(turned, beside.flip(-1), beside)]))
    return rows


def _figure(name: str, found: _Found) -> Any:
    """Return histograms of the distances to the nearest training photo."""
    figure = new_figure(5.6, 3.4)
    axes = figure.subplots()
    kinds = (("held-out photos", found.space.apart), ("drawn", found.apart))
    edges = np.histogram_bin_edges(np.concatenate([values for _, values in kinds]), 50)
    for label, values in kinds:
        axes.hist(values, edges, density=True, alpha=0.55, label=label)
    axes.set_xlabel(
        f"distance to the nearest training photo ({short_name(found.space.encoders[0])})"
    )
    axes.set_ylabel("density")
    axes.set_title(Path(name).name, fontsize=10)
    axes.legend(fontsize=8)
    return figure


def _notes(
    made: list[_Made],
    best: str,
    photos: _Photos,
    data: dict[str, Any],
    settings: dict[str, Any],
    space: _Space,
) -> list[str]:
    """Return what a reader of the table has to know."""
    first, *others = (entry["encoder"] for entry in settings["features"])
    more = f", and of {', '.join(others)} for the other KID" if others else ""
    names = ", ".join(t["table"] for t in data["tables"])
    notes = [
        f"{data['drawn']} drawn pictures, {settings['size']} px, truncation "
        f"{settings['truncation']:g}, seed {settings['seed']}; against {data['held_out']} photos "
        f"of the test split of {names} (fingerprint {data['fingerprint'][:12]}…), which are not "
        f"trained on. Features: those of {first}{more}.",
        f"Least KID ({space.kid_names[0].removesuffix(' [95 %]')}): {best}.",
        f"The row {FLOOR!r} is real against real: the floor of KID, and what precision and recall "
        f"can reach. They compare {settings['precision_recall_pictures']} pictures of each kind, "
        f"k = {settings['k']}.",
        f"Nearest is a training photo: of {space.rivals} training and as many held-out photos, "
        "mirror images included; about 50 if nothing is memorised, 100 if photos are drawn again. "
        f"Very near: nearer than {100 * _CLOSE:g} % of the held-out photos are to any of "
        f"{data['training']} training photos; {100 * _CLOSE:g} is what unseen photos get.",
    ]
    if data["held_out"] < _FEW:
        notes.append(f"Fewer than {_FEW} held-out photos: the figures say little.")
    own = {cache.fingerprint for cache in photos.caches}
    foreign = [m.name for m in made if not m.fingerprints & own]
    if foreign:
        notes.append(
            f"Not known to be trained on these tables, so that their neighbours say nothing about "
            f"memorising: {', '.join(foreign)}."
        )
    return notes
