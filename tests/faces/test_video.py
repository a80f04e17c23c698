from __future__ import annotations

import itertools
import struct
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mien.faces.face import Image
from mien.faces.video import probe_video, read_video, write_video
from mien.files.errors import ConfigError, ImageError, MissingExtraError

pytest.importorskip("av")


def frames(count: int, width: int = 64, height: int = 48) -> Iterator[Image]:
    """Yield grey frames, each brighter than the one before, with a red top left corner."""
    for i in range(count):
        image = np.full((height, width, 3), 20 + 10 * i % 200, np.uint8)
        image[: height // 2, : width // 2] = (230, 30, 30)
        yield image


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    write_video(path, frames(12), 10)
    return path


def turned(clip: Path, target: Path, matrix: tuple[int, ...]) -> Path:
    """Copy a clip with another rotation in its track header, as a phone writes it."""
    data = bytearray(clip.read_bytes())
    start = data.index(b"tkhd") + 4 + 40  # version 0: 40 bytes before the matrix
    unit = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    assert bytes(data[start : start + 36]) == unit
    a, b, c, d = (65536 * v for v in matrix)
    data[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    target.write_bytes(data)
    return target


class TestRoundTrip:
    def test_frames_return_in_order(self, clip):
        found = list(read_video(clip))
        assert [f.index for f in found] == list(range(12))
        np.testing.assert_allclose([f.time for f in found], np.arange(12) / 10, atol=1e-3)
        for frame, truth in zip(found, frames(12), strict=True):
            assert frame.image.dtype == np.uint8
            assert frame.image.shape == truth.shape
            assert frame.image.flags.c_contiguous
            assert np.abs(frame.image.astype(int) - truth).mean() < 4
        red = found[5].image[8, 8].astype(int)
        assert red[0] > 200
        assert red[2] < 70

    def test_probe(self, clip):
        info = probe_video(clip)
        assert (info.width, info.height, info.frames) == (64, 48, 12)
        assert info.fps == pytest.approx(10)

    def test_odd_sides_become_even(self, tmp_path):
        path = tmp_path / "odd.mp4"
        write_video(path, frames(2, 33, 21), 29.97)
        (first, _) = read_video(path)
        assert first.image.shape == (22, 34, 3)
        assert probe_video(path).fps == pytest.approx(29.97, abs=0.01)

    @pytest.mark.parametrize(
        ("matrix", "turns"), [((0, 1, -1, 0), -1), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)]
    )
    def test_rotation_of_the_file_is_applied(self, clip, tmp_path, matrix, turns):
        path = turned(clip, tmp_path / "turned.mp4", matrix)
        image = next(read_video(path)).image
        upright = next(read_video(clip)).image
        np.testing.assert_array_equal(image, np.rot90(upright, turns))
        info = probe_video(path)
        assert (info.height, info.width) == image.shape[:2]


class TestSelection:
    def test_every(self, clip):
        assert [f.index for f in read_video(clip, every=5)] == [0, 5, 10]

    def test_fps(self, clip):
        assert [f.index for f in read_video(clip, fps=4)] == [0, 3, 5, 8, 10]
        assert [f.index for f in read_video(clip, fps=1)] == [0, 10]
        assert len(list(read_video(clip, fps=1000))) == 12

    def test_max_frames(self, clip):
        assert [f.index for f in read_video(clip, every=2, max_frames=3)] == [0, 2, 4]
        assert list(read_video(clip, max_frames=0)) == []

    @pytest.mark.parametrize("options", [{"every": 0}, {"fps": 0}, {"every": 2, "fps": 5}])
    def test_impossible(self, clip, options):
        with pytest.raises(ConfigError, match="every n-th"):
            next(read_video(clip, **options))


class TestBadInput:
    def test_too_large_or_small(self, clip, tmp_path):
        with pytest.raises(ImageError, match="64 x 48 pixels; at most 1,000"):
            next(read_video(clip, max_pixels=1000))
        write_video(tmp_path / "tiny.mp4", frames(1, 12, 12), 10)
        with pytest.raises(ImageError, match="at least 16"):
            next(read_video(tmp_path / "tiny.mp4"))

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "not an MP4"),
            (b"a text that is named like a video", "not an MP4"),
            (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n", "not an MP4"),
            (b"ffconcat version 1.0\nfile other.mp4\n", "not an MP4"),
            (b"\0\0\0\x18ftypmp42\0\0\0\0" + bytes(200), "damaged or cut off"),
            (b"\x1a\x45\xdf\xa3" + bytes(200), "damaged or cut off"),
            (b"RIFF\x10\0\0\0AVI " + bytes(200), "damaged or cut off"),
        ],
    )
    def test_other_files(self, tmp_path, content, message):
        path = tmp_path / "clip.mp4"
        path.write_bytes(content)
        with pytest.raises(ImageError, match=message) as caught:
            list(read_video(path))
        assert "clip.mp4" in str(caught.value)

    def test_cut_off(self, clip, tmp_path):
        data = clip.read_bytes()
        path = tmp_path / "part.mp4"
        path.write_bytes(data[: len(data) // 2])
        with pytest.raises(ImageError, match="damaged or cut off"):
            list(read_video(path))

    def test_absent_and_folder(self, tmp_path):
        with pytest.raises(ImageError, match="does not exist"):
            next(read_video(tmp_path / "absent.mp4"))
        with pytest.raises(ImageError, match="is a folder"):
            next(read_video(tmp_path))
        with pytest.raises(ImageError, match="does not exist"):
            next(read_video("https://example.org/clip.mp4"))

    def test_sound_alone(self, tmp_path):
        import av

        path = tmp_path / "sound.mp4"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("aac", rate=44100)
            sound = av.AudioFrame.from_ndarray(
                np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
            )
            sound.sample_rate = 44100
            container.mux(stream.encode(sound))
            container.mux(stream.encode(None))
        with pytest.raises(ImageError, match="no pictures"):
            next(read_video(path))

    def test_names_the_extra(self, clip, monkeypatch):
        monkeypatch.setitem(sys.modules, "av", None)
        with pytest.raises(MissingExtraError, match=r"mien\[video\]"):
            next(read_video(clip))


class TestWriting:
    @pytest.mark.parametrize(
        ("images", "message"),
        [
            ([], "no frames"),
            ([np.zeros((32, 32, 3), np.uint8), np.zeros((32, 34, 3), np.uint8)], "differ in size"),
            ([np.zeros((32, 32), np.uint8)], "uint8 RGB"),
        ],
    )
    def test_failure_leaves_the_older_file(self, tmp_path, images, message):
        path = tmp_path / "clip.mp4"
        path.write_bytes(b"older")
        with pytest.raises(ImageError, match=message):
            write_video(path, images, 25)
        assert path.read_bytes() == b"older"
        assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]

    def test_an_error_of_the_source_passes(self, tmp_path):
        def broken() -> Iterator[Image]:
            yield from frames(2)
            raise KeyError("mine")

        with pytest.raises(KeyError, match="mine"):
            write_video(tmp_path / "clip.mp4", broken(), 25)
        assert list(tmp_path.iterdir()) == []

    def test_suffix_and_rate(self, tmp_path):
        with pytest.raises(ImageError, match="must end in"):
            write_video(tmp_path / "clip.gif", frames(1), 25)
        with pytest.raises(ConfigError, match="positive"):
            write_video(tmp_path / "clip.mp4", frames(1), 0)


def test_memory_does_not_grow_with_length(tmp_path):
    path = tmp_path / "long.mp4"
    write_video(path, frames(120, 160, 120), 25)
    frame_bytes = 160 * 120 * 3
    tracemalloc.start()
    try:
        for _ in itertools.islice(read_video(path), 5):
            pass
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        assert sum(1 for _ in read_video(path)) == 120
        assert tracemalloc.get_traced_memory()[1] - before < 8 * frame_bytes
    finally:
        tracemalloc.stop()
