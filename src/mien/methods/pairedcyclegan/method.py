"""PairedCycleGAN: asymmetric style transfer for applying and removing make-up.

Chang, Lu, Yu, Finkelstein, CVPR 2018. G(x, y) puts the make-up of a reference y on a bare face x,
F(y) takes it off. Make-up put on and removed must give x back (L_I), and carried from y to x and
from there to the bare y it must give y back (L_S). D_Y and D_X say whether a face wears make-up or
none (L_G, L_F), D_S whether two faces wear the same (L_P): it is shown y beside W(x, y), a picture
of x in y's make-up made by warping y, and y beside G(x, y). Lips, eyes and skin have networks of
their own (the right eye is mirrored and shares the left one's), all in one file of weights. What
they draw is a residual, which a photo gets at its own resolution.

Of the publication the losses and the data flow are known to us. Numbers are from re-implementations
or ours: λ of L_G, L_F and L_P rise from 0.1 to 0.5, L_I and L_S count 1, the residual's size L_R
0.1; three blocks of dilation 1, 2, 4 and a smoothing layer; D has spectral normalisation.

Deviations and additions; those off by default are not the paper's:

- ``fold``: squares of 2x2 pixels as channels: the same view, a quarter of the work.
- ``stem_norm``: off: instance normalisation in the first layer would hide the colour of a picture
  as a whole, that is the make-up; one re-implementation has it, another has not.
- ``masked``: the residual counts inside the region's soft mask alone, in training as in use, and
  D_X, D_Y and D_S see nothing else: a skin with make-up is no proof of lips without.
- ``guide``: the networks are shown the mask, and the mean colour inside it as a constant picture.
- ``supervised``: L1 to the exact result, which is known where a make-up artist of this project
  painted both faces (``mien.data.makeup_artist``); for F to the face below the paint.
- ``style_pairs``: ``exact`` shows D_S x painted like y where it is known, in place of W(x, y).
- ``mismatched``: D_S is also shown y beside the W of another reference, as not the same.
- ``unchanged``: F(x) = x and G(y, y) = y (as PSGAN's identity term).
- ``histogram``: BeautyGAN's masked histogram matching; ``region_weights`` are its shares.
- ``pseudo``: EleGANt's idea of a pseudo truth: L1 to W(x, y) in the mask.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.nn import functional as F

from mien.data.makeup_pairs import MakeupPairSampler, MakeupPairSettings
from mien.faces.face import Image
from mien.faces.landmarks import tight_landmarks
from mien.faces.regions import CROPS, REGIONS, crop_matrices, cut, face_frame, region_masks
from mien.files.errors import ConfigError, nearest
from mien.methods.base import (
    Batch,
    Codes,
    Edit,
    Method,
    Sampler,
    Update,
    config_from,
    picture_grid,
    register,
)
from mien.methods.pairedcyclegan.losses import (
    histogram_loss,
    l_i,
    l_r,
    l_s,
    masked_l1,
)
from mien.methods.pairedcyclegan.networks import PADDINGS, Generator, StyleDiscriminator
from mien.nets.adversarial import (
    KINDS,
    PatchDiscriminator,
    discriminator_loss,
    generator_loss,
    r1_penalty,
)

STYLE_PAIRS = ("warped", "exact")
_OF_CROP = {"lips": "lips", "left_eye": "eyes", "right_eye": "eyes", "skin": "skin"}


class RegionNetworks(nn.Module):
    """G, F, D_X, D_Y and D_S of one region.

    Args:
        config: Of the method.
    """

    def __init__(self, config: PairedCycleGAN.Config) -> None:
        super().__init__()
        c = config
        channels = 7 if c.guide else 3
        sizes = (channels, c.width, c.blocks, c.fold, c.stem_norm, c.padding)
        self.g = Generator(2, *sizes)
        self.f = Generator(1, *sizes)
        self.d_x = PatchDiscriminator(3, c.discriminator_width, c.discriminator_layers)
        self.d_y = PatchDiscriminator(3, c.discriminator_width, c.discriminator_layers)
        self.d_s = StyleDiscriminator(6, c.discriminator_width, c.discriminator_layers)
        self.guide, self.masked = c.guide, c.masked

    def apply_to(self, x: Tensor, y: Tensor, x_mask: Tensor, y_mask: Tensor) -> Tensor:
        """G(x, y) ``(B, 3, S, S)``; masks are ``(B, 1, S, S)``."""
        delta = self.g(self._shown(x, x_mask), self._shown(y, y_mask))
        return self._added(x, delta, x_mask)

    def remove_from(self, y: Tensor, y_mask: Tensor) -> Tensor:
        """F(y) ``(B, 3, S, S)``."""
        return self._added(y, self.f(self._shown(y, y_mask)), y_mask)

    def discriminators(self) -> list[nn.Module]:
        """Return D_X, D_Y and D_S."""
        return [self.d_x, self.d_y, self.d_s]

    def judged(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return what D_X, D_Y and D_S see of a picture."""
        return x * mask if self.masked else x

    def _shown(self, x: Tensor, mask: Tensor) -> Tensor:
        if not self.guide:
            return x
        mean = (x * mask).sum((2, 3), keepdim=True) / mask.sum((2, 3), keepdim=True).clamp_min(1.0)
        return torch.cat([x, mask, mean.expand_as(x)], 1)

    def _added(self, x: Tensor, delta: Tensor, mask: Tensor) -> Tensor:
        return (x + delta * mask if self.masked else x + delta).clamp(-1, 1)


@register("pairedcyclegan")
class PairedCycleGAN(Method):
    """G, F, D_X, D_Y and D_S of lips, eyes and skin."""

    @dataclass(frozen=True)
    class Config:
        """Sizes, switches and loss weights."""

        width: int = 64  # channels of each stem of G
        size: int = 64  # side of the regions' crops in pixels
        blocks: int = 3  # residual blocks, of dilation 1, 2, 4, …
        fold: int = 1
        stem_norm: bool = False
        padding: str = "reflect"  # or "zeros"
        discriminator_width: int = 64
        discriminator_layers: int = 2  # strided ones; 3 for crops of 128 px and more
        regions: tuple[str, ...] = REGIONS  # that are trained and edited
        adversarial: float = 0.1  # λ of L_G, L_F and L_P in the beginning
        adversarial_end: float = 0.5  # and after ``adversarial_steps``
        adversarial_steps: int = 10000
        style_discriminator: float = 1.0  # of L_P, times the λ above; 0: no D_S
        identity: float = 1.0  # of L_I
        style: float = 1.0  # of L_S
        residual: float = 0.1  # of L_R
        gan: str = "logistic"  # the paper's; or see mien.nets.adversarial
        r1: float = 0.0  # of the gradient penalty of D_X, D_Y and D_S
        discriminator_rate: float = 1.0  # learning rate of D over that of G and F
        masked: bool = False
        guide: bool = False
        supervised: float = 0.0
        style_pairs: str = "warped"
        mismatched: bool = False
        unchanged: float = 0.0
        histogram: float = 0.0
        pseudo: float = 0.0
        region_weights: tuple[float, ...] = (1.0, 1.0, 0.1)  # of lips, eyes, skin in ``histogram``
        pairs: dict[str, Any] = field(default_factory=dict)  # MakeupPairSettings

    columns = ("image", "landmarks")
    config: Config
    steps: Tensor

    def __init__(self, config: Config, stage: str = "main") -> None:
        super().__init__(config, stage)
        _check(config)
        self.region = nn.ModuleDict({name: RegionNetworks(config) for name in config.regions})
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    @property
    def photo_crop(self) -> tuple[str, int]:
        """The whole face with its forehead, fine enough for the masks' rims."""
        return "ffhq", 8 * self.config.size

    # Training ------------------------------------------------------------------------------------

    def sampler(self, caches: list[Any], batch_size: int, seed: int, rank: int) -> Sampler:
        """Draw bare faces, references and W(x, y) (``mien.data.makeup_pairs``)."""
        c = self.config
        for key in ("regions", "size"):
            if key in c.pairs:
                raise ConfigError(f"{key} is a setting of the method, not of its pairs.")
        values = {**c.pairs, "regions": c.regions, "size": c.size}
        settings: MakeupPairSettings = config_from(MakeupPairSettings, values)
        return MakeupPairSampler(caches, settings, batch_size, seed, rank)

    def optimisers(self, learning_rate: float) -> dict[str, optim.Optimizer]:
        """Adam (0.5, 0.999), as CycleGAN's, for all G and F and for all D."""
        nets = [self.nets(name) for name in self.config.regions]
        rate = learning_rate * self.config.discriminator_rate
        drawing = [p for n in nets for part in (n.g, n.f) for p in part.parameters()]
        judging = [p for n in nets for d in n.discriminators() for p in d.parameters()]
        return {
            "generator": optim.Adam(drawing, learning_rate, (0.5, 0.999), fused=True),
            "discriminator": optim.Adam(judging, rate, (0.5, 0.999), fused=True),
        }

    def nets(self, region: str) -> RegionNetworks:
        """Return the networks of a region."""
        found: RegionNetworks = self.region[region]  # type: ignore[assignment]  # a ModuleDict
        return found

    def step(self, batch: Batch, update: Update) -> dict[str, float]:
        """G and F of all regions, then all D: their networks share nothing, so sums are enough."""
        scalars: dict[str, float] = {}
        drawn: dict[str, tuple[Tensor, Tensor]] = {}
        total = self.steps.new_zeros((), dtype=torch.float32)
        for name in self.config.regions:
            nets = self.nets(name)
            for d in nets.discriminators():
                d.requires_grad_(False)
            applied, removed, losses = self.generator_losses(name, batch)
            drawn[name] = applied.detach(), removed.detach()
            total = total + losses["loss"]
            scalars |= {f"{name}_{k}": v.item() for k, v in losses.items()}
        update("generator", total)

        total = torch.zeros_like(total)
        for name in self.config.regions:
            for d in self.nets(name).discriminators():
                d.requires_grad_(True)
            loss = self.discriminator_losses(name, batch, *drawn[name])
            total = total + loss
            scalars[f"{name}_d"] = loss.item()
        update("discriminator", total)
        self.steps += 1
        return scalars

    def adversarial_weight(self) -> float:
        """Return λ of L_G, L_F and L_P at this step: it rises linearly."""
        c = self.config
        done = min(1.0, self.steps.item() / max(1, c.adversarial_steps))
        return c.adversarial + (c.adversarial_end - c.adversarial) * done

    def generator_losses(
        self, region: str, batch: Batch
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return G(x, y), F(y) and what G and F minimise, by the paper's names and as ``loss``."""
        c, nets = self.config, self.nets(region)
        x, y = batch[f"{region}_bare"], batch[f"{region}_reference"]
        x_mask, y_mask = batch[f"{region}_bare_mask"], batch[f"{region}_reference_mask"]
        applied = nets.apply_to(x, y, x_mask, y_mask)
        # F(y) and F(G(x, y)) in one pass, as nothing in it looks across a batch
        removed, back = nets.remove_from(
            torch.cat([y, applied]), torch.cat([y_mask, x_mask])
        ).chunk(2)
        swapped = nets.apply_to(removed, applied, y_mask, x_mask)

        weight = self.adversarial_weight()
        shown = nets.judged(applied, x_mask)
        losses = {
            "G": generator_loss(nets.d_y(shown).float(), c.gan),
            "F": generator_loss(nets.d_x(nets.judged(removed, y_mask)).float(), c.gan),
            "I": l_i(back, x),
            "S": l_s(swapped, y),
            "R": l_r(applied, x),
        }
        total = weight * (losses["G"] + losses["F"])
        total = total + c.identity * losses["I"] + c.style * losses["S"] + c.residual * losses["R"]
        if c.style_discriminator:
            pair = torch.cat([nets.judged(y, y_mask), shown], 1)
            losses["P"] = generator_loss(nets.d_s(pair).float(), c.gan)
            total = total + c.style_discriminator * weight * losses["P"]
        if c.supervised:
            losses["exact"] = masked_l1(
                applied, batch[f"{region}_target"], x_mask, batch[f"{region}_known"]
            ) + masked_l1(
                removed, batch[f"{region}_removed"], y_mask, batch[f"{region}_known_bare"]
            )
            total = total + c.supervised * losses["exact"]
        if c.unchanged:
            kept = (nets.remove_from(x, x_mask) - x).abs().mean()
            losses["unchanged"] = kept + (nets.apply_to(y, y, y_mask, y_mask) - y).abs().mean()
            total = total + c.unchanged * losses["unchanged"]
        if c.histogram:
            losses["histogram"] = histogram_loss(applied, y, x_mask, y_mask)
            share = c.region_weights[REGIONS.index(region)]
            total = total + c.histogram * share * losses["histogram"]
        if c.pseudo:
            losses["pseudo"] = masked_l1(applied, batch[f"{region}_warped"], x_mask)
            total = total + c.pseudo * losses["pseudo"]
        return applied, removed, losses | {"loss": total}

    def discriminator_losses(
        self, region: str, batch: Batch, applied: Tensor, removed: Tensor
    ) -> Tensor:
        """Return what D_X, D_Y and D_S minimise, of G(x, y) and F(y) without gradients."""
        c, nets = self.config, self.nets(region)
        x_mask, y_mask = batch[f"{region}_bare_mask"], batch[f"{region}_reference_mask"]
        x = nets.judged(batch[f"{region}_bare"], x_mask)
        y = nets.judged(batch[f"{region}_reference"], y_mask)
        applied, removed = nets.judged(applied, x_mask), nets.judged(removed, y_mask)
        shown: list[tuple[nn.Module, Tensor, Tensor]] = [
            (nets.d_y, y, applied),
            (nets.d_x, x, removed),
        ]
        if c.style_discriminator:
            same = batch[f"{region}_warped"]
            if c.style_pairs == "exact":
                exact = batch[f"{region}_known"][:, None, None, None] > 0
                same = torch.where(exact, batch[f"{region}_target"], same)
            same = nets.judged(same, x_mask)
            real, fake = torch.cat([y, same], 1), torch.cat([y, applied], 1)
            shown.append((nets.d_s, real, fake))
            if c.mismatched:  # half of what is not the same
                other = torch.cat([y, same.roll(1, 0)], 1)
                shown[-1] = (nets.d_s, torch.cat([real, real]), torch.cat([fake, other]))
        total = x.new_zeros(())
        for d, real, fake in shown:
            logits = d(torch.cat([real, fake])).float()
            total = total + discriminator_loss(logits[: len(real)], logits[len(real) :], c.gan)
            if c.r1:
                with torch.enable_grad(), torch.autocast(real.device.type, enabled=False):
                    z = real.detach().float().requires_grad_()
                    total = total + c.r1 * r1_penalty(d(z), z)
        return total

    @torch.no_grad()
    def preview(self, batch: Batch) -> Image:
        """Columns are faces; rows of each region: x, y, W(x, y), G(x, y), the truth, F(y), back."""
        training = self.training
        self.eval()
        rows = []
        for name in self.config.regions:
            part = {k: v[:16] for k, v in batch.items() if k.startswith(f"{name}_")}
            x, y = part[f"{name}_bare"], part[f"{name}_reference"]
            x_mask, y_mask = part[f"{name}_bare_mask"], part[f"{name}_reference_mask"]
            nets = self.nets(name)
            applied = nets.apply_to(x, y, x_mask, y_mask)
            removed, back = nets.remove_from(
                torch.cat([y, applied]), torch.cat([y_mask, x_mask])
            ).chunk(2)
            rows += [x, y, part[f"{name}_warped"], applied, part[f"{name}_target"], removed, back]
        self.train(training)
        return picture_grid([row.float() for row in rows])

    # Codes ---------------------------------------------------------------------------------------

    def encode(self, images: Tensor) -> Codes:
        """Return ``appearance`` ``(B, D)``: the codes of all regions side by side.

        Args:
            images: ``(B, 3, H, W)`` in [-1, 1], ``tight`` crops.
        """
        return {"appearance": torch.cat(list(self.region_codes(images).values()), 1)}

    @torch.no_grad()
    def region_codes(self, images: Tensor, landmarks: Tensor | None = None) -> Codes:
        """Return what D_S sees of the make-up of each region, ``(B, D)`` by region.

        Args:
            images: ``(B, 3, H, W)`` in [-1, 1].
            landmarks: ``(B, 68, 2)`` in their pixels; found, as in ``tight`` crops, if None.
        """
        points = _points(images, landmarks)
        matrices = crop_matrices(points, self.config.size)
        masks = region_masks(points, (images.shape[-2], images.shape[-1]), images)
        codes: dict[str, list[Tensor]] = {}
        for k, crop in enumerate(CROPS):
            region = _OF_CROP[crop]
            if region in self.config.regions:
                mask = masks[:, REGIONS.index(region)][:, None]
                part = cut(torch.cat([images, mask], 1), matrices[:, k], self.config.size)
                nets = self.nets(region)
                seen = nets.judged(part[:, :3], part[:, 3:])
                codes.setdefault(region, []).append(nets.d_s.embed(seen))
        return {region: torch.stack(parts).mean(0) for region, parts in codes.items()}

    # Edits ---------------------------------------------------------------------------------------
    #
    # Images (B, 3, H, W) in [-1, 1] of any size; the residual of 64 px crops is enlarged and added,
    # so what is finer stays. A strength of 0 is the image itself.

    @torch.no_grad()
    def apply_makeup(
        self,
        images: Tensor,
        drivers: Tensor,
        strength: float = 1.0,
        *,
        landmarks: Tensor | None = None,
        driver_landmarks: Tensor | None = None,
        regions: Mapping[str, float] | None = None,
        shares: Tensor | None = None,
    ) -> Edit:
        """Put the make-up of ``drivers`` on ``images``.

        Args:
            images: ``(B, 3, H, W)`` in [-1, 1].
            drivers: ``(B, 3, h, w)``, one each, or ``(K, 3, h, w)`` with ``shares``.
            strength: From 0 to 1, of all regions.
            landmarks: ``(B, 68, 2)``, pixels of the images; found, as in ``tight`` crops, if None.
            driver_landmarks: The same of the drivers.
            regions: Strength by region, from 0 to 1; one that is not named has 1.
            shares: ``(K,)``, how much each driver counts; all images get their mixture.

        Raises:
            ConfigError: A strength out of range, or no such region.
        """
        weights = self._weights(strength, regions)
        x_points = _points(images, landmarks)
        y_points = _points(drivers, driver_landmarks)
        if shares is None:
            drivers = drivers.expand(len(images), -1, -1, -1)
            y_points = y_points.expand(len(images), -1, -1)
            return self._edit(images, x_points, weights, drivers, y_points)
        if len(shares) != len(drivers) or not shares.sum() > 0 or shares.min() < 0:
            raise ConfigError("Every reference has a share of 0 or more, and one has some.")
        mixed = torch.zeros_like(images)
        for k, share in enumerate((shares / shares.sum()).tolist()):
            one = drivers[k : k + 1].expand(len(images), -1, -1, -1)
            points = y_points[k : k + 1].expand(len(images), -1, -1)
            mixed += share * self._edit(images, x_points, weights, one, points).images
        return Edit(mixed)

    @torch.no_grad()
    def remove_makeup(
        self,
        images: Tensor,
        strength: float = 1.0,
        *,
        landmarks: Tensor | None = None,
        regions: Mapping[str, float] | None = None,
    ) -> Edit:
        """Take make-up off.

        Args:
            images: ``(B, 3, H, W)`` in [-1, 1].
            strength: From 0 to 1, of all regions.
            landmarks: ``(B, 68, 2)``, pixels of the images; found, as in ``tight`` crops, if None.
            regions: Strength by region, from 0 to 1; one that is not named has 1.

        Raises:
            ConfigError: A strength out of range, or no such region.
        """
        weights = self._weights(strength, regions)
        return self._edit(images, _points(images, landmarks), weights)

    def _weights(self, strength: float, regions: Mapping[str, float] | None) -> dict[str, float]:
        given = dict(regions or {})
        for name in given:
            if name not in self.config.regions:
                raise ConfigError(f"No region {name!r}{nearest(name, self.config.regions)}")
        for value in (strength, *given.values()):
            if not 0 <= value <= 1:
                raise ConfigError(f"The strength of an edit lies between 0 and 1, not at {value}.")
        return {name: strength * given.get(name, 1.0) for name in self.config.regions}

    def _edit(
        self,
        images: Tensor,
        points: Tensor,
        weights: Mapping[str, float],
        drivers: Tensor | None = None,
        driver_points: Tensor | None = None,
    ) -> Edit:
        """Add the residual of G, or without drivers that of F, at the images' resolution."""
        if not any(weights.values()):
            return Edit(images.clone())
        size = self.config.size
        sides = (images.shape[-2], images.shape[-1])
        masks = region_masks(points, sides, images)
        matrices = crop_matrices(points, size)
        shown: tuple[Tensor, Tensor, Tensor] | None = None
        if drivers is not None and driver_points is not None:
            sides_y = (drivers.shape[-2], drivers.shape[-1])
            masks_y = region_masks(driver_points, sides_y, drivers)
            shown = drivers, masks_y, crop_matrices(driver_points, size)
        result = images.clone()
        for region in self.config.regions:
            if not weights[region]:
                continue
            crops = [k for k, crop in enumerate(CROPS) if _OF_CROP[crop] == region]
            channel = REGIONS.index(region)

            # Both eyes go through the networks together.
            def parts(
                x: Tensor, m: Tensor, where: Tensor, crops: list[int] = crops, at: int = channel
            ) -> tuple[Tensor, Tensor]:
                both = torch.cat([x, m[:, at : at + 1]], 1)
                cropped = torch.cat([cut(both, where[:, k], size) for k in crops])
                return cropped[:, :3], cropped[:, 3:]

            x, x_mask = parts(images, masks, matrices)
            nets = self.nets(region)
            if shown is None:
                new = nets.remove_from(x, x_mask)
            else:
                y, y_mask = parts(*shown)
                new = nets.apply_to(x, y, x_mask, y_mask)
            deltas = (new - x).float().chunk(len(crops))
            mask = masks[:, channel : channel + 1]
            for k, delta in zip(crops, deltas, strict=True):
                placed = _place(delta, matrices[:, k], sides)
                here = mask
                if len(crops) == 2:  # each eye has its half of the picture
                    here = mask * _half(points, sides, left=CROPS[k] == "left_eye")
                if self.config.masked:  # the residual is masked at 64 px; its rim is the photo's
                    here = (here > 0).to(mask.dtype)
                result += weights[region] * here * placed
        return Edit(result.clamp(-1, 1))


def _place(delta: Tensor, matrices: Tensor, sides: tuple[int, int]) -> Tensor:
    """Enlarge what lies over crops to the pictures' resolution.

    Args:
        delta: ``(B, 3, s, s)``.
        matrices: ``(B, 2, 3)``, crop pixels to picture pixels.
        sides: Height and width of the pictures.

    Returns:
        ``(B, 3, *sides)``, zero beyond the crops.
    """
    s = delta.shape[-1]
    linear = torch.linalg.inv(matrices[:, :, :2].float())
    offset = -(linear @ matrices[:, :, 2:].float())
    # From the unit grid of the picture to that of the crop (align_corners=False).
    h, w = sides
    scale = torch.tensor([w / 2, h / 2]).to(linear)
    middle = torch.tensor([(w - 1) / 2, (h - 1) / 2]).to(linear)
    theta = torch.cat(
        [linear * scale * (2 / s), (linear @ middle[:, None] + offset + 0.5) * (2 / s) - 1], 2
    )
    grid = F.affine_grid(theta, [len(delta), 3, h, w], align_corners=False)
    return F.grid_sample(delta, grid, mode="bicubic", padding_mode="zeros", align_corners=False)


def _half(points: Tensor, sides: tuple[int, int], left: bool) -> Tensor:
    """Return ``(B, 1, H, W)``, 1 on one side of the line between the eyes."""
    frame = face_frame(points)
    middle = (frame.left_eye + frame.right_eye) / 2
    y = torch.arange(sides[0]).to(points).view(1, -1, 1) - middle[:, 1, None, None]
    x = torch.arange(sides[1]).to(points).view(1, 1, -1) - middle[:, 0, None, None]
    along = x * frame.right[:, 0, None, None] + y * frame.right[:, 1, None, None]
    return ((along < 0) == left)[:, None].to(points.dtype)


def _points(images: Tensor, landmarks: Tensor | None) -> Tensor:
    return tight_landmarks(images) if landmarks is None else landmarks.float()


def _check(config: PairedCycleGAN.Config) -> None:
    """Raise ConfigError for a setting without meaning."""
    c = config
    switches = ((c.gan, KINDS), (c.style_pairs, STYLE_PAIRS), (c.padding, PADDINGS))
    for value, allowed in switches:
        if value not in allowed:
            raise ConfigError(f"There is no {value!r}{nearest(value, allowed)}")
    if not c.regions or len(set(c.regions)) != len(c.regions):
        raise ConfigError("regions names each region once, and one at least.")
    for name in c.regions:
        if name not in REGIONS:
            raise ConfigError(f"No region {name!r}{nearest(name, REGIONS)}")
    for key in ("width", "blocks", "fold", "discriminator_width", "discriminator_layers"):
        if getattr(c, key) < 1:
            raise ConfigError(f"{key} is at least 1, not {getattr(c, key)}.")
    least = c.fold * (2 ** (c.blocks - 1) + 1)
    if c.size % c.fold or c.size < least:
        raise ConfigError(f"size is a multiple of {c.fold} and at least {least}, not {c.size}.")
    if len(c.region_weights) != len(REGIONS):
        raise ConfigError("region_weights has a weight each for lips, eyes and skin.")
