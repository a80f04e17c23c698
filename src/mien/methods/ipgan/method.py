"""IP-GAN: Towards Open-Set Identity Preserving Face Synthesis.

Bao, Chen, Wen, Li, Hua, CVPR 2018. A face is taken apart into an identity vector f_I, from any
picture x^s of a person, and an attribute vector f_A, from any picture x^a: pose, expression, light,
background. G draws x' from both, also of persons that it was never trained on.

Stage ``recognise``: I learns to tell the persons apart (L_I). Stage ``synthesise``: C is I with the
same weights, no more trained; A and G learn from L_GR, L_KL, L_GD and L_GC, then D from L_D. The
training is asymmetric: x' must be x^a where the pair is the same, elsewhere L_GR counts a tenth.
Pictures of unknown persons take part in all but L_I.

The layers, the input size, the optimiser and most weights of the publication are not known to us:
the networks are ours, and so are the defaults of the weights. Deviations:

- ``same_share``: rows of both kinds in one batch; the paper alternates whole steps. The expectation
  is the same, the statistics of batch normalisation are steadier.
- Norms are means over pixels and dimensions, not sums (see ``losses``).
- ``gd_form``: D has spectral normalisation, which leaves f_D so small that L_GD would not count;
  ``relative`` to the mean square of f_D(x^a) it does. ``plain`` is the paper's formula.
- f_I is a linear layer on the flattened last maps and a batch normalisation, as in face
  recognisers, scaled to mean square 1, so that it weighs as much as f_A; the paper takes the last
  pooling layer.
- ``train_identity``: off by default: I and C stay as they are. On, they go on learning by L_I; the
  statistics of their normalisation stay either way, so drawn faces do not change them.
- ``recon_mode``: ``same_image``, or ``same_person``: a "same" pair is two pictures of a person.

Additions, off by default:

- ``adversarial``: G also wants D to take x' for real: L_GD alone leaves it blurred. ``gan`` is
  ``hinge`` or the paper's ``logistic``; ``r1`` keeps D smooth.
- ``inject``: ``input`` is the paper's: z makes the smallest maps alone. ``every``: it also scales
  and shifts the maps of every level.
- ``kl_warmup``: L_KL grows over these steps, so that A is in use before it is narrowed.
- ``teacher``: embeddings of a larger recogniser, which a linear layer on f_I learns too, where the
  labelled persons are few.
- ``augment``: what stage ``recognise`` does to pictures besides mirroring them;
  ``augment_source`` is the same for x^s in stage ``synthesise``.
- ``expressions``: share of the photos x^s that get somebody else's expression (in "same" pairs they
  are mirrored apart from x^a too), so that f_I cannot tell the expression of x^a.
- ``prior``: new attributes are drawn from N(0, I), the paper's, or, ``fitted``, from the normal
  distribution of the μ that A gave in training (Ghosh et al., ICLR 2020), which a weak L_KL needs.
- ``landmarks``: x' should have the landmarks of x^a (L_lm), by this project's network, which stays
  as it is: a tenth of L_GR alone says little about where a mouth is open.
- ``frontalise``: an edit by the mirror image's attributes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.nn import functional as F

from mien.data.embeddings import read_embeddings
from mien.data.identities import IdentitySampler, IdentitySettings
from mien.faces.face import Image
from mien.faces.landmarks import LANDMARKS, load_landmark_net, tight_points
from mien.files.errors import ConfigError, WeightsError, nearest
from mien.methods.base import Batch, Codes, Edit, Method, Sampler, Update, picture_grid, register
from mien.methods.ipgan.losses import (
    FORMS,
    distillation,
    l_gc,
    l_gd,
    l_gr,
    l_i,
    l_kl,
    l_lm,
)
from mien.methods.ipgan.networks import (
    INJECTIONS,
    AttributeEncoder,
    Discriminator,
    Generator,
    Recogniser,
    sphere,
)
from mien.nets.adversarial import KINDS, discriminator_loss, generator_loss, r1_penalty

_MEMORY = 0.01  # share of a step in the moments of μ


@register("ipgan")
class IPGAN(Method):
    """I (which is C too), A, G and D."""

    @dataclass(frozen=True)
    class Config:
        """Sizes, switches and loss weights; the paper's λ, otherwise ours."""

        width: int = 32  # channels of the first layer of all networks
        size: int = 64  # side of the images in pixels
        identity_dim: int = 256  # of f_I
        attribute_dim: int = 128  # of f_A
        identities: int = 1000  # persons that the softmax of I has room for; 0: no softmax
        depth: int = 1  # convolutions of G at each size
        inject: str = "input"  # or (ours) "every": z scales and shifts every level of G
        recon_mode: str = "same_image"  # or "same_person"
        same_share: float = 0.5  # rows of a batch that are "same" pairs
        lambda_different: float = 0.1  # weight of L_GR for the others
        reconstruction: float = 10.0  # of L_GR
        discriminator_feature: float = 1.0  # of L_GD
        gd_form: str = "relative"  # to f_D(x^a), or "plain"
        classifier_feature: float = 1.0  # of L_GC
        kl: float = 1e-3  # of L_KL
        landmarks: float = 0.0  # ours: of L_lm
        kl_warmup: int = 0  # steps over which it grows from 0
        adversarial: float = 0.0  # ours: of the usual loss of a generator
        gan: str = "logistic"  # the paper's, or "hinge" or "least-squares"
        r1: float = 0.0  # ours: of the gradient penalty of D
        discriminator_rate: float = 1.0  # learning rate of D over that of A and G
        train_identity: bool = False  # I and C learn in stage synthesise too
        identity_rate: float = 0.1  # their learning rate there over that of A and G
        weight_decay: float = 0.0  # of I
        teacher: tuple[str, ...] = ()  # Parquet of embeddings for each table, "" for none
        teacher_dim: int = 512  # their length
        distillation: float = 1.0  # weight of the teacher
        weights: tuple[float, ...] = ()  # share of each table; by their sizes if empty
        least: int = 2  # pictures that a person needs to have a label
        flip: float = 0.5  # share of mirrored pictures
        augment: float = 1.0  # strength of what else stage recognise does to pictures
        augment_source: float = 0.0  # the same for x^s in stage synthesise
        expressions: float = 0.0  # share of photos x^s that get another's expression
        prior: str = "normal"  # of drawn attributes, or "fitted"

    stages = ("recognise", "synthesise")
    columns = ("image",)
    config: Config
    steps: Tensor
    prior_mean: Tensor
    prior_moment: Tensor

    def __init__(self, config: Config, stage: str = "synthesise") -> None:
        super().__init__(config, stage)
        c = config
        _check(c)
        synthesise = stage == "synthesise"
        self.i = Recogniser(c.width, c.size, c.identity_dim)
        if not synthesise or c.train_identity:
            if c.identities:
                self.persons = nn.Linear(c.identity_dim, c.identities)
            if c.teacher:
                self.teacher = nn.Linear(c.identity_dim, c.teacher_dim)
        if synthesise:
            self.i.requires_grad_(c.train_identity)
            self.a = AttributeEncoder(c.width, c.size, c.attribute_dim)
            code = c.identity_dim + c.attribute_dim
            self.g = Generator(c.width, c.size, code, c.depth, c.inject)
            self.d = Discriminator(c.width, c.size)
            self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
            if c.prior == "fitted":
                self.register_buffer("prior_mean", torch.zeros(c.attribute_dim))
                self.register_buffer("prior_moment", torch.eye(c.attribute_dim))

    def train(self, mode: bool = True) -> IPGAN:
        """In stage ``synthesise`` the statistics of I's normalisation do not move."""
        super().train(mode)
        if self.stage == "synthesise":
            self.i.eval()
        return self

    # Training ------------------------------------------------------------------------------------

    def sampler(self, caches: list[Any], batch_size: int, seed: int, rank: int) -> Sampler:
        """Draw pictures with their persons (``mien.data.identities``)."""
        c = self.config
        recognise = self.stage == "recognise"
        if caches and caches[0].size != c.size:
            raise ConfigError(
                f"The pictures are {caches[0].size} px and the networks want {c.size}: set size "
                "and config.size to the same."
            )
        strength = c.augment if recognise else c.augment_source
        settings = IdentitySettings(
            weights=c.weights,
            least=c.least,
            same_share=c.same_share,
            same_person=c.recon_mode == "same_person",
            flip=c.flip,
            degrees=8 * strength,
            scale=1 + 0.08 * strength,
            shift=0.03 * strength,
            jitter=0.3 * strength,
            blur=0.2 * strength,
            expressions=c.expressions,
        )
        learns = recognise or c.train_identity
        files = c.teacher if learns else ()
        if files and len(files) != len(caches):
            raise ConfigError(f"{len(files)} teacher files are given for {len(caches)} tables.")
        teacher = [
            read_embeddings(file, cache.table, c.teacher_dim) if file else None
            for file, cache in zip(files, caches, strict=False)
        ]
        sampler = IdentitySampler(caches, settings, batch_size, seed, rank, teacher)
        if learns and c.identities and sampler.persons > c.identities:
            raise ConfigError(
                f"identities is {c.identities}, and the tables hold {sampler.persons} persons of "
                f"{c.least} pictures or more: set config.identities={sampler.persons}."
            )
        if learns and not (c.identities and sampler.persons) and sampler.teacher is None:
            raise ConfigError(
                "I has nothing to learn from: give tables whose persons are known and "
                "config.identities, or a teacher's embeddings by config.teacher."
            )
        return sampler

    def optimisers(self, learning_rate: float) -> dict[str, optim.Optimizer]:
        """``identity`` (Adam) for I, ``generator`` for A and G, ``discriminator`` for D.

        Betas are (0.5, 0.999) where networks play against each other, else the usual ones.
        """
        c = self.config
        made: dict[str, optim.Optimizer] = {}
        if self.stage == "synthesise":
            betas = (0.5, 0.999)
            drawing = [*self.a.parameters(), *self.g.parameters()]
            made["generator"] = optim.Adam(drawing, learning_rate, betas, fused=True)
            rate = learning_rate * c.discriminator_rate
            made["discriminator"] = optim.Adam(self.d.parameters(), rate, betas, fused=True)
            learning_rate *= c.identity_rate
        if self.stage == "recognise" or c.train_identity:
            made["identity"] = optim.Adam(
                self._identity_parameters(),
                learning_rate,
                weight_decay=c.weight_decay,
                fused=True,
            )
        return made

    def _identity_parameters(self) -> list[nn.Parameter]:
        named = self.named_parameters()
        return [p for name, p in named if name.split(".")[0] in ("i", "persons", "teacher")]

    def step(self, batch: Batch, update: Update) -> dict[str, float]:
        """Stage ``recognise``: one update of I. ``synthesise``: of A and G, of D, then of I."""
        if self.stage == "recognise":
            return self._learn_identity(batch, update)
        x_s, x_a, same = batch["source"], batch["attributes"], batch["same"]
        drawn, losses = self.generator_losses(x_s, x_a, same)
        update("generator", losses["loss"])
        scalars = {name: value.item() for name, value in losses.items()}
        l_d = self.discriminator_loss(x_a, drawn.detach())
        update("discriminator", l_d)
        scalars["d"] = l_d.item()
        if self.config.train_identity:
            scalars |= self._learn_identity(batch, update)
        self.steps += 1
        return scalars

    def _learn_identity(self, batch: Batch, update: Update) -> dict[str, float]:
        c = self.config
        code = self.i(batch["source"])
        total = code.new_zeros(())
        scalars: dict[str, float] = {}
        if c.identities:
            label = batch["label"]
            logits = self.persons(code)
            loss = l_i(logits, label)
            total = total + loss
            right = ((logits.argmax(1) == label) & (label >= 0)).sum()
            scalars |= {
                "i": loss.item(),
                "right": (right / (label >= 0).sum().clamp_min(1)).item(),
            }
        if "teacher" in batch:
            loss = distillation(self.teacher(code), batch["teacher"])
            total = total + c.distillation * loss
            scalars["teacher"] = loss.item()
        update("identity", total)
        return scalars

    def generator_losses(
        self, x_s: Tensor, x_a: Tensor, same: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Draw x' and compute what A and G minimise.

        Args:
            x_s: ``(B, 3, S, S)``, whose identity x' has.
            x_a: ``(B, 3, S, S)``, whose attributes x' has.
            same: ``(B,)``, 1 for "same" pairs.

        Returns:
            x' and the losses by name; ``loss`` is their weighted sum.
        """
        c = self.config
        with torch.no_grad():  # f_I, and so I, learns nothing from what G draws
            identity = self.i(x_s)
            target, _ = self.d(x_a)
        mean, log_variance = self.a(x_a)
        if self.training and c.prior == "fitted":
            self._fit_prior(mean.detach())
        attributes = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        drawn = self.g(identity, attributes)
        learning = [p for net in (self.i, self.d) for p in net.parameters() if p.requires_grad]
        for parameter in learning:  # gradients pass through C and D to x'; none are theirs
            parameter.requires_grad_(False)
        try:
            feature, logit = self.d(drawn)
            code = self.i(drawn)
        finally:
            for parameter in learning:
                parameter.requires_grad_(True)
        losses = {
            "gr": l_gr(drawn, x_a, same, c.lambda_different),
            "kl": l_kl(mean, log_variance),
            "gd": l_gd(feature, target, c.gd_form),
            "gc": l_gc(code, identity),
        }
        total = (
            c.reconstruction * losses["gr"]
            + c.kl * self.kl_strength() * losses["kl"]
            + c.discriminator_feature * losses["gd"]
            + c.classifier_feature * losses["gc"]
        )
        if c.landmarks:
            net = load_landmark_net(LANDMARKS)
            losses["lm"] = l_lm(tight_points(net, drawn), tight_points(net, x_a))
            total = total + c.landmarks * losses["lm"]
        if c.adversarial:
            losses["adv"] = generator_loss(logit, c.gan)
            total = total + c.adversarial * losses["adv"]
        return drawn, losses | {"loss": total}

    def _fit_prior(self, mean: Tensor) -> None:
        """Follow the first two moments of μ ``(B, D)``."""
        with torch.autocast(mean.device.type, enabled=False):
            self.prior_mean.lerp_(mean.mean(0), _MEMORY)
            self.prior_moment.lerp_(mean.T @ mean / len(mean), _MEMORY)

    def draw_attributes(self, count: int, seed: int = 0) -> Tensor:
        """Draw attribute codes ``(count, D)`` from the prior; the same for the same seed."""
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(count, self.config.attribute_dim, generator=generator)
        drawn = drawn.to(self.g.start.weight.device)
        if self.config.prior == "normal":
            return drawn
        covariance = self.prior_moment - self.prior_mean.outer(self.prior_mean)
        value, vector = torch.linalg.eigh(covariance)
        fitted: Tensor = self.prior_mean + (drawn * value.clamp_min(0).sqrt()) @ vector.T
        return fitted

    def kl_strength(self) -> float:
        """Return what L_KL is multiplied by at this step, from 0 to 1."""
        warmup = self.config.kl_warmup
        return min(1.0, self.steps.item() / warmup) if warmup else 1.0

    def discriminator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """L_D (with R1, if asked for) of pictures ``(B, 3, S, S)``."""
        c = self.config
        loss = discriminator_loss(self.d(real)[1], self.d(fake)[1], c.gan)
        if c.r1:
            with torch.enable_grad(), torch.autocast(real.device.type, enabled=False):
                x = real.detach().requires_grad_()
                loss = loss + c.r1 * r1_penalty(self.d(x)[1], x)
        return loss

    @torch.no_grad()
    def preview(self, batch: Batch) -> Image:
        """Columns are faces; rows: x^s, x^a, x' (cross), x^s drawn anew, with drawn attributes.

        Stage ``recognise`` draws nothing: it shows x^s as I sees it, and x^a.
        """
        x = batch["source"][:16]
        if self.stage == "recognise":
            return picture_grid([x, batch["attributes"][:16]])
        training = self.training
        self.eval()
        other = batch["attributes"][:16].roll(1, 0)
        identity, own = self._codes(x)
        drawn = self.draw_attributes(len(own))
        attributes = (self._codes(other)[1], own, drawn)
        rows = [x, other, *(self.g(identity, each) for each in attributes)]
        self.train(training)
        return picture_grid(rows)

    # Codes ---------------------------------------------------------------------------------------

    def encode(self, images: Tensor) -> Codes:
        """Return f_I as ``identity`` and (after stage ``synthesise``) μ of A as ``appearance``.

        The appearance code holds all but the identity: pose and expression too.

        Args:
            images: ``(B, 3, H, W)`` in [-1, 1]; resized to ``size``.
        """
        x = self._resize(images)
        codes: Codes = {"identity": self.i(x)}
        if self.stage == "synthesise":
            codes["appearance"] = self.a(x)[0]
        return codes

    def _codes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.i(x), self.a(x)[0]

    # Edits ---------------------------------------------------------------------------------------
    #
    # All are deterministic, take images (B, 3, H, W) in [-1, 1], and a strength from 0 (the image
    # itself) to 1 (what G draws). Between them the codes move while the drawing is faded in.

    @torch.no_grad()
    def swap_identity(self, images: Tensor, drivers: Tensor, strength: float = 1.0) -> Edit:
        """Draw ``images`` with the identity of ``drivers`` (one each, or one for all)."""
        x = self._start(images, strength)
        identity, attributes = self._codes(x)
        target = self.i(self._start(drivers, strength)).expand_as(identity)
        drawn = self.g(sphere(torch.lerp(identity, target, strength)), attributes)
        return _faded(x, drawn, strength)

    @torch.no_grad()
    def transfer_attributes(self, images: Tensor, drivers: Tensor, strength: float = 1.0) -> Edit:
        """Draw the persons of ``images`` with the attributes of ``drivers`` (one each, or one)."""
        x = self._start(images, strength)
        identity, attributes = self._codes(x)
        target = self.a(self._start(drivers, strength))[0].expand_as(attributes)
        return _faded(x, self.g(identity, torch.lerp(attributes, target, strength)), strength)

    @torch.no_grad()
    def frontalise(self, images: Tensor, strength: float = 1.0) -> Edit:
        """Turn the head to the camera (ours): f_A becomes its mean with that of the mirror image.

        A mirror image has the opposite yaw and roll, which cancel, and the rest in common; a light
        from one side cancels too.
        """
        x = self._start(images, strength)
        identity, attributes = self._codes(x)
        mirrored = self.a(x.flip(-1))[0]
        drawn = self.g(identity, torch.lerp(attributes, mirrored, strength / 2))
        return _faded(x, drawn, strength)

    @torch.no_grad()
    def interpolate_attributes(
        self, identity: Tensor, first: Tensor, second: Tensor, steps: int
    ) -> Tensor:
        """Draw persons while their attributes go from those of one picture to those of another.

        Args:
            identity: ``(B, 3, H, W)`` in [-1, 1], pictures of the persons.
            first: ``(B, 3, H, W)``, whose attributes come first.
            second: ``(B, 3, H, W)``, whose attributes come last.
            steps: Pictures of each person, at least 2.

        Returns:
            ``(B, steps, 3, S, S)`` in [-1, 1].
        """
        if steps < 2:
            raise ConfigError(f"An interpolation has at least 2 steps, not {steps}.")
        f_i = self.i(self._start(identity, 1.0))
        ends = [self.a(self._resize(x))[0] for x in (first, second)]
        shares = torch.linspace(0, 1, steps, device=f_i.device)
        pictures = [self.g(f_i, torch.lerp(ends[0], ends[1], float(s))) for s in shares]
        return torch.stack(pictures, 1)

    @torch.no_grad()
    def generate(self, images: Tensor, count: int, seed: int = 0) -> Tensor:
        """Draw new pictures of the persons of ``images``, with attributes from the prior.

        Args:
            images: ``(B, 3, H, W)`` in [-1, 1].
            count: Pictures of each person, at least 1; the k-th have the same attributes.
            seed: Of the attributes.

        Returns:
            ``(B, count, 3, S, S)`` in [-1, 1].
        """
        if count < 1:
            raise ConfigError(f"At least 1 picture of a person is drawn, not {count}.")
        f_i = self.i(self._start(images, 1.0))
        drawn = self.draw_attributes(count, seed)
        return torch.stack([self.g(f_i, r.expand(len(f_i), -1)) for r in drawn], 1)

    def _start(self, images: Tensor, strength: float) -> Tensor:
        if not 0 <= strength <= 1:
            raise ConfigError(f"The strength of an edit lies between 0 and 1, not at {strength}.")
        if self.stage != "synthesise":
            raise WeightsError("These weights hold the stage 'recognise' only: they draw nothing.")
        return self._resize(images)

    def _resize(self, images: Tensor) -> Tensor:
        size = (self.config.size, self.config.size)
        if images.shape[-2:] == size:
            return images
        return F.interpolate(images, size, mode="bilinear", antialias=True)


def _faded(x: Tensor, drawn: Tensor, strength: float) -> Edit:
    return Edit(torch.lerp(x, drawn, strength).clamp(-1, 1))


def _check(config: IPGAN.Config) -> None:
    """Raise ConfigError for a setting without meaning."""
    c = config
    for key, allowed in _SWITCHES.items():
        if getattr(c, key) not in allowed:
            value = str(getattr(c, key))
            raise ConfigError(f"{key} has no value {value!r}{nearest(value, map(str, allowed))}")
    for key in ("width", "identity_dim", "attribute_dim", "depth", "teacher_dim", "least"):
        if getattr(c, key) < 1:
            raise ConfigError(f"{key} is at least 1, not {getattr(c, key)}.")
    for key in ("same_share", "flip", "expressions"):
        if not 0 <= getattr(c, key) <= 1:
            raise ConfigError(f"{key} is a share from 0 to 1, not {getattr(c, key)}.")
    if c.identities < 0 or c.kl_warmup < 0:
        raise ConfigError("identities and kl_warmup cannot be negative.")


_SWITCHES: dict[str, tuple[Any, ...]] = {
    "size": (32, 64, 128, 256),
    "inject": INJECTIONS,
    "recon_mode": ("same_image", "same_person"),
    "gan": KINDS,
    "gd_form": FORMS,
    "prior": ("normal", "fitted"),
}
