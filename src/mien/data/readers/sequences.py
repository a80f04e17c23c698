"""Sequences from a neutral face to an expression: CK+, Oulu-CASIA, MMI.

All three are read as the field uses them: the first frame is neutral, three frames around the peak
show the expression, and a sequence is a clip, so that both share person and clip. The sets have no
split: persons are parted by folds (``mien.data.folds``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, groupby
from pathlib import Path

from mien.data.readers import Reader, Record, register
from mien.data.readers.action_units import CkPlus
from mien.data.readers.folder import below, pictures
from mien.faces.face import Image
from mien.faces.video import VIDEO_SUFFIXES
from mien.files.errors import ImageError, TableError

PEAK = 3  # frames of a sequence that show its expression

_CK_EMOTIONS = ("anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise")


@register
class CkPlusPeaks(CkPlus):
    """Extended Cohn-Kanade, labelled sequences only: the first frame and the last three.

    ``ck_plus`` gives every frame of every sequence and names the last one only. Action units are
    those of the last frame. The lists may lie in folders as their archives unpack
    (``Emotion_labels/Emotion``, ``FACS_labels/FACS``, ``Landmarks/Landmarks``).
    """

    name = "ckplus_peaks"
    layout = (
        "cohn-kanade-images/S005/001/S005_001_00000001.png, Emotion/S005/001/*_emotion.txt (a "
        "number from 1 to 7), FACS/S005/001/*_facs.txt, Landmarks/S005/001/*_landmarks.txt"
    )

    def records(self) -> Iterator[Record]:
        """Yield the first and the last three frames of every labelled sequence."""
        found = False
        for _, sequence in groupby(super().records(), lambda record: record.file.parent):
            frames = list(sequence)
            expression = frames[-1].labels.expression
            if len(frames) > 1 and expression:
                found = True
                yield from _peaks(frames, expression)
        if not found:
            raise self.wrong("holds no sequence with an emotion label")

    def _file(self, kind: str, person: str, clip: str, name: str) -> Path:
        plain = super()._file(kind, person, clip, name)
        for folder in (f"{kind}_labels/{kind}", f"{kind}/{kind}"):
            nested = self.root / folder / person / clip / f"{name}.txt"
            if nested.is_file():
                return nested
        return plain

    def _emotion(self, person: str, clip: str, stem: str) -> str:
        file = self._file("Emotion", person, clip, f"{stem}_emotion")
        if not file.is_file():
            return ""
        try:
            number = round(float(file.read_text()))
        except (ValueError, OverflowError):
            number = 0
        if not 1 <= number <= len(_CK_EMOTIONS):
            raise TableError(
                f"{file} does not hold a number from 1 to {len(_CK_EMOTIONS)}; fetch it again."
            )
        return _CK_EMOTIONS[number - 1]


def _peaks(frames: list[Record], expression: str) -> Iterator[Record]:
    """Yield the first record as neutral and the last three with the expression."""
    for place, record in enumerate([frames[0], *frames[1:][-PEAK:]]):
        labels = replace(record.labels, expression=expression if place else "neutral")
        yield replace(record, labels=labels)


_OULU_PERSON = re.compile(r"P\d{3}$")
_OULU_EXPRESSIONS = ("anger", "disgust", "fear", "happiness", "sadness", "surprise")
_OULU_DEPTH = 4  # folders that archives may put around the cameras


@register
class OuluCasia(Reader):
    """Oulu-CASIA NIR&VIS: 80 persons, six expressions; visible light, strong lighting.

    For another camera or lighting give its folder (``oulu_casia:DIR/OriginalImg/NI/Dark``), for
    the cropped pictures theirs (``…/PreProcess_Img/VL_Acropped/Strong``).
    """

    name = "oulu_casia"
    licence = "Oulu-CASIA NIR&VIS: non-commercial research only"
    layout = (
        "OriginalImg/VL/Strong/P001/Anger/000.jpeg (or the folder that holds P001, of VL or NI, "
        "Strong, Weak or Dark)"
    )

    def records(self) -> Iterator[Record]:
        """Yield the first and the last three frames of every sequence."""
        root = self.root.resolve()
        base = self._base(root)
        lighting, camera = base.name, base.parent.name
        found = False
        for person in sorted(p for p in base.iterdir() if _OULU_PERSON.match(p.name)):
            for folder in sorted(path for path in person.iterdir() if path.is_dir()):
                expression = folder.name.lower()
                files = sorted(p for p in pictures(folder) if p.stem.isdecimal())
                if expression not in _OULU_EXPRESSIONS or len(files) < 2:
                    continue
                found = True
                frames = [
                    Record(
                        below(path, root),
                        path,
                        labels=self.labels(
                            person=person.name,
                            clip=f"{camera}/{lighting}/{folder.name}",
                            frame=int(path.stem),
                            attributes={
                                "camera": camera.partition("_")[0],
                                "lighting": lighting,
                            },
                        ),
                        crop="cropped" in camera.lower(),
                    )
                    for path in files
                ]
                yield from _peaks(frames, expression)
        if not found:
            raise self.wrong("holds no sequences of persons named P001, P002, …")

    def _base(self, root: Path) -> Path:
        """Return the folder of the persons; original pictures go before cropped ones."""
        if any(_OULU_PERSON.match(path.name) for path in root.glob("P*")):
            return root
        for depth in range(_OULU_DEPTH):
            for camera in ("VL", "VL_*"):
                for path in sorted(root.glob("*/" * depth + f"{camera}/Strong")):
                    return path
        raise self.wrong("has no folder VL/Strong")


_MMI_EMOTIONS = dict(enumerate(_OULU_EXPRESSIONS, 1))  # further numbers: boredom, sleepiness, …
_MMI_VIEWS = {"0": "frontal", "1": "profile", "2": "both"}
_TAG = re.compile(r"<(Metatag|Metadata|track)\b([^>]*)>")
_VALUE = re.compile(r"""(\w+)\s*=\s*["']([^"']*)["']""")


@register
class Mmi(Reader):
    """MMI: videos from neutral to an expression and back; the first frame and the middle three.

    Sessions without one of the six expressions and those filmed from the side only are left out.
    The numbers of the expressions (1 anger, 2 disgust, 3 fear, 4 happiness, 5 sadness, 6 surprise)
    and of the views (0 frontal, 1 profile, 2 both in one picture) are those that users of the set
    read; its own manual was not at hand. Some early videos lie on their side. MPEG videos are
    listed, but must be converted.
    """

    name = "mmi"
    licence = "MMI Facial Expression Database: non-commercial research only"
    layout = (
        "Sessions/1767/session.xml (track with view), S001-100.avi and S001-100.xml (Metatag with "
        'Name="Emotion" and Value)'
    )

    def records(self) -> Iterator[Record]:
        """Yield the videos, in the order of the sessions' numbers."""
        base = self.root / "Sessions" if (self.root / "Sessions").is_dir() else self.root
        sessions = [path for path in base.glob("*") if path.is_dir() and path.name.isdecimal()]
        found = False
        for folder in sorted(sessions, key=lambda path: int(path.name)):
            session = folder / "session.xml"
            views = [said["view"] for kind, said in _tags(session) if "view" in said]
            view = _MMI_VIEWS.get(views[0], views[0]) if views else ""
            for path in pictures(folder, (*VIDEO_SUFFIXES, ".mpg", ".mpeg")):
                expression = _mmi_emotion(path.with_suffix(".xml")) or _mmi_emotion(session)
                if not expression or view == "profile":
                    continue
                found = True
                labels = self.labels(
                    person=path.stem.partition("-")[0],
                    clip=path.stem,
                    expression=expression,
                    attributes={"session": folder.name, **({"view": view} if view else {})},
                )
                yield Record(below(path, self.root), path, frames=1 + PEAK, labels=labels)
        if not found:
            raise self.wrong("holds no video with one of the six expressions")

    def frames(self, record: Record) -> Iterator[tuple[Record, Image]]:
        """Yield the first frame as neutral and the middle three with the expression.

        Raises:
            ImageError: The video is damaged, of unknown length, or shorter than that.
            MissingExtraError: PyAV is not installed.
        """
        from mien.faces.video import probe_video, read_video

        length = probe_video(record.file).frames
        if length <= PEAK:
            raise ImageError(
                f"{record.file} has {length} frames by its header, fewer than {PEAK + 1}; copy or "
                "convert it again."
            )
        middle = max(1, (length - PEAK) // 2)
        first = read_video(record.file, max_frames=1)
        for frame in chain(first, read_video(record.file, first=middle, max_frames=PEAK)):
            expression = record.labels.expression if frame.index else "neutral"
            labels = replace(record.labels, frame=frame.index, expression=expression)
            source = f"{record.source}#{frame.index}"
            own = replace(record, source=source, index=frame.index, frames=0, labels=labels)
            yield own, frame.image


def _tags(file: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the tags of an MMI file that say something, with their values; none if it is absent."""
    if file.is_file():
        # Few tags are wanted, and the text is not trusted: no XML parser, no entities.
        for kind, said in _TAG.findall(file.read_text(encoding="utf-8", errors="replace")):
            yield kind, dict(_VALUE.findall(said))


def _mmi_emotion(file: Path) -> str:
    """Return the expression that an MMI file names; empty if it is none of the six.

    Raises:
        TableError: The label is no number.
    """
    for _, said in _tags(file):
        if said.get("Name") == "Emotion":
            value = said.get("Value", "")
            if not value.isdecimal():
                raise TableError(f"{file} gives the emotion {value!r}, no number; fetch it again.")
            return _MMI_EMOTIONS.get(int(value), "")
    return ""
