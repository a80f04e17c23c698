"""3x3 convolutions as matrix products: fewer multiplications than the direct way, on a CPU.

Winograd's minimal filtering F(2x2, 3x3) as in Lavin & Gray, *Fast Algorithms for Convolutional
Neural Networks*, CVPR 2016 (arXiv 1509.09308), §4.1: a 4x4 tile of the input gives a 2x2 tile of
the output by 16 multiplications a channel pair instead of 36. The products of a tile position are
one matrix product over channels, which is what BLAS is best at. Sums are taken in another order
than the direct way: results differ by float32 rounding, about 1e-6 of their size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_CHANNELS = 64  # at least; below, the transforms cost more than the products save
_PLACES = 1024  # at least, of the whole batch; below, transforming the filters does


class Conv3x3(nn.Conv2d):
    """3x3 convolution, stride 1, padding 1: ``(B, C, H, W)`` → ``(B, C', H, W)``.

    Parameters, names and results are those of ``nn.Conv2d``. Wide layers on float32 CPU tensors of
    even height and width take Winograd's way, all others the library's.
    """

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__(cin, cout, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        w = self.weight
        if (
            x.is_cpu
            and x.dtype == w.dtype == torch.float32
            and min(w.shape[:2]) >= _CHANNELS
            and x.shape[-2] % 2 == x.shape[-1] % 2 == 0
            and len(x) * x.shape[-2] * x.shape[-1] >= _PLACES
            and not torch.is_autocast_enabled("cpu")
            and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        ):
            y: Tensor = _Winograd.apply(x, w, self.bias)  # type: ignore[no-untyped-call]
            return y
        return super().forward(x)


class _Winograd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        v, u = _tiles(x), _filters(weight)
        ctx.save_for_backward(v, u)
        ctx.shape = x.shape
        return _output(torch.bmm(v, u.transpose(1, 2)), x.shape, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        v, u = ctx.saved_tensors
        need_x, need_w, need_b = ctx.needs_input_grad
        m = _output_gradient(dy)
        dx = _input_gradient(torch.bmm(m, u), ctx.shape) if need_x else None
        dw = _filter_gradient(torch.bmm(m.transpose(1, 2), v)) if need_w else None
        return dx, dw, dy.sum((0, 2, 3)) if need_b else None


# The transforms of a row and of a column are alike. Matrices as in the paper:
#   Bᵀ = [1 0 -1 0; 0 1 1 0; 0 -1 1 0; 0 1 0 -1], Aᵀ = [1 1 1 0; 0 1 -1 -1],
#   G = [1 0 0; ½ ½ ½; ½ -½ ½; 0 0 1].


def _filters(g: Tensor) -> Tensor:
    """U = G g Gᵀ: filters ``(C', C, 3, 3)`` → ``(16, C', C)``, column before row as all below."""
    g = g.detach().permute(2, 3, 0, 1)  # rows of a channels_last filter stay whole
    u = g.new_empty(4, 4, *g.shape[2:])
    for row, filtered in enumerate(_filter_rows(g)):
        for column, value in enumerate(_filter_rows(filtered)):
            u[column, row] = value
    return u.view(16, *g.shape[2:])


def _filter_rows(g: Tensor) -> list[Tensor]:
    outer, middle = (g[0] + g[2]) / 2, g[1] / 2
    return [g[0], outer + middle, outer - middle, g[2]]


def _filter_gradient(u: Tensor) -> Tensor:
    """Gᵀ dU G: ``(16, C', C)`` → ``(C', C, 3, 3)``."""
    u = u.view(4, 4, *u.shape[1:])
    columns = torch.stack(_filter_sums(u))
    g = torch.stack(_filter_sums(columns.transpose(0, 1)))  # row, column
    return g.permute(2, 3, 0, 1)


def _filter_sums(u: Tensor) -> list[Tensor]:
    both = (u[1] + u[2]) / 2
    return [u[0] + both, (u[1] - u[2]) / 2, both + u[3]]


def _tiles(x: Tensor) -> Tensor:
    """V = Bᵀ d B of every tile d: ``(B, C, H, W)`` → ``(16, B·H/2·W/2, C)``."""
    b, c, h, w = x.shape
    padded = x.new_zeros(b, h + 2, w + 2, c)
    padded[:, 1:-1, 1:-1] = x.permute(0, 2, 3, 1)
    rows = x.new_empty(4, b, h // 2, w + 2, c)
    _difference([padded[:, i : h + i : 2] for i in range(4)], rows)
    v = x.new_empty(4, 4, b, h // 2, w // 2, c)
    _difference([rows[:, :, :, i : w + i : 2] for i in range(4)], v)
    return v.view(16, -1, c)


def _difference(d: list[Tensor], out: Tensor) -> None:
    torch.sub(d[0], d[2], out=out[0])
    torch.add(d[1], d[2], out=out[1])
    torch.sub(d[2], d[1], out=out[2])
    torch.sub(d[1], d[3], out=out[3])


def _input_gradient(v: Tensor, shape: torch.Size) -> Tensor:
    """B dV Bᵀ, tiles overlapping: ``(16, B·H/2·W/2, C)`` → ``(B, C, H, W)``."""
    b, c, h, w = shape
    rows = v.new_empty(4, b, h // 2, w // 2 + 1, 2, c)
    _overlap(v.view(4, 4, b, h // 2, w // 2, c), rows, 3)
    padded = v.new_empty(b, h // 2 + 1, 2, w + 2, c)
    _overlap(rows.view(4, b, h // 2, w + 2, c), padded, 1)
    inner = padded.view(b, h + 2, w + 2, c)[:, 1:-1, 1:-1]
    return inner.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def _overlap(v: Tensor, out: Tensor, axis: int) -> None:
    """Add up what four places of n tiles owe to the places ``(n + 1, 2)`` of ``out``."""
    n = v.shape[axis + 1]
    even, odd = out.select(axis + 1, 0), out.select(axis + 1, 1)
    even.select(axis, n).zero_()
    odd.select(axis, n).zero_()
    even.narrow(axis, 0, n).copy_(v[0])
    even.narrow(axis, 1, n).add_(torch.add(v[1], v[2]).sub_(v[0]))
    torch.sub(v[1], v[2], out=odd.narrow(axis, 0, n)).add_(v[3])
    odd.narrow(axis, 1, n).sub_(v[3])


def _output(m: Tensor, shape: torch.Size, bias: Tensor | None) -> Tensor:
    """Aᵀ M A: ``(16, B·H/2·W/2, C')`` → ``(B, C', H, W)``."""
    b, _, h, w = shape
    c = m.shape[-1]
    columns = m.new_empty(2, 4, b, h // 2, w // 2, c)
    _gather(m.view(4, 4, b, h // 2, w // 2, c), columns[0], columns[1])
    y = m.new_empty(b, h // 2, 2, w // 2, 2, c)
    for column in range(2):
        _gather(columns[column], y[:, :, 0, :, column], y[:, :, 1, :, column])
    if bias is not None:
        y += bias
    return y.view(b, h, w, c).permute(0, 3, 1, 2)


def _gather(m: Tensor, even: Tensor, odd: Tensor) -> None:
    torch.add(m[0], m[1], out=even).add_(m[2])
    torch.sub(m[1], m[2], out=odd).sub_(m[3])


def _output_gradient(dy: Tensor) -> Tensor:
    """A dY Aᵀ: ``(B, C', H, W)`` → ``(16, B·H/2·W/2, C')``."""
    b, c, h, w = dy.shape
    tiles = dy.permute(0, 2, 3, 1).reshape(b, h // 2, 2, w // 2, 2, c)
    rows = dy.new_empty(4, b, h // 2, w // 2, 2, c)
    _spread(tiles[:, :, 0], tiles[:, :, 1], rows)
    m = dy.new_empty(4, 4, b, h // 2, w // 2, c)
    _spread(rows[..., 0, :], rows[..., 1, :], m)
    return m.view(16, -1, c)


def _spread(even: Tensor, odd: Tensor, out: Tensor) -> None:
    out[0] = even
    torch.add(even, odd, out=out[1])
    torch.sub(even, odd, out=out[2])
    torch.neg(odd, out=out[3])
