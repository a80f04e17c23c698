"""Sets with action units coded by people: DISFA, BP4D, CK+."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from mien.data.readers import Reader, Record, register
from mien.faces.face import Array, Image
from mien.files.errors import TableError

Coded = dict[int, dict[str, float]]  # frame → action unit → intensity


@register
class Disfa(Reader):
    """DISFA: 27 persons watching a film; 12 action units with intensities 0 to 5 a frame."""

    name = "disfa"
    licence = "DISFA: non-commercial research only"
    layout = (
        "Video_LeftCamera/LeftVideoSN001_comp.avi and ActionUnit_Labels/SN001/SN001_au1.txt "
        "(frame,intensity; frames from 1)"
    )

    def records(self) -> Iterator[Record]:
        """Yield the left camera's videos."""
        files = sorted(self.root.rglob("LeftVideoSN*_comp.avi"))
        if not files:
            raise self.wrong("holds no such videos")
        for path in files:
            person = path.stem.removeprefix("LeftVideo").removesuffix("_comp")
            labels = self.labels(person=person, clip=path.stem)
            source = path.relative_to(self.root).as_posix()
            yield from self.stretches(Record(source, path, labels=labels))

    def frames(self, record: Record) -> Iterator[tuple[Record, Image]]:
        """Yield the frames with their action units."""
        person = record.labels.person
        coded: Coded = {}
        for file in sorted(self.root.glob(f"ActionUnit_Labels/{person}/{person}_au*.txt")):
            _add(coded, file, "AU" + file.stem.rpartition("au")[2])
        for own, image in super().frames(record):
            units = coded.get(own.index + 1, {})
            yield replace(own, labels=replace(own.labels, action_units=units)), image


@register
class Bp4d(Reader):
    """BP4D-Spontaneous: 41 persons, 8 tasks. Occurrence (0, 1), intensity (0 to 5) where coded."""

    name = "bp4d"
    licence = "BP4D: non-commercial research only"
    layout = (
        "Sequences/F001/T1/0001.jpg (any folder name), AUCoding/AU_OCC/F001_T1.csv (first row: "
        "action units) and AU-INT/AU06/F001_T1_AU06.csv (frame,intensity)"
    )

    def records(self) -> Iterator[Record]:
        """Yield the coded frames; a task of a person is a clip."""
        sheets = sorted(self.root.rglob("[FM][0-9][0-9][0-9]_T[0-9].csv"))
        folders = {(p.parent.name, p.name): p for p in self.root.rglob("T[1-8]") if p.is_dir()}
        strengths: dict[str, list[Path]] = {}
        for file in sorted(self.root.rglob("[FM][0-9][0-9][0-9]_T[0-9]_AU*.csv")):
            strengths.setdefault(file.stem.rpartition("_AU")[0], []).append(file)
        found = False
        for sheet in sheets:
            person, task = sheet.stem.split("_")
            folder = folders.get((person, task))
            if folder is None:
                continue
            pictures = {int(p.stem): p for p in folder.glob("*.jpg") if p.stem.isdecimal()}
            for frame, units in sorted(_coded(sheet, strengths.get(sheet.stem, [])).items()):
                if frame in pictures:
                    found = True
                    labels = self.labels(person=person, clip=task, frame=frame, action_units=units)
                    path = pictures[frame]
                    yield Record(path.relative_to(self.root).as_posix(), path, labels=labels)
        if not found:
            raise self.wrong("holds no coded frames")


def _coded(sheet: Path, strengths: list[Path]) -> Coded:
    """Read BP4D's occurrence, then the intensities that replace it."""
    with sheet.open(newline="", encoding="utf-8-sig") as lines:
        names, *rows = list(csv.reader(lines))
    coded: Coded = {
        int(row[0]): {
            f"AU{int(n)}": float(v)
            for n, v in zip(names[1:], row[1:], strict=False)
            if v in ("0", "1")  # 9: not visible
        }
        for row in rows
        if row
    }
    for file in strengths:
        _add(coded, file, f"AU{int(file.stem.rpartition('AU')[2])}")
    return coded


_CK_EMOTIONS = (
    "neutral",
    "anger",
    "contempt",
    "disgust",
    "fear",
    "happy",
    "sadness",
    "surprise",
)


@register
class CkPlus(Reader):
    """Extended Cohn-Kanade: sequences from neutral (first frame) to the peak (last frame)."""

    name = "ck_plus"
    licence = "CK+: non-commercial research only"
    layout = (
        "cohn-kanade-images/S005/001/S005_001_00000001.png, Emotion/S005/001/*_emotion.txt, "
        "FACS/S005/001/*_facs.txt, Landmarks/S005/001/*_landmarks.txt"
    )

    def records(self) -> Iterator[Record]:
        """Yield every frame; a sequence is a clip. Only its first and last frame are labelled."""
        base = self.root / "cohn-kanade-images"
        found = False
        for folder in sorted(path for path in base.glob("S*/*") if path.is_dir()):
            pictures = sorted(folder.glob("*.png"))
            person, clip = folder.parent.name, folder.name
            for path in pictures:
                found = True
                stem = path.stem
                labels = self.labels(person=person, clip=clip, frame=int(stem.rpartition("_")[2]))
                if path == pictures[0]:
                    labels.expression = "neutral"
                elif path == pictures[-1]:
                    labels.expression = self._emotion(person, clip, stem)
                    labels.action_units = self._units(person, clip, stem)
                points = self._points(self._file("Landmarks", person, clip, f"{stem}_landmarks"))
                source = path.relative_to(self.root).as_posix()
                yield Record(source, path, labels=labels, landmarks=points)
        if not found:
            raise self.wrong("holds no such pictures")

    def _file(self, kind: str, person: str, clip: str, name: str) -> Path:
        return self.root / kind / person / clip / f"{name}.txt"

    def _emotion(self, person: str, clip: str, stem: str) -> str:
        file = self._file("Emotion", person, clip, f"{stem}_emotion")
        return _CK_EMOTIONS[int(float(file.read_text()))] if file.is_file() else ""

    def _units(self, person: str, clip: str, stem: str) -> dict[str, float]:
        file = self._file("FACS", person, clip, f"{stem}_facs")
        if not file.is_file() or not file.read_text().strip():
            return {}
        # Intensity 0 means "present, how strong was not coded".
        return {
            f"AU{unit:g}": float(max(strength, 1.0))
            for unit, strength in np.loadtxt(file, ndmin=2)[:, :2]
        }

    @staticmethod
    def _points(file: Path) -> Array | None:
        if not file.is_file():
            return None
        points = np.loadtxt(file, dtype=np.float32)
        return points if points.shape == (68, 2) else None


def _add(coded: Coded, file: Path, unit: str) -> None:
    """Add the lines ``frame,intensity`` of a file; intensity 9 means that it could not be seen."""
    try:
        for line in file.read_text(encoding="utf-8-sig").split():
            frame, _, strength = line.partition(",")
            if strength != "9":
                coded.setdefault(int(frame), {})[unit] = float(strength)
    except ValueError:
        raise TableError(f"{file} does not hold lines of frame,intensity.") from None
