"""Which layers carry the expression: s0 = α s1 + (1 - α) s2 with α in {0, 1}^L.

C(α) = w_A D1(g(s0), I1) + w_E D2(g(s0), I2) is minimised over α; here b = 1 - α names the layers
taken from the expression code. In the paper D1 is a Gram matrix style loss, D2 an L2 loss; solver,
constraints and weights are not known to us. Ours: each of the two is divided by what the all-copy
mask gets that ignores it (D1 by that of b = 1, D2 by that of b = 0), so that w_A and w_E compare.
``search`` tries all masks; ``programme`` solves an integer programme made of the costs of single
layers and of pairs of layers, for generators with too many masks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from mien.faces.face import Image
from mien.faces.landmarks import LANDMARKS, load_landmark_net
from mien.files.errors import ConfigError, MissingExtraError, nearest
from mien.methods.styletransfer.networks import distance, style_distance

if TYPE_CHECKING:
    from mien.methods.styletransfer.inversion import Inverter

APPEARANCE = ("gram", "features")  # D1: the paper's, or D of the inversion
EXPRESSION = ("pixels", "hull", "features", "landmarks")  # D2: the paper's, then ours
MOST_LAYERS = 12  # whose masks are all tried
_FACE = (0.5, 0.56, 0.36, 0.42)  # centre and half axes of the ellipse of D2 "hull", in sides
_TINY = 1e-8

Masks = NDArray[np.bool_]


@dataclass(frozen=True)
class Cost:
    """C(α).

    Attributes:
        appearance: D1, one of ``APPEARANCE``.
        expression: D2, one of ``EXPRESSION``: the squared difference of pixels; the same inside an
            ellipse around the face after the colours' mean and deviation were made equal; D; or
            the squared distance of landmarks after centring and scaling.
        appearance_weight: w_A.
        expression_weight: w_E.
    """

    appearance: str = "gram"
    expression: str = "pixels"
    appearance_weight: float = 1.0
    expression_weight: float = 1.0

    def __post_init__(self) -> None:
        """Refuse unknown names."""
        for value, known in ((self.appearance, APPEARANCE), (self.expression, EXPRESSION)):
            if value not in known:
                raise ConfigError(f"No such distance: {value!r}{nearest(value, known)}")


@dataclass(frozen=True, eq=False)
class Ranking:
    """Masks, the best first.

    Attributes:
        masks: bool ``(M, L)``, b: True where the layer is the driver's; layers count from 0.
        costs: ``(M,)``, mean over the pairs.
        pairs: ``(M, P)``, of each pair.
        method: ``all masks`` or ``integer programme``.
    """

    masks: Masks
    costs: NDArray[np.float64]
    pairs: NDArray[np.float64]
    method: str

    @property
    def best(self) -> tuple[int, ...]:
        """Expression layers of the best mask."""
        return layers_of(self.masks[0])

    def place(self, layers: tuple[int, ...]) -> int:
        """Return the rank of a mask, 1 is the best; 0 if it was not tried."""
        wanted = np.isin(np.arange(self.masks.shape[1]), layers)
        found = np.flatnonzero((self.masks == wanted).all(1))
        return int(found[0]) + 1 if len(found) else 0

    def rows(self, count: int = 12) -> list[list[str]]:
        """Return a table: rank, expression layers, cost; the all-copy masks always among them."""
        shown = list(range(min(count, len(self.masks))))
        ends = np.flatnonzero(self.masks.all(1) | ~self.masks.any(1))
        rows = [["rank", "expression layers (from 0)", "cost"]]
        for i in [*shown, *(int(e) for e in ends if e not in shown)]:
            text = ", ".join(map(str, layers_of(self.masks[i]))) or "none (copy of the source)"
            rows.append([str(i + 1), text, f"{self.costs[i]:.4f}"])
        return rows

    def picture(self, count: int = 40, cell: int = 12) -> Image:
        """Draw the best masks, a row each: dark is the driver's layer, the bar is the cost."""
        masks, costs = self.masks[:count], self.costs[:count]
        high = max(float(costs.max()), _TINY)
        wide = masks.shape[1] * cell
        out = np.full((len(masks) * cell, wide + cell + 10 * cell, 3), 255, np.uint8)
        for r, (mask, cost) in enumerate(zip(masks, costs, strict=True)):
            y = slice(r * cell, (r + 1) * cell - 1)
            for i, driver in enumerate(mask):
                out[y, i * cell : (i + 1) * cell - 1] = (30, 60, 110) if driver else (225, 228, 235)
            out[y, wide + cell : wide + cell + int(10 * cell * cost / high)] = (200, 110, 40)
        return out


def layers_of(mask: Masks) -> tuple[int, ...]:
    """Return the numbers of the layers that a mask takes from the driver."""
    return tuple(int(i) for i in np.flatnonzero(mask))


def mix(source: Tensor, driver: Tensor, mask: Tensor, strength: float = 1.0) -> Tensor:
    """Return s0: ``source`` with the driver's code where ``mask``, or a part of the way there.

    Args:
        source: s1 ``(B, L, W)``.
        driver: s2, the same shape.
        mask: b, bool ``(L,)`` or ``(B, L)``.
        strength: 1 exchanges, less interpolates.
    """
    return torch.where(mask[..., None], torch.lerp(source, driver, strength), source)


def all_masks(layers: int) -> Masks:
    """Return all masks of L layers, bool ``(2^L, L)``; the first takes nothing, the last all."""
    if layers > MOST_LAYERS:
        raise ConfigError(
            f"{layers} layers have {2**layers} masks, too many to try: use the integer programme."
        )
    return (np.arange(2**layers)[:, None] >> np.arange(layers) & 1).astype(bool)


class Measured:
    """Costs of masks for pairs of faces, computed in batches.

    Args:
        inverter: Generator and φ.
        source: I1 ``(P, 3, S, S)``.
        driver: I2, the same shape.
        codes: s1 and s2, ``(P, L, W)`` each.
        cost: C.
        batch: Pictures in a call of the generator.
    """

    def __init__(
        self,
        inverter: Inverter,
        source: Tensor,
        driver: Tensor,
        codes: tuple[Tensor, Tensor],
        cost: Cost | None = None,
        batch: int = 128,
    ) -> None:
        self.inverter, self.codes, self.batch = inverter, codes, batch
        self.cost = cost or Cost()
        self.source, self.driver = source, driver
        features = inverter.features
        with torch.no_grad():
            self.appearance, self.expression = features(source), features(driver)
            self.points = _shape(driver) if self.cost.expression == "landmarks" else driver
        self.layers = codes[0].shape[1]
        ends = np.stack([np.zeros(self.layers, bool), np.ones(self.layers, bool)])
        self.scale = np.maximum(self._parts(ends, "")[:, [1, 0], [0, 1]], _TINY)  # (P, 2)

    @torch.no_grad()
    def __call__(self, masks: Masks, title: str = "masks") -> NDArray[np.float64]:
        """Return C ``(M, P)`` of masks ``(M, L)``."""
        parts = self._parts(masks, title) / self.scale[:, None]
        weights = np.array([self.cost.appearance_weight, self.cost.expression_weight])
        return np.ascontiguousarray((parts @ weights).T)

    @torch.no_grad()
    def _parts(self, masks: Masks, title: str) -> NDArray[np.float64]:
        """Return D1 and D2 ``(P, M, 2)``."""
        out = np.zeros((len(self.source), len(masks), 2))
        chosen = torch.from_numpy(masks)
        bar = tqdm(total=out[..., 0].size, desc=title, unit="img", disable=not title, leave=False)
        with bar:
            for p in range(len(self.source)):
                for at in range(0, len(masks), self.batch):
                    mask = chosen[at : at + self.batch].to(self.source.device)
                    one, two = (c[p].expand(len(mask), -1, -1) for c in self.codes)
                    s0 = mix(one, two, mask)
                    drawn = self.inverter.draw(s0)
                    found = self._distances(drawn, p)
                    out[p, at : at + len(mask)] = found.double().cpu().numpy()
                    bar.update(len(mask))
        return out

    def _distances(self, drawn: Tensor, p: int) -> Tensor:
        """Return D1 and D2 ``(M, 2)`` of pictures of pair ``p``."""
        features = self.inverter.features
        found = features(drawn)
        d1 = style_distance if self.cost.appearance == "gram" else distance
        first = d1(found, [t[p : p + 1] for t in self.appearance])
        name = self.cost.expression
        true = self.driver[p : p + 1]
        if name == "features":
            second = distance(found, [t[p : p + 1] for t in self.expression])
        elif name == "landmarks":
            second = (_shape(drawn) - self.points[p]).square().mean((1, 2))
        elif name == "hull":
            second = (_even(drawn) - _even(true)).square().mean((1, 2, 3))
        else:
            second = (drawn - true).square().mean((1, 2, 3))
        return torch.stack([first, second], 1)


def search(measured: Measured) -> Ranking:
    """Try all masks of up to 12 layers and rank them.

    Raises:
        ConfigError: Too many layers.
    """
    masks = all_masks(measured.layers)
    return _ranked(masks, measured(masks), "all masks")


def programme(measured: Measured, most: int | None = None, count: int = 10) -> Ranking:
    """Solve the integer programme of single and pair costs; measure its best masks and rank them.

    min Σ c_i b_i + Σ c_ij z_ij with Σ b_i ≤ K and z_ij = b_i b_j made linear (z ≤ b_i, z ≤ b_j,
    z ≥ b_i + b_j - 1). It is solved again, each time without the masks that were found.

    Args:
        measured: Costs.
        most: K; None: L.
        count: Masks to find; the all-copy masks are ranked with them.

    Raises:
        MissingExtraError: SciPy is not installed.
    """
    try:
        from scipy.optimize import Bounds, LinearConstraint, milp
    except ImportError:
        raise MissingExtraError("scipy", "evaluate") from None

    layers = measured.layers
    one = np.eye(layers, dtype=bool)
    pairs = [(i, j) for i in range(layers) for j in range(i + 1, layers)]
    none = np.zeros((1, layers), bool)
    two = np.array([one[i] | one[j] for i, j in pairs])
    costs = measured(np.concatenate([none, one, two]), "single layers and pairs").mean(1)
    single = costs[1 : layers + 1] - costs[0]
    double = [
        costs[1 + layers + k] - costs[0] - single[i] - single[j] for k, (i, j) in enumerate(pairs)
    ]
    size = layers + len(pairs)
    rows: list[Any] = []
    high: list[float] = []

    def at_most(terms: dict[int, float], bound: float) -> None:
        row = np.zeros(size)
        row[list(terms)] = list(terms.values())
        rows.append(row)
        high.append(bound)

    for k, (i, j) in enumerate(pairs):
        z = layers + k
        at_most({z: 1, i: -1}, 0)
        at_most({z: 1, j: -1}, 0)
        at_most({i: 1, j: 1, z: -1}, 1)
    at_most(dict.fromkeys(range(layers), 1.0), layers if most is None else most)
    found: list[Masks] = []
    for _ in range(count):
        solved = milp(
            np.concatenate([single, double]),
            constraints=LinearConstraint(np.array(rows), -np.inf, high),
            integrality=np.ones(size),
            bounds=Bounds(0, 1),
        )
        if not solved.success:  # no masks are left
            break
        mask = solved.x[:layers] > 0.5
        found.append(mask)
        at_most({i: 1.0 if b else -1.0 for i, b in enumerate(mask)}, float(mask.sum()) - 1)
    masks = np.unique(np.concatenate([np.array(found), none, ~none]), axis=0)
    return _ranked(masks, measured(masks, "best masks"), "integer programme")


def _ranked(masks: Masks, pairs: NDArray[np.float64], method: str) -> Ranking:
    costs = pairs.mean(1)
    order = np.argsort(costs, kind="stable")
    return Ranking(masks[order], costs[order], pairs[order], method)


def _shape(images: Tensor) -> Tensor:
    """Return landmarks ``(B, 51, 2)`` without the jaw, centred and scaled to mean square 1.

    They are the shipped landmark network's, whatever φ is.
    """
    net = load_landmark_net(LANDMARKS)
    side = (64, 64)
    if images.shape[-2:] != side:
        images = F.interpolate(images, side, mode="bilinear", antialias=True)
    points: Tensor = net(images)[0][:, 17:]
    points = points - points.mean(1, keepdim=True)
    return points / (points.square().mean((1, 2), keepdim=True).sqrt() + _TINY)


def _even(images: Tensor) -> Tensor:
    """Return the face's ellipse with mean 0 and deviation 1 in every colour, 0 outside."""
    side = images.shape[-1]
    place = (torch.arange(side, device=images.device) + 0.5) / side
    x, y, a, b = _FACE
    inside = ((place - x) / a).square()[None] + ((place - y) / b).square()[:, None] < 1
    pixels = images[..., inside]
    mean, deviation = pixels.mean(-1), pixels.std(-1) + 1e-3
    even = (images - mean[..., None, None]) / deviation[..., None, None]
    return torch.where(inside, even, 0.0)
