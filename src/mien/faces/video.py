"""Videos in and out, one frame at a time, so that memory does not grow with length."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mien.faces.face import Image
from mien.faces.image import LONGEST_SIDE, MAX_PIXELS, MIN_SIDE, check_image
from mien.files.atomic import atomic_path
from mien.files.errors import ConfigError, ImageError, MissingExtraError

VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi")


@dataclass(frozen=True)
class VideoInfo:
    """What a video declares.

    Attributes:
        width: Of the upright frames, in pixels.
        height: Of the upright frames, in pixels.
        fps: Frames a second, NaN if unknown.
        frames: Number of frames, 0 if unknown.
    """

    width: int
    height: int
    fps: float
    frames: int


@dataclass(frozen=True, eq=False)
class VideoFrame:
    """One frame of a video.

    Attributes:
        index: Number of the frame in the file, from 0.
        time: Seconds from the start of the video.
        image: uint8 ``(H, W, 3)`` RGB, upright.
    """

    index: int
    time: float
    image: Image


def read_video(
    path: str | Path,
    *,
    every: int = 1,
    first: int = 0,
    fps: float | None = None,
    max_frames: int | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Iterator[VideoFrame]:
    """Read the frames of an MP4, MOV, Matroska, WebM or AVI file.

    The format is told by content, nothing but the file itself is opened, and one frame is held at
    a time. A rotation that the file asks for is applied.

    Args:
        path: A local file.
        every: Take every n-th frame.
        first: Skip the frames before this number (they are decoded, but not converted).
        fps: Take at most so many frames a second instead.
        max_frames: Stop after so many taken frames.
        max_pixels: Largest width x height of a frame.

    Yields:
        The frames taken, in order.

    Raises:
        ImageError: No such file, no video in it, frames too large or too small, or damaged.
        ConfigError: ``every`` or ``fps`` is not positive, or both are given.
        MissingExtraError: PyAV is not installed.
    """
    if every < 1 or (fps is not None and not fps > 0) or (every > 1 and fps is not None):
        raise ConfigError("Take every n-th frame (every >= 1) or so many a second (fps > 0).")
    taken, last_tick = 0, -1
    with open_video(path) as (container, stream):
        convert = _converter()
        for index, frame in enumerate(container.decode(stream)):
            _check_size(path, frame.width, frame.height, max_pixels)
            time = index / _rate(stream, 25.0) if frame.time is None else frame.time
            time -= (stream.start_time or 0) * float(stream.time_base)
            if index < first:
                continue
            if fps is None:
                wanted = (index - first) % every == 0
            else:
                tick = math.floor(time * fps + 1e-6)
                wanted, last_tick = tick > last_tick, max(tick, last_tick)
            if wanted:
                if max_frames is not None and taken >= max_frames:
                    return
                taken += 1
                turns = round(getattr(frame, "rotation", 0) / 90)  # counterclockwise
                image = np.rot90(convert(frame).to_ndarray(), turns)
                yield VideoFrame(index, time, np.ascontiguousarray(image))
    if not taken and max_frames != 0 and not first:
        raise ImageError(f"{path} holds no whole frame; copy or download it again.")


def probe_video(path: str | Path) -> VideoInfo:
    """Read size, rate and length of a video, decoding only its first frame.

    Raises:
        ImageError: As for ``read_video``.
        MissingExtraError: PyAV is not installed.
    """
    first = next(read_video(path, max_frames=1))
    with open_video(path) as (_, stream):
        rate = _rate(stream, math.nan)
        frames = stream.frames
        if not frames and stream.duration and not math.isnan(rate):
            frames = round(stream.duration * float(stream.time_base) * rate)
    return VideoInfo(first.image.shape[1], first.image.shape[0], rate, frames)


def write_video(path: str | Path, frames: Iterable[Image], fps: float, *, crf: int = 18) -> None:
    """Write an H.264 MP4 file atomically, one frame at a time.

    Args:
        path: Target, ending in ``.mp4``.
        frames: uint8 ``(H, W, 3)`` RGB, all of one size; an odd side is made even by repeating
            its last pixels, as the format wants it.
        fps: Frames a second.
        crf: Quality, from 0 (best) to 51.

    Raises:
        ImageError: No frames, frames of different sizes, or another suffix.
        ConfigError: ``fps`` is not positive.
        MissingExtraError: PyAV is not installed.
    """
    av = video_library()
    if Path(path).suffix.lower() != ".mp4":
        raise ImageError(f"Cannot write {path}: the name of a video must end in .mp4.")
    if not fps > 0:
        raise ConfigError(f"A video has a positive number of frames a second, not {fps}.")
    stream: Any = None
    shape: tuple[int, ...] = ()
    with (
        atomic_path(path) as temporary,
        av.open(str(temporary), "w", format="mp4") as container,
    ):
        for image in frames:
            check_image(image)
            if stream is None:
                shape = image.shape
                rate = Fraction(fps).limit_denominator(1001)
                stream = container.add_stream("libx264", rate=rate)
                stream.height, stream.width = (side + side % 2 for side in shape[:2])
                stream.pix_fmt, stream.options = "yuv420p", {"crf": str(crf)}
            elif image.shape != shape:
                raise ImageError(
                    f"The frames of {path} differ in size: {shape[:2]} and {image.shape[:2]}."
                )
            even = np.pad(image, ((0, shape[0] % 2), (0, shape[1] % 2), (0, 0)), mode="edge")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
        if stream is None:
            raise ImageError(f"There are no frames to write to {path}.")
        container.mux(stream.encode(None))


def video_library() -> Any:
    """Return PyAV.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        import av
    except ImportError:
        raise MissingExtraError("av", "video") from None
    return av


@contextlib.contextmanager
def open_video(path: str | Path) -> Iterator[tuple[Any, Any]]:
    """Open a video and its first stream of pictures; errors while it is open become ImageError.

    Raises:
        ImageError: No such file, no video in it, or damaged.
        MissingExtraError: PyAV is not installed.
    """
    av = video_library()
    kind = _container(Path(path))
    try:
        # A named format: playlists and the like, which open further files, can't be reached.
        options = {"protocol_whitelist": "file"}
        with av.open(f"file:{path}", format=kind, container_options=options) as container:
            if not container.streams.video:
                raise ImageError(f"{path} holds no pictures, only other tracks; give a video.")
            stream = container.streams.video[0]
            context = stream.codec_context
            if context is None:
                raise ImageError(f"{path} is coded in a way that cannot be read; convert it.")
            yield container, stream
    except (av.FFmpegError, UnicodeError) as error:
        raise ImageError(
            f"{path} is damaged or cut off ({_reason(error)}); copy or download it again."
        ) from error


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _container(path: Path) -> str:
    """Tell the format by the first bytes."""
    try:
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "does not exist"
            raise ImageError(f"{path} {what}; give the path of a video on this computer.")
        with path.open("rb") as file:
            start = file.read(12)
    except (OSError, ValueError) as error:  # ValueError: null byte in the name
        raise ImageError(f"{path} cannot be read: {error}.") from None
    if start[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return "mp4"
    if start.startswith(b"\x1a\x45\xdf\xa3"):
        return "matroska"
    if start.startswith(b"RIFF") and start[8:12] == b"AVI ":
        return "avi"
    raise ImageError(f"{path} is not an MP4, MOV, Matroska, WebM or AVI video; convert it first.")


def _converter() -> Callable[[Any], Any]:
    """Return a function from a decoded frame to an RGB one, which keeps its buffers."""
    av = video_library()
    # From PyAV 18 on it starts a thread a core, which costs more than it saves on single frames.
    options = {"threads": 1} if int(av.__version__.split(".")[0]) >= 18 else {}
    return partial(av.video.reformatter.VideoReformatter().reformat, format="rgb24", **options)


def _rate(stream: Any, unknown: float) -> float:
    rate = stream.average_rate or stream.guessed_rate
    return float(rate) if rate else unknown


def _check_size(path: str | Path, width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels or max(width, height) > LONGEST_SIDE:
        raise ImageError(
            f"{path} has frames of {width} x {height} pixels; at most {max_pixels:,} are read. "
            "Shrink it first."
        )
    if min(width, height) < MIN_SIDE:
        raise ImageError(
            f"{path} has frames of {width} x {height} pixels; a face needs at least {MIN_SIDE} on "
            "each side."
        )
