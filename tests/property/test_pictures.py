"""Pictures of any shape go in and out whole, upright and within their limits."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image as Pillow

from mien.faces.image import (
    MIN_SIDE,
    declared_size,
    encode_image,
    read_image,
    read_image_sized,
    read_metadata,
)
from mien.files.errors import ImageError

QUICK = settings(max_examples=30, deadline=None)
sides = st.integers(MIN_SIDE, 48)
pictures = st.tuples(sides, sides, st.just(3)).flatmap(lambda shape: arrays(np.uint8, shape))
# EXIF orientation → what makes the stored pixels upright.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


@QUICK
@given(image=pictures, format=st.sampled_from(["PNG", "JPEG", "WEBP"]))
def test_every_format_keeps_shape_and_kind(image, format) -> None:
    data = encode_image(image, format)
    read = read_image(data)
    assert (read.shape, read.dtype) == (image.shape, np.uint8)
    assert declared_size(data) == image.shape[1::-1]
    if format == "PNG":
        assert np.array_equal(read, image)


@QUICK
@given(image=pictures, orientation=st.integers(1, 8))
def test_every_orientation_is_made_upright(image, orientation) -> None:
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Pillow.fromarray(image).save(file, "PNG", exif=exif)
    read, size = read_image_sized(file.getvalue())
    assert np.array_equal(read, UPRIGHT[orientation](image))
    assert size == read.shape[1::-1]


@QUICK
@given(image=pictures, limit=st.integers(8, 60), format=st.sampled_from(["PNG", "JPEG"]))
def test_shrinking_keeps_the_limit_and_the_proportions(image, limit, format) -> None:
    read, size = read_image_sized(encode_image(image, format), max_side=limit)
    assert size == image.shape[1::-1]
    height, width = read.shape[:2]
    assert max(height, width) == min(limit, max(size))
    share = max(height, width) / max(size)
    assert abs(width - size[0] * share) <= 1
    assert abs(height - size[1] * share) <= 1


@QUICK
@given(image=pictures, cut=st.floats(0, 0.999), format=st.sampled_from(["PNG", "JPEG", "WEBP"]))
def test_a_cut_file_is_one_plain_error_or_a_whole_picture(image, cut, format) -> None:
    data = encode_image(image, format)
    try:
        read = read_image(data[: int(len(data) * cut)])
    except ImageError:
        return
    assert read.shape == image.shape  # only what follows the pixels was missing


@QUICK
@given(image=pictures, place=st.floats(0, 0.999), value=st.integers(0, 255))
def test_a_changed_byte_is_one_plain_error_or_a_picture(image, place, value) -> None:
    data = bytearray(encode_image(image, "JPEG"))
    data[int(len(data) * place)] = value
    try:
        read = read_image(bytes(data))
    except ImageError:
        return
    assert read.dtype == np.uint8
    assert read.ndim == 3


@QUICK
@given(
    image=pictures,
    note=st.dictionaries(
        st.text("abcdefgh", min_size=1, max_size=8),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
        min_size=1,
        max_size=3,
    ),
    format=st.sampled_from(["PNG", "JPEG", "WEBP"]),
)
def test_notes_come_out_as_they_went_in(image, note, format) -> None:
    assert read_metadata(encode_image(image, format, metadata=note)) == note


@QUICK
@given(side=st.integers(1, MIN_SIDE - 1), other=st.integers(1, 60))
def test_too_small_is_told(side, other) -> None:
    with pytest.raises(ImageError, match="at least 16"):
        read_image(encode_image(np.zeros((side, other, 3), np.uint8)))
