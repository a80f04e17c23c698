"""A video made anew from its own frames: same times, same sound, other pictures.

Pictures are encoded into one or several parts without sound (``write_part``); ``join_parts`` puts
the parts one after the other, with the sound of the source, without encoding anything again.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from mien.faces.face import Image
from mien.faces.image import check_image
from mien.faces.video import VideoFrame, open_video, read_video, video_library
from mien.files.atomic import atomic_path
from mien.files.errors import ImageError

_BT709 = 1  # of ITU-T H.273: what players expect of a video that says nothing


@dataclass(frozen=True)
class Clock:
    """How a video counts time.

    Attributes:
        tick: Seconds of one tick.
        rate: Frames a second, as declared.
        start: Seconds at which the pictures start.
    """

    tick: Fraction
    rate: Fraction
    start: Fraction

    def ticks(self, time: float) -> int:
        """Return the tick of a time in seconds."""
        return round(Fraction(time) / self.tick)


def read_clock(path: str | Path) -> Clock:
    """Read how a video counts time.

    Raises:
        ImageError: As for ``read_video``.
        MissingExtraError: PyAV is not installed.
    """
    with open_video(path) as (_, stream):
        tick = Fraction(stream.time_base)
        rate = Fraction(stream.average_rate or stream.guessed_rate or 25).limit_denominator(1001)
        return Clock(tick, rate, (stream.start_time or 0) * tick)


def write_part(
    path: str | Path, pictures: Iterable[tuple[float, Image]], clock: Clock, *, crf: int = 18
) -> int:
    """Write a part without sound atomically (H.264 in MP4); its first picture stands at 0.

    Args:
        path: Target.
        pictures: Seconds and uint8 ``(H, W, 3)`` RGB each, of one size; an odd side is made even
            by repeating its last pixels.
        clock: That of the source; all parts of a video need the same.
        crf: Quality, from 0 (best) to 51.

    Returns:
        Number of pictures.

    Raises:
        ImageError: No pictures, pictures of different sizes, or it cannot be written.
        MissingExtraError: PyAV is not installed.
    """
    av = video_library()
    space, extent = av.video.reformatter.Colorspace.ITU709, av.video.reformatter.ColorRange.MPEG
    reformatter = av.video.reformatter.VideoReformatter()
    stream: Any = None
    shape: tuple[int, ...] = ()
    count, first, last = 0, 0, -1
    with atomic_path(path) as temporary, _written(temporary, path) as container:
        for time, image in pictures:
            check_image(image)
            if stream is None:
                shape, first = image.shape, clock.ticks(time)
                stream = container.add_stream("libx264", rate=clock.rate)
                stream.height, stream.width = (side + side % 2 for side in shape[:2])
                # Without B-frames pictures are stored in the order of their times, so that parts
                # can be joined at any place.
                stream.pix_fmt, stream.options = "yuv420p", {"crf": str(crf), "bf": "0"}
                context = stream.codec_context
                context.time_base = clock.tick
                context.colorspace = context.color_primaries = context.color_trc = _BT709
                context.color_range = extent
            elif image.shape != shape:
                raise ImageError(
                    f"The frames of {path} differ in size: {shape[:2]} and {image.shape[:2]}."
                )
            even = np.pad(image, ((0, shape[0] % 2), (0, shape[1] % 2), (0, 0)), mode="edge")
            frame = reformatter.reformat(
                av.VideoFrame.from_ndarray(even, format="rgb24"),
                format="yuv420p",
                dst_colorspace=space,
                dst_color_range=extent,
            )
            last = max(clock.ticks(time) - first, last + 1)
            frame.pts, frame.time_base = last, clock.tick
            container.mux(stream.encode(frame))
            count += 1
        if stream is None:
            raise ImageError(f"There are no frames to write to {path}.")
        container.mux(stream.encode(None))
    return count


def join_parts(
    parts: Sequence[tuple[float, Path]],
    source: str | Path,
    target: str | Path,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Join parts and the sound of their source, atomically; nothing is encoded again.

    Args:
        parts: Seconds at which each starts, from the first picture of the source, and its file.
        source: The video of which they were made; each of its sound tracks is copied.
        target: MP4 file to write.
        metadata: Notes in the file, such as ``comment``.

    Raises:
        ImageError: The source cannot be read, or MP4 cannot hold its sound.
        MissingExtraError: PyAV is not installed.
    """
    clock = read_clock(source)
    with (
        atomic_path(target) as temporary,
        open_video(source) as (old, _),
        open_video(parts[0][1]) as (_, like),
        _written(temporary, target) as new,
    ):
        new.metadata.update(metadata or {})
        pictures = new.add_stream_from_template(like)
        tracks = {s.index: new.add_stream_from_template(s) for s in old.streams.audio}
        sound = _sound(old, tracks) if tracks else iter(())
        for _, packet in heapq.merge(
            _pictures(parts, clock, pictures), sound, key=lambda pair: pair[0]
        ):
            new.mux(packet)


def remake_video(
    source: str | Path,
    target: str | Path,
    change: Callable[[Iterator[VideoFrame]], Iterable[Image]],
    *,
    crf: int = 18,
    metadata: Mapping[str, str] | None = None,
) -> int:
    """Write a video again with changed frames, atomically, in memory that does not grow.

    Args:
        source: MP4, MOV, Matroska, WebM or AVI file.
        target: File to write, ending in ``.mp4``.
        change: Takes the frames in order and gives one picture each, in the same order.
        crf: As for ``write_part``.
        metadata: As for ``join_parts``.

    Returns:
        Number of frames.

    Raises:
        ImageError: As for ``read_video`` and ``join_parts``, or ``change`` gave more or fewer
            pictures than there are frames.
        MissingExtraError: PyAV is not installed.
    """
    check_video_name(target)
    with atomic_path(target) as pictures:
        count = write_part(pictures, timed(read_video(source), change), read_clock(source), crf=crf)
        join_parts([(0.0, pictures)], source, pictures, metadata)
    return count


def timed(
    frames: Iterable[VideoFrame], change: Callable[[Iterator[VideoFrame]], Iterable[Image]]
) -> Iterator[tuple[float, Image]]:
    """Yield the changed pictures of frames with their times.

    Raises:
        ImageError: ``change`` gave more or fewer pictures than there are frames.
    """
    read, kept = itertools.tee(frames)
    times = (frame.time for frame in kept)
    try:
        yield from zip(times, change(read), strict=True)
    except ValueError as error:
        if "zip()" not in str(error):
            raise
        raise ImageError("A change of a video gives one picture for each of its frames.") from None


def check_video_name(path: str | Path) -> None:
    """Raise ImageError unless a name ends in ``.mp4``."""
    if Path(path).suffix.lower() != ".mp4":
        raise ImageError(f"Cannot write {path}: the name of a video must end in .mp4.")


def read_comment(path: str | Path) -> str:
    """Return the note in a video's file, empty if there is none.

    Raises:
        ImageError: As for ``read_video``.
        MissingExtraError: PyAV is not installed.
    """
    with open_video(path) as (container, _):
        return str(container.metadata.get("comment", ""))


def _pictures(
    parts: Sequence[tuple[float, Path]], clock: Clock, stream: Any
) -> Iterator[tuple[float, Any]]:
    for start, path in parts:
        with open_video(path) as (container, part):
            shift = round((clock.ticks(start) * clock.tick + clock.start) / part.time_base)
            for packet in container.demux(part):
                if packet.dts is None:  # the end
                    continue
                packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                packet.stream = stream
                yield float(packet.dts * packet.time_base), packet


def _sound(container: Any, tracks: Mapping[int, Any]) -> Iterator[tuple[float, Any]]:
    latest = 0.0
    for packet in container.demux([s for s in container.streams.audio if s.index in tracks]):
        if packet.dts is None:
            continue
        latest = max(latest, float(packet.dts * packet.time_base))
        packet.stream = tracks[packet.stream.index]
        yield latest, packet


@contextlib.contextmanager
def _written(temporary: Path, target: str | Path) -> Iterator[Any]:
    """Open an MP4 file for writing; errors while it is open become ImageError."""
    av = video_library()
    try:
        with av.open(str(temporary), "w", format="mp4") as container:
            yield container
    except av.FFmpegError as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageError(
            f"{target} cannot be written as MP4 ({reason}). If its sound is of a kind that MP4 "
            "cannot hold, convert the video to MP4 with AAC sound first."
        ) from error
