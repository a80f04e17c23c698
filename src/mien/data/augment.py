"""Augmentation of whole batches: every image its own parameters, no loop over images.

Images are float tensors ``(B, 3, H, W)`` in [-1, 1] and stay in that range. Every function draws
from an explicit generator, and always the same number of values, so a batch is a pure function of
the generator's state. ``p`` is the probability that an image of the batch changes; the others are
returned bit for bit. The generator may live on another device than the images.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from mien.files.errors import ConfigError

Range = tuple[float, float]

MIRROR = (
    *range(16, -1, -1),  # jaw
    *range(26, 16, -1),  # brows
    *range(27, 31),  # bridge of the nose
    *range(35, 30, -1),  # under the nose
    *(45, 44, 43, 42, 47, 46),  # eyes
    *(39, 38, 37, 36, 41, 40),
    *(54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55),  # outer lips
    *(64, 63, 62, 61, 60, 67, 66, 65),  # inner lips
)
"""``MIRROR[i]`` is the iBUG point on the other side of the face from point ``i``."""

_LUMA = (0.299, 0.587, 0.114)
_EDGE_LUMA = (65.738 / 256, 129.057 / 256, 25.064 / 256)
_CROP_ATTEMPTS = 10


def color_jitter(
    x: Tensor,
    generator: torch.Generator,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
    p: float = 1.0,
) -> Tensor:
    """Change brightness, contrast, saturation and hue in random order.

    As in torchvision the first three are blends with black, with the mean grey and with the grey
    image by a factor from ``[max(0, 1 - s), 1 + s]``. The four steps of an image are composed to
    one affine map of its colours, which differs from torchvision in two ways: colours are clamped
    once, at the end, and hue is a rotation about the grey axis in YIQ (exact luma), not HSV.

    Args:
        x: ``(B, 3, H, W)`` in [-1, 1].
        generator: Source of the factors.
        brightness: Strength, ≥ 0.
        contrast: Strength, ≥ 0.
        saturation: Strength, ≥ 0.
        hue: Largest turn as a share of the full circle, in [0, 0.5].
        p: Share of images that change.

    Returns:
        ``(B, 3, H, W)`` in [-1, 1].

    Raises:
        ConfigError: A strength is out of its range.
    """
    if min(brightness, contrast, saturation, hue) < 0 or hue > 0.5:
        raise ConfigError("Strengths of the colour jitter are ≥ 0, and that of hue is ≤ 0.5.")
    n = len(x)
    chosen = _chosen(x, generator, p)
    order = _uniform(x, generator, (n, 4)).argsort(1)
    b, c, s = (
        _uniform(x, generator, (n, 1, 1), (max(0.0, 1 - strength), 1 + strength))
        for strength in (brightness, contrast, saturation)
    )
    angle = _uniform(x, generator, (n, 1, 1), (-2 * math.pi * hue, 2 * math.pi * hue))

    eye = torch.eye(3, dtype=x.dtype, device=x.device)
    luma = eye.new_tensor(_LUMA).expand(3, 3)  # every row makes the luma of a colour
    chroma, quarter = _hue_basis(eye, luma)
    turn = eye + (angle.cos() - 1) * chroma + angle.sin() * quarter
    steps = torch.stack([b * eye, c * eye, s * eye + (1 - s) * luma, turn], 1)

    mean = x.mean((2, 3)).add(1).div(2)[:, :, None]
    matrix, offset = eye.expand(n, 3, 3), torch.zeros_like(mean)
    rows = torch.arange(n, device=x.device)
    for which in order.unbind(1):
        step = steps[rows, which]
        # Contrast blends with the mean luma that the steps before it left.
        grey = luma @ (matrix @ mean + offset) * (1 - c) * (which == 1)[:, None, None]
        matrix, offset = step @ matrix, step @ offset + grey
    # From [0, 1] to [-1, 1]: the steps are affine, so only the offset changes.
    offset = matrix.sum(2, keepdim=True) + 2 * offset - 1
    matrix = torch.where(chosen[:, None, None], matrix, eye)
    offset = torch.where(chosen[:, None, None], offset, 0.0)
    return _map_colours(x, matrix, offset).clamp_(-1, 1)


def grayscale(x: Tensor, generator: torch.Generator, p: float = 0.2) -> Tensor:
    """Replace a share ``p`` of images ``(B, 3, H, W)`` by their luma in three equal channels."""
    chosen = _chosen(x, generator, p)
    return torch.where(_wide(chosen), _luma(x, _LUMA), x)


def gaussian_blur(
    x: Tensor,
    generator: torch.Generator,
    sigma: Range = (0.1, 2.0),
    p: float = 0.8,
    taps: int = 7,
) -> Tensor:
    """Blur a share ``p`` of images, each with its own width.

    Args:
        x: ``(B, 3, H, W)`` in [-1, 1], larger than half the taps on each side.
        generator: Source of the widths.
        sigma: Smallest and largest standard deviation in pixels, drawn uniformly.
        p: Share of images that change.
        taps: Odd length of the separable kernel; beyond the border the image is reflected.

    Returns:
        ``(B, 3, H, W)`` in [-1, 1].
    """
    if taps % 2 == 0 or sigma[0] <= 0:
        raise ConfigError("A blur needs an odd number of taps and widths above zero.")
    chosen = _chosen(x, generator, p)
    width = _uniform(x, generator, (len(x), 1), sigma)
    radius = taps // 2
    distance = torch.arange(radius + 1, dtype=x.dtype, device=x.device)
    half = torch.exp(-0.5 * (distance / width) ** 2)
    half = half / (half[:, :1] + 2 * half[:, 1:].sum(1, keepdim=True))
    weights = [_wide(w) for w in half.unbind(1)]
    blurred = x
    # Shifted sums beat a grouped convolution on CPU and keep the memory format.
    for axis, pad in ((-1, (radius, radius, 0, 0)), (-2, (0, 0, radius, radius))):
        size = x.shape[axis]
        padded = F.pad(blurred, pad, mode="reflect")
        blurred = padded.narrow(axis, radius, size) * weights[0]
        for k in range(1, radius + 1):
            pair = padded.narrow(axis, radius - k, size) + padded.narrow(axis, radius + k, size)
            blurred.addcmul_(pair, weights[k])
    return torch.where(_wide(chosen), blurred, x)


def sobel(x: Tensor, generator: torch.Generator, p: float = 0.6) -> Tensor:
    """Replace a share ``p`` of images by the strength of their edges, in three equal channels.

    As PCL does: luma with the video-range weights on [0, 1], central differences ``[-1, 0, 1]`` in
    both directions with zeros beyond the border, ``sqrt(gx² + gy² + 1e-6)``; clamped to 1.

    Args:
        x: ``(B, 3, H, W)`` in [-1, 1].
        generator: Source of the choice.
        p: Share of images that change.

    Returns:
        ``(B, 3, H, W)`` in [-1, 1]; -1 is no edge.
    """
    chosen = _chosen(x, generator, p)
    padded = F.pad(_luma(x.add(1).div(2), _EDGE_LUMA), (1, 1, 1, 1))
    across = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]
    down = padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
    edges = (across.square() + down.square() + 1e-6).sqrt()
    return torch.where(_wide(chosen), edges.mul(2).sub(1).clamp(-1, 1), x)


def random_resized_crop(
    x: Tensor,
    generator: torch.Generator,
    scale: Range = (0.95, 1.05),
    ratio: Range = (0.95, 1.05),
) -> Tensor:
    """Cut a random rectangle from every image and resize it to the size of the image.

    The rule is torchvision's: of ten candidates the first that fits into the image is taken, the
    whole image if none does. Rectangles are not rounded to whole pixels.

    Args:
        x: ``(B, 3, H, W)``.
        generator: Source of the rectangles.
        scale: Range of the area as a share of the image's, uniform.
        ratio: Range of width over height, log-uniform.

    Returns:
        ``(B, 3, H, W)``, bilinear.
    """
    n, _, height, width = x.shape
    area = _uniform(x, generator, (n, _CROP_ATTEMPTS), scale)
    shape = _uniform(x, generator, (n, _CROP_ATTEMPTS), (math.log(ratio[0]), math.log(ratio[1])))
    place = _uniform(x, generator, (n, 2), (-1.0, 1.0))
    # Shares of width and height; the ratio counts pixels.
    shape = shape.exp() * height / width
    share = torch.stack([(area * shape).sqrt(), (area / shape).sqrt()], -1)
    fits = (share <= 1).all(-1)
    first = fits.to(torch.uint8).argmax(1)  # 0 also where none fits
    share = share[torch.arange(n, device=x.device), first]
    share = torch.where(fits.any(1)[:, None], share, 1.0)
    theta = torch.cat([torch.diag_embed(share), (place * (1 - share))[:, :, None]], 2)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def random_similarity(
    x: Tensor,
    generator: torch.Generator,
    degrees: float = 0.0,
    scale: Range = (1.0, 1.0),
    shift: float = 0.0,
    points: Tensor | None = None,
    border: str = "reflection",
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Turn, enlarge and shift every image about its centre.

    Args:
        x: ``(B, C, H, W)``.
        generator: Source of the parameters.
        degrees: Largest turn to either side; positive is clockwise as the viewer sees it.
        scale: Smallest and largest enlargement, log-uniform.
        shift: Largest shift along each axis in image widths.
        points: ``(B, P, 2)`` in pixels, moved with the images.
        border: What lies beyond the image: ``reflection``, ``border`` or ``zeros``.

    Returns:
        The images ``(B, C, H, W)``, the points ``(B, P, 2)`` or None, and ``to_result``
        ``(B, 2, 3)``: pixels of the old image to pixels of the new one.
    """
    n, _, height, width = x.shape
    angle = _uniform(x, generator, (n,), (-math.radians(degrees), math.radians(degrees)))
    size = _uniform(x, generator, (n,), (math.log(scale[0]), math.log(scale[1]))).exp()
    move = _uniform(x, generator, (n, 2), (-shift * width, shift * width))
    centre = x.new_tensor([(width - 1) / 2, (height - 1) / 2])

    cos, sin = angle.cos(), angle.sin()
    turn = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
    linear = turn * size[:, None, None]
    offset = centre + move - linear @ centre
    to_result = torch.cat([linear, offset[:, :, None]], 2)

    # grid_sample asks where a new pixel comes from, in units of half an image from its centre.
    unit = x.new_tensor([width, height]) / 2
    back = turn.transpose(1, 2) / size[:, None, None]
    start = -(back @ move[:, :, None]) / unit[:, None]
    theta = torch.cat([back * unit / unit[:, None], start], 2)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    moved = F.grid_sample(x, grid, padding_mode=border, align_corners=False)
    if points is not None:
        points = points @ linear.transpose(1, 2) + offset[:, None]
    return moved, points, to_result


def horizontal_flip(x: Tensor, generator: torch.Generator, p: float = 0.5) -> tuple[Tensor, Tensor]:
    """Mirror a share ``p`` of images ``(B, C, H, W)``.

    Returns:
        The images, and bool ``(B,)``: which were mirrored (their yaw and roll change sign, their
        landmarks go through ``mirror_points``).
    """
    chosen = _chosen(x, generator, p)
    return torch.where(_wide(chosen), x.flip(-1), x), chosen


def mirror_points(points: Tensor, width: int) -> Tensor:
    """Return the 68 landmarks ``(..., 68, 2)`` of the mirrored image, in iBUG order again.

    Args:
        points: In pixels.
        width: Width of the image in pixels.
    """
    mirrored = points[..., list(MIRROR), :].clone()
    mirrored[..., 0] = (width - 1) - mirrored[..., 0]
    return mirrored


def lower_resolution(
    x: Tensor, generator: torch.Generator, factor: Range = (0.4, 1.0), p: float = 0.5
) -> Tensor:
    """Shrink a share ``p`` of images, each by its own factor, and enlarge them again.

    Args:
        x: ``(B, C, H, W)``.
        generator: Source of the factors.
        factor: Smallest and largest size of the small image relative to ``x``, in (0, 1], uniform.
        p: Share of images that change.

    Returns:
        ``(B, C, H, W)``: shrunk with a triangle filter as wide as the new pixels (PIL's
        ``BILINEAR``), enlarged bilinearly.
    """
    if not 0 < factor[0] <= factor[1] <= 1:
        raise ConfigError("The factor of a lower resolution lies between 0 and 1.")
    chosen = _chosen(x, generator, p)
    share = _uniform(x, generator, (len(x),), factor)
    across = _down_up(share, x.shape[-1])
    down = across if x.shape[-1] == x.shape[-2] else _down_up(share, x.shape[-2])
    return torch.where(_wide(chosen), down[:, None] @ (x @ across.mT[:, None]), x)


def noise(
    x: Tensor,
    generator: torch.Generator,
    sigma: Range = (0.0, 0.1),
    p: float = 0.5,
    shared: bool = False,
) -> Tensor:
    """Add normal noise to a share ``p`` of images.

    Args:
        x: ``(B, C, H, W)`` in [-1, 1].
        generator: Source of the noise.
        sigma: Smallest and largest standard deviation, uniform, as a share of the range [-1, 1].
        p: Share of images that change.
        shared: The same noise in all channels.

    Returns:
        ``(B, C, H, W)`` in [-1, 1].
    """
    chosen = _chosen(x, generator, p)
    strength = _uniform(x, generator, (len(x),), sigma) * 2
    n, channels, height, width = x.shape
    grain = torch.randn(
        (n, 1 if shared else channels, height, width),
        generator=generator,
        device=generator.device,
        dtype=x.dtype,
    ).to(x.device)
    noisy = torch.addcmul(x, grain, _wide(strength)).clamp_(-1, 1)
    return torch.where(_wide(chosen), noisy, x)


def quadrant_crops(
    x: Tensor, generator: torch.Generator, share: float = 0.2, second: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Cut a square from each of two different quadrants of every image (PCL's distance crop).

    Args:
        x: ``(B, C, H, W)``.
        generator: Source of quadrants and places.
        share: Half the side of a crop as a share of the image's; the side is ``2 int(share H)``,
            24 of 64 pixels.
        second: ``(B, C, H, W)``, of which the second square is cut; of ``x`` too if None.

    Returns:
        Two tensors ``(B, C, H, W)``, resized bilinearly from what lies inside the crop alone.
    """
    n, _, height, width = x.shape
    if not 0 < share <= 0.25:
        raise ConfigError("Half the side of a quadrant crop is between 0 and 0.25 of the image.")
    quadrants = _uniform(x, generator, (n, 4)).argsort(1)[:, :2]
    place = _uniform(x, generator, (n, 2, 2))
    sizes = x.new_tensor([width, height])
    border = (sizes * share).floor()
    room = (sizes / 2).floor() - 2 * border
    corner = torch.stack([quadrants % 2, quadrants // 2], -1) * (sizes / 2).floor()
    centre = corner + border + (place * (room + 1)).floor().minimum(room)
    start = (centre - border)[:, :, None]  # first pixel of the crop
    step = 2 * border / sizes

    crops = []
    for k, image in enumerate((x, x if second is None else second)):
        axes = []
        for axis, size in ((0, width), (1, height)):
            index = (torch.arange(size, dtype=x.dtype, device=x.device) + 0.5) * step[axis] - 0.5
            inside = index.clamp(0).minimum(2 * border[axis] - 1)  # what a cut image would show
            axes.append((start[:, k, :, axis] + inside + 0.5) * 2 / size - 1)
        grid = torch.stack(
            [
                axes[0][:, None, :].expand(n, height, width),
                axes[1][:, :, None].expand(n, height, width),
            ],
            -1,
        )
        crops.append(F.grid_sample(image, grid, padding_mode="border", align_corners=False))
    return crops[0], crops[1]


def _uniform(
    x: Tensor, generator: torch.Generator, shape: tuple[int, ...], bounds: Range = (0.0, 1.0)
) -> Tensor:
    """Draw uniform values on the generator's device and bring them to that of ``x``."""
    value = torch.rand(shape, generator=generator, device=generator.device, dtype=x.dtype)
    return value.mul_(bounds[1] - bounds[0]).add_(bounds[0]).to(x.device)


def _chosen(x: Tensor, generator: torch.Generator, p: float) -> Tensor:
    return _uniform(x, generator, (len(x),)) < p


def _wide(value: Tensor) -> Tensor:
    """Make one value an image broadcast over channels and pixels."""
    return value[:, None, None, None]


def _luma(x: Tensor, weights: tuple[float, float, float]) -> Tensor:
    red, green, blue = x.unbind(1)
    luma = (red * weights[0] + green * weights[1] + blue * weights[2])[:, None]
    return luma.expand_as(x)


def _hue_basis(eye: Tensor, luma: Tensor) -> tuple[Tensor, Tensor]:
    """Return the projection to chroma and the quarter turn of chroma, both ``(3, 3)``."""
    axes = eye.new_tensor([[0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])
    to_yiq = torch.cat([luma[:1], axes])
    quarter = eye.new_tensor([[0.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
    return eye - luma, torch.linalg.inv(to_yiq) @ quarter @ to_yiq


def _map_colours(x: Tensor, matrix: Tensor, offset: Tensor) -> Tensor:
    """Take the colours of every image through its affine map, keeping the memory format."""
    if x.is_contiguous():
        return torch.baddbmm(offset, matrix, x.flatten(2)).view_as(x)
    rows = x.permute(0, 2, 3, 1).flatten(1, 2)
    mapped = torch.baddbmm(offset.mT, rows, matrix.mT)
    return mapped.view(len(x), x.shape[2], x.shape[3], 3).permute(0, 3, 1, 2)


def _down_up(share: Tensor, size: int) -> Tensor:
    """Return ``(B, size, size)``: shrink a line of pixels to ``share``, then enlarge it again."""
    small = (share * size).round().clamp(min=1)[:, None, None]
    pixel = torch.arange(size, dtype=share.dtype, device=share.device)
    step = size / small
    centre = (pixel[:, None] + 0.5) * step - 0.5
    shrink = (1 - (pixel - centre).abs() / step).clamp(min=0)
    shrink = shrink / shrink.sum(2, keepdim=True).clamp(min=1e-6)
    source = ((pixel[:, None] + 0.5) / step - 0.5).clamp(min=0).minimum(small - 1)
    # Rows beyond the small image have no weight here.
    enlarge = (1 - (source - pixel).abs()).clamp(min=0)
    return enlarge @ shrink
