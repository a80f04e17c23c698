"""How true inversion and transfer by style codes are, and whether the right layers were found.

Three questions. Generated faces, whose codes are known: does the descent find a code that draws the
face again? Pairs of photos of people never trained on: is a photo drawn better than by the mean
face and by its nearest training neighbour, does the driver's expression come out, does the person
stay? And are the layers found on some pairs better on other pairs than random layers?
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mien.data.cache import FaceCache
from mien.evaluate.bootstrap import interval, mean_of
from mien.evaluate.cache import default_folder
from mien.evaluate.encoders import Encoder
from mien.evaluate.identity_swaps import LEAST_PAIRS, draw_pairs, held_out_rows, trained_on
from mien.evaluate.judges import (
    ExpressionJudge,
    directions,
    fit_expression_judge,
    judge_of,
    landmarks,
    native_size,
    pictures,
    short_name,
    take,
)
from mien.evaluate.quality import NO_JAW, interocular, psnr
from mien.evaluate.report import markdown_table, package_versions
from mien.evaluate.sheets import write_sheet
from mien.evaluate.swap_measures import above_zero
from mien.faces.face import Array, Image
from mien.faces.image import write_image
from mien.files.atomic import write_json, write_text
from mien.files.errors import ConfigError
from mien.methods.styletransfer import StyleTransfer
from mien.methods.styletransfer.inversion import Inversion, Settings, layer_mask
from mien.methods.styletransfer.masks import (
    MOST_LAYERS,
    Cost,
    Measured,
    Ranking,
    layers_of,
    mix,
    programme,
    search,
)
from mien.methods.styletransfer.networks import distance

if TYPE_CHECKING:
    from mien.methods.base import Method

Spec = str | Encoder | Callable[[Image], Any]
Measures = dict[str, dict[str, Any]]

_BATCH = 32
_SHOWN = 10  # pairs on the sheet
_NEIGHBOURS = 8000  # training pictures at most among which the nearest is sought
_RANDOM = 100  # random masks of the size of the found one, at most
_SNAPSHOTS = 8


@dataclass(frozen=True)
class TransferReport:
    """Measures of inversion, of transfers and of the choice of layers.

    Attributes:
        measures: Name → ``value`` with its 95 % ``interval``, and ``others``: name → what something
            else gets.
        layers: The found expression layers, the configured ones, and the ranking's first rows.
        data: Pairs and the table's fingerprint.
        settings: Weights, steps, judges and seed.
        notes: Sentences on what was measured how.
        versions: Versions of Python and packages.
    """

    measures: Measures
    layers: dict[str, Any]
    data: dict[str, Any]
    settings: dict[str, Any]
    notes: list[str]
    versions: dict[str, str] = field(default_factory=package_versions)

    def markdown(self) -> str:
        """Return one row a measure, the ranking of masks, then the notes."""
        rows = [["measure", "value [95 %]", "others"]]
        for name, entry in self.measures.items():
            low, high = entry["interval"]
            others = ", ".join(f"{k} {v:.3f}" for k, v in entry["others"].items()) or "–"
            rows.append([name, f"{entry['value']:.3f} [{low:.3f}, {high:.3f}]", others])
        parts = [markdown_table(rows)]
        if self.layers:
            parts.append(markdown_table(self.layers["ranking"]))
        return "\n".join([*parts, *self.notes, ""])

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "task": "style transfer",
            "measures": self.measures,
            "layers": self.layers,
            "data": self.data,
            "settings": self.settings,
            "notes": self.notes,
            "versions": self.versions,
        }


def evaluate_transfer(
    weights: str | Path | Method,
    table: str | Path,
    *,
    judge: Spec,
    expression_judge: Spec = "",
    data: str | Path | None = None,
    align: bool = True,
    pairs: int = 200,
    search_pairs: int = 50,
    generated: int = 64,
    steps: int = 500,
    start: str = "encoder",
    cost: Cost | None = None,
    layers: Sequence[Sequence[int]] = (),
    splits: Sequence[str] = ("test",),
    out: str | Path | None = None,
    seed: int = 0,
    cache: str | Path | bool = True,
    progress: bool = True,
) -> TransferReport:
    """Measure the method ``styletransfer``.

    Args:
        weights: Shipped name, ``.safetensors`` file, or a method in memory.
        table: Table of faces with persons and a split.
        judge: Encoder that says whose face it is.
        expression_judge: Encoder that a probe on FER-2013 is fitted on, which says which expression
            a face shows; empty: none.
        data: Folder that holds ``fer2013/``, for ``expression_judge``.
        align: Fit ``expression_judge`` on ``tight`` crops of FER-2013's pictures.
        pairs: Pairs of different persons that are measured.
        search_pairs: Other pairs, on which the layers are searched; 0: they are not.
        generated: Generated faces with known codes.
        steps: Of an inversion at most, for photos and for generated faces alike.
        start: Where the inversion of photos starts: ``encoder`` or ``mean``. That of generated
            faces starts from the mean.
        cost: What the choice of layers minimises.
        layers: Other sets of expression layers (counted from 0) to measure beside the configured.
        splits: Splits of the table whose persons are taken.
        out: Folder for ``transfer.json``, ``transfer.md``, the sheet ``transfer.png``, the descent
            ``descent.png`` and the ranking ``masks.png``.
        seed: Seed of pairs, generated faces and bootstrap.
        cache: Folder for the judges' embeddings; True: the user's cache folder; False: none.
        progress: Show progress bars.

    Raises:
        ConfigError: Another method, layers that it does not have, or the judge is the network that
            is judged.
        TableError: No persons or no split, or nobody is left that was not trained on.
        MissingExtraError: SciPy is not installed.
    """
    from mien import weights as store

    if pairs < 2 or search_pairs < 0 or generated < 2:
        raise ConfigError("At least 2 pairs and 2 generated faces are measured.")
    card = store.card(weights) if isinstance(weights, (str, Path)) else None
    method = store.load(weights) if isinstance(weights, (str, Path)) else weights
    if not isinstance(method, StyleTransfer):
        raise ConfigError(
            f"The method {method.name} has no style codes; `mien evaluate-edits` measures "
            "transfers of any method."
        )
    for given in layers:
        layer_mask(tuple(given), method.g.num_ws)  # refuses layers that there are not
    who = judge_of(judge, weights)
    faces = FaceCache(table, native_size(method))
    seen = trained_on(card, faces)
    people = held_out_rows(faces, splits, seen)
    folder = default_folder() if cache is True else Path(cache) if cache else None
    looks: ExpressionJudge | None = None
    if expression_judge:
        looks = fit_expression_judge(
            expression_judge, data, weights, align=align, seed=seed, cache=folder, progress=progress
        )
    drawn = draw_pairs(faces.person, people, pairs + search_pairs, seed)
    source, driver = take(faces, drawn.sources), take(faces, drawn.attributes)
    run = _Run(method, Settings(steps), progress, seed)
    measures = run.generated(generated)
    began = time.monotonic()
    found = [run.invert(x, start) for x in (source, driver)]
    seconds = (time.monotonic() - began) / (2 * len(source))
    one, two = (f.codes for f in found)
    persons = np.asarray(faces.person[drawn.sources[:pairs]])
    measures |= run.reconstruction(source[:pairs], one[:pairs], persons, faces, who, folder)
    used = method.config.expression_layers
    searched: dict[str, Any] = {}
    ranking: Ranking | None = None
    if search_pairs:
        tail = slice(pairs, None)
        ranking = run.ranking(source[tail], driver[tail], (one[tail], two[tail]), cost)
        head = slice(0, min(pairs, max(search_pairs, 2)))
        held = Measured(method.inverter, source[head], driver[head], (one[head], two[head]), cost)
        measures |= run.compare(held, ranking.best, persons[head])
        searched = {
            "found": list(ranking.best),
            "configured": list(used),
            "rank_of_configured": ranking.place(used),
            "method": ranking.method,
            "ranking": ranking.rows(),
        }
    chosen = [("configured layers", used), *(("given layers", tuple(g)) for g in layers)]
    if ranking is not None and ranking.best not in ((), used):
        chosen.append(("found layers", ranking.best))
    head = slice(0, pairs)
    titles = [f"{title} {', '.join(map(str, which))}" for title, which in chosen]
    sheets = [run.transfer(source[head], one[head], two[head], which) for _, which in chosen]
    if bool(method.neutral_directions.any()):
        titles.append("directions away from neutral")
        sheets.append(run.directed(source[head], one[head], two[head]))
    for title, made in zip(titles, sheets, strict=True):
        for name, entry in run.judged(
            made, source[head], driver[head], one[head], persons, who, looks, folder
        ).items():
            measures[f"{title}: {name}"] = entry
    data_used = {
        "pairs": pairs,
        "search_pairs": search_pairs,
        "generated": generated,
        "source_persons": len(np.unique(persons)),
        "splits": list(splits),
        "trained_on_this_set": seen,
        "fingerprint": faces.fingerprint,
        "datasets": faces.info["datasets"],
    }
    settings = {
        "weights": str(weights) if card is not None else method.name,
        "size": faces.size,
        "steps": steps,
        "start": start,
        "seconds_a_face": round(seconds, 3),
        "carry": method.config.carry,
        "cost": vars(cost or Cost()),
        "judge": {"encoder": short_name(who), "key": who.key},
        "expression_judge": looks.about if looks else None,
        "landmarks": "the shipped landmark network, on the crops",
        "seed": seed,
    }
    notes = _notes(data_used, settings, searched)
    report = TransferReport(measures, searched, data_used, settings, notes)
    if out is not None:
        folder_out = Path(out)
        write_json(folder_out / "transfer.json", report.as_json())
        write_text(folder_out / "transfer.md", report.markdown())
        first = min(_SHOWN, pairs)
        shown = [source, driver, method.inverter.draw(one[:first]), *sheets]
        write_sheet(folder_out / "transfer.png", [x[:first] for x in shown], "expression", weights)
        few = run.descent(source[:4], start)
        if few is not None:
            columns = [made for _, made in few.snapshots] + [source[:4]]
            rows = [torch.stack([c[i] for c in columns]) for i in range(4)]
            write_sheet(folder_out / "descent.png", rows, "inversion", weights)
        if ranking is not None:
            write_image(folder_out / "masks.png", ranking.picture())
    return report


@dataclass(frozen=True)
class _Run:
    """A method with what all its measures share."""

    method: StyleTransfer
    settings: Settings
    progress: bool
    seed: int

    def invert(self, images: Tensor, start: str) -> Inversion:
        """Invert many faces, batch by batch; history and pictures are left out."""
        found = [
            self.method.invert(x, self.settings, start, progress=self.progress)
            for x in torch.split(images, _BATCH)
        ]
        codes, loss, begun, steps = (
            torch.cat([getattr(f, name) for f in found])
            for name in ("codes", "loss", "start", "steps")
        )
        return Inversion(codes, loss, begun, steps, torch.empty(0))

    def descent(self, images: Tensor, start: str) -> Inversion | None:
        """Invert a few faces and keep pictures of the way."""
        if len(images) < 4:
            return None
        s = self.settings
        kept = Settings(s.steps, s.learning_rate, snapshots=_SNAPSHOTS)
        return self.method.invert(images, kept, start, progress=self.progress)

    def generated(self, count: int) -> Measures:
        """Measure the descent from w_avg on faces whose codes are known."""
        method = self.method
        with torch.no_grad():
            known = method.random_codes(count, torch.Generator().manual_seed(self.seed))
            x = method.inverter.draw(known)
            mean = method.inverter.draw(method.inverter.mean_codes(1)).expand_as(x)
            codes = self.invert(x, "mean").codes
            made = method.inverter.draw(codes)
            fast = method.inverter.draw(method.codes(x))
            far, near, quick = (self._distance(y, x) for y in (mean, made, fast))
        alone = np.arange(count)
        deviation = ((codes - known) / method.w_std).square().mean((1, 2)).sqrt()
        gained = [100 * (1 - y / np.maximum(far, 1e-9)) for y in (near, quick)]
        ratio = [_psnr(y, x) for y in (made, fast, mean)]
        others = {"encoder alone": float(ratio[1].mean()), "w_avg": float(ratio[2].mean())}
        return {
            "generated: PSNR, dB": self._entry(ratio[0], alone, others),
            "generated: faces of 25 dB or more, %": self._entry(100.0 * (ratio[0] >= 25), alone),
            "generated: feature distance below w_avg's by, %": self._entry(
                gained[0], alone, {"encoder alone": float(gained[1].mean())}
            ),
            "generated: codes off by, deviations": self._entry(deviation.numpy(), alone),
        }

    def reconstruction(
        self,
        x: Tensor,
        codes: Tensor,
        persons: NDArray[np.int64],
        faces: FaceCache,
        judge: Encoder,
        folder: Path | None,
    ) -> Measures:
        """Measure g(s1) against I1, beside the mean face and the nearest training face."""
        method = self.method
        with torch.no_grad():
            made = _batched(method.inverter.draw, codes)
            fast = _batched(lambda y: method.inverter.draw(method.codes(y)), x)
            mean = method.inverter.draw(method.inverter.mean_codes(1)).expand_as(x)
        kinds = {"encoder alone": fast, "w_avg": mean}
        own = faces.split
        train = np.flatnonzero((own == "train") | (own == ""))
        if len(train):
            kinds["nearest training face"] = _nearest(x, faces, train, self.seed)
        true = directions(judge, pictures(x), folder)

        def cosine(y: Tensor) -> Array:
            return np.asarray((directions(judge, pictures(y), folder) * true).sum(1))

        measured: dict[str, Callable[[Tensor], NDArray[Any]]] = {
            "PSNR, dB": lambda y: _psnr(y, x),
            "feature distance": lambda y: self._distance(y, x),
            "cosine to the photo": cosine,
        }
        return {
            f"photos: {name}": self._entry(
                measure(made), persons, {k: float(measure(y).mean()) for k, y in kinds.items()}
            )
            for name, measure in measured.items()
        }

    def transfer(
        self, x: Tensor, source: Tensor, driver: Tensor, layers: tuple[int, ...]
    ) -> Tensor:
        """Return I1 with the expression layers of s2 ``(B, 3, S, S)``."""
        mask = layer_mask(layers, source.shape[1])
        return _batched(
            lambda a, s1, s2: self.method.carried(a, s1, mix(s1, s2, mask), 1.0).images,
            *(x, source, driver),
        )

    def directed(self, x: Tensor, source: Tensor, driver: Tensor) -> Tensor:
        """Return I1 with s1 moved to s2 along the directions, ``(B, 3, S, S)``."""
        method = self.method
        return _batched(
            lambda a, s1, s2: method.carried(a, s1, method.directed(s1, s2), 1.0).images,
            *(x, source, driver),
        )

    def judged(
        self,
        made: Tensor,
        source: Tensor,
        driver: Tensor,
        codes: Tensor,
        persons: NDArray[np.int64],
        judge: Encoder,
        looks: ExpressionJudge | None,
        folder: Path | None,
    ) -> Measures:
        """Measure transfers beside the unedited inversion g(s1), carried in the same way."""
        still = self.transfer(source, codes, codes, ())
        measures: Measures = {}
        if looks is not None:
            seen, before, true = (looks(pictures(y), folder) for y in (made, still, driver))
            agreed, without = 100.0 * (seen == true), 100.0 * (before == true)
            measures["expression is the driver's, %"] = self._entry(
                agreed, persons, {"unedited": float(without.mean())}
            )
            gain = self._entry(agreed - without, persons)
            gain["others"] = {"p": above_zero(agreed - without, persons)}
            measures["expression gained on the unedited, points"] = gain
        a, b, y, z = (directions(judge, pictures(i), folder) for i in (source, driver, made, still))
        nearer = 100.0 * ((y * a).sum(1) > (y * b).sum(1))
        measures["identity nearer to the source than to the driver, %"] = self._entry(
            nearer, persons, {"unedited": float(100 * ((z * a).sum(1) > (z * b).sum(1)).mean())}
        )
        measures["cosine to the source"] = self._entry(
            (y * a).sum(1), persons, {"unedited": float((z * a).sum(1).mean())}
        )
        points = [landmarks(i) for i in (made, still, driver)]
        error, before_error = (aligned_error(p, points[2]) for p in points[:2])
        measures["landmarks off the driver's, % of eyes"] = self._entry(
            error, persons, {"unedited": float(before_error.mean())}
        )
        closer = self._entry(before_error - error, persons)
        closer["others"] = {"p": above_zero(before_error - error, persons)}
        measures["landmarks closer than the unedited by, % of eyes"] = closer
        return measures

    def ranking(
        self, source: Tensor, driver: Tensor, codes: tuple[Tensor, Tensor], cost: Cost | None
    ) -> Ranking:
        """Rank masks on pairs: all of them up to 12 layers, else by the integer programme."""
        measured = Measured(self.method.inverter, source, driver, codes, cost)
        return search(measured) if measured.layers <= MOST_LAYERS else programme(measured)

    def compare(
        self, held: Measured, best: tuple[int, ...], persons: NDArray[np.int64]
    ) -> Measures:
        """Compare the found mask with random masks of its size, on pairs it was not found on."""
        layers, used = held.layers, self.method.config.expression_layers
        rng = np.random.default_rng(self.seed)
        others = [c for c in combinations(range(layers), len(best)) if c != best]
        others = [others[i] for i in rng.permutation(len(others))[:_RANDOM]]
        rows = [best, (), tuple(range(layers)), used, *others]
        masks = np.stack([np.isin(np.arange(layers), r) for r in rows])
        costs = held(masks, "held-out pairs" if self.progress else "")
        random = costs[4:].mean(0) if others else costs[1:3].mean(0)
        named = {
            "random layers of its size": float(random.mean()),
            "copy of the source": float(costs[1].mean()),
            "copy of the driver": float(costs[2].mean()),
            f"configured {', '.join(map(str, used))}": float(costs[3].mean()),
        }
        text = ", ".join(map(str, layers_of(masks[0]))) or "none"
        gain = random - costs[0]
        found = {
            f"cost of the found layers ({text}) on other pairs": self._entry(
                costs[0], persons, named
            ),
            "cost below random layers by": self._entry(
                gain, persons, {"p": above_zero(gain, persons)}
            ),
            "cost below the better copy by": self._entry(
                np.minimum(costs[1].mean(), costs[2].mean()) - costs[0], persons
            ),
        }
        if others:
            beaten = 100.0 * (costs[4:].mean(1) > costs[0].mean())
            found["random layers that cost more, %"] = self._entry(beaten, np.arange(len(beaten)))
        return found

    def _distance(self, y: Tensor, x: Tensor) -> NDArray[np.float64]:
        features = self.method.features
        with torch.no_grad():
            value = _batched(lambda a, b: distance(features(a), features(b)), y, x)
        return np.asarray(value.double().numpy())

    def _entry(
        self, values: NDArray[Any], groups: NDArray[Any], others: dict[str, float] | None = None
    ) -> dict[str, Any]:
        sums = np.stack([values, np.ones(len(values))], 1).astype(np.float64)
        return {
            "value": float(values.mean()),
            "interval": list(interval(sums, groups, mean_of, self.seed)),
            "others": others or {},
        }


def aligned_error(points: Array, true: Array) -> Array:
    """Return the landmark error ``(N,)`` without the jaw, after similarity alignment.

    Args:
        points: ``(N, 68, 2)``.
        true: The same shape.

    Returns:
        Mean distance in per cent of the true inter-ocular distance.
    """
    z, t = (np.ascontiguousarray(p[:, NO_JAW], np.float64).view(np.complex128)[..., 0]
            for p in (points, true))  # fmt: skip
    z, t = z - z.mean(1, keepdims=True), t - t.mean(1, keepdims=True)
    turn = (z.conj() * t).sum(1) / np.maximum((np.abs(z) ** 2).sum(1), 1e-12)
    error = np.abs(turn[:, None] * z - t).mean(1)
    return np.asarray(100 * error / np.maximum(interocular(true), 1e-6))


def _psnr(y: Tensor, x: Tensor) -> NDArray[np.float64]:
    return np.asarray(psnr(y, x).clamp(max=100).double().numpy())


def _batched(function: Callable[..., Tensor], *values: Tensor) -> Tensor:
    batches = zip(*(torch.split(v, _BATCH) for v in values), strict=True)
    return torch.cat([function(*batch) for batch in batches])


def _nearest(x: Tensor, faces: FaceCache, train: NDArray[np.int64], seed: int) -> Tensor:
    """Return the training pictures nearest to ``x`` by pixels."""
    rows = np.sort(np.random.default_rng(seed).permutation(train)[:_NEIGHBOURS])
    best = torch.full((len(x),), torch.inf)
    place = torch.zeros(len(x), dtype=torch.int64)
    flat = x.flatten(1)
    for at in range(0, len(rows), 1000):
        apart = torch.cdist(flat, take(faces, rows[at : at + 1000]).flatten(1))
        least, where = apart.min(1)
        place = torch.where(least < best, where + at, place)
        best = torch.minimum(best, least)
    return take(faces, rows[place.numpy()])


def _notes(data: dict[str, Any], settings: dict[str, Any], layers: dict[str, Any]) -> list[str]:
    """Return what a reader of the tables has to know."""
    notes = [
        f"{data['pairs']} pairs of different persons ({data['source_persons']} source persons) of "
        f"the split {' and '.join(data['splits'])}, {settings['size']} px crops; intervals "
        f"by whole source persons. Inversion: at most {settings['steps']} steps from "
        f"{settings['start']}, {settings['seconds_a_face']:.2f} s a face in batches of {_BATCH}.",
        f"Judge of identity: {settings['judge']['encoder']}. Unedited: the source inverted and "
        f"carried ({settings['carry']}) without a change of its code.",
    ]
    if data["pairs"] < LEAST_PAIRS // 2:
        notes.append(f"Fewer than {LEAST_PAIRS // 2} pairs: the figures say little.")
    about = settings["expression_judge"]
    if about:
        notes.append(
            f"Judge of expressions: {about['encoder']}, {about['protocol']}; "
            f"{100 * about['accuracy']:.1f} % of FER-2013's test pictures are right."
        )
    if layers:
        found = ", ".join(map(str, layers["found"])) or "none"
        used = ", ".join(map(str, layers["configured"]))
        notes.append(
            f"Layers count from 0; found by {layers['method']} on {data['search_pairs']} other "
            f"pairs: {found}. The paper's layers 4-5, counted from 1, are 3, 4; configured: "
            f"{used}, rank {layers['rank_of_configured'] or 'not tried'}."
        )
    return notes
