"""Edits of videos: frames, sound and marks; resuming; memory; wrong questions."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from mien.edit import video
from mien.edit.chain import Chain, Step
from mien.edit.video import edit_video, edit_videos
from mien.faces import provenance
from mien.faces.face import Face, Image
from mien.faces.provenance import inspect, read_provenance
from mien.faces.video import read_video, write_video
from mien.files.errors import ConfigError, FaceError, ImageError

pytest.importorskip("av")


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


class Sometimes:
    """The toy finder, blind in frames that are dark."""

    def __init__(self, finder: Any) -> None:
        self.finder, self.calls = finder, 0

    def __call__(
        self, images: Sequence[Image], sources: Sequence[str] | None = None
    ) -> list[list[Face]]:
        self.calls += len(images)
        found = self.finder(images, sources)
        return [f if i.mean() > 40 else [] for i, f in zip(images, found, strict=True)]


def pictures(photo: Image, count: int) -> list[Image]:
    photo = cv2.GaussianBlur(photo, (0, 0), 3).astype(np.uint8)  # what an encoder keeps
    return [np.roll(photo, i, 1) if i % 10 != 9 else photo // 8 for i in range(count)]


@pytest.fixture
def clip(make_clip: Callable[..., Path], photo: Image) -> Path:
    return make_clip(pictures(photo, 40), range(40))


@pytest.fixture
def run(toy_method: Any, toy_finder: Any) -> Callable[..., Any]:
    def edit(path: Path, out: Path, **options: Any) -> Any:
        options.setdefault("finder", Sometimes(toy_finder(1)))
        steps = [Step("neutralise", method=toy_method)]
        return edit_video(path, steps, out=out, seconds=0.5, **options)

    return edit


def stack(path: Path) -> np.ndarray:
    return np.stack([frame.image for frame in read_video(path)]).astype(int)


def test_faces_are_edited_and_all_else_stays(run, clip, tmp_path, toy_method, toy_finder) -> None:
    done = run(clip, tmp_path / "calm.mp4")
    assert (done.frames, done.edited, done.without_face) == (40, 36, 4)
    assert done.warnings == ()
    old, new = stack(clip), stack(done.path)
    change = np.abs(new - old)
    assert change[:, :, :15].mean() < 3  # far from the face: encoded again, no more
    assert change[[9, 19, 29, 39]].mean() < 3
    chain = Chain([Step("neutralise", method=toy_method)], finder=toy_finder(1))
    for i in (0, 5, 30):  # as a photo would be
        image = old[i].astype(np.uint8)
        wanted = chain.apply(image, chain.finder([image])[0])
        face = np.s_[60:100, 80:120]
        assert np.abs(new[i] - wanted)[face].mean() < 2
        assert np.abs(new[i] - old[i])[face].mean() > 3
    times = [[f.time for f in read_video(p)] for p in (clip, done.path)]
    np.testing.assert_allclose(*times, atol=1e-6)
    assert not list(tmp_path.glob(".*"))


def test_it_says_that_it_was_edited(run, clip, tmp_path, monkeypatch) -> None:
    pytest.importorskip("c2pa")
    done = run(clip, tmp_path / "calm.mp4")
    found = inspect(done.path)
    assert found.state == "valid"
    assert found.record is not None
    assert found.record.task == "neutralise"
    assert "Video (parentOf, video/mp4, without a history of its own)" in str(found)
    again = run(done.path, tmp_path / "again.mp4")
    assert len(inspect(again.path).steps) == 2
    plain = run(clip, tmp_path / "plain.mp4", provenance=False)
    assert inspect(plain.path).state is None

    def fail(*_: Any) -> None:
        raise RuntimeError("no library")

    monkeypatch.setattr(provenance, "_embed", fail)
    noted = run(clip, tmp_path / "noted.mp4")
    assert "no library" in noted.warnings[0]
    said = read_provenance(noted.path)
    assert said is not None
    assert (said.state, said.record.task) == ("unsigned", "neutralise")


class Stop(Exception):
    pass


def test_goes_on_after_an_interruption_with_equal_frames(
    run, clip, tmp_path, toy_finder, monkeypatch
) -> None:
    whole = run(clip, tmp_path / "whole.mp4", provenance=False)
    write, calls = video.write_part, []

    def stopping(*given: Any, **options: Any) -> int:
        calls.append(given)
        if len(calls) == 3:
            raise Stop
        return write(*given, **options)

    monkeypatch.setattr(video, "write_part", stopping)
    target = tmp_path / "parts.mp4"
    with pytest.raises(Stop):
        run(clip, target, provenance=False)
    assert not target.exists()
    assert (tmp_path / ".parts.mp4.parts").is_dir()
    with pytest.raises(ConfigError, match="other settings"):
        run(clip, target, provenance=False, resume=True, crf=30)
    finder = Sometimes(toy_finder(1))
    calls[:] = [(), ()]
    with pytest.raises(Stop):  # an error of the user must not have cost the parts
        run(clip, target, provenance=False, resume=True)
    done = run(clip, target, provenance=False, resume=True, finder=finder)
    assert finder.calls < 40
    assert (done.frames, done.edited) == (whole.frames, whole.edited)
    assert np.array_equal(stack(target), stack(whole.path))
    assert target.read_bytes() == whole.path.read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_memory_does_not_grow_with_length(run, tmp_path, photo) -> None:
    options = {"provenance": False}
    peaks = []
    for count in (30, 150):
        write_video(tmp_path / "long.mp4", pictures(photo, 10) * (count // 10), 25)  # the same clip
        run(tmp_path / "long.mp4", tmp_path / "out.mp4", **options)  # what is loaded once is
        tracemalloc.start()
        run(tmp_path / "long.mp4", tmp_path / "out.mp4", **options)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 2 * photo.nbytes  # of 120 more frames


def test_several_videos(toy_method, toy_finder, clip, photo, tmp_path) -> None:
    write_video(tmp_path / "b.mp4", pictures(photo, 3), 25)
    steps = [Step("neutralise", method=toy_method)]
    done = edit_videos([clip, tmp_path / "b.mp4"], steps, out=tmp_path / "o", finder=toy_finder(1))
    assert not done.skipped
    assert [d.path.name for d in done.written] == ["spoken-neutralise.mp4", "b-neutralise.mp4"]
    with pytest.raises(ConfigError, match="name a folder"):
        edit_videos([clip, clip], steps, out=tmp_path / "one.mp4", finder=toy_finder(1))


def test_a_damaged_video_is_named_and_the_others_are_edited(
    toy_method, toy_finder, clip, tmp_path
) -> None:
    bad = [tmp_path / "cut.mp4", tmp_path / "text.mp4"]
    bad[0].write_bytes(clip.read_bytes()[:300])
    bad[1].write_text("no video")
    steps = [Step("neutralise", method=toy_method)]
    options = {"finder": toy_finder(1), "out": tmp_path / "o"}
    done = edit_videos([bad[0], clip, bad[1]], steps, **options)
    assert [d.path.name for d in done.written] == ["spoken-neutralise.mp4"]
    assert list(done.skipped) == [str(b) for b in bad]
    assert all(Path(video).name in reason for video, reason in done.skipped.items())
    assert sorted(p.name for p in (tmp_path / "o").iterdir()) == ["spoken-neutralise.mp4"]
    with pytest.raises(FaceError, match="None of 2 videos"):
        edit_videos(bad, steps, **options)


def test_wrong_questions(run, clip, tmp_path, toy_finder) -> None:
    with pytest.raises(ImageError, match=r"must end in \.mp4"):
        run(clip, tmp_path / "calm.avi")
    with pytest.raises(ConfigError, match="is one of the videos"):
        run(clip, clip)
    with pytest.raises(FaceError, match="no frame with a face"):
        run(clip, tmp_path / "calm.mp4", finder=toy_finder(0))
    with pytest.raises(FaceError, match=r"frame 0 holds 2 faces"):
        run(clip, tmp_path / "calm.mp4", finder=toy_finder(2), face="only")
    (tmp_path / "text.mp4").write_text("no video at all")
    with pytest.raises(ImageError, match="not an MP4"):
        run(tmp_path / "text.mp4", tmp_path / "calm.mp4")
    with pytest.raises(ConfigError, match="positive"):
        edit_video(clip, [], out=tmp_path / "calm.mp4", seconds=0)
    assert not (tmp_path / "calm.mp4").exists()
    assert not list(tmp_path.glob(".*"))


def test_frames_out_of_order_are_refused_and_parts_are_kept(
    monkeypatch, run, clip, tmp_path
) -> None:
    from dataclasses import replace

    import mien.edit.video as module

    real = module.read_video

    def shuffled(*args, **options):
        for frame in real(*args, **options):
            yield replace(frame, time=0.0) if frame.index == 15 else frame

    monkeypatch.setattr(module, "read_video", shuffled)
    with pytest.raises(ImageError, match="run back"):
        run(clip, tmp_path / "calm.mp4")
    assert not (tmp_path / "calm.mp4").exists()
    assert list((tmp_path / ".calm.mp4.parts").glob("*.mp4")), "finished parts are not thrown away"
