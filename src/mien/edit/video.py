"""Edits of videos, frame by frame, in memory that does not grow with their length.

A video is cut into parts of some seconds. Each is edited, written beside the result with what the
tracker remembers at its end, and kept until all are joined with the sound: an interrupted run goes
on at the first part that is missing, and gives the frames that an uninterrupted one gives.
"""

from __future__ import annotations

import itertools
import json
import re
import shutil
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mien.edit.chain import Chain, Step, carry, parse_face
from mien.edit.many import fingerprint
from mien.edit.photos import name_results
from mien.edit.track import Tracker
from mien.faces.face import Face, Image
from mien.faces.find import Finder
from mien.faces.provenance import sign_video, video_note
from mien.faces.remake import (
    check_video_name,
    join_parts,
    read_clock,
    write_part,
)
from mien.faces.video import VIDEO_SUFFIXES, VideoFrame, probe_video, read_video
from mien.files.atomic import sha256, write_json
from mien.files.errors import ConfigError, FaceError, ImageError

SECONDS = 5.0  # of a part
_FRAMES, _PIXELS = 8, 8_000_000  # at most so many frames, and pixels, are edited at a time
_SETTINGS = "settings.json"


@dataclass(frozen=True)
class EditedVideo:
    """What became of a video.

    Attributes:
        path: The file that was written.
        frames: Its frames.
        edited: Those in which a face was edited; the others are as they were.
        without_face: Those without a face that is followed and fit for the edit.
        warnings: What may have gone wrong with make-up (``mien.edit.makeup``).
    """

    path: Path
    frames: int
    edited: int
    without_face: int
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class DoneVideos:
    """What a run over videos did.

    Attributes:
        written: Those that were edited.
        skipped: Video → why it was not edited.
    """

    written: list[EditedVideo] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


def is_video(path: Any) -> bool:
    """Tell whether a source is a video, by the suffix of its name."""
    return isinstance(path, (str, Path)) and Path(path).suffix.lower() in VIDEO_SUFFIXES


def edit_video(
    video: str | Path,
    steps: Sequence[Step] | Chain,
    *,
    out: str | Path,
    face: str | int = "largest",
    driver_face: str | int = "only",
    detector: str = "dlib",
    finder: Finder | None = None,
    provenance: bool = True,
    smooth: bool = True,
    resume: bool = False,
    crf: int = 18,
    seconds: float = SECONDS,
    progress: bool = False,
) -> EditedVideo:
    """Do steps to the faces of a video; its times and its sound stay as they are.

    Args:
        video: MP4, MOV, Matroska, WebM or AVI file.
        steps: In the order in which they are done; or a chain, which has its drivers and finder.
        out: File to write, ending in ``.mp4``, or a folder.
        face: ``largest``, ``central``, ``only`` (several are an error), ``all``, or a number: who
            is chosen at the first frame and followed from there (``mien.edit.track``).
        driver_face: The same for drivers, without ``all``.
        detector: Face detector (``mien.faces.detectors``).
        finder: Replaces the finder that ``detector`` names.
        provenance: Sign what is written; False leaves no mark that it was edited.
        smooth: Whether landmarks are smoothed in time.
        resume: Go on where an interrupted run with equal settings stopped.
        crf: Quality of the pictures, from 0 (best) to 51.
        seconds: Length of a part.
        progress: Show a progress bar.

    Raises:
        FaceError: No frame holds a face, or ``only`` and several.
        ImageError: The video cannot be read, or MP4 cannot hold its sound.
        ConfigError: See ``Chain``; or ``resume`` with the parts of another video or other settings.
        WeightsError: No such weights, or a damaged file.
        MissingExtraError: PyAV is not installed.
    """
    face = parse_face(face)
    if not seconds > 0:
        raise ConfigError(f"A part of a video has a positive number of seconds, not {seconds}.")
    source, info = Path(video), probe_video(video)
    chain = steps if isinstance(steps, Chain) else Chain(steps, detector, finder, driver_face)
    target = video_targets([source], Path(out), chain.name)[0]
    settings = {
        "edit": fingerprint(chain, face, detector),
        "video": sha256(source),
        "smooth": smooth,
        "crf": crf,
        "seconds": seconds,
    }
    parts = _Parts(target.with_name(f".{target.name}.parts"), settings, resume)
    tracker, said = Tracker(face, smooth), list(chain.warnings)
    clock = read_clock(source)
    try:
        if parts.done:
            tracker.restore(parts.done[-1]["tracker"])
        first = sum(part["frames"] for part in parts.done)
        with tqdm(
            total=info.frames or None, initial=first, unit="frame", disable=not progress
        ) as bar:
            frames = _forward(read_video(source, first=first), source)
            for _, some in itertools.groupby(frames, lambda frame: int(frame.time // seconds)):
                counts = {"frames": 0, "edited": 0}
                pictures = _edited(some, chain, tracker, source.name, counts, said, bar)
                start, pictures = _peek(pictures)
                write_part(parts.next, pictures, clock, crf=crf)
                parts.add({"start": start, **counts, "tracker": tracker.state()})
        count, edited = (sum(p[key] for p in parts.done) for key in ("frames", "edited"))
        if not edited and any(step.strength for step in chain.steps):
            raise FaceError(
                f"{source} holds no frame with a face that could be edited; it needs to be "
                "larger, upright and lit."
            )
        joined = parts.folder / "joined.mp4"
        note = {"comment": video_note(chain.record)} if provenance else None
        join_parts(parts.files, source, joined, note)
        if provenance:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                sign_video(joined, target, chain.record, source)
            said += [str(w.message) for w in caught if w.category is UserWarning]
        else:
            joined.replace(target)
    except (ConfigError, FaceError):  # doing it again would end alike
        parts.remove()
        raise
    parts.remove()
    return EditedVideo(target, count, edited, count - edited, tuple(dict.fromkeys(said)))


def edit_videos(
    videos: Iterable[str | Path], steps: Sequence[Step], *, out: str | Path, **options: Any
) -> DoneVideos:
    """Edit several videos with weights that are loaded once; see ``edit_video``.

    A video that cannot be read, or holds no face, is named and left out.

    Raises:
        MienError: Settings or names that do not do, or none of the videos could be edited.
    """
    sources = [Path(video) for video in videos]
    loading = {
        name: options.pop(name) for name in ("detector", "finder", "driver_face") if name in options
    }
    chain = Chain(steps, **loading)
    detector = loading.get("detector", "dlib")
    done = DoneVideos()
    for source, target in zip(sources, video_targets(sources, Path(out), chain.name), strict=True):
        try:
            film = edit_video(source, chain, out=target, detector=detector, **options)
        except (FaceError, ImageError) as error:
            if len(sources) == 1:
                raise
            done.skipped[str(source)] = str(error)
        else:
            done.written.append(film)
    if sources and not done.written:
        reason = next(iter(done.skipped.values()))
        raise FaceError(f"None of {len(sources)} videos; the first: {reason}")
    return done


def video_targets(sources: Sequence[Path], out: Path, task: str) -> list[Path]:
    """Return one file name a video, no two equal and none that of a source.

    Raises:
        ConfigError: One file for several videos, or a name that is a source's.
        ImageError: The name of a file that does not end in ``.mp4``.
    """
    one = bool(out.suffix) and not out.is_dir()
    if one:
        check_video_name(out)
    names = [(source.stem, ".mp4") for source in sources]
    return name_results(names, sources, out, task, one=one, kind="video")


class _Parts:
    """The parts of a video that are written, in a folder beside the result.

    Attributes:
        folder: Where they are.
        done: What is known of each, in order: frames, edited, start; of the last, tracker.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], resume: bool) -> None:
        self.folder, self.done = folder, list[dict[str, Any]]()
        if folder.is_dir() and resume:
            self._read(settings)
        elif folder.is_dir():
            self.remove()
        if not self.done:
            write_json(folder / _SETTINGS, settings)

    @property
    def next(self) -> Path:
        """File of the part that comes next."""
        return self._file(len(self.done))

    @property
    def files(self) -> list[tuple[float, Path]]:
        """Start and file of each part, in order."""
        return [(part["start"], self._file(i)) for i, part in enumerate(self.done)]

    def add(self, part: dict[str, Any]) -> None:
        """Note that the next part is written."""
        write_json(self.next.with_suffix(".json"), part)
        self._append(part)

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _append(self, part: dict[str, Any]) -> None:
        if self.done:
            self.done[-1].pop("tracker")  # only the newest is of use: memory must not grow
        self.done.append(part)

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:05}.mp4"

    def _read(self, settings: dict[str, Any]) -> None:
        try:
            if json.loads((self.folder / _SETTINGS).read_text()) != settings:
                raise ConfigError(
                    f"The parts in {self.folder} are of another video or other settings; leave "
                    "--resume out to begin anew."
                )
            while self.next.is_file() and self.next.with_suffix(".json").is_file():
                part = json.loads(self.next.with_suffix(".json").read_text())
                self._append(part)
        except (OSError, ValueError):  # interrupted before anything was written
            self.done = []


def _forward(frames: Iterator[VideoFrame], source: Path) -> Iterator[VideoFrame]:
    """Pass frames on while their times rise."""
    last = float("-inf")
    for frame in frames:
        if frame.time <= last:
            raise ImageError(
                f"{source}: the times of its frames run back at {frame.time:.2f} s, as in AVI "
                "files with frames out of order; convert it first (ffmpeg -i FILE clip.mp4)."
            )
        last = frame.time
        yield frame


def _edited(
    frames: Iterator[VideoFrame],
    chain: Chain,
    tracker: Tracker,
    name: str,
    counts: dict[str, int],
    said: list[str],
    bar: Any,
) -> Iterator[tuple[float, Image]]:
    """Yield time and edited picture of the frames of a part."""
    while some := _batch(frames):
        images = [frame.image for frame in some]
        found = chain.finder(images, [f"{name}, frame {frame.index}" for frame in some])
        faces = [
            _fit(tracker(frame.image, each, frame.time), chain, said)
            for frame, each in zip(some, found, strict=True)
        ]
        changes = iter(chain.changes([face for each in faces for face in each]))
        for frame, each in zip(some, faces, strict=True):
            counts["frames"] += 1
            counts["edited"] += bool(each)
            yield frame.time, carry(frame.image, each, [next(changes) for _ in each])
        bar.update(len(some))


def _fit(faces: list[Face], chain: Chain, said: list[str]) -> list[Face]:
    if not faces:
        return faces
    try:
        faces, warnings = chain.fit(faces)
    except FaceError:  # turned too far for make-up
        return []
    # Of the clip, not of the frame, so that a warning is said once.
    told = [re.sub(r", frame \d+", "", warning) for warning in warnings]
    said += [warning for warning in told if warning not in said]
    return faces


def _batch(frames: Iterator[VideoFrame]) -> list[VideoFrame]:
    """Return the next few frames, fewer of large ones."""
    some: list[VideoFrame] = []
    for frame in frames:
        some.append(frame)
        if len(some) >= min(_FRAMES, _PIXELS // frame.image[..., 0].size):
            break
    return some


def _peek(pictures: Iterator[tuple[float, Image]]) -> tuple[float, Iterator[tuple[float, Image]]]:
    """Return the time of the first picture, and all of them."""
    first = next(pictures, None)
    if first is None:
        raise ImageError("A part of the video holds no frame.")
    return first[0], itertools.chain([first], pictures)
