"""PCL: Pose-disentangled Contrastive Learning for self-supervised facial representation.

Liu, Wang, Zhan, Feng, Liu, Chen, CVPR 2023 (arXiv 2211.13490). The mirror image of a face has the
same content but another pose. Two branches on a shared trunk are kept apart by three steps of one
iteration, each with a batch and an update of its own:

(a) ``decoder``: parts of a face and its mirror image are exchanged, and must draw the right one;
    what the branches say about each other is punished.
(b) ``face``: two small crops of one face attract each other in the face-aware branch.
(c) ``pose``: two views of one face attract each other in the pose branch and repel its mirror.

Images are [0, 1] inside. Deviations from the publication, all by switch:

- ``pose_negatives``, ``batch_norm``, ``output``, ``noise_range``, ``orthogonality_form`` and
  ``unused``: slips and rough edges of the published code, mended by default, kept by the value
  ``official``.
- ``decoder`` false, ``orthogonality`` 0, ``pose_images`` 0 leave out one part each.
- ``clips`` (ours): where a face has a clip, its other frames are what parts are exchanged with in
  (a), the second crop in (b), and half of the negatives in (c). A mirror image has the same angle
  to the other side: against it alone, the pose code need not hold more than the side.
- ``agreement`` (ours): the publication says that a face and its mirror image have the same content,
  and yet its losses let z_f differ: R may overlook that. L_agree draws the two z_f together.
  ``symmetric`` (ours): the face-aware code is the mean of z_f over image and mirror image, so that
  which side a head is turned to cannot be in it. A linear probe finds the least rest of it.
- ``norm`` and ``face_crops`` (ours): normalised convolutions, and crops that overlap, for short
  trainings, in which the published trunk and crops learn nothing. ``reconstruction`` (ours): the
  gradients of the contrasts are up to a hundred times those of L_rec, which vanish in the moments
  of the Adam that all steps share.

Without a switch: views are drawn as one batch on the device (colours are clamped once and hue turns
in YIQ, see ``mien.data.augment``); mixed negatives are never written out (equal results).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, optim
from torch.nn import functional as F

from mien.data.augment import quadrant_crops
from mien.data.singles import Part, SingleSampler
from mien.data.views import ViewSettings, draw_view, moved_crops, step_generator
from mien.faces.face import Image
from mien.files.errors import ConfigError, WeightsError, nearest
from mien.methods.base import (
    Batch,
    Codes,
    Edit,
    Method,
    Sampler,
    Update,
    config_from,
    exchange,
    picture_grid,
    register,
)
from mien.methods.pcl.losses import (
    DynamicWeights,
    draw_mixing,
    face_contrast,
    mirror_agreement,
    orthogonality,
    pose_contrast,
)
from mien.methods.pcl.networks import NORMS, Backbone, Decoder, head

SIZES = (32, 64, 128)


@register("pcl")
class PCL(Method):
    """Backbone with branches F and P, heads MLP_f and MLP_p, pose-disentangled decoder R."""

    @dataclass(frozen=True)
    class Config:
        """Sizes, switches and strengths; the defaults are the paper's where it has them."""

        width: int = 64  # channels of the first layer
        size: int = 64  # side of the images in pixels
        pose_images: int = 10  # of a batch; the others are shared by (a) and (b)
        negatives: int = 100  # views of the mirror image of each of them
        face_crops: str = "quadrants"  # or (ours) "random": of any place and size, mirrored or not
        crop: float = 0.2  # half the side of a distance crop as a share of the image's
        temperature: float = 0.07
        beta: float = 1.6  # of Beta(β, β), which mixes negatives
        noise: float = 0.4  # of what the decoder's step encodes, on [0, 1]
        reconstruction: float = 1.0  # ours: weight of L_rec
        orthogonality: float = 1.0  # weight of D
        agreement: float = 0.0  # ours: weight of L_agree
        symmetric: bool = False  # ours: codes and edits take z_f of image and mirror image
        decoder: bool = True  # false: without step (a)
        epoch: int = 1000  # steps that the dynamic weight average calls an epoch
        balance: float = 2.0  # its temperature
        weight_decay: float = 1e-3
        weights: tuple[float, ...] = ()  # share of each table; by their sizes if empty
        pose_weights: tuple[float, ...] = ()  # ours: those of step (c); ``weights`` if empty
        clips: bool = False  # ours: other frames of a clip join in
        views: dict[str, Any] = field(default_factory=dict)  # see mien.data.views.ViewSettings
        norm: str = "none"  # ours: "batch" or "group" normalisation in trunk and branches
        pose_negatives: str = "own"  # "official": views of the mirror images of the whole batch
        batch_norm: str = "joint"  # of a step's pictures; "official": a call for each part
        output: str = "unit"  # R draws [0, 1]; "official": tanh is compared with it
        noise_range: str = "clipped"  # to [0, 1]; "official": noise leaves it
        orthogonality_form: str = "batch"  # "official": fades as the square of the batch
        unused: str = "kept"  # what a step leaves out; "official": momentum and decay move it

    stages = ("main",)
    columns = ("image",)
    config: Config

    def __init__(self, config: Config, stage: str = "main") -> None:
        super().__init__(config, stage)
        c = config
        for key, allowed in _SWITCHES.items():
            if getattr(c, key) not in allowed:
                raise ConfigError(
                    f"{key} has no value {getattr(c, key)!r}"
                    f"{nearest(str(getattr(c, key)), map(str, allowed))}"
                )
        if c.epoch < 1 or c.pose_images < 0 or (c.pose_images and c.negatives < 1):
            raise ConfigError("epoch and negatives are at least 1, pose_images at least 0.")
        self.view_settings: ViewSettings = config_from(ViewSettings, c.views)
        self.backbone = Backbone(c.width, c.norm)
        self.mlp_f = head(c.width, c.size)
        self.mlp_p = head(c.width, c.size)
        if c.decoder:
            self.decoder = Decoder(c.width, c.size)
        self.dynamic = DynamicWeights(c.epoch, c.balance)

    # Training ------------------------------------------------------------------------------------

    def sampler(self, caches: list[Any], batch_size: int, seed: int, rank: int) -> Sampler:
        """Draw ``batch_size`` images: ``pose_images``, the others in halves for (a) and (b).

        The publication draws 256 + 256 + 10.
        """
        c = self.config
        rest = batch_size - c.pose_images
        decoder = rest // 2 if c.decoder else 0
        if rest - decoder < 2 or (c.decoder and not decoder):
            raise ConfigError(
                f"batch_size {batch_size} leaves {rest} images beside pose_images "
                f"{c.pose_images}; PCL needs at least 3."
            )
        one = int(c.clips)
        parts = {
            "decoder": Part(decoder, c.weights, one),
            "pose": Part(c.pose_images, c.pose_weights or c.weights, one * (c.negatives // 2)),
            "face": Part(rest - decoder, c.weights, one),
        }
        drawn = {name: part for name, part in parts.items() if part.count}
        return SingleSampler(caches, drawn, seed, rank, c.size)

    def optimisers(self, learning_rate: float) -> dict[str, optim.Optimizer]:
        """One Adam for everything, with L2 regularisation in the gradient."""
        adam = optim.Adam(
            self.parameters(), learning_rate, weight_decay=self.config.weight_decay, fused=True
        )
        return {"pcl": adam}

    def step(self, batch: Batch, update: Update) -> dict[str, float]:
        """Three updates in the paper's order: decoder, face-aware contrast, pose contrast."""
        scalars: dict[str, float] = {}
        generator = step_generator(next(iter(batch.values())))
        w_face, w_pose = self.dynamic.weights.clone()
        if "decoder" in batch:
            l_rec, l_orth, l_agree = self.decoder_losses(
                batch["decoder"], batch.get("decoder_partners")
            )
            c = self.config
            total = c.reconstruction * l_rec + c.orthogonality * l_orth + c.agreement * l_agree
            self._update(update, total)
            scalars |= {"rec": l_rec.item(), "orth": l_orth.item(), "agree": l_agree.item()}

        l_face = self.face_loss(batch["face"], generator, batch.get("face_partners"))
        self._update(update, w_face * l_face)
        scalars["face"] = l_face.item()

        if "pose" in batch:
            l_pose = self.pose_loss(batch["pose"], generator, batch.get("pose_partners"))
            self._update(update, w_pose * l_pose)
            self.dynamic.add(torch.stack([l_face, l_pose]).detach())
            scalars |= {"pose": l_pose.item(), "w_face": w_face.item()}
        return scalars

    def _update(self, update: Update, loss: Tensor) -> None:
        if self.config.unused == "official":  # a gradient of 0 instead of none
            loss = loss + sum(0 * p.sum() for p in self.parameters())
        update("pcl", loss)

    def decoder_losses(
        self, images: Tensor, partners: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Step (a): L_rec, L_orth and L_agree of ``images`` ``(B, 3, S, S)`` in [-1, 1].

        The encoder sees noise, the targets are clean. s is an image, f its mirror image or the
        other picture of ``partners``; the rows of a tensor come in this order.
        """
        mirrors = images.flip(-1)
        partners = mirrors if partners is None else partners
        target = (torch.cat([images, partners]) + 1) / 2
        noisy = target + self.config.noise * torch.randn_like(target)
        if self.config.noise_range == "clipped":
            noisy = noisy.clamp(0, 1)
        _, z_f, z_p = self.backbone(noisy)
        # R(zf_f, zp_s) = s and R(zf_s, zp_f) = f: the face-aware part of the other one will do.
        swapped, own = exchange(z_f), z_f
        if self.config.batch_norm == "official":
            pairs = [z.chunk(2) for z in (swapped, own)]
            drawn = torch.cat(
                [self._draw(f, p) for z in pairs for f, p in zip(z, z_p.chunk(2), strict=True)]
            )
        else:
            drawn = self._draw(torch.cat([swapped, own]), z_p.repeat(2, 1))
        # Four means of equal size; the paper adds them.
        l_rec = 4 * (drawn - target.repeat(2, 1, 1, 1)).abs().mean()
        official = self.config.orthogonality_form == "official"
        halves = zip(z_f.chunk(2), z_p.chunk(2), strict=True)
        l_orth = torch.stack([orthogonality(f, p, official) for f, p in halves]).sum()
        mirrored = (partners == mirrors).flatten(1).all(1)  # other frames have another expression
        own_f, other_f = z_f.chunk(2)
        return l_rec, l_orth, mirror_agreement(own_f, other_f, mirrored)

    def face_loss(
        self, images: Tensor, generator: torch.Generator, partners: Tensor | None = None
    ) -> Tensor:
        """Step (b): contrast of two crops of each of ``images`` ``(B, 3, S, S)`` in [-1, 1].

        The second one is cut from the other picture of ``partners`` if there are any.
        """
        views = self.face_views(images, generator, partners)
        q = self.mlp_f(self.backbone.face_code(views))
        mix = draw_mixing(len(q), len(q) - 2, self.config.beta, q)
        return face_contrast(q, self.config.temperature, *mix)

    def pose_loss(
        self, images: Tensor, generator: torch.Generator, partners: Tensor | None = None
    ) -> Tensor:
        """Step (c): contrast of views of ``images`` ``(n, 3, S, S)`` with mirrored ones.

        Of ``partners`` ``(m·n, 3, S, S)``, if there are any, m of the K negatives are made.
        """
        c, n = self.config, len(images)
        z_p = self.backbone.pose_code(self.pose_views(images, generator, partners))
        if c.batch_norm == "official":
            q, v = self.mlp_p(z_p[: 2 * n]), self.mlp_p(z_p[2 * n :])
        else:
            q, v = self.mlp_p(z_p).split([2 * n, n * c.negatives])
        mix = draw_mixing(n, c.negatives, c.beta, q)
        return pose_contrast(q, mirror_rows(v, n, c.pose_negatives), c.temperature, *mix)

    @torch.no_grad()
    def face_views(
        self, images: Tensor, generator: torch.Generator, partners: Tensor | None = None
    ) -> Tensor:
        """Return two crops of each image, changed as views: ``(2B, 3, S, S)`` in [0, 1]."""
        partners = images if partners is None else partners
        if self.config.face_crops == "random":
            crops = moved_crops(torch.cat([images, partners]), generator)
        else:
            crops = torch.cat(quadrant_crops(images, generator, self.config.crop, partners))
        return (draw_view(crops, generator, self.view_settings) + 1) / 2

    @torch.no_grad()
    def pose_views(
        self, images: Tensor, generator: torch.Generator, partners: Tensor | None = None
    ) -> Tensor:
        """Return two views of each image, then K of each mirror image: ``((2 + K)n, 3, S, S)``.

        In [0, 1]; the images come view by view. The last m of the K are views of ``partners``.
        """
        partners = images[:0] if partners is None else partners
        mirrored = self.config.negatives - len(partners) // len(images)
        mirrors = images.flip(-1).repeat(mirrored, 1, 1, 1)
        whole = torch.cat([images.repeat(2, 1, 1, 1), mirrors, partners])
        return (draw_view(whole, generator, self.view_settings) + 1) / 2

    def _draw(self, z_f: Tensor, z_p: Tensor) -> Tensor:
        """R(z_f, z_p), on [0, 1] unless ``output`` is official."""
        drawn: Tensor = self.decoder(z_f, z_p)
        return drawn if self.config.output == "official" else (drawn + 1) / 2

    @torch.no_grad()
    def preview(self, batch: Batch) -> Image:
        """Columns are faces; rows: image, R(own, own), R(own, pose of mirror), of the next face.

        Without the decoder: image, its two crops, a view of the whole.
        """
        training = self.training
        self.eval()
        if self.config.decoder:
            x = batch["decoder"][:16]
            _, z_f, z_p = self._codes((x + 1) / 2)
            mirrored = self.backbone.pose_code((x.flip(-1) + 1) / 2)
            poses = (z_p, mirrored, z_p.roll(1, 0))
            rows = [x, *(self._draw(z_f, p) * 2 - 1 for p in poses)]
        else:
            x = batch["face"][:16]
            generator = torch.Generator(device=x.device).manual_seed(0)
            rows = [x, *quadrant_crops(x, generator, self.config.crop)]
            rows.append(draw_view(x, generator, self.view_settings))
        self.train(training)
        return picture_grid(rows)

    # Codes ---------------------------------------------------------------------------------------

    def encode(self, images: Tensor) -> Codes:
        """Return z_f as ``identity``, z_p as ``pose`` and t as ``trunk``, ``(B, 2w·4·4)`` each.

        The face-aware code holds all but the pose: identity, and expression and appearance too.

        Args:
            images: ``(B, 3, H, W)`` in [-1, 1]; resized to ``size``.
        """
        t, z_f, z_p = self._codes(self._start(images))
        return {"identity": z_f, "pose": z_p, "trunk": t}

    def features(self, images: Tensor, code: str = "trunk", stage: int = 0) -> Tensor:
        """Return the flattened trunk, on which the published probes of any factor work.

        Args:
            images: ``(B, 3, H, W)`` in [-1, 1]; 64 px give 2w·4·4 features, 100 px 2w·7·7.
            code: ``identity``, ``pose`` or ``trunk``: the published feature is the same.
            stage: 0, the last one, is the paper's; 1 to 4, see ``Stem.stage_features``.
        """
        codes = ("identity", "pose", "trunk")
        if code not in codes:
            raise ConfigError(f"These weights have no code {code!r}{nearest(code, codes)}")
        return self.backbone.trunk.stage_features((images + 1) / 2, stage)

    @torch.no_grad()
    def transfer_pose(self, images: Tensor, drivers: Tensor, strength: float = 1.0) -> Edit:
        """Draw ``images`` anew with the pose code of ``drivers`` (one each, or one for all).

        R was trained to keep codes apart, not to draw well: the picture is blurred, and shows what
        the codes hold. Between 0 and 1 it is faded in while its pose turns.
        """
        if not 0 <= strength <= 1:
            raise ConfigError(f"The strength of an edit lies between 0 and 1, not at {strength}.")
        if not self.config.decoder:
            raise WeightsError("These weights were trained without a decoder: they draw nothing.")
        x = self._start(images)
        _, z_f, own = self._codes(x)
        driver = self.backbone.pose_code(self._start(drivers))
        drawn = self._draw(z_f, torch.lerp(own, driver.expand_as(own), strength))
        return Edit((torch.lerp(x, drawn, strength) * 2 - 1).clamp(-1, 1))

    def _codes(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return t, the face-aware code and z_p of ``x`` ``(B, 3, S, S)`` in [0, 1]."""
        t, z_f, z_p = self.backbone(x)
        if self.config.symmetric:
            z_f = (z_f + self.backbone.face_code(x.flip(-1))) / 2
        return t, z_f, z_p

    def _start(self, images: Tensor) -> Tensor:
        size = (self.config.size, self.config.size)
        if images.shape[-2:] != size:
            images = F.interpolate(images, size, mode="bilinear", antialias=True)
        return (images + 1) / 2


_SWITCHES: dict[str, tuple[Any, ...]] = {
    "size": SIZES,
    "norm": NORMS,
    "face_crops": ("quadrants", "random"),
    "pose_negatives": ("own", "official"),
    "batch_norm": ("joint", "official"),
    "output": ("unit", "official"),
    "noise_range": ("clipped", "official"),
    "orthogonality_form": ("batch", "official"),
    "unused": ("kept", "official"),
}


def mirror_rows(views: Tensor, images: int, which: str) -> Tensor:
    """Sort views of mirror images ``(K·n, D)`` into the rows ``(n, K, D)`` of their images.

    They come view by view. The published code cuts them into n pieces as they come, so that each
    row holds views of all images.
    """
    if which == "official":
        return views.view(images, -1, views.shape[1])
    return views.view(-1, images, views.shape[1]).transpose(0, 1)
