"""Pictures in and out: safe against hostile files, whole or not at all on disk."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import cv2
import numpy as np
from PIL import Image as Pillow
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from mien.faces.face import Image
from mien.files.atomic import write_bytes
from mien.files.errors import ImageError, nearest

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
MIN_SIDE = 16
LONGEST_SIDE = 32_000  # OpenCV's warps stop at 32767
MAX_PIXELS = 40_000_000
MAX_BYTES = 100_000_000

_DESCRIPTION, _ORIENTATION = 0x010E, 0x0112  # EXIF tags
_FORMATS = {"jpg": "JPEG", "jpeg": "JPEG", "png": "PNG", "webp": "WEBP"}
_UPRIGHT = {
    2: Pillow.Transpose.FLIP_LEFT_RIGHT,
    3: Pillow.Transpose.ROTATE_180,
    4: Pillow.Transpose.FLIP_TOP_BOTTOM,
    5: Pillow.Transpose.TRANSPOSE,
    6: Pillow.Transpose.ROTATE_270,
    7: Pillow.Transpose.TRANSVERSE,
    8: Pillow.Transpose.ROTATE_90,
}
_SIDEWAYS = tuple(_UPRIGHT[k] for k in (5, 6, 7, 8))


def read_image(
    source: str | Path | bytes,
    *,
    max_pixels: int = MAX_PIXELS,
    max_bytes: int = MAX_BYTES,
    min_side: int = MIN_SIDE,
    max_side: int | None = None,
) -> Image:
    """Read a JPEG, PNG or WebP picture, upright, as 8-bit RGB.

    The format is told by content and the declared size is checked before anything is decoded.
    EXIF orientation is applied, transparency is laid on white, 16-bit grey is scaled to 8 bits,
    and of an animation the first picture is taken.

    Args:
        source: Path of a local file, or the bytes of one.
        max_pixels: Largest declared width x height.
        max_bytes: Largest file.
        min_side: Shortest side a picture may have, in pixels.
        max_side: Shrink so that the longest side has at most this many pixels (JPEG does it
            while decoding, which is several times faster). All coordinates found in the result
            are those of the shrunk picture.

    Returns:
        uint8 ``(H, W, 3)`` RGB.

    Raises:
        ImageError: No such file, another format, too large, too small, or damaged.
    """
    limits = {"max_pixels": max_pixels, "max_bytes": max_bytes, "min_side": min_side}
    return read_image_sized(source, max_side=max_side, **limits)[0]


def read_image_sized(
    source: str | Path | bytes,
    *,
    max_pixels: int = MAX_PIXELS,
    max_bytes: int = MAX_BYTES,
    min_side: int = MIN_SIDE,
    max_side: int | None = None,
) -> tuple[Image, tuple[int, int]]:
    """As ``read_image``; also returns the upright picture's own (width, height), before shrinking.

    Raises:
        ImageError: As ``read_image``.
    """
    name = _name(source)
    image = _open(source, max_pixels, max_bytes)
    width, height = image.size
    if min(image.size) < min_side:
        raise ImageError(
            f"{name} has {width} x {height} pixels; a face needs at least {min_side} on each side."
        )
    try:
        if max_side and max(image.size) > max_side:
            share = max_side / max(image.size)
            image.draft(None, (round(width * share), round(height * share)))
        upright = _orientation(image)
        pixels = _to_rgb(image)
    except Exception as error:  # decoders of hostile files raise anything
        raise ImageError(
            f"{name} is damaged or cut off ({error}); copy or download it again."
        ) from error
    if upright is not None:
        pixels = pixels.transpose(upright)
    if upright in _SIDEWAYS:
        width, height = height, width
    array = np.array(pixels)
    if max_side and max(array.shape[:2]) > max_side:
        share = max_side / max(array.shape[:2])
        size = [max(1, round(side * share)) for side in array.shape[1::-1]]
        array = cast(Image, cv2.resize(array, size, interpolation=cv2.INTER_AREA))
    return array, (width, height)


def declared_size(source: str | Path | bytes, *, max_bytes: int = MAX_BYTES) -> tuple[int, int]:
    """Return the (width, height) that a picture declares; nothing is decoded.

    Raises:
        ImageError: No such file, too large a file or side, not a JPEG, PNG or WebP, or damaged.
    """
    return _open(source, LONGEST_SIDE**2, max_bytes).size


def decode_image(data: bytes) -> Image:
    """Decode a picture of any size that ``encode_image`` made, e.g. a cell of a table of faces.

    Returns:
        uint8 ``(H, W, 3)`` RGB.

    Raises:
        ImageError: The bytes are not a whole JPEG, PNG or WebP picture.
    """
    return read_image(data, min_side=1)


def encode_image(
    image: Image,
    format: str = "PNG",
    *,
    quality: int = 95,
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """Encode a picture.

    Args:
        image: uint8 ``(H, W, 3)`` RGB.
        format: ``PNG`` (lossless), ``JPEG`` or ``WEBP``.
        quality: 1 to 100, for JPEG and WebP. JPEG keeps full colour resolution from 90 on.
        metadata: Written as JSON to the EXIF field ImageDescription; see ``read_metadata``.

    Raises:
        ImageError: Unknown format, or the array is not a uint8 RGB picture.
    """
    check_image(image)
    kind = _FORMATS.get(format.lower().lstrip("."))
    if kind is None:
        raise ImageError(f"Unknown picture format {format!r}{nearest(format.lower(), _FORMATS)}")
    exif = Pillow.Exif()
    if metadata:
        exif[_DESCRIPTION] = json.dumps(dict(metadata))
    target = io.BytesIO()
    Pillow.fromarray(np.ascontiguousarray(image)).save(
        target, kind, quality=quality, subsampling=0 if quality >= 90 else 2, exif=exif
    )
    return target.getvalue()


def write_image(
    path: str | Path,
    image: Image,
    quality: int = 95,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a picture atomically; the suffix (.png, .jpg, .jpeg, .webp) names the format.

    Args:
        path: Target; its folder is made if absent.
        image: uint8 ``(H, W, 3)`` RGB.
        quality: 1 to 100, for JPEG and WebP.
        metadata: As for ``encode_image``.

    Raises:
        ImageError: Unknown suffix, or the array is not a uint8 RGB picture.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in IMAGE_SUFFIXES:
        raise ImageError(f"Cannot write {path}: its name must end in {', '.join(IMAGE_SUFFIXES)}.")
    write_bytes(path, encode_image(image, suffix, quality=quality, metadata=metadata))


def read_metadata(source: str | Path | bytes) -> dict[str, str]:
    """Read what ``write_image`` wrote as ``metadata``; empty if there is none.

    Raises:
        ImageError: The picture cannot be opened.
    """
    try:
        value = json.loads(_open(source, MAX_PIXELS, MAX_BYTES).getexif().get(_DESCRIPTION, "{}"))
    except ImageError:
        raise
    except Exception:  # somebody else's description
        return {}
    return {str(k): str(v) for k, v in value.items()} if isinstance(value, dict) else {}


def check_image(image: Image) -> None:
    """Raise ImageError unless ``image`` is uint8 ``(H, W, 3)`` with at least one pixel."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ImageError(
            f"Expected a uint8 RGB picture (H, W, 3), got {image.dtype} {image.shape}."
        )


def _name(source: str | Path | bytes) -> str:
    return "The picture in memory" if isinstance(source, bytes) else str(source)


def _open(source: str | Path | bytes, max_pixels: int, max_bytes: int) -> ImageFile:
    """Open without decoding. Plug-ins are called directly, so no other decoder can be reached."""
    name = _name(source)
    data = source if isinstance(source, bytes) else _read(Path(source), max_bytes)
    if len(data) > max_bytes:
        raise ImageError(f"{name} has {len(data):,} bytes; at most {max_bytes:,} are read.")
    if data.startswith(b"\xff\xd8\xff"):
        plugin: type[ImageFile] = JpegImageFile
    elif data.startswith(b"\x89PNG\r\n\x1a\n"):
        plugin = PngImageFile
    elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        plugin = WebPImageFile
    else:
        raise ImageError(f"{name} is not a JPEG, PNG or WebP picture; convert it to one first.")
    try:
        image = plugin(io.BytesIO(data))
    except Exception as error:  # decoders of hostile files raise anything
        raise ImageError(
            f"{name} is damaged or cut off ({error}); copy or download it again."
        ) from error
    width, height = image.size
    if width * height > max_pixels or max(width, height) > LONGEST_SIDE:
        raise ImageError(
            f"{name} declares {width} x {height} pixels; at most {max_pixels:,} in all and "
            f"{LONGEST_SIDE:,} a side are read. Shrink it first."
        )
    return image


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "does not exist"
            raise ImageError(f"{path} {what}; give the path of a picture on this computer.")
        size = path.stat().st_size
        if size > max_bytes:
            raise ImageError(f"{path} has {size:,} bytes; at most {max_bytes:,} are read.")
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: null byte in the name
        raise ImageError(f"{path} cannot be read: {error}.") from None


def _orientation(image: ImageFile) -> Pillow.Transpose | None:
    try:
        return _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # broken EXIF must not lose the picture
        return None


def _to_rgb(image: Pillow.Image) -> Pillow.Image:
    """Decode and convert any mode of the three formats to RGB."""
    if image.mode.startswith("I"):  # 16-bit grey; convert() would clip it
        grey = np.asarray(image).astype(np.uint32)
        return Pillow.fromarray(((grey * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
    if "A" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Pillow.new("RGBA", image.size, (255, 255, 255, 255))
        image = Pillow.alpha_composite(white, image)
    return image.convert("RGB")
