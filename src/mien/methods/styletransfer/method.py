"""Unconstrained Facial Expression Transfer using Style-based Generator.

Yang, Lim, arXiv 1912.06253, 2019. Expression is not pulled out of a face by an encoder: the style
codes of a frozen StyleGAN generator g are optimised until it draws the face. Its layers are then
apart by scale, and the codes s1 of one face and s2 of another are mixed layer by layer by a vector
of zeros and ones. I1 and I2 are cropped by landmarks, inverted, mixed, drawn, and the result is put
back into I1. In the paper layers 4-5 of s2 and all others of s1 work best.

The order in the files: ``networks`` (encoder, D), ``inversion``, ``masks`` (which layers), this
file, ``video``. Deviations and choices:

- ``perceptual``: the paper's D compares the "ninth layer" of VGG; we read it as relu3_3 of VGG-16
  at 256 px and take it where the user has torchvision's file. Otherwise D compares the first three
  stages of the project's landmark network, which is shipped. Layers are divided by their energy.
- ``pixel`` and ``lambda_w``: a pixel term, as the landmark network cares little for colours, and a
  pull towards w_avg, without which layers of different faces do not fit together. 0 turns them off.
- ``expression_layers``: "4-5" counted from 1, which are the two 16x16 convolutions of StyleGAN2.
  ``find_layers`` searches for the best ones of this generator, and ``mien evaluate-transfer`` does.
- ``carry``: ``change`` adds g(s0) - g(s1) to I1, so that what g cannot draw stays the photo's;
  ``drawn`` is the paper's: g(s0) replaces it (between strengths 0 and 1 it is faded in).
- Layout: the crop is ``tight``, as everywhere in this project; the paper's is not known to us.

Additions: the encoder (stage ``encode``), which inversion starts from and which gives the codes in
one pass; the strength; the difference to a neutral picture of the driver; ``neutralise`` by
directions between codes of neutral and other faces, where the weights have some
(``tools/fit_neutral.py``); ``transfer: directions``, which moves the share of s1 along them to that
of s2 and leaves all else of every layer alone; pivotal tuning; a joint optimisation of both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.nn import functional as F

from mien.data.singles import Part, SingleSampler
from mien.faces.face import Image
from mien.files.errors import ConfigError, WeightsError
from mien.methods.base import Batch, Codes, Edit, Method, Sampler, Update, picture_grid, register
from mien.methods.styletransfer.inversion import Inversion, Inverter, Settings, layer_mask, tuned
from mien.methods.styletransfer.masks import (
    MOST_LAYERS,
    Cost,
    Measured,
    Ranking,
    mix,
    programme,
    search,
)
from mien.methods.styletransfer.networks import Encoder, Perceptual, distance
from mien.nets.stylegan import ARCHITECTURES, Generator

CARRIES = ("change", "drawn")
TRANSFERS = ("layers", "directions")
_SAMPLES = 10_000  # of w, for its mean and deviations (StyleGAN2's projector)
_LAST = "synthesis.blocks.4.const"  # every generator has it


@register("styletransfer")
class StyleTransfer(Method):
    """A frozen generator g and an encoder E of its style codes."""

    @dataclass(frozen=True)
    class Config:
        """The generator's sizes, as it was trained; the encoder; the weights of losses; edits."""

        size: int = 64  # side of the pictures
        channel_base: int = 4096  # of g
        channel_max: int = 128  # of g
        z_dim: int = 128  # of g
        w_dim: int = 128  # of g
        mapping_layers: int = 4  # of g
        architecture: str = "skip"  # of g
        clamp: float = 0.0  # of g
        width: int = 32  # channels of the first layer of E
        perceptual: str = "landmarks"  # or the path of torchvision's vgg16-*.pth
        mixing: float = 0.5  # share of generated faces whose layers have two codes
        psi: float = 1.0  # truncation of generated faces
        code: float = 1.0  # weight of the known codes of generated faces
        reconstruction: float = 10.0  # of the mean squared pixel difference
        feature: float = 1.0  # of D
        delta: float = 2e-2  # of the mean square of Δ (e4e)
        lambda_w: float = 1e-2  # of the mean square of the codes, in deviations
        weights: tuple[float, ...] = ()  # share of each table; by their sizes if empty
        expression_layers: tuple[int, ...] = (3, 4)  # counted from 0
        invert_steps: int = 30  # of an edit's inversion, after E; 0: E alone
        invert_rate: float = 0.05  # its learning rate, in deviations
        tune_steps: int = 0  # of pivotal tuning in an edit
        carry: str = "change"  # or "drawn"
        transfer: str = "layers"  # or "directions"
        directions: int = 7  # room for directions away from neutral

    stages = ("encode",)
    columns = ("image",)
    config: Config
    w_std: Tensor
    neutral_mean: Tensor
    neutral_directions: Tensor

    def __init__(self, config: Config, stage: str = "encode") -> None:
        super().__init__(config, stage)
        c = config
        _check(c)
        self.g = Generator(
            c.size,
            c.channel_base,
            c.channel_max,
            c.z_dim,
            c.w_dim,
            c.mapping_layers,
            c.architecture,
            c.clamp,
        ).requires_grad_(False)
        layers = self.g.num_ws
        layer_mask(c.expression_layers, layers)
        self.e = Encoder(c.width, c.size, layers, c.w_dim)
        self.register_buffer("w_std", torch.ones(c.w_dim))
        self.register_buffer("neutral_mean", torch.zeros(layers, c.w_dim))
        # Orthonormal over layers and places together; 0 where none was fitted.
        self.register_buffer("neutral_directions", torch.zeros(c.directions, layers, c.w_dim))
        self._perceptual: list[Perceptual] = []  # one, loaded when first needed; never saved

    # Training ------------------------------------------------------------------------------------

    def adopt(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Take the generator of a training of ``stylegan``, the averaged one if there are two.

        Mean and deviations of w are measured here.

        Raises:
            WeightsError: No generator among the tensors, or one of other sizes.
        """
        if any(name.startswith("e.") for name in tensors):  # weights of this method
            return tensors
        starts = sorted(name.removesuffix(_LAST) for name in tensors if name.endswith(_LAST))
        if not starts:
            raise WeightsError(
                "The weights to start from hold no generator: give those of a training of "
                "'stylegan'."
            )
        start = next((s for s in starts if "ema" in s or "average" in s), starts[0])
        own = {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}
        try:
            self.g.load_state_dict(own)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise WeightsError(
                "The generator has other sizes than config says (channel_base, channel_max, z_dim, "
                f"w_dim, mapping_layers, architecture): {reason}"
            ) from None
        self.calibrate()
        adopted = {f"g.{name}": value for name, value in self.g.state_dict().items()}
        return {**adopted, "w_std": self.w_std}

    @torch.no_grad()
    def calibrate(self, seed: int = 0) -> None:
        """Measure w_avg and w_std of the mapping network by 10,000 samples."""
        generator = torch.Generator().manual_seed(seed)
        z = torch.randn(_SAMPLES, self.config.z_dim, generator=generator).to(self.g.w_avg)
        w = self.g.mapping(z)
        self.g.w_avg.copy_(w.mean(0))
        self.w_std.copy_(w.std(0).clamp_min(1e-4))

    def train(self, mode: bool = True) -> StyleTransfer:
        """Keep g in evaluation mode."""
        super().train(mode)
        self.g.eval()
        return self

    def sampler(self, caches: list[Any], batch_size: int, seed: int, rank: int) -> Sampler:
        """Draw half a batch of photos; as many faces are generated in ``step``."""
        c = self.config
        if caches and caches[0].size != c.size:
            raise ConfigError(
                f"The pictures are {caches[0].size} px and the networks want {c.size}: set size "
                "and config.size to the same."
            )
        if batch_size < 2:
            raise ConfigError(f"batch_size is at least 2, not {batch_size}.")
        return SingleSampler(caches, {"real": Part(batch_size // 2, c.weights)}, seed, rank)

    def optimisers(self, learning_rate: float) -> dict[str, optim.Optimizer]:
        """``encoder``: Adam for E."""
        return {"encoder": optim.Adam(self.e.parameters(), learning_rate, fused=True)}

    def step(self, batch: Batch, update: Update) -> dict[str, float]:
        """One update of E: known codes of generated faces, reconstruction of photos."""
        losses = self.losses(batch["real"])
        update("encoder", losses["loss"])
        return {name: value.item() for name, value in losses.items()}

    def losses(self, real: Tensor) -> dict[str, Tensor]:
        """Return what E minimises; ``loss`` is the weighted sum.

        Args:
            real: ``(B, 3, S, S)`` photos; B faces are generated beside them.
        """
        c = self.config
        with torch.no_grad():
            known = self.random_codes(len(real))
            generated = self.g.synthesis(known, noise="const").clamp(-1, 1)
        x = torch.cat([real, generated])
        base, deltas = self.e(x)
        relative = base[:, None] + deltas
        codes = self._absolute(relative)
        drawn = self.g.synthesis(codes[: len(real)], noise="const")
        true = (known - self.g.w_avg) / self.w_std
        features = self.features
        with torch.no_grad():
            target = features(real)
        losses = {
            "code": (relative[len(real) :] - true).square().mean(),
            "reconstruction": (drawn - real).square().mean(),
            "feature": distance(features(drawn), target).mean(),
            "delta": deltas[: len(real)].square().mean(),
            "w": relative[: len(real)].square().mean(),
        }
        losses["loss"] = (
            c.code * losses["code"]
            + c.reconstruction * losses["reconstruction"]
            + c.feature * losses["feature"]
            + c.delta * losses["delta"]
            + c.lambda_w * losses["w"]
        )
        return losses

    def random_codes(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw codes ``(B, L, W)`` as g was trained with them: some mix two w at a layer."""
        layers = self.g.num_ws
        z = torch.randn(2 * count, self.config.z_dim, generator=generator)
        chance, cut = torch.rand(count, generator=generator), torch.rand(count, generator=generator)
        device = self.w_std.device
        one, two = self.g.truncate(self.g.mapping(z.to(device)), self.config.psi).chunk(2)
        crossover = (1 + (cut * (layers - 1)).long()).where(chance < self.config.mixing, layers)
        first = torch.arange(layers, device=device) < crossover.to(device)[:, None]
        return torch.where(first[..., None], one[:, None], two[:, None])

    @torch.no_grad()
    def preview(self, batch: Batch) -> Image:
        """Columns are faces; rows: photos, E's, generated faces, E's, and expressions exchanged."""
        training = self.training
        self.eval()
        x = batch["real"][:16]
        known = self.random_codes(len(x), torch.Generator().manual_seed(0))
        made = self.inverter.draw(known)
        codes = self.codes(x)
        mask = layer_mask(self.config.expression_layers, self.g.num_ws, x.device)
        draw = self.inverter.draw
        mixed = draw(mix(codes, codes.roll(1, 0), mask))
        rows = [x, draw(codes), made, draw(self.codes(made)), mixed]
        self.train(training)
        return picture_grid(rows)

    # Codes ---------------------------------------------------------------------------------------

    @property
    def features(self) -> Perceptual:
        """φ, loaded when first asked for."""
        if not self._perceptual:
            with torch.inference_mode(False):
                network = Perceptual(self.config.perceptual)
            self._perceptual.append(network.to(self.w_std.device))
        return self._perceptual[0]

    @property
    def inverter(self) -> Inverter:
        """What inverts faces by optimisation."""
        return Inverter(self.g, self.w_std, self.features)

    def codes(self, images: Tensor) -> Tensor:
        """Return the style codes ``(B, L, W)`` that E predicts for ``(B, 3, H, W)`` in [-1, 1]."""
        base, deltas = self.e(self._resize(images))
        return self._absolute(base[:, None] + deltas)

    def invert(
        self,
        images: Tensor,
        settings: Settings | None = None,
        start: str | Tensor = "encoder",
        *,
        progress: bool = False,
    ) -> Inversion:
        """Find the codes of faces by optimisation.

        Args:
            images: ``(B, 3, H, W)`` in [-1, 1].
            settings: How.
            start: ``encoder``, ``mean`` (w_avg), or codes ``(B, L, W)``.
            progress: Show a progress bar.
        """
        x = self._resize(images)
        if isinstance(start, str):
            if start not in ("encoder", "mean"):
                raise ConfigError(f"Inversion starts from 'encoder' or 'mean', not {start!r}.")
            with torch.no_grad():
                start = self.codes(x) if start == "encoder" else self.inverter.mean_codes(len(x))
        return self.inverter(x, start, settings, progress=progress)

    def encode(self, images: Tensor) -> Codes:
        """Return E's codes in deviations from the mean, by groups of layers.

        ``expression`` are the expression layers, ``appearance`` all others: identity, pose, light.

        Args:
            images: ``(B, 3, H, W)`` in [-1, 1]; resized to ``size``.
        """
        base, deltas = self.e(self._resize(images))
        relative = base[:, None] + deltas
        mask = layer_mask(self.config.expression_layers, self.g.num_ws, relative.device)
        return {
            "expression": relative[:, mask].flatten(1),
            "appearance": relative[:, ~mask].flatten(1),
        }

    def _absolute(self, relative: Tensor) -> Tensor:
        return self.g.w_avg + self.w_std * relative

    # Edits ---------------------------------------------------------------------------------------

    @torch.no_grad()
    def transfer_expression(
        self,
        images: Tensor,
        drivers: Tensor,
        strength: float = 1.0,
        *,
        neutral: Tensor | None = None,
        layers: tuple[int, ...] | None = None,
    ) -> Edit:
        """Put the drivers' expressions on ``images``.

        Args:
            images: I1 ``(B, 3, H, W)`` in [-1, 1].
            drivers: I2, one each or one for all.
            strength: From 0 (the image itself) to 1.
            neutral: A neutral picture of each driver: the layers then move by s2 - s2_neutral.
            layers: Expression layers, from 0; as the configuration says if None: its layers, or
                the directions away from neutral.

        Raises:
            ConfigError: A strength out of range, or ``transfer: directions`` without directions.
        """
        x = self._start(images, strength)
        driver = self._resize(drivers)
        inputs = [x, driver] if neutral is None else [x, driver, self._resize(neutral)]
        found = torch.split(self._found(torch.cat(inputs)), [len(i) for i in inputs])
        source, target = found[0], found[1].expand_as(found[0])
        if neutral is not None:
            target = source + target - found[2].expand_as(source)
        mixed = self.exchanged(source, target, strength, layers)
        return self.carried(x, source, mixed, strength)

    def exchanged(
        self,
        source: Tensor,
        target: Tensor,
        strength: float = 1.0,
        layers: tuple[int, ...] | None = None,
    ) -> Tensor:
        """Give s1 ``(B, L, W)`` the expression of s2, by layers or as the configuration says."""
        if layers is None and self.config.transfer == "directions":
            if not bool(self.neutral_directions.any()):
                raise ConfigError("These weights have no directions; config.transfer is layers.")
            return self.directed(source, target, strength)
        chosen = self.config.expression_layers if layers is None else layers
        return mix(source, target, layer_mask(chosen, self.g.num_ws, source.device), strength)

    @property
    def neutralise(self) -> Callable[..., Edit]:
        """Take the expression out; only weights with fitted directions can."""
        if not bool(self.neutral_directions.any()):
            raise AttributeError("These weights have no directions away from neutral.")
        return self._neutralise

    @torch.no_grad()
    def _neutralise(self, images: Tensor, strength: float = 1.0) -> Edit:
        """Take the share of a code out that lies along the directions away from neutral.

        Args:
            images: ``(B, 3, H, W)`` in [-1, 1].
            strength: From 0 to 1.
        """
        x = self._start(images, strength)
        source = self._found(x)
        neutral = self.neutral_mean.expand_as(source)
        return self.carried(x, source, self.directed(source, neutral, strength), strength)

    def directed(self, source: Tensor, target: Tensor, strength: float = 1.0) -> Tensor:
        """Move codes along the directions away from neutral to where others lie along them.

        Args:
            source: s1 ``(B, L, W)``.
            target: s2, the same shape.
            strength: From 0 to 1.
        """
        basis = self.neutral_directions.flatten(1)
        apart = ((target - source) / self.w_std).flatten(1)
        return source + strength * (apart @ basis.mT @ basis).view_as(source) * self.w_std

    @torch.no_grad()
    def reconstruct(self, images: Tensor) -> Tensor:
        """Draw faces from their own codes, as an edit inverts them: ``(B, 3, S, S)``."""
        return self.inverter.draw(self._found(self._resize(images)))

    def find_layers(
        self,
        images: Tensor,
        drivers: Tensor,
        cost: Cost | None = None,
        codes: tuple[Tensor, Tensor] | None = None,
        most: int | None = None,
    ) -> Ranking:
        """Rank the choices of expression layers on pairs of faces (``masks``).

        Args:
            images: I1 ``(P, 3, S, S)``.
            drivers: I2, the same shape.
            cost: C(α).
            codes: Of both; inverted as an edit does if None.
            most: Most expression layers; None: any number. Up to 12 layers all masks are tried.
        """
        x, driver = self._resize(images), self._resize(drivers)
        if codes is None:
            one, two = self._found(torch.cat([x, driver])).chunk(2)
            codes = (one, two)
        measured = Measured(self.inverter, x, driver, codes, cost)
        if self.g.num_ws > MOST_LAYERS or most is not None:
            return programme(measured, most)
        return search(measured)

    @torch.no_grad()
    def carried(self, x: Tensor, source: Tensor, mixed: Tensor, strength: float) -> Edit:
        """Draw mixed codes and carry what they change into faces.

        Args:
            x: I1 ``(B, 3, S, S)``.
            source: s1 ``(B, L, W)``.
            mixed: s0, the same shape.
            strength: Of the edit; ``drawn`` fades by it.
        """
        network: nn.Module = self.g.synthesis
        if self.config.tune_steps:
            network = tuned(self.inverter, x, source, steps=self.config.tune_steps)
        new = network(mixed, noise="const").clamp(-1, 1)
        if self.config.carry == "drawn":
            return Edit(torch.lerp(x, new, strength).clamp(-1, 1))
        old = network(source, noise="const").clamp(-1, 1)
        return Edit((x + new - old).clamp(-1, 1))

    def _found(self, x: Tensor) -> Tensor:
        """Return the codes of ``x`` as edits use them: E's, then some steps of optimisation."""
        c = self.config
        start = self.codes(x)
        if not c.invert_steps:
            return start
        settings = Settings(c.invert_steps, c.invert_rate)
        return self.inverter(x, start, settings).codes

    def _start(self, images: Tensor, strength: float) -> Tensor:
        if not 0 <= strength <= 1:
            raise ConfigError(f"The strength of an edit lies between 0 and 1, not at {strength}.")
        return self._resize(images)

    def _resize(self, images: Tensor) -> Tensor:
        size = (self.config.size, self.config.size)
        if images.shape[-2:] == size:
            return images
        return F.interpolate(images, size, mode="bilinear", antialias=True)


def _check(config: StyleTransfer.Config) -> None:
    """Raise ConfigError for a setting without meaning."""
    c = config
    if c.architecture not in ARCHITECTURES:
        raise ConfigError(f"architecture is one of {', '.join(ARCHITECTURES)}.")
    if c.carry not in CARRIES:
        raise ConfigError(f"carry is one of {', '.join(CARRIES)}, not {c.carry!r}.")
    if c.transfer not in TRANSFERS:
        raise ConfigError(f"transfer is one of {', '.join(TRANSFERS)}, not {c.transfer!r}.")
    for key in ("width", "channel_base", "channel_max", "z_dim", "w_dim", "directions"):
        if getattr(c, key) < 1:
            raise ConfigError(f"{key} is at least 1, not {getattr(c, key)}.")
    if c.invert_steps < 0 or c.tune_steps < 0:
        raise ConfigError("invert_steps and tune_steps cannot be negative.")
    if not 0 <= c.mixing <= 1:
        raise ConfigError(f"mixing is a share from 0 to 1, not {c.mixing}.")
