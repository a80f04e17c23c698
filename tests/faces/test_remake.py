"""Videos made anew: times and sound stay, failures leave nothing behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mien.faces.face import Image
from mien.faces.remake import join_parts, read_clock, read_comment, remake_video, write_part
from mien.faces.video import VideoFrame, read_video, write_video
from mien.files.errors import ImageError

av = pytest.importorskip("av")

TIMES = (0, 1, 2, 4, 5, 9, 10, 11, 12, 20, 21, 22)  # in 1/25 s: of no constant rate


def picture(i: int) -> Image:
    image = np.full((48, 64, 3), 20 + 15 * i % 200, np.uint8)
    image[:24, :32] = (200, 40, 60)
    image[24:, 32:] = (30, 60, 190)
    return image


@pytest.fixture
def spoken(make_clip: Callable[..., Path]) -> Path:
    return make_clip([picture(i) for i in range(len(TIMES))], TIMES)


def packets(path: Path, kind: str) -> list[tuple[float, bytes]]:
    with av.open(str(path)) as container:
        stream = getattr(container.streams, kind)[0]
        found = [p for p in container.demux(stream) if p.dts is not None]
        return [(float(p.pts * p.time_base), bytes(p)) for p in found]


def same(frames: Iterator[VideoFrame]) -> Iterator[Image]:
    return (frame.image for frame in frames)


def test_frames_times_colours_and_sound_are_kept(spoken: Path, tmp_path: Path) -> None:
    target = tmp_path / "new" / "copy.mp4"
    assert remake_video(spoken, target, same, metadata={"comment": "made anew"}) == len(TIMES)
    old, new = list(read_video(spoken)), list(read_video(target))
    np.testing.assert_allclose([f.time for f in new], np.array(TIMES) / 25, atol=1e-6)
    for before, after in zip(old, new, strict=True):
        assert np.abs(before.image.astype(int) - after.image).mean() < 3
    assert packets(target, "audio") == packets(spoken, "audio")
    assert read_comment(target) == "made anew"
    assert read_comment(spoken) == ""
    assert [p.name for p in target.parent.iterdir()] == ["copy.mp4"]


def test_the_change_is_what_is_written(spoken: Path, tmp_path: Path) -> None:
    remake_video(spoken, tmp_path / "out.mp4", lambda frames: (255 - f.image for f in frames))
    pairs = zip(read_video(spoken), read_video(tmp_path / "out.mp4"), strict=True)
    for before, after in pairs:
        assert np.abs(255 - before.image.astype(int) - after.image).mean() < 3


def test_parts_join_as_if_they_were_one(spoken: Path, tmp_path: Path) -> None:
    clock, frames = read_clock(spoken), list(read_video(spoken))
    parts = []
    for start in (0, 5, 9):
        end = {0: 5, 5: 9, 9: 12}[start]
        part = tmp_path / f"{start}.mp4"
        some = [(f.time, f.image) for f in frames[start:end]]
        assert write_part(part, iter(some), clock) == end - start
        parts.append((some[0][0], part))
    join_parts(parts, spoken, tmp_path / "joined.mp4")
    found = list(read_video(tmp_path / "joined.mp4"))
    np.testing.assert_allclose([f.time for f in found], np.array(TIMES) / 25, atol=1e-6)
    for before, after in zip(frames, found, strict=True):
        assert np.abs(before.image.astype(int) - after.image).mean() < 3
    assert packets(tmp_path / "joined.mp4", "audio") == packets(spoken, "audio")


def test_video_without_sound(tmp_path: Path) -> None:
    write_video(tmp_path / "silent.mp4", (picture(i) for i in range(5)), 29.97)
    assert remake_video(tmp_path / "silent.mp4", tmp_path / "out.mp4", same) == 5
    old = [f.time for f in read_video(tmp_path / "silent.mp4")]
    np.testing.assert_allclose([f.time for f in read_video(tmp_path / "out.mp4")], old, atol=1e-6)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert not container.streams.audio


def test_rate_and_start_of_the_pictures_are_kept(
    make_clip: Callable[..., Path], tmp_path: Path
) -> None:
    late = make_clip([picture(i) for i in range(4)], (10, 11, 12, 13))
    remake_video(late, tmp_path / "out.mp4", same)
    assert read_clock(late).start == Fraction(10, 25)
    assert read_clock(tmp_path / "out.mp4").start == Fraction(10, 25)
    assert packets(tmp_path / "out.mp4", "audio") == packets(late, "audio")


class Mine(Exception):
    pass


def broken(frames: Iterator[VideoFrame]) -> Iterator[Any]:
    yield next(frames).image
    raise Mine


def fewer(frames: Iterator[VideoFrame]) -> Iterator[Any]:
    yield next(frames).image


def more(frames: Iterator[VideoFrame]) -> Iterator[Any]:
    yield from same(frames)
    yield picture(0)


@pytest.mark.parametrize(
    ("change", "error"), [(broken, Mine), (fewer, ImageError), (more, ImageError)]
)
def test_failure_leaves_the_older_file(
    spoken: Path, tmp_path: Path, change: Any, error: type[Exception]
) -> None:
    target = tmp_path / "out" / "clip.mp4"
    target.parent.mkdir()
    target.write_bytes(b"older")
    with pytest.raises(error):
        remake_video(spoken, target, change)
    assert target.read_bytes() == b"older"
    assert [p.name for p in target.parent.iterdir()] == ["clip.mp4"]


def test_damaged_and_other_files(spoken: Path, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("not a video at all")
    (tmp_path / "cut.mp4").write_bytes(spoken.read_bytes()[:2000])
    for name, message in (("text.mp4", "not an MP4"), ("cut.mp4", "damaged or cut off")):
        with pytest.raises(ImageError, match=message):
            remake_video(tmp_path / name, tmp_path / "out.mp4", same)
    with pytest.raises(ImageError, match=r"must end in \.mp4"):
        remake_video(spoken, tmp_path / "out.avi", same)
    assert sorted(p.name for p in tmp_path.iterdir() if p != spoken) == ["cut.mp4", "text.mp4"]
