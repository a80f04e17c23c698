"""Whether an edit of an encoder changes the code that it is about, and no other."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from mien.evaluate.encoders import Encoder, code_sizes
from mien.evaluate.pictures import resize
from mien.evaluate.tables import Faces
from mien.faces.face import Image

if TYPE_CHECKING:
    from mien.methods.base import Method

SWAPS = {
    "transfer_expression": "expression",
    "transfer_pose": "pose",
    "swap_identity": "identity",
}

_PAIRS = 256
_BATCH = 32


def measure_swaps(
    spec: str | Encoder | Callable[[Image], Any], faces: Faces, seed: int
) -> dict[str, dict[str, Any]]:
    """Return ``LeakageReport.swaps``, measured on pairs of faces drawn at random."""
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
