"""StyleGAN2: a style-based generator of faces, the engine of ``styletransfer``.

Karras et al., CVPR 2020 (networks: ``mien.nets.stylegan``), with the settings for small data of
Karras et al., *Training Generative Adversarial Networks with Limited Data*, NeurIPS 2020. Losses:
the non-saturating logistic loss; R1 (γ/2 E ||∇ D(x)||²) every ``r1_every`` steps, path length every
``path_every`` steps, each times its interval. Adam's rates and betas are corrected for that as
published: c = k / (k + 1), lr · c, β^c.

A training at 64 px may start from one at 32 px, and that from one at 16 px (``--init-from``): G's
new layers begin by adding nothing, D's new block fades in over ``fade`` pictures: progressive
growing (Karras et al., ICLR 2018) in steps.

``features`` (ours, off by default) adds a discriminator of the features of a trained encoder
(``mien.nets.feature_discriminator``): what the publications below ask of it, and where we differ,
stands at ``_FEATURE_RATE``.

Deviations:

- ``augment``: ``differentiable`` (Zhao et al., NeurIPS 2020: colour, translation, cutout, always),
  ``adaptive`` (the same three, each with a probability p that follows E[sign D(x)]; the published
  one has 18 transformations), or ``none``.
- The engine averages G with one decay; the publication's average starts faster.
- Path length is off in the laptop recipes: it takes a third of the step.
- G and D step in turn on batches of one size; one batch of real pictures a step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, optim
from torch.nn import functional as F

from mien.data.singles import Part, SingleSampler
from mien.faces.face import Image
from mien.faces.landmarks import INPUT
from mien.files.errors import ConfigError, TableError, nearest
from mien.files.weights import SHIPPED, load_weights
from mien.methods.base import (
    Batch,
    Method,
    Sampler,
    Score,
    Update,
    config_from,
    picture_grid,
    register,
)
from mien.methods.pcl.method import PCL
from mien.methods.pcl.networks import Trunk
from mien.nets.adversarial import discriminator_loss, generator_loss, r1_penalty
from mien.nets.discrepancy import discrepancy
from mien.nets.feature_discriminator import FeatureDiscriminator
from mien.nets.perceptual import LandmarkFeatures, pooled
from mien.nets.stylegan import ARCHITECTURES, Discriminator, Generator

AUGMENTATIONS = ("none", "differentiable", "adaptive")
_TARGET = 0.6  # of E[sign D(x)], where p stays as it is
_PACE = 500_000  # pictures over which p could go from 0 to 1
_ADJUST_EVERY = 4
# Sauer et al. (NeurIPS 2021): hinge loss summed over the scales, always augmented. They train it at
# 2e-4, without a discriminator of pixels; here it is a tenth of the other rate and stands beside
# one, as in Kumari et al. (CVPR 2022). Both take networks trained on ImageNet, here it is PCL's
# trunk, which is trained on faces without labels and ships with the project.
_FEATURE_RATE = 0.1
_AVERAGE = 0.005  # share of a step in w_avg
_TRUNCATION = 0.7  # of previews
_MEASURED = 1000  # pictures that are drawn for KID
_AT_ONCE = 64  # of them


@register("stylegan")
class StyleGAN(Method):
    """G and D. It has no codes: a generator reads no pictures (``styletransfer`` inverts it)."""

    @dataclass(frozen=True)
    class Config:
        """Sizes and weights; defaults are those of the publication's 1024 px configuration F."""

        size: int = 1024
        channel_base: int = 32768
        channel_max: int = 512
        z_dim: int = 512
        w_dim: int = 512
        mapping_layers: int = 8
        architecture: str = "skip"
        clamp: float = 0.0  # largest absolute value of maps; 0: any. NVIDIA's files have 256
        mixing: float = 0.9  # share of pictures with two styles
        r1: float = 10.0  # γ
        r1_every: int = 16
        path_length: float = 2.0  # weight; 0: off
        path_every: int = 4
        path_decay: float = 0.01
        augment: str = "none"
        fade: int = 0  # pictures over which D's first block fades in
        features: str = ""  # weights of PCL whose trunk a second discriminator looks through
        features_weight: float = 1.0
        flip: float = 0.5  # share of mirrored pictures
        weights: tuple[float, ...] = ()  # share of each table; by their sizes if empty

    config: Config
    images: Tensor
    steps: Tensor
    path_mean: Tensor
    p: Tensor
    sign: Tensor

    def __init__(self, config: Config, stage: str = "main") -> None:
        super().__init__(config, stage)
        c = config
        for key, allowed in (("architecture", ARCHITECTURES), ("augment", AUGMENTATIONS)):
            value = getattr(c, key)
            if value not in allowed:
                raise ConfigError(f"{key} has no value {value!r}{nearest(value, allowed)}")
        if c.r1_every < 1 or c.path_every < 1 or c.fade < 0:
            raise ConfigError("r1_every and path_every are at least 1, fade at least 0.")
        self.g = Generator(
            c.size,
            c.channel_base,
            c.channel_max,
            c.z_dim,
            c.w_dim,
            c.mapping_layers,
            c.architecture,
            c.clamp,
        )
        self.d = Discriminator(c.size, c.channel_base, c.channel_max, clamp=c.clamp)
        # Frozen and never saved: its own weights are at hand.
        self._trunk: list[Trunk] = []
        if c.features:
            self._trunk.append(_frozen_trunk(c.features))
            shapes = [
                (m.shape[1], m.shape[3])
                for m in self.feature_maps(torch.zeros(1, 3, c.size, c.size))
            ]
            self.d_features = FeatureDiscriminator(shapes)
        self.register_buffer("images", torch.zeros((), dtype=torch.int64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("path_mean", torch.zeros(()))
        self.register_buffer("p", torch.tensor(float(c.augment == "differentiable")))
        self.register_buffer("sign", torch.zeros(()))
        # What measures, and the features of held-out photos; made when needed, never saved.
        self._known: list[tuple[LandmarkFeatures, Tensor]] = []

    def adopt(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Take the networks of a training at half the size.

        Raises:
            ConfigError: Such a one is given for another architecture than ``skip``.
        """
        new = f"g.synthesis.blocks.{self.config.size}.conv0.weight"
        half = f"g.synthesis.blocks.{self.config.size // 2}.conv0.weight"
        if new in tensors or half not in tensors:
            return tensors
        if self.config.architecture != "skip":  # whose pictures are sums over the sizes
            raise ConfigError("Only the architecture 'skip' can grow from a smaller one.")
        own = self.state_dict()
        grown = {
            name: value
            for name, value in tensors.items()
            if name.startswith(("g.", "d.")) and not name.startswith("d.from_rgb")
        }
        for part in ("weight", "bias"):
            grown[f"d.from_rgb_half.{part}"] = tensors[f"d.from_rgb.{part}"]
            # The new layers of G begin by adding nothing to the smaller picture.
            rgb = f"g.synthesis.blocks.{self.config.size}.torgb.{part}"
            grown[rgb] = torch.zeros_like(own[rgb])
        return grown

    # Training ------------------------------------------------------------------------------------

    def sampler(self, caches: list[Any], batch_size: int, seed: int, rank: int) -> Sampler:
        """Draw single pictures."""
        size = self.config.size
        if caches and caches[0].size != size:
            raise ConfigError(
                f"The pictures are {caches[0].size} px and the networks want {size}: set size and "
                "config.size to the same."
            )
        parts = {"image": Part(batch_size, self.config.weights)}
        return SingleSampler(caches, parts, seed, rank)

    def optimisers(self, learning_rate: float) -> dict[str, optim.Optimizer]:
        """Adam for G and for D, corrected for what is not computed in every step."""
        c = self.config
        made: dict[str, optim.Optimizer] = {}
        for name, net, every in (
            ("generator", self.g, c.path_every if c.path_length else 0),
            ("discriminator", self.d, c.r1_every if c.r1 else 0),
        ):
            share = every / (every + 1) if every else 1.0
            made[name] = optim.Adam(
                net.parameters(), learning_rate * share, (0.0, 0.99**share), eps=1e-8, fused=True
            )
        if c.features:
            heads = [p for p in self.d_features.parameters() if p.requires_grad]
            rate = learning_rate * _FEATURE_RATE
            made["features"] = optim.Adam(heads, rate, (0.0, 0.99), fused=True)
        return made

    def step(self, batch: Batch, update: Update) -> dict[str, float]:
        """One update of G, then one of D."""
        c, step = self.config, int(self.steps)
        real = batch["image"]
        mirrored = torch.rand(len(real), 1, 1, 1, device=real.device) < c.flip
        real = torch.where(mirrored, real.flip(-1), real)
        fade = min(1.0, int(self.images) / c.fade) if c.fade else 1.0
        scalars: dict[str, float] = {}

        self.d.requires_grad_(False)
        fake = self.g.synthesis(self.styles(len(real)))
        l_g = generator_loss(self.d(self.augmented(fake), fade))
        scalars["G"] = l_g.item()
        if c.path_length and step % c.path_every == 0:
            penalty = self.path_penalty(max(1, len(real) // 2))
            scalars["path"] = penalty.item()
            l_g = l_g + c.path_length * c.path_every * penalty
        if c.features:
            # Its heads learn from the same pass through the trunk as G.
            maps = self.feature_maps(augment(fake, torch.ones_like(self.p)))
            told = self.d_features(maps)
            l_features = torch.stack([generator_loss(t, "hinge") for t in told]).sum()
            scalars["G_features"] = l_features.item()
            l_g = l_g + c.features_weight * l_features
        self.d.requires_grad_(True)
        update("generator", l_g)

        told = self.d(self.augmented(real), fade)
        l_d = discriminator_loss(told, self.d(self.augmented(fake.detach()), fade))
        scalars |= {"D": l_d.item(), "sign": told.detach().sign().mean().item()}
        if c.r1 and step % c.r1_every == 0:
            with torch.enable_grad(), torch.autocast(real.device.type, enabled=False):
                x = real.detach().requires_grad_()
                penalty = r1_penalty(self.d(self.augmented(x), fade), x)
            scalars["R1"] = penalty.item()
            l_d = l_d + c.r1 * c.r1_every * penalty
        update("discriminator", l_d)
        if c.features:
            with torch.no_grad():
                true = self.feature_maps(augment(real, torch.ones_like(self.p)))
            pairs = zip(
                self.d_features(true), self.d_features([m.detach() for m in maps]), strict=True
            )
            l_d = torch.stack([discriminator_loss(r, f, "hinge") for r, f in pairs]).sum()
            scalars["D_features"] = l_d.item()
            update("features", l_d)

        if c.augment == "adaptive":
            self._adjust(scalars["sign"], step, len(real))
            scalars["p"] = self.p.item()
        self.steps += 1
        self.images += len(real)
        return scalars

    def styles(self, count: int) -> Tensor:
        """Draw styles ``(count, L, W)``, from a crossover on another one in ``mixing`` of them."""
        g, c = self.g, self.config
        z = torch.randn(2 * count if c.mixing else count, c.z_dim, device=g.w_avg.device)
        w = g.mapping(z)
        g.w_avg.lerp_(w.detach().mean(0), _AVERAGE)
        first = w[:count]
        ws = g.spread(first)
        if not c.mixing:
            return ws
        cut = torch.randint(1, g.num_ws, (count, 1, 1), device=w.device)
        mixed = torch.rand(count, 1, 1, device=w.device) < c.mixing
        layer = torch.arange(g.num_ws, device=w.device)[None, :, None]
        return torch.where(mixed & (layer >= cut), g.spread(w[count:]), ws)

    def path_penalty(self, count: int) -> Tensor:
        """(|J^T y| - a)², J of the picture by the styles, a its running mean; float32."""
        with torch.autocast(self.g.w_avg.device.type, enabled=False):
            ws = self.styles(count)
            image = self.g.synthesis(ws)
            y = torch.randn_like(image) / (image.shape[2] * image.shape[3]) ** 0.5
            (gradient,) = torch.autograd.grad((image * y).sum(), ws, create_graph=True)
            length = gradient.square().sum(2).mean(1).sqrt()
            self.path_mean.lerp_(length.detach().mean(), self.config.path_decay)
            return (length - self.path_mean).square().mean()

    def augmented(self, x: Tensor) -> Tensor:
        """Augment real and drawn pictures ``(B, 3, S, S)`` alike before D sees them."""
        return x if self.config.augment == "none" else augment(x, self.p)

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        """Return what each stage of the frozen trunk makes of ``x`` ``(B, 3, S, S)``."""
        trunk = self._trunk[0].to(x.device)
        return list(trunk.stage_outputs((x + 1) / 2))

    def _adjust(self, sign: float, step: int, count: int) -> None:
        """Raise p while D is too sure of real pictures, else lower it."""
        self.sign += sign / _ADJUST_EVERY
        if (step + 1) % _ADJUST_EVERY == 0:
            change = torch.sign(self.sign - _TARGET) * (count * _ADJUST_EVERY / _PACE)
            self.p.add_(change).clamp_(0, 1)
            self.sign.zero_()

    @torch.no_grad()
    def measure(self, caches: list[Any]) -> Score:
        """KID (times 1000) of drawn pictures to the tables' test split.

        On the features of the shipped landmark network, as ``mien evaluate-generator`` has them.

        Raises:
            TableError: No table has a test split.
        """
        if not self._known:
            rows = [np.flatnonzero(cache.split == "test") for cache in caches]
            photos = [cache.take(own) for cache, own in zip(caches, rows, strict=True) if len(own)]
            if not photos:
                raise TableError("No table has a test split to measure KID on; set measure_every=0")
            net = LandmarkFeatures().to(self.g.w_avg.device).eval()
            real = torch.cat(photos).float().div_(127.5).sub_(1.0)
            self._known.append((net, _features(net, real)))
        net, real = self._known[0]
        drawn = _features(net, self.g.draw(_MEASURED))
        return Score("KID", 1e3 * discrepancy(drawn.numpy(), real.numpy()))

    @torch.no_grad()
    def preview(self, batch: Batch) -> Image:
        """Two rows of real pictures, six of drawn ones (truncation 0.7); rows share no style."""
        real = batch["image"][:32]
        real = real[: len(real) // 2 * 2]
        columns = len(real) // 2
        drawn = self.g.draw(6 * columns, _TRUNCATION).clamp(-1, 1)
        return picture_grid([*real.chunk(2), *drawn.chunk(6)])


def _features(net: LandmarkFeatures, x: Tensor) -> Tensor:
    """Return features ``(B, D)`` on the CPU of pictures ``(B, 3, S, S)``, rounded to bytes."""
    device = next(net.parameters()).device
    found = []
    for part in torch.split(x, _AT_ONCE):
        y = ((part.to(device).clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
        if y.shape[-1] != INPUT:
            size = (INPUT, INPUT)
            y = F.interpolate(y, size, mode="bilinear", antialias=y.shape[-1] > INPUT)
        found.append(pooled(net(y)).cpu())
    return torch.cat(found)


def _frozen_trunk(name_or_path: str) -> Trunk:
    """Return the trunk of weights of PCL, in evaluation mode, without gradients of its own.

    Raises:
        ConfigError: Weights of another method.
    """
    shipped = SHIPPED / f"{name_or_path}.safetensors"
    tensors, card = load_weights(shipped if shipped.is_file() else name_or_path)
    if card.get("method") != PCL.name:
        raise ConfigError(f"features: {name_or_path} is of {card.get('method')}, not of pcl.")
    method = PCL(config_from(PCL.Config, card["config"])).eval()
    method.load_state_dict(tensors)
    trunk: Trunk = method.backbone.trunk
    return trunk.requires_grad_(False)


def augment(x: Tensor, p: Tensor) -> Tensor:
    """Colour, translation and cutout, each on a share p of the pictures; differentiable.

    Args:
        x: ``(B, 3, S, S)`` in [-1, 1].
        p: Scalar, from 0 to 1.
    """
    n, _, size, _ = x.shape

    def drawn(low: float, high: float) -> Tensor:
        return torch.empty(n, 1, 1, 1, device=x.device).uniform_(low, high)

    def chosen() -> Tensor:
        return drawn(0, 1) < p

    y = x + drawn(-0.5, 0.5)  # brightness, saturation, contrast
    grey = y.mean(1, keepdim=True)
    y = (y - grey) * drawn(0, 2) + grey
    mean = y.mean((1, 2, 3), keepdim=True)
    x = torch.where(chosen(), (y - mean) * drawn(0.5, 1.5) + mean, x)

    most = size // 8  # pixels of translation; what comes in is black
    line = torch.arange(size, device=x.device)
    moved = chosen()
    dx, dy = (
        torch.where(moved, torch.randint(-most, most + 1, (n, 1, 1, 1), device=x.device), 0)
        for _ in range(2)
    )
    padded = F.pad(x, (most,) * 4, value=-1.0)
    rows = (line + most + dy[:, 0, 0])[:, None, :, None].expand(
        n, x.shape[1], size, size + 2 * most
    )
    columns = (line + most + dx[:, 0, 0])[:, None, None, :].expand(n, x.shape[1], size, size)
    x = padded.gather(2, rows).gather(3, columns)

    half = size / 4  # a hole of half the side
    across = line.view(1, 1, 1, -1) - drawn(0, size)
    down = line.view(1, 1, -1, 1) - drawn(0, size)
    hole = (across.abs() < half) & (down.abs() < half) & chosen()
    return x.masked_fill(hole, 0.0)
