"""DeRL: facial expression recognition by de-expression residue learning.

Yang, Ciftci, Yin, CVPR 2018. An expressive face is a neutral face and an expressive component.
Stage ``neutralise``: a conditional GAN turns any face into the same person's neutral face; what it
filters out stays behind in its layers, the *residue*. Stage ``classify``: the generator is frozen,
and small networks read the expression off the residue.

The publication tells losses and data flow; layers, weights and schedules of it are not known. Ours:

- θ1 = 100 and θ2 = 1 are pix2pix's (Isola et al., CVPR 2017), λ1..λ4 = 0.25, λ5 = 1.
- The decoder enlarges by nearest neighbour and convolves; D has spectral normalisation.
- ``skips`` (U-Net) is off: with skips an expression may pass by as detail of the face.
- ``focus``: pictures of a pair are equal but for a few pixels, which the mean L1 error hardly sees:
  it counts up to 1 + 2 ``focus`` times as much where they differ.
- Pairs (``config.pairs``): photos meet renders by neutral photos on which other faces' expressions
  were put, by pairs of photos, by the same blur, grey and colours for all, and by faces without a
  neutral twin. Those count in the adversarial losses alone, for which D is shown no condition, and
  away from the face by the L1 error to themselves.
- ``residue`` and ``frozen``: what the classifiers read, for comparison: ``layers`` is the paper's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.nn import functional as F

from mien.data.labelled import ExpressionSampler
from mien.data.neutral_pairs import NeutralPairSampler, NeutralPairSettings
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
    picture_grid,
    register,
)
from mien.methods.derl.networks import GROUPS, Generator, LocalCnn
from mien.nets.adversarial import KINDS, PatchDiscriminator, discriminator_loss, generator_loss

FER = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
RESIDUES = ("layers", "encoder", "decoder", "difference", "pixels")
_POOLED = 2  # places a side: 3,840 numbers at width 32, which a probe fits in minutes


@register("derl")
class DeRL(Method):
    """G and D (stage ``neutralise``), local networks and the fused classifier (``classify``)."""

    @dataclass(frozen=True)
    class Config:
        """Sizes, switches and loss weights."""

        width: int = 64  # channels of the first layer of G and D
        size: int = 64  # side of the pictures in pixels
        skips: bool = False  # U-Net
        l1: float = 100.0  # θ1
        focus: float = 0.0  # ours: how much more the L1 error counts where a pair differs
        adversarial: float = 1.0  # θ2 is the weight of the whole L(G), this that of its -log D
        gan: str = "logistic"  # the paper's; or see mien.nets.adversarial
        pairs: dict[str, Any] = field(default_factory=dict)  # NeutralPairSettings
        expressions: tuple[str, ...] = FER  # classes, as the table names them
        local_width: int = 128  # of the local networks' last hidden layer
        dropout: float = 0.5
        branches: float = 0.25  # λ1..λ4
        fused: float = 1.0  # λ5
        smoothing: float = 0.0  # ours: of labels
        weight_decay: float = 5e-4
        residue: str = "layers"
        frozen: bool = True  # false (ours): G is trained with the classifier
        folds: int = 0  # of whole persons, for cross-validation of the classifier; 0: the split
        fold: int = 0  # the one that is left out

    stages = ("neutralise", "classify")
    columns = ("image",)
    config: Config

    def __init__(self, config: Config, stage: str = "classify") -> None:
        super().__init__(config, stage)
        c = config
        for value, allowed in ((c.residue, RESIDUES), (c.gan, KINDS)):
            if value not in allowed:
                raise ConfigError(f"There is no {value!r}{nearest(value, allowed)}")
        if c.size % 2**GROUPS:
            raise ConfigError(f"size is a multiple of {2**GROUPS}, not {c.size}.")
        if not 0 <= c.fold < max(c.folds, 1):
            raise ConfigError(f"fold is one of 0 to {max(c.folds, 1) - 1}, not {c.fold}.")
        self.g = Generator(c.width, c.skips)
        if stage == "neutralise":
            self.d = PatchDiscriminator(6, c.width, 2)
            return
        self.g.requires_grad_(not c.frozen)
        classes = len(c.expressions)
        sides = [c.size >> (i + 1) for i in range(GROUPS)]
        self.local = nn.ModuleList(
            LocalCnn(self._channels(i), sides[i], c.local_width, classes, c.dropout)
            for i in range(GROUPS)
        )
        code = c.width * 8 * sides[-1] ** 2 if c.residue in ("layers", "encoder") else 0
        self.fused = nn.Sequential(
            nn.Dropout(c.dropout), nn.Linear(GROUPS * c.local_width + code, classes)
        )

    def _channels(self, group: int) -> int:
        if self.config.residue in ("difference", "pixels"):
            return 3
        channels = self.config.width << group
        return 2 * channels if self.config.residue == "layers" else channels

    def train(self, mode: bool = True) -> DeRL:
        """A frozen generator stays as it is used: its normalisation statistics do not move."""
        super().train(mode)
        if self.stage == "classify" and self.config.frozen:
            self.g.eval()
        return self

    # Training ------------------------------------------------------------------------------------

    def sampler(self, caches: list[Any], batch_size: int, seed: int, rank: int) -> Sampler:
        """Draw pairs with their neutral twins, or pictures with the names of expressions."""
        if self.stage == "classify":
            c = self.config
            return ExpressionSampler(
                caches, c.expressions, batch_size, seed, rank, folds=c.folds, fold=c.fold
            )
        settings: NeutralPairSettings = config_from(NeutralPairSettings, self.config.pairs)
        return NeutralPairSampler(caches, settings, batch_size, seed, rank)

    def optimisers(self, learning_rate: float) -> dict[str, optim.Optimizer]:
        """Adam (0.5, 0.999) for G and D as pix2pix; AdamW for the classifiers."""
        if self.stage == "neutralise":
            return {
                name: optim.Adam(net.parameters(), learning_rate, (0.5, 0.999), fused=True)
                for name, net in (("discriminator", self.d), ("generator", self.g))
            }
        trained = [p for p in self.parameters() if p.requires_grad]
        decay = self.config.weight_decay
        return {"classifier": optim.AdamW(trained, learning_rate, weight_decay=decay, fused=True)}

    def step(self, batch: Batch, update: Update) -> dict[str, float]:
        """D, then G; or the five cross-entropies."""
        if self.stage == "classify":
            return self._classify(batch, update)
        c = self.config
        x, target, paired = batch["image"], batch["neutral"], batch["paired"]
        condition = x * paired[:, None, None, None]
        y = self.g(x)

        self.d.requires_grad_(True)
        # L(D) = -log D(I_in, I_tgt) - log(1 - D(I_in, G(I_in)))
        shown = torch.cat(
            [torch.cat([condition, target], 1), torch.cat([condition, y.detach()], 1)]
        )
        real, fake = self.d(shown).float().chunk(2)
        l_d = discriminator_loss(real, fake, c.gan)
        update("discriminator", l_d)

        self.d.requires_grad_(False)
        # L(G) = -log D(I_in, G(I_in)) + θ1 ||I_tgt - G(I_in)||_1
        l_adv = generator_loss(self.d(torch.cat([condition, y], 1)).float(), c.gan)
        weight = batch["weight"]
        exact = (weight == 1).float()  # elsewhere a pair differs by more than its expression
        weight = weight * (1 + c.focus * exact * (x - target).abs().mean(1, keepdim=True))
        l_1 = ((y - target).abs() * weight).mean() + ((y - x).abs() * batch["keep"]).mean()
        update("generator", c.adversarial * l_adv + c.l1 * l_1)
        return {"D": l_d.item(), "adv": l_adv.item(), "L1": l_1.item()}

    def _classify(self, batch: Batch, update: Update) -> dict[str, float]:
        c = self.config
        features, logits = self._branches(batch["image"])
        logits = [*logits, self.fused(features)]
        losses = [
            F.cross_entropy(z.float(), batch["label"], label_smoothing=c.smoothing) for z in logits
        ]
        # Total = λ1 loss1 + … + λ4 loss4 + λ5 loss5
        total = c.branches * torch.stack(losses[:-1]).sum() + c.fused * losses[-1]
        update("classifier", total)
        right = (logits[-1].argmax(1) == batch["label"]).float().mean()
        names = [*(f"loss{i + 1}" for i in range(len(losses))), "loss", "accuracy"]
        return dict(zip(names, [v.item() for v in (*losses, total, right)], strict=True))

    def _groups(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return the four groups that the classifiers read, and the encoder's final code if any."""
        kind = self.config.residue
        sides = [self.config.size >> (i + 1) for i in range(GROUPS)]
        if kind == "pixels":
            return [F.adaptive_avg_pool2d(x, side) for side in sides], []
        y, encoded, decoded = self.g.deposit(x)
        if kind == "difference":
            return [F.adaptive_avg_pool2d((x - y).abs(), side) for side in sides], []
        if kind == "decoder":
            return decoded, []
        code = [encoded[-1].flatten(1)]
        if kind == "encoder":
            return encoded, code
        return [torch.cat(pair, 1) for pair in zip(encoded, decoded, strict=True)], code

    def _branches(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return what the fused classifier reads, and the logits of the four branches."""
        groups, code = self._groups(x)
        found = [net(group) for net, group in zip(self.local, groups, strict=True)]
        return torch.cat([*(f for f, _ in found), *code], 1), [z for _, z in found]

    @torch.no_grad()
    def preview(self, batch: Batch) -> Image:
        """Columns are faces; rows: x, G(x), the true neutral face if known, |x - G(x)|."""
        training = self.training
        self.eval()
        x = batch["image"][:16]
        y = self.g(x).float()
        rows = [x, y, *([batch["neutral"][:16]] if "neutral" in batch else [])]
        self.train(training)
        return picture_grid([*rows, (x - y).abs() * 2 - 1])

    # Codes ---------------------------------------------------------------------------------------

    def encode(self, images: Tensor) -> Codes:
        """Return ``expression`` ``(B, D)``.

        After stage ``classify`` the last hidden layers of the four local networks, D = 4 times
        ``local_width``; before it the means of the residue's channels.

        Args:
            images: ``(B, 3, H, W)`` in [-1, 1], ``tight`` crops.
        """
        x = self._sized(images)
        if self.stage == "classify":
            groups, _ = self._groups(x)
            return {"expression": torch.cat(
                [net(g)[0] for net, g in zip(self.local, groups, strict=True)], 1
            )}  # fmt: skip
        return {"expression": torch.cat([g.mean((2, 3)) for g in self._groups(x)[0]], 1)}

    def features(self, images: Tensor, code: str = "expression", stage: int = 0) -> Tensor:
        """Return the residue as vectors, each group averaged over 2x2 places, for linear probes.

        Args:
            images: ``(B, 3, H, W)`` in [-1, 1].
            code: ``expression``.
            stage: 1 to 4, one group, the largest first; 0: all.

        Raises:
            ConfigError: No such code or group.
        """
        if code != "expression":
            raise ConfigError(f"DeRL has the code 'expression', not {code!r}.")
        if not 0 <= stage <= GROUPS:
            raise ConfigError(f"The residue has groups 1 to {GROUPS}, no {stage}.")
        groups, _ = self._groups(self._sized(images))
        chosen = groups[stage - 1 : stage] if stage else groups
        return torch.cat([F.adaptive_avg_pool2d(g, _POOLED).flatten(1) for g in chosen], 1)

    def expressions(self, images: Tensor) -> Tensor:
        """Return the probabilities ``(B, K)`` of ``config.expressions``, by the fused classifier.

        Raises:
            WeightsError: Weights of the first stage.
        """
        return self.classifiers(images)["fused"]

    def classifiers(self, images: Tensor) -> dict[str, Tensor]:
        """Return the probabilities ``(B, K)`` by classifier: fused, and each branch alone.

        ``branch 1`` reads the group of the largest layers.

        Raises:
            WeightsError: Weights of the first stage.
        """
        if self.stage != "classify":
            raise WeightsError("These weights hold the stage 'neutralise' only: no classifier.")
        features, logits = self._branches(self._sized(images))
        named = {"fused": self.fused(features)}
        named |= {f"branch {i + 1}": z for i, z in enumerate(logits)}
        return {name: z.float().softmax(1) for name, z in named.items()}

    def residue_maps(self, images: Tensor) -> Tensor:
        """Return where each group differs between a face and its neutral face.

        Returns:
            ``(B, 4, S, S)`` in [0, 1], the largest group first; 1 is the strongest of a face's map.
        """
        x = self._sized(images)
        y, *own = self.g.deposit(x)
        _, *rest = self.g.deposit(y)
        maps = []
        for a, b in zip(zip(*own, strict=True), zip(*rest, strict=True), strict=True):
            change = (torch.cat(a, 1) - torch.cat(b, 1)).float().norm(dim=1, keepdim=True)
            change = change / change.amax((2, 3), keepdim=True).clamp_min(1e-6)
            maps.append(F.interpolate(change, x.shape[-2:], mode="bilinear", align_corners=False))
        return torch.cat(maps, 1)

    # Edits ---------------------------------------------------------------------------------------

    @torch.no_grad()
    def neutralise(self, images: Tensor, strength: float = 1.0) -> Edit:
        """Remove the expression; the head stays as it is turned.

        Args:
            images: ``(B, 3, H, W)`` in [-1, 1].
            strength: From 0 (the images) to 1 (G of them).

        Raises:
            ConfigError: Another strength.
        """
        if not 0 <= strength <= 1:
            raise ConfigError(f"The strength of an edit lies between 0 and 1, not at {strength}.")
        x = self._sized(images)
        return Edit(torch.lerp(x, self.g(x).float(), strength).clamp(-1, 1))

    def _sized(self, images: Tensor) -> Tensor:
        side = self.config.size
        if images.shape[-2:] == (side, side):
            return images
        return F.interpolate(
            images, (side, side), mode="bilinear", align_corners=False, antialias=True
        )
