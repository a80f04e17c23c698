"""The losses of IP-GAN by the paper's names, in float32.

The paper's squared norms are sums; here each is a mean over pixels or dimensions, so that a weight
means the same at every size. L_D is ``mien.nets.adversarial.discriminator_loss``, L_C is L_I of the
shared network.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

FORMS = ("relative", "plain")  # of L_GD
_TINY = 1e-12


def l_i(logits: Tensor, label: Tensor) -> Tensor:
    """L_I (and L_C): -log p(c | x) over the rows that have a label; 0 if none has.

    Args:
        logits: ``(B, persons)``.
        label: ``(B,)`` int64, -1 where the person is unknown.
    """
    total = F.cross_entropy(logits.float(), label, reduction="sum", ignore_index=-1)
    return total / (label >= 0).sum().clamp_min(1)


def l_gr(drawn: Tensor, attributes: Tensor, same: Tensor, different: float = 0.1) -> Tensor:
    """L_GR: ½ ‖x^a - x'‖², times λ where the pair is not the same.

    Args:
        drawn: x' ``(B, 3, S, S)``.
        attributes: x^a, the picture whose attributes it has.
        same: ``(B,)``, 1 for a "same" pair, else 0.
        different: λ.
    """
    weight = same + different * (1 - same)
    return (weight * (drawn - attributes).square().mean((1, 2, 3))).mean() / 2


def l_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """L_KL: ½ (μ² + σ² - log σ² - 1), from N(μ, σ²) to N(0, 1), both ``(B, D)``."""
    return (mean.square() + log_variance.exp() - log_variance - 1).mean() / 2


def l_gd(drawn: Tensor, attributes: Tensor, form: str = "plain") -> Tensor:
    """L_GD: ½ ‖f_D(x^a) - f_D(x')‖²; f_D(x^a) is a constant.

    Args:
        drawn: f_D(x') ``(B, D)``.
        attributes: f_D(x^a) ``(B, D)``.
        form: ``relative`` divides by the mean square of f_D(x^a) in the batch.
    """
    attributes = attributes.detach()
    loss = (attributes - drawn).square().mean() / 2
    return loss / attributes.square().mean().clamp_min(_TINY) if form == "relative" else loss


def l_gc(drawn: Tensor, source: Tensor) -> Tensor:
    """L_GC: ½ ‖f_C(x') - f_C(x^s)‖² of codes ``(B, D)``; that of x^s is a constant.

    For codes of mean square 1 it is 1 - cos.
    """
    return (drawn - source.detach()).square().mean() / 2


def l_lm(drawn: Tensor, attributes: Tensor) -> Tensor:
    """L_lm (ours): mean distance of landmarks of x' and x^a, ``(B, 68, 2)``; x^a's are constants.

    In units of the crop, whose sides are 2 long.
    """
    distance: Tensor = torch.linalg.vector_norm(drawn - attributes.detach() + _TINY, dim=2).mean()
    return distance


def distillation(predicted: Tensor, teacher: Tensor) -> Tensor:
    """1 - cos to a teacher's embeddings ``(B, D)``, over the rows that have one; 0 if none has.

    Args:
        predicted: ``(B, D)``.
        teacher: ``(B, D)``; NaN where unknown.
    """
    known = teacher.isfinite().all(1)
    cosine = F.cosine_similarity(predicted.float(), teacher.nan_to_num(), dim=1)
    return ((1 - cosine) * known).sum() / known.sum().clamp_min(1)
