"""FaceCycle: learning facial representations from the cycle-consistency of face.

Chang, Chen, Chiu, ICCV 2021 (arXiv 2108.03427). Everything that differs between a face and
the *neutral* face of the same person is called expression (head pose included); everything that
differs between a neutral face and one *mean* face is called identity.

Stage ``motion`` (§3.2 of the paper): a code c_exp becomes a flow f that turns a face into its
neutral face, and the inverse flow turns the neutral face of another picture of the same person
back into this face. Stage ``identity``: a code c_id turns the neutral face into a mean face that
all persons share, and back.

Deviations from the publication, all by switch:

- ``margin``, ``ssim_space``, ``eval_noise``, ``mean_face``: slips of the published code, mended by
  default, kept by the value ``official``.
- The target's Gram matrices are computed once, the features of x are shared by G(x, f) and
  G(x, None), and both are drawn in one pass (equal results, fewer passes).
- ``perceptual``: where VGG-19's ImageNet weights are absent, L_perc uses the project's landmark
  network; G and N start from their own random stem, which is trained with them.
- ``gram_every`` k: L_perc looks at every k-th row of a batch (same expectation, less work).
- ``direct_only`` (ours): a warm-up of either stage with the terms of L that need no G, many times
  faster; what it trains starts the stage itself. ``identity_from_expression`` (ours): E_id starts
  from E_exp, which has the same layers. ``normaliser_width`` and ``normaliser_blocks`` (ours): N
  may be larger than a G that is small for a small machine.
- ``known_flow`` > 0 (ours): where both pictures of a pair were made from one by warps of our own,
  the way from one over the neutral face to the other, f~ + f(p + f~), must be that warp.
- ``anchor`` > 0 (ours): where the flow to the neutral face is known, f must be that flow, most of
  all at eyes and mouth. It is known for neutral and frontal faces (by exact labels of renders or,
  with ``pairs.resting``, by a photo's landmarks) and, with ``pairs.guided``, estimated for every
  face from its landmarks, action units and pose: then the training is no longer free of labels.
- ``flow_rate``, ``code_rate`` (ours): networks that are warm learn more slowly, or (0) stay.
- ``swap_codes`` (ours): c_id of one picture of a pair rebuilds the other one, so that it cannot
  hold what differs between them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.nn import functional as F

from mien.data.pairs import PairSampler, PairSettings
from mien.data.warp import warp
from mien.faces.face import Image
from mien.files.errors import ConfigError, WeightsError, nearest
from mien.methods.base import (
    Batch,
    Codes,
    Edit,
    Method,
    Sampler,
    Update,
    exchange,
    picture_grid,
    register,
)
from mien.methods.facecycle.losses import dissimilarity, focus, gram_loss, l1, margin, symmetry
from mien.methods.facecycle.networks import Encoder, FlowDecoder, Generator, Normaliser
from mien.nets.perceptual import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    LandmarkFeatures,
    VggFeatures,
)

SIZE = 64  # pixels; the fully connected layers of the encoders need it
MEAN_FACE_RATE = 0.01  # of the running average of the mean face


@register("facecycle")
class FaceCycle(Method):
    """E_exp, FlowDec, G (stage ``motion``), E_id and N (stage ``identity``)."""

    @dataclass(frozen=True)
    class Config:
        """Sizes, switches and loss weights; the defaults are the paper's where it has them."""

        width: int = 64  # channels of the first layer of the encoders and the flow decoder
        generator_width: int = 64  # the same of G
        blocks: int = 8  # residual blocks of G
        normaliser_width: int = 0  # of N; 0: generator_width
        normaliser_blocks: int = 0  # residual blocks of N; 0: one less than G has
        pixel: float = 1.0
        gram: float = 0.01
        ssim: float = 5.0
        symmetry: float = 1.5
        anchor: float = 0.0  # ours: where the flow to the neutral face is known, f is that flow
        known_flow: float = 0.0  # ours: pairs made by a known warp are joined by that warp
        flow_rate: float = 1.0  # ours: learning rate of E_exp and FlowDec over that of G
        code_rate: float = 1.0  # ours: that of E_exp over that of FlowDec
        gram_every: int = 1  # rows that L_perc looks at
        direct_only: bool = False  # ours: the terms of a stage that need no G
        identity_from_expression: bool = False  # ours: E_id starts from E_exp
        swap_codes: bool = False  # ours: c_id of a picture rebuilds its partner
        perceptual: str = "landmarks"  # or the path of torchvision's vgg19-*.pth, or "none"
        margin: str = "hinge"  # "official": the published hinge without effect
        ssim_space: str = "unit"  # images in [0, 1]; "official": ImageNet-normalised images
        eval_noise: str = "zeros"  # "official": G stays random when it is used
        mean_face: str = "running"  # "official": every image has a mean face of its own
        edit_gain: float = 1.0  # ours: expressions are moved this much further than f and f~ say
        edit_detail: str = "kept"  # "official": an edit is what G draws, with its blur
        pairs: dict[str, Any] = field(default_factory=dict)  # see mien.data.pairs.PairSettings

    stages = ("motion", "identity")
    columns = ("image", "landmarks")
    config: Config
    mean: Tensor
    std: Tensor
    mean_image: Tensor

    def __init__(self, config: Config, stage: str = "identity") -> None:
        super().__init__(config, stage)
        c = config
        for key, allowed in _SWITCHES.items():
            if getattr(c, key) not in allowed:
                raise ConfigError(
                    f"{key} has no value {getattr(c, key)!r}{nearest(getattr(c, key), allowed)}"
                )
        self.e_exp = Encoder(c.width)
        self.flow = FlowDecoder(c.width)
        self.g = Generator(c.generator_width, c.blocks, eval_noise=c.eval_noise == "official")
        if stage == "identity":
            self.e_id = Encoder(c.width)
            self.n = Normaliser(
                c.normaliser_width or c.generator_width, c.normaliser_blocks or c.blocks - 1
            )
        for net, rate in self._rates().items():
            net.requires_grad_(rate > 0)
        self.perceptual: list[nn.Module] = []  # one, loaded by the first step; never saved
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)
        # m over the training, ImageNet-normalised; the publication has none at test time.
        self.register_buffer("mean_image", torch.zeros(3, SIZE, SIZE))

    def train(self, mode: bool = True) -> FaceCycle:
        """In stage ``identity`` the frozen networks stay as they will be used: without noise."""
        super().train(mode)
        if self.stage == "identity":
            for net in (self.e_exp, self.flow, self.g):
                net.eval()
        return self

    # Training ------------------------------------------------------------------------------------

    def adopt(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Let E_id start from E_exp where the weights to start from hold no E_id."""
        if not self.config.identity_from_expression or any(k.startswith("e_id.") for k in tensors):
            return tensors
        copies = {f"e_id.{k[6:]}": v for k, v in tensors.items() if k.startswith("e_exp.")}
        return tensors | copies

    def sampler(self, caches: list[Any], batch_size: int, seed: int, rank: int) -> Sampler:
        """Draw ``batch_size`` images as pairs of one person (``mien.data.pairs``)."""
        settings = config_of_pairs(self.config.pairs)
        return PairSampler(caches, settings, batch_size // 2, seed, rank)

    def optimisers(self, learning_rate: float) -> dict[str, optim.Optimizer]:
        """Adam; betas (0.5, 0.999) in the first stage, (0.5, 0.9) in the second (published).

        The warm-up, where no network plays against another, has the usual (0.9, 0.999).
        """
        betas = (0.5, 0.9) if self.stage == "identity" else (0.5, 0.999)
        if self.config.direct_only:
            betas = (0.9, 0.999)
        groups = [
            {"params": [p for p in net.parameters() if p.requires_grad], "lr": learning_rate * rate}
            for net, rate in self._rates().items()
            if rate
        ]
        return {self.stage: optim.Adam(groups, learning_rate, betas, fused=True)}

    def _rates(self) -> dict[nn.Module, float]:
        """Learning rate of each network over that of the recipe; 0 for frozen ones."""
        if self.stage == "identity":
            return {self.e_exp: 0.0, self.flow: 0.0, self.g: 0.0, self.e_id: 1.0, self.n: 1.0}
        rate = self.config.flow_rate
        return {self.e_exp: self.config.code_rate * rate, self.flow: rate, self.g: 1.0}

    def step(self, batch: Batch, update: Update) -> dict[str, float]:
        """Losses of the stage in the order of the specification (§1.4, §1.5), one update."""
        x = self.normalise(torch.cat([batch["image0"], batch["image1"]]))
        code_x = x
        if "code0" in batch:  # the encoders see a more strongly augmented picture
            code_x = self.normalise(torch.cat([batch["code0"], batch["code1"]]))
        if self.stage == "motion":
            anchor = torch.cat([batch["anchor0"], batch["anchor1"]])
            rest = torch.cat([batch["rest0"], batch["rest1"]]) if "rest0" in batch else None
            known = (batch["flow"], batch["known"]) if "flow" in batch else None
            compute = self.direct_losses if self.config.direct_only else self.motion_losses
            losses, total = compute(x, code_x, anchor, rest, known)
        else:
            losses, total = self.identity_losses(x, code_x)
        update(self.stage, total)
        return {name: value.item() for name, value in losses.items()}

    def motion_losses(
        self,
        x: Tensor,
        code_x: Tensor,
        anchor: Tensor | None = None,
        rest: Tensor | None = None,
        known: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Stage 1 (§1.4).

        Args:
            x: ``(2b, 3, H, W)``, ImageNet-normalised; rows i and b + i show one person.
            code_x: What E_exp sees of them.
            anchor: ``(2b,)``, 1 for pictures whose flow to the neutral face is known.
            rest: ``(2b, 2, h, w)``, that flow; zero if None.
            known: Flow ``(b, 2, h, w)`` by which row b + i samples row i; 1 where it is known.
        """
        c = self.config
        # A twentieth of the work, and the losses follow the flow closely: float32, always.
        with torch.autocast(x.device.type, enabled=False):
            f, f_inv = self.flow(self.e_exp(code_x))
        features = self.g.extract(x)
        n, a = self.g.decode_both(features, f)  # neutral, and plain auto-encoding
        w = warp(x, f)  # direct neutral
        r_dd = warp(exchange(w), f_inv)
        r_sd = warp(exchange(n), f_inv)
        r = self.g(exchange(n), f_inv)

        l_pix = l1(r, x) + l1(a, x) + l1(r_sd, x) + 1.5 * l1(r_dd, x)
        l_perc = self._gram([n, r_sd, r_dd, r], x)
        s_r, s_a, s_dd = self._dissimilarity(x, [r, a, r_dd])
        l_ssim = s_r + s_a + 1.5 * s_dd
        l_sym = symmetry(n) + 0.5 * symmetry(w)
        total = c.pixel * l_pix + c.gram * l_perc + c.ssim * l_ssim + c.symmetry * l_sym
        losses = {"pix": l_pix, "perc": l_perc, "ssim": l_ssim, "sym": l_sym}
        if c.anchor and anchor is not None:
            rest = torch.zeros_like(f) if rest is None else rest
            losses["anchor"] = _anchored(focus(f) * (f - rest), anchor)
            total = total + c.anchor * (losses["anchor"] + _anchored(n - warp(x, rest), anchor))
        if c.known_flow and known is not None:
            losses["known"] = _flow_error(f, f_inv, *known)
            total = total + c.known_flow * losses["known"]
        losses |= {"loss": total, "flow": f.detach().abs().mean()}
        return losses, total

    def direct_losses(
        self,
        x: Tensor,
        code_x: Tensor,
        anchor: Tensor,
        rest: Tensor | None = None,
        known: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Warm-up of stage 1 (ours): its terms that warp x and draw nothing."""
        c = self.config
        f, f_inv = self.flow(self.e_exp(code_x))
        w = warp(x, f)
        r_dd = warp(exchange(w), f_inv)
        l_pix, l_sym = 1.5 * l1(r_dd, x), 0.5 * symmetry(w)
        l_ssim = 1.5 * self._dissimilarity(x, [r_dd])[0]
        l_anchor = _anchored(focus(f) * (f if rest is None else f - rest), anchor)
        total = c.pixel * l_pix + c.ssim * l_ssim + c.symmetry * l_sym + c.anchor * l_anchor
        losses = {"pix": l_pix, "ssim": l_ssim, "sym": l_sym, "anchor": l_anchor}
        if c.known_flow and known is not None:
            losses["known"] = _flow_error(f, f_inv, *known)
            total = total + c.known_flow * losses["known"]
        return losses | {"loss": total, "flow": f.detach().abs().mean()}, total

    def identity_losses(self, x: Tensor, code_x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Stage 2 (§1.5). E_exp, FlowDec and G are frozen; gradients still pass through G.

        With ``direct_only`` (ours) the neutral face is the warped image, and r is left out.
        """
        c = self.config
        with torch.no_grad():
            f, f_inv = self.flow(self.e_exp(x))
            n = warp(x, f) if c.direct_only else self.g(x, f)
        code = self.e_id(code_x)
        m_i = self.n(n, "denorm", code)
        m = m_i.mean(0, keepdim=True)  # (1, 3, H, W): all identity must flow through c_id
        n_hat = self.n(m, "renorm", exchange(code) if c.swap_codes else code)
        rebuilt = [(0.8, warp(n_hat, f_inv))]  # weight and picture: d
        if not c.direct_only:
            rebuilt.append((1.0, self.g(n_hat, f_inv)))  # r

        pictures = [y for _, y in rebuilt]
        l_pix = sum((weight * l1(y, x) for weight, y in rebuilt), l1(n_hat, n))
        l_perc = self._gram(pictures, x)
        unlike = self._dissimilarity(x, pictures)
        l_ssim = torch.stack([w * s for (w, _), s in zip(rebuilt, unlike, strict=True)]).sum()
        l_sym = symmetry(n_hat)
        l_mar = margin(m, n, c.margin == "official")
        total = c.pixel * l_pix + c.gram * l_perc + c.ssim * l_ssim + c.symmetry * l_sym + l_mar
        if self.training:
            with torch.no_grad():
                self.mean_image.lerp_(m[0], MEAN_FACE_RATE)
        losses = {"pix": l_pix, "perc": l_perc, "ssim": l_ssim, "sym": l_sym, "mar": l_mar}
        return losses | {"loss": total}, total

    def _gram(self, found: list[Tensor], x: Tensor) -> Tensor:
        """L_perc of several pictures of the same images ``x``."""
        if self.config.perceptual == "none":
            return x.new_zeros(())
        if not self.perceptual:
            self.perceptual.append(self._loss_network().to(x.device))
        network = self.perceptual[0]
        every = self.config.gram_every
        x, found = x[::every], [y[::every] for y in found]
        with torch.no_grad():
            target = network(self.denormalise(x))
        return gram_loss(network(self.denormalise(torch.cat(found))), target)

    def _loss_network(self) -> nn.Module:
        if self.config.perceptual == "landmarks":
            return LandmarkFeatures()
        return VggFeatures(Path(self.config.perceptual))

    def _dissimilarity(self, x: Tensor, ys: list[Tensor]) -> list[Tensor]:
        if self.config.ssim_space == "unit":
            x, *ys = (v * self.std + self.mean for v in (x, *ys))
        return dissimilarity(x, ys)

    def normalise(self, images: Tensor) -> Tensor:
        """[-1, 1] → ImageNet-normalised, as every network of the paper wants it."""
        return ((images + 1) / 2 - self.mean) / self.std

    def denormalise(self, x: Tensor) -> Tensor:
        """ImageNet-normalised → [-1, 1]; not clamped."""
        return (x * self.std + self.mean) * 2 - 1

    @torch.no_grad()
    def preview(self, batch: Batch) -> Image:
        """Columns are faces; rows: x, flow-warped, neutral, partner, r (and mean face, n^)."""
        training = self.training
        self.eval()
        x0, x1 = batch["image0"][:16], batch["image1"][:16]
        x = self.normalise(torch.cat([x0, x1]))
        f, f_inv = self.flow(self.e_exp(x))
        rows = [x, warp(x, f)]
        direct = self.config.direct_only
        n = rows[1] if direct else self.g(x, f)
        if self.stage == "identity":
            code = self.e_id(x)
            m = self.n(n, "denorm", code)
            shared = m.mean(0, keepdim=True)
            n_hat = self.n(shared, "renorm", code)
            r = warp(n_hat, f_inv) if direct else self.g(n_hat, f_inv)
            rows += [n, m, n_hat, r, self.n(shared, "renorm", code.roll(1, 0))]
        elif direct:
            rows += [exchange(x), warp(exchange(n), f_inv)]
        else:
            rows += [n, exchange(x), self.g(exchange(n), f_inv), self.g(x, None)]
        self.train(training)
        return picture_grid([self.denormalise(row[: len(x0)]) for row in rows])

    # Codes ---------------------------------------------------------------------------------------

    def encode(self, images: Tensor) -> Codes:
        """Return ``expression`` and (after stage ``identity``) ``identity``, ``(B, 256)`` each.

        Args:
            images: ``(B, 3, H, W)`` in [-1, 1], ``tight`` crops; resized to 64 px.
        """
        x = self.normalise(_resize(images))
        codes = {"expression": self.e_exp(x)}
        if self.stage == "identity":
            codes["identity"] = self.e_id(x)
        return codes

    def features(self, images: Tensor, code: str = "expression", stage: int = 0) -> Tensor:
        """Return the flattened convolutional features behind a code, which the paper's probes use.

        Args:
            images: ``(B, 3, H, W)`` in [-1, 1]; 64 px give 2w·4·4 features, 100 px 2w·7·7.
            code: ``expression`` or ``identity``.
            stage: 0, the last one, is the paper's; 1 to 5, see ``Stem.stage_features``.
        """
        encoders = {"expression": self.e_exp}
        if self.stage == "identity":
            encoders["identity"] = self.e_id
        if code not in encoders:
            raise ConfigError(f"These weights have no code {code!r}{nearest(code, encoders)}")
        return encoders[code].stage_features(self.normalise(images), stage)

    # Edits ---------------------------------------------------------------------------------------
    #
    # All are deterministic, take images (B, 3, H, W) in [-1, 1], and a strength from 0 (the image
    # itself) to 1. What the flow moves is moved in the image itself; of what G draws the difference
    # to its plain auto-encoding, moved alike, is added: both have the same blur, so detail stays.

    @torch.no_grad()
    def neutralise(self, images: Tensor, strength: float = 1.0) -> Edit:
        """Remove the expression, head pose included: n = G(x, f)."""
        x = self._start(images, strength)
        f = strength * self._edit_flows(x)[0]
        return self._moved(x, f, strength, self.g(x, f))

    frontalise = neutralise  # the publication's frontalisation is the same n = G(x, f)

    @torch.no_grad()
    def transfer_expression(self, images: Tensor, drivers: Tensor, strength: float = 1.0) -> Edit:
        """Give ``images`` the expression and pose of ``drivers`` (one each, or one for all)."""
        x = self._start(images, strength)
        f, _ = self._edit_flows(x)
        back = self._edit_flows(self._start(drivers, strength))[1].expand_as(f)
        drawn = self.g(self.g(x, f), back)
        # The result samples n at p + f~, and n samples x at q + f(q).
        return self._moved(x, strength * (back + warp(f, back)), strength, drawn)

    @torch.no_grad()
    def swap_identity(self, images: Tensor, drivers: Tensor, strength: float = 1.0) -> Edit:
        """Give ``images`` the identity of ``drivers``, keeping expression and pose."""
        x = self._start(images, strength)
        self._need_identity()
        target = self.e_id(self._start(drivers, strength))
        own = self.e_id(x)
        return self._redrawn(
            x,
            strength,
            lambda m: (
                self.n(m, "renorm", own),
                self.n(m, "renorm", torch.lerp(own, target.expand_as(own), strength)),
            ),
        )

    @torch.no_grad()
    def to_mean_face(self, images: Tensor, strength: float = 1.0) -> Edit:
        """Take the identity out of ``images``, keeping expression and pose."""
        x = self._start(images, strength)
        self._need_identity()
        own = self.e_id(x)

        def ends(m: Tensor) -> tuple[Tensor, Tensor]:
            neutral = self.n(m, "renorm", own)
            return neutral, torch.lerp(neutral, m, strength)

        return self._redrawn(x, strength, ends)

    def mean_face(self) -> Tensor:
        """Return the mean face of the training ``(1, 3, 64, 64)`` in [-1, 1]."""
        self._need_identity()
        return self.denormalise(self.mean_image[None]).clamp(-1, 1)

    def _start(self, images: Tensor, strength: float) -> Tensor:
        if not 0 <= strength <= 1:
            raise ConfigError(f"The strength of an edit lies between 0 and 1, not at {strength}.")
        return self.normalise(_resize(images))

    def _edit_flows(self, x: Tensor) -> list[Tensor]:
        return [self.config.edit_gain * f for f in self.flow(self.e_exp(x))]

    def _need_identity(self) -> None:
        if self.stage != "identity":
            raise WeightsError("These weights hold the stage 'motion' only: no identity code.")

    def _moved(self, x: Tensor, flow: Tensor, strength: float, drawn: Tensor) -> Edit:
        moved = warp(x, flow) if strength else x
        plain = moved if self.config.edit_detail == "official" else warp(self.g(x, None), flow)
        image = self.denormalise(moved + strength * (drawn - plain))
        return Edit(image.clamp(-1, 1), flow)

    def _redrawn(self, x: Tensor, strength: float, ends: Any) -> Edit:
        """Add G(n_s, f~) - G(n_0, f~) to x: what changes when the neutral face does."""
        f, back = self.flow(self.e_exp(x))
        m = self.mean_image[None]
        if self.config.mean_face == "official":
            m = self.n(self.g(x, f), "denorm", self.e_id(x))
        before, after = ends(m)
        change = self.g(after, back) - self.g(before, back)
        image = self.denormalise(x + change if strength else x)
        return Edit(image.clamp(-1, 1), None)


_SWITCHES = {
    "margin": ("hinge", "official"),
    "ssim_space": ("unit", "official"),
    "eval_noise": ("zeros", "official"),
    "mean_face": ("running", "official"),
    "edit_detail": ("kept", "official"),
}


def config_of_pairs(values: dict[str, Any]) -> PairSettings:
    """Build the sampler's settings from a recipe's ``config.pairs``."""
    from mien.methods.base import config_from

    settings: PairSettings = config_from(PairSettings, values)
    return settings


def _anchored(change: Tensor, anchor: Tensor) -> Tensor:
    """Mean change of the rows ``(2b, ...)`` that ``anchor`` ``(2b,)`` marks; 0 without any."""
    return (change.abs().mean((1, 2, 3)) * anchor).sum() / anchor.sum().clamp_min(1)


def _flow_error(f: Tensor, f_inv: Tensor, flow: Tensor, known: Tensor) -> Tensor:
    """Mean error of the way from each row b + i to row i over the neutral face, where it is known.

    Row b + i samples the neutral face at p + f~, which samples row i at q + f(q).
    """
    f0, back = f[: len(flow)], f_inv[len(flow) :]
    error = (back + warp(f0, back) - flow).abs()[..., 1:-1, 1:-1]  # f is unknown beyond the border
    return (error.mean((1, 2, 3)) * known).sum() / known.sum().clamp_min(1)


def _resize(images: Tensor) -> Tensor:
    if images.shape[-2:] == (SIZE, SIZE):
        return images
    return F.interpolate(images, (SIZE, SIZE), mode="bilinear", align_corners=False, antialias=True)
