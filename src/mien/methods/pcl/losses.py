"""The losses of PCL: D, InfoNCE with mixed negatives, and the balance of the two contrasts.

All are computed in full precision, whatever the networks use.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_TINY = 1e-12


def orthogonality(a: Tensor, b: Tensor, official: bool = False) -> Tensor:
    """D(A, B): how far the codes of one batch tell about each other, a loss of Domain Separation.

    Both ``(B, d)`` are centred over the batch and their rows divided by their (constant) norms:
    D = ‖Âᵀ B̂‖²_F / B², from 0 to 1 at any size of batch.

    Args:
        a: Codes ``(B, d)``.
        b: Codes ``(B, d)``, row by row of the same images.
        official: Divide by d² as published (the mean over the d x d entries), which leaves at most
            (B / d)²: next to nothing for a small batch.
    """
    with torch.autocast(a.device.type, enabled=False):
        a, b = _directions(a.float()), _directions(b.float())
        # ‖Âᵀ B̂‖² = Σ (Â Âᵀ) ∘ (B̂ B̂ᵀ): B x B numbers instead of d x d.
        squares = ((a @ a.T) * (b @ b.T)).sum()
        return squares / (a.shape[1] * b.shape[1] if official else len(a) ** 2)


def _directions(x: Tensor) -> Tensor:
    x = x - x.mean(0, keepdim=True)
    length: Tensor = torch.linalg.vector_norm(x.detach(), dim=1, keepdim=True)
    return x / (length + 1e-6)


def mirror_agreement(a: Tensor, b: Tensor, mirrored: Tensor) -> Tensor:
    """L_agree (ours): how far codes of mirror images differ, as a share of how far any two do.

    0 where they are equal, 1 where they are no more alike than those of other faces.

    Args:
        a: Codes ``(B, d)`` of images.
        b: Codes ``(B, d)`` of their partners.
        mirrored: ``(B,)``, true where the partner is the mirror image; others do not count.
    """
    if mirrored.sum() < 2:
        return a.new_zeros(())
    with torch.autocast(a.device.type, enabled=False):
        a, b = a.float()[mirrored], b.float()[mirrored]
        spread = torch.cat([a, b]).var(0, correction=0).mean()
        return (a - b).square().mean() / (2 * spread + 1e-6)


def draw_mixing(rows: int, negatives: int, beta: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """Draw λ ~ Beta(β, β) for each anchor and negative, and one permutation π for all anchors.

    Returns:
        λ ``(rows, negatives)`` and π ``(negatives,)``.
    """
    strength = torch.tensor(beta, device=like.device)
    mix = torch.distributions.Beta(strength, strength).sample((rows, negatives))
    return mix, torch.randperm(negatives, device=like.device)


def face_contrast(features: Tensor, temperature: float, mix: Tensor, order: Tensor) -> Tensor:
    """InfoNCE over two views of each image, its negatives mixed with each other.

    Each negative v_j of an anchor becomes λ v_j + (1 - λ) v_π(j), which is then normalised.

    Args:
        features: ``(2B, D)``; rows i and B + i are views of one image. Not normalised.
        temperature: Of the softmax.
        mix: λ ``(2B, 2B - 2)``; 1 is ordinary InfoNCE.
        order: π ``(2B - 2,)``, places in each anchor's list of negatives.
    """
    with torch.autocast(features.device.type, enabled=False):
        v = features.float()
        a = F.normalize(v, dim=1)
        others = _others(len(v), v.device)
        gram = v @ v.T
        negative = _mixed_cosines(
            along=(a @ v.T).gather(1, others),
            square=gram.diagonal()[others],
            product=gram[others, others[:, order]],
            mix=mix,
            order=order,
        )
        positive = (a * a.roll(len(a) // 2, 0)).sum(1)
        return info_nce(positive, negative, temperature)


def pose_contrast(
    views: Tensor, mirrors: Tensor, temperature: float, mix: Tensor, order: Tensor
) -> Tensor:
    """InfoNCE over two views of each image against views of mirror images, mixed in each row.

    Args:
        views: ``(2n, D)``; rows i and n + i are views of one image. Not normalised.
        mirrors: ``(n, K, D)``, the negatives of each image's two views.
        temperature: Of the softmax.
        mix: λ ``(n, K)``.
        order: π ``(K,)``.
    """
    with torch.autocast(views.device.type, enabled=False):
        a, v = F.normalize(views.float(), dim=1), mirrors.float()
        negative = _mixed_cosines(
            along=torch.einsum("and,nkd->ank", a.view(2, len(v), -1), v),
            square=v.square().sum(2),
            product=(v * v[:, order]).sum(2),
            mix=mix,
            order=order,
        )
        positive = (a * a.roll(len(v), 0)).sum(1)
        return info_nce(positive, negative.flatten(0, 1), temperature)


def info_nce(positive: Tensor, negative: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of cosines ``(R,)`` against ``(R, K)``; log(1 + K) where all are equal."""
    logits = torch.cat([positive[:, None], negative], 1) / temperature
    return F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.int64))


def _mixed_cosines(
    along: Tensor, square: Tensor, product: Tensor, mix: Tensor, order: Tensor
) -> Tensor:
    """Return the cosines of anchors a with λ v_j + (1 - λ) v_π(j) from dot products alone.

    The mixed vectors themselves would be ``(2B, 2B - 2, D)``: half a gigabyte in the paper's batch.

    Args:
        along: a · v_j ``(..., K)``, a of unit length.
        square: v_j · v_j ``(..., K)``.
        product: v_j · v_π(j) ``(..., K)``.
        mix: λ ``(..., K)``.
        order: π ``(K,)``.
    """
    rest = 1 - mix
    dot = mix * along + rest * along[..., order]
    length = mix**2 * square + rest**2 * square[..., order] + 2 * mix * rest * product
    return dot / length.clamp_min(_TINY).sqrt()


def _others(count: int, device: torch.device) -> Tensor:
    """Return ``(2B, 2B - 2)``: for each row all rows but itself and the other view of its image."""
    row = torch.arange(count, device=device)
    foreign = (row[:, None] - row) % (count // 2) != 0
    return row.expand(count, count)[foreign].view(count, count - 2)


class DynamicWeights(nn.Module):
    """Dynamic weight average of two losses: the one that falls more slowly counts more.

    For epoch e: r_k = L_k(e-1) / L_k(e-2) of the epochs' mean losses, w = 2 softmax(r / T); 1 for
    both as long as there are no two epochs to compare.

    Args:
        epoch: Steps of an epoch.
        temperature: T.
    """

    total: Tensor
    steps: Tensor
    means: Tensor
    weights: Tensor

    def __init__(self, epoch: int, temperature: float) -> None:
        super().__init__()
        self.epoch, self.temperature = epoch, temperature
        self.register_buffer("total", torch.zeros(2))  # of the losses of this epoch
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("means", torch.zeros(2, 2))  # L(e-1), L(e-2)
        self.register_buffer("weights", torch.ones(2))

    @torch.no_grad()
    def add(self, losses: Tensor) -> None:
        """Take in the losses ``(2,)`` of a step; at the end of an epoch the weights change."""
        self.total += losses
        self.steps += 1
        if self.steps % self.epoch:
            return
        self.means.copy_(torch.stack([self.total / self.epoch, self.means[0]]))
        self.total.zero_()
        if self.steps >= 2 * self.epoch:
            self.weights.copy_(dynamic_weights(self.means[0], self.means[1], self.temperature))


def dynamic_weights(last: Tensor, before: Tensor, temperature: float) -> Tensor:
    """Return w ``(2,)`` from the mean losses ``(2,)`` of the last epoch and the one before it."""
    return 2 * (last / before.clamp_min(_TINY) / temperature).softmax(0)
