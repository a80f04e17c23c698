"""Inversion: the style codes with which a frozen generator draws given faces.

s = argmin D(g(s), I) + λ_pixel ‖g(s) - I‖² + λ_w ‖(s - w_avg) / w_std‖² (the first term is the
paper's). All faces are optimised in one batch, each with its own losses, its own Adam and its own
end: faces that improve no more leave the batch, so that the others go on faster.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn, optim
from tqdm import tqdm

from mien.faces.face import Image
from mien.files.errors import ConfigError
from mien.methods.base import picture_grid
from mien.methods.styletransfer.networks import Perceptual, distance
from mien.nets.stylegan import Generator

_BETAS = (0.9, 0.999)
_EPS = 1e-8
_RAMP_UP, _RAMP_DOWN = 0.05, 0.25  # shares of the steps (StyleGAN2's projector)


@dataclass(frozen=True)
class Settings:
    """How faces are inverted.

    Attributes:
        steps: At most.
        learning_rate: Of Adam, in deviations of w.
        perceptual: Weight of D.
        pixel: Weight of the mean squared pixel difference; ours.
        lambda_w: Weight of the distance from w_avg in deviations; ours.
        patience: Steps without progress after which a face is done; 0: none is before the last.
        progress: Smallest relative gain that counts as progress.
        half: Compute in bfloat16; the codes stay float32.
        snapshots: Pictures kept of the descent, the first and the last among them; 0: none.
    """

    steps: int = 300
    learning_rate: float = 0.05
    perceptual: float = 1.0
    pixel: float = 1.0
    lambda_w: float = 0.01
    patience: int = 40
    progress: float = 0.01
    half: bool = False
    snapshots: int = 0

    def __post_init__(self) -> None:
        """Refuse numbers without meaning."""
        if self.steps < 0 or self.patience < 0 or self.snapshots < 0:
            raise ConfigError("steps, patience and snapshots cannot be negative.")
        if self.learning_rate <= 0:
            raise ConfigError(f"The learning rate is positive, not {self.learning_rate}.")

    def rate(self, step: int) -> float:
        """Return the learning rate of ``step`` (from 0): ramped up, and down by a cosine."""
        at = (step + 1) / max(self.steps, 1)
        down = min(1.0, (1 - at) / _RAMP_DOWN + 1 / max(self.steps, 1))
        ramp = min(1.0, at / _RAMP_UP)
        return self.learning_rate * ramp * (0.5 - 0.5 * math.cos(math.pi * down))


@dataclass(eq=False)
class Inversion:
    """Codes of faces, and how they were found.

    Attributes:
        codes: ``(B, L, W)``, the best of the descent.
        loss: ``(B,)`` at them.
        start: ``(B,)`` at the start.
        steps: ``(B,)`` after which each face was done.
        history: ``(T, B)`` losses; NaN after the end of a face.
        snapshots: (iteration, pictures ``(B, 3, S, S)``) of the descent.
    """

    codes: Tensor
    loss: Tensor
    start: Tensor
    steps: Tensor
    history: Tensor
    snapshots: list[tuple[int, Tensor]] = field(default_factory=list)

    def picture(self, images: Tensor) -> Image:
        """Return the descent: a row a face, from iteration 0 to the end, then the face itself."""
        columns = [made for _, made in self.snapshots] + [images]
        return picture_grid([torch.stack([c[i] for c in columns]) for i in range(len(images))])


@dataclass(frozen=True, eq=False)
class Inverter:
    """A frozen generator with the scale of its codes and a perceptual network.

    Attributes:
        generator: g.
        w_std: ``(W,)`` standard deviations of w.
        features: φ.
    """

    generator: Generator
    w_std: Tensor
    features: Perceptual

    def mean_codes(self, count: int) -> Tensor:
        """Return w_avg for ``count`` faces, ``(B, L, W)``."""
        return self.generator.w_avg.expand(count, self.generator.num_ws, -1).clone()

    def losses(self, codes: Tensor, images: Tensor, target: list[Tensor], s: Settings) -> Tensor:
        """Return what each face minimises ``(B,)``."""
        drawn = self.generator.synthesis(codes, noise="const")
        loss = (drawn.float() - images).square().mean((1, 2, 3)) * s.pixel
        if s.perceptual:
            loss = loss + s.perceptual * distance(self.features(drawn), target)
        away = ((codes - self.generator.w_avg) / self.w_std).square().mean((1, 2))
        total: Tensor = loss + s.lambda_w * away
        return total

    def __call__(
        self,
        images: Tensor,
        start: Tensor | None = None,
        settings: Settings | None = None,
        *,
        progress: bool = False,
    ) -> Inversion:
        """Find the codes of faces.

        Args:
            images: ``(B, 3, S, S)`` in [-1, 1].
            start: ``(B, L, W)``; w_avg if None.
            settings: How.
            progress: Show a progress bar.
        """
        s = settings or Settings()
        # An edit may be called where no gradients are recorded.
        with torch.inference_mode(False), torch.enable_grad():
            images = images.detach().clone()
            begin = self.mean_codes(len(images)) if start is None else start.detach().clone()
            with torch.autocast(images.device.type, torch.bfloat16, enabled=s.half):
                return self._descend(images, begin, s, progress)

    def _descend(self, images: Tensor, codes: Tensor, s: Settings, progress: bool) -> Inversion:
        count = len(images)
        best, history = codes.clone(), torch.full((s.steps + 1, count), torch.nan)
        lowest = torch.full((count,), torch.inf, device=codes.device)
        mark, since = lowest.clone(), torch.zeros(count, dtype=torch.int64, device=codes.device)
        taken = torch.full((count,), s.steps)
        rows = torch.arange(count, device=codes.device)  # faces that are still in the batch
        m, v = torch.zeros_like(codes), torch.zeros_like(codes)
        with torch.no_grad():
            target = self.features(images) if s.perceptual else []
        here = images
        shots, wanted = [], _spread(s.steps, s.snapshots)
        bar = tqdm(range(s.steps + 1), desc="invert", unit="step", disable=not progress)
        for step in bar:
            codes = codes.detach().requires_grad_(step < s.steps)
            with torch.set_grad_enabled(step < s.steps):
                loss = self.losses(codes, here, target, s)
            now = loss.detach()
            history[step, rows.cpu()] = now.cpu().float()
            better = now < lowest[rows]
            lowest[rows] = torch.where(better, now, lowest[rows])
            best[rows] = torch.where(better[:, None, None], codes.detach(), best[rows])
            if step in wanted:
                shots.append((step, self.draw(best)))
            bar.set_postfix(loss=f"{lowest.mean().item():.4f}", faces=len(rows), refresh=False)
            if step == s.steps:
                break
            (gradient,) = torch.autograd.grad(loss.sum(), codes)
            with torch.no_grad():
                codes, m, v = _adam(codes, gradient, m, v, step, s.rate(step) * self.w_std)
            gained = now < mark[rows] * (1 - s.progress)
            mark[rows] = torch.where(gained, now, mark[rows])
            since[rows] = torch.where(gained, 0, since[rows] + 1)
            if not s.patience:
                continue
            keep = since[rows] < s.patience
            if not bool(keep.all()):
                taken[rows[~keep].cpu()] = step + 1
                rows, codes, m, v, here = (x[keep] for x in (rows, codes, m, v, here))
                target = [t[keep] for t in target]
                if not len(rows):
                    break
        bar.close()
        if wanted and shots[-1][0] != s.steps:
            shots.append((int(taken.max()), self.draw(best)))
        return Inversion(best, lowest, history[0].to(lowest), taken, history, shots)

    @torch.no_grad()
    def draw(self, codes: Tensor) -> Tensor:
        """Return g(s) ``(B, 3, S, S)``, float32, in [-1, 1]."""
        drawn: Tensor = self.generator.synthesis(codes, noise="const")
        return drawn.float().clamp(-1, 1)

    def joint(
        self,
        images: Tensor,
        drivers: Tensor,
        layers: tuple[int, ...],
        start: Tensor | None = None,
        settings: Settings | None = None,
    ) -> Tensor:
        """Optimise one code whose layers listen to different faces.

        The expression layers receive the gradient of the distance to the driver alone, the others
        that of the distance to the image. No face leaves the batch early.

        Args:
            images: ``(B, 3, S, S)`` in [-1, 1].
            drivers: The same shape.
            layers: Expression layers, from 0.
            start: ``(B, L, W)``; w_avg if None.
            settings: How.

        Returns:
            ``(B, L, W)``, the codes after the last step.
        """
        s = settings or Settings()
        with torch.inference_mode(False), torch.enable_grad():
            both = [x.detach().clone() for x in (images, drivers)]
            codes = self.mean_codes(len(images)) if start is None else start.detach().clone()
            m, v = torch.zeros_like(codes), torch.zeros_like(codes)
            driven = layer_mask(layers, codes.shape[1], codes.device)
            with torch.no_grad():
                targets = [self.features(x) for x in both]
            for step in range(s.steps):
                codes.requires_grad_()
                drawn = self.generator.synthesis(codes, noise="const")
                found = self.features(drawn)
                away = ((codes - self.generator.w_avg) / self.w_std).square().mean((1, 2))
                losses = [
                    s.perceptual * distance(found, t)
                    + s.pixel * (drawn - x).square().mean((1, 2, 3))
                    + s.lambda_w * away
                    for x, t in zip(both, targets, strict=True)
                ]
                own = torch.autograd.grad(losses[0].sum(), codes, retain_graph=True)[0]
                theirs = torch.autograd.grad(losses[1].sum(), codes)[0]
                with torch.no_grad():
                    gradient = torch.where(driven[:, None], theirs, own)
                    rate = s.rate(step) * self.w_std
                    codes, m, v = _adam(codes.detach(), gradient, m, v, step, rate)
        return codes


def tuned(
    inverter: Inverter,
    images: Tensor,
    codes: Tensor,
    *,
    steps: int = 100,
    learning_rate: float = 3e-4,
    enough: float = 0.01,
) -> nn.Module:
    """Return a copy of the synthesis network that draws given faces from given codes better.

    Pivotal tuning (Roich et al., *Pivotal Tuning for Latent-based Editing of Real Images*, ACM TOG
    2022): L2 + D, Adam at 3e-4. One network for all faces; the paper's is one a face.

    Args:
        inverter: Whose generator is copied; it is not changed.
        images: ``(B, 3, S, S)`` in [-1, 1].
        codes: ``(B, L, W)``, the pivots.
        steps: At most.
        learning_rate: Of Adam.
        enough: Mean D at which the tuning ends.
    """
    with torch.inference_mode(False), torch.enable_grad():
        images, codes = images.detach().clone(), codes.detach().clone()
        network = copy.deepcopy(inverter.generator.synthesis).requires_grad_(True)
        adam = optim.Adam(network.parameters(), learning_rate)
        with torch.no_grad():
            target = inverter.features(images)
        for _ in range(steps):
            drawn = network(codes, noise="const")
            d = distance(inverter.features(drawn), target).mean()
            if d.item() < enough:
                break
            adam.zero_grad()
            (d + (drawn - images).square().mean()).backward()
            adam.step()
        return network.requires_grad_(False)


def layer_mask(layers: tuple[int, ...], count: int, device: torch.device | None = None) -> Tensor:
    """Return bool ``(L,)``, true for the layers named (from 0).

    Raises:
        ConfigError: No such layer.
    """
    wrong = [i for i in layers if not 0 <= i < count]
    if wrong:
        raise ConfigError(
            f"Layer {wrong[0]} does not exist: the generator has layers 0 to {count - 1}."
        )
    mask = torch.zeros(count, dtype=torch.bool, device=device)
    mask[list(layers)] = True
    return mask


def _adam(
    codes: Tensor, gradient: Tensor, m: Tensor, v: Tensor, step: int, rate: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """One step of Adam, by hand: faces leave the batch, and their moments with them."""
    a, b = _BETAS
    # In deviations of w, as the rate is; Adam does not see the scale but in its epsilon.
    m, v = m.lerp(gradient, 1 - a), v.lerp(gradient.square(), 1 - b)
    size = (v / (1 - b ** (step + 1))).sqrt() + _EPS
    return codes - rate * (m / (1 - a ** (step + 1))) / size, m, v


def _spread(steps: int, count: int) -> set[int]:
    """Return iterations whose pictures are kept: more of them early, where most happens."""
    if not count:
        return set()
    return {round(steps * (i / max(count - 1, 1)) ** 2) for i in range(count)}
