"""Whatever is put into tables, boxes, transforms and pictures comes out of them."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mien.data.table import Row, Table, TableWriter
from mien.faces.align import crop_to_photo, invert, transform_points
from mien.faces.image import decode_image, encode_image, read_image
from mien.files.errors import ImageError

QUICK = settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
rows = st.builds(
    Row,
    image=st.binary(min_size=1, max_size=40),
    source=texts,
    person=st.just("") | texts,
    frame=st.integers(0, 2**31 - 1),
    yaw=st.floats(-180, 180, width=32),
    landmarks=st.none() | arrays(np.float32, (68, 2), elements=st.floats(-500, 500, width=32)),
    attributes=st.dictionaries(texts, texts, max_size=3),
)


@QUICK
@given(faces=st.lists(rows, max_size=9), per_part=st.integers(1, 4), data=st.data())
def test_a_table_gives_back_its_rows(tmp_path_factory, faces, per_part, data) -> None:
    folder = tmp_path_factory.mktemp("t")
    with TableWriter(folder, crop="tight", size=8, rows_per_part=per_part) as writer:
        for face in faces:
            writer.add(face)
    table = Table(folder)
    assert len(table) == len(faces)
    assert table.column("image") == [f.image for f in faces]
    assert table.column("source") == [f.source for f in faces]
    assert table.column("person") == [f.person or None for f in faces]
    assert table.column("yaw") == [f.yaw for f in faces]
    assert [dict(a or ()) for a in table.column("attributes")] == [f.attributes for f in faces]
    marks = [None if f.landmarks is None else f.landmarks.reshape(-1).tolist() for f in faces]
    assert table.column("landmarks") == marks
    start, stop = (data.draw(st.integers(0, 10)) for _ in range(2))
    part = [v for b in table.batches(["source"], 2, start, stop) for v in b.column(0).to_pylist()]
    assert part == [f.source for f in faces][start:stop]


@QUICK
@given(
    turn=st.floats(-math.pi, math.pi),
    scale=st.floats(0.2, 20),
    shift=st.tuples(st.floats(-500, 500), st.floats(-500, 500)),
    seed=st.integers(0, 2**32 - 1),
    crop=st.sampled_from(["tight", "ffhq"]),
)
def test_a_crop_follows_its_face(turn, scale, shift, seed, crop) -> None:
    points = np.random.default_rng(seed).normal(0, 3, (68, 2)) + np.arange(136).reshape(68, 2) % 89
    turned = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    moved = scale * points @ turned.T + np.array(shift)
    before, after = crop_to_photo(points, crop, 64), crop_to_photo(moved, crop, 64)
    places = transform_points(points, invert(before))
    again = transform_points(moved, invert(after))
    # float32 matrices: a rounding error grows with how far the face is from the origin
    assert np.abs(places - again).max() <= 2e-2 * max(1.0, float(np.abs(places).max()) / 64)
    assert np.allclose(transform_points(again, after), moved, atol=0.05 * scale, rtol=1e-3)


@QUICK
@given(
    image=arrays(np.uint8, st.tuples(st.integers(16, 40), st.integers(16, 40), st.just(3))),
)
def test_png_keeps_every_pixel(image) -> None:
    assert np.array_equal(decode_image(encode_image(image, "png")), image)


@QUICK
@given(
    data=st.binary(max_size=200), head=st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"])
)
def test_bytes_are_a_picture_or_one_plain_error(data, head) -> None:
    try:
        image = read_image(head + data)
    except ImageError:
        return
    assert image.dtype == np.uint8
