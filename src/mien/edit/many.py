"""Chains of edits over many photos: batches over all their faces, resume, comparison sheets."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from mien.edit.best import able
from mien.edit.chain import Chain, Step, carry, parse_face
from mien.edit.photos import targets as name_targets
from mien.edit.sheets import PORTRAIT, labelled, portrait
from mien.edit.sources import photo_files
from mien.faces.face import Face, Image
from mien.faces.find import Finder, choose
from mien.faces.image import IMAGE_SUFFIXES, read_image, write_image
from mien.faces.provenance import EditRecord, write_edited
from mien.files.atomic import write_json
from mien.files.errors import ConfigError, FaceError, MienError

_PHOTOS = 8  # decoded at a time: 40 megapixels are 120 MB
_SETTINGS = ".mien-edit.json"


@dataclass(frozen=True)
class Done:
    """What a run over photos did.

    Attributes:
        written: Files that were written.
        finished: Files that an earlier run with the same settings had written.
        skipped: Photo → why it was not edited.
        warnings: What may have gone wrong with make-up (``mien.edit.makeup``).
        report: Summary of the report cards, where some were asked for in a folder.
    """

    written: list[Path] = field(default_factory=list)
    finished: list[Path] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    report: Path | None = None


@dataclass(frozen=True, eq=False)
class _Found:
    """A photo with the faces that were chosen."""

    file: Path
    target: Path
    photo: Image
    faces: list[Face]


def edit_photos(
    photos: str | Path | Iterable[str | Path],
    steps: Sequence[Step],
    *,
    out: str | Path,
    face: str | int = "only",
    driver_face: str | int = "only",
    detector: str = "dlib",
    finder: Finder | None = None,
    provenance: bool = True,
    overwrite: bool = False,
    report: bool = False,
    batch_size: int = 64,
    progress: bool = False,
) -> Done:
    """Do steps to the faces of photos.

    Faces are found once and edited in batches over several photos; each photo is pasted into once
    a face and written atomically, marked as edited. A photo that is damaged or without a face is
    left out and named in the result. In a folder, what an earlier run with equal settings has
    finished is not done again.

    Args:
        photos: Pictures, or folders of pictures.
        steps: In the order in which they are done.
        out: File for one photo, else a folder.
        face: ``only`` (several are a reason to leave the photo out), ``largest``, ``central``,
            ``all``, or a number (0 is the largest).
        driver_face: The same for drivers, without ``all``.
        detector: Face detector (``mien.faces.detectors``).
        finder: Replaces the finder that ``detector`` names.
        provenance: Sign what is written; False leaves no mark that it was edited.
        overwrite: Edit again what is finished.
        report: Write a report card (``mien.edit.report_card``) beside each photo and, in a folder,
            ``report.json``, what they say together.
        batch_size: Faces in a call of a network.
        progress: Show a progress bar.

    Raises:
        FaceError, ImageError: None of the photos could be edited, or a driver is not usable.
        ConfigError: See ``Chain``.
        WeightsError: No such weights, or a damaged file.
    """
    face = parse_face(face)
    chain = Chain(steps, detector, finder, driver_face)
    files = _files(photos)
    targets = name_targets(files, Path(out), chain.name)
    done = Done(warnings=list(chain.warnings))
    work = list(zip(files, targets, strict=True))
    if Path(out).suffix.lower() not in IMAGE_SUFFIXES:
        since = _since(Path(out), chain.name, fingerprint(chain, face, detector), overwrite)
        done.finished.extend(t for f, t in work if _finished(t, f, since))
        work = [(f, t) for f, t in work if not _finished(t, f, since)]
    with tqdm(total=len(work), unit="img", desc="edit", disable=not progress) as bar:
        for start in range(0, len(work), _PHOTOS):
            part = work[start : start + _PHOTOS]
            found = _fit(_find(part, chain.finder, face, done.skipped), chain, done)
            flat = iter(chain.changes([f for each in found for f in each.faces], batch_size))
            for each in found:
                changes = [next(flat) for _ in each.faces]
                image = carry(each.photo, each.faces, changes)
                data = each.file.read_bytes()
                if report:
                    from mien.edit.report_card import write_report

                    aims = [chain.wanted_pose(f) for f in each.faces]
                    write_report(
                        _card(each.target),
                        each.photo,
                        image,
                        each.faces,
                        changes,
                        chain.record,
                        data,
                        aims,
                    )
                _write(each.target, image, chain.record, data, provenance)
                done.written.append(each.target)
            bar.update(len(part))
    _check_some(done, len(files))
    if report and Path(out).suffix.lower() not in IMAGE_SUFFIXES:
        from mien.edit.report_card import write_summary

        cards = [_card(target).with_suffix(".json") for target in done.finished + done.written]
        cards = [card for card in cards if card.is_file()]
        if cards:  # an earlier run may have written none
            done = replace(done, report=Path(out) / "report.json")
            write_summary(Path(out) / "report.json", cards)
    return done


def compare(
    photos: str | Path | Iterable[str | Path],
    steps: Sequence[Step],
    *,
    out: str | Path,
    face: str | int = "only",
    driver_face: str | int = "only",
    detector: str = "dlib",
    finder: Finder | None = None,
    provenance: bool = True,
    methods: Sequence[Any] | None = None,
    progress: bool = False,
) -> Done:
    """Write a sheet a photo: its faces as they are, and after the steps by every method.

    Args:
        photos: As for ``edit_photos``.
        steps: The same; which methods do them is left to ``methods``.
        out: File for one photo, else a folder.
        face: As for ``edit_photos``.
        driver_face: As for ``edit_photos``.
        detector: As for ``edit_photos``.
        finder: As for ``edit_photos``.
        provenance: As for ``edit_photos``.
        methods: Weights to compare; None takes all shipped ones that can do every step.
        progress: Show a progress bar.

    Raises:
        ConfigError: No shipped weights can do every step; else as for ``edit_photos``.
        FaceError, ImageError: None of the photos could be edited.
        WeightsError: No such weights, or a damaged file.
    """
    face = parse_face(face)
    if not steps:
        raise ConfigError("Say what to do with the faces: at least one step.")
    if methods is None:
        methods = [n for n in able(steps[0].task) if all(n in able(s.task) for s in steps)]
        if not methods:
            tasks = ", ".join(s.task for s in steps)
            raise ConfigError(f"No shipped weights can do all of {tasks}; compare fewer steps.")
    chains = [
        Chain([dataclasses.replace(s, method=m) for s in steps], detector, finder, driver_face)
        for m in methods
    ]
    finder = max(chains, key=lambda c: c.size).finder
    files = _files(photos)
    done = Done(warnings=list(chains[0].warnings))
    work = list(
        zip(files, name_targets(files, Path(out), f"{chains[0].name}-compared"), strict=True)
    )
    with tqdm(total=len(work), unit="img", desc="compare", disable=not progress) as bar:
        for one in work:
            for each in _fit(_find([one], finder, face, done.skipped), chains[0], done):
                rows = [_row(each, f, chains) for f in each.faces]
                record = _record_of([c.record for c in chains])
                _write(
                    each.target, np.concatenate(rows), record, each.file.read_bytes(), provenance
                )
                done.written.append(each.target)
            bar.update()
    _check_some(done, len(files))
    return done


def _card(target: Path) -> Path:
    return target.with_name(f"{target.stem}-report")


def _write(target: Path, image: Image, record: EditRecord, data: bytes, provenance: bool) -> None:
    if provenance:
        write_edited(target, image, record, data)
    else:
        write_image(target, image)


def _row(each: _Found, face: Face, chains: Sequence[Chain]) -> Image:
    given = [(s.task, d) for s, d in zip(chains[0].steps, chains[0].drivers, strict=True) if d]
    pictures = [portrait(each.photo, face)]
    pictures += [cv2.resize(d.crop, (PORTRAIT, PORTRAIT)).astype(np.uint8) for _, d in given]
    pictures += [portrait(chain.apply(each.photo, [face]), face) for chain in chains]
    labels = ["photo", *(f"driver: {task}" for task, _ in given)]
    return labelled(pictures, [*labels, *(chain.record.weights for chain in chains)])


def _record_of(records: Sequence[EditRecord]) -> EditRecord:
    first = records[0]
    weights, hashes = (
        "+".join(x) for x in zip(*((r.weights, r.weights_sha256) for r in records), strict=True)
    )
    method = "+".join(dict.fromkeys(r.method for r in records))
    return EditRecord(first.task, first.strength, weights, hashes, method)


def _find(
    work: Sequence[tuple[Path, Path]], finder: Finder, which: str | int, skipped: dict[str, str]
) -> list[_Found]:
    """Return the photos that can be read and hold the face that is asked for."""
    photos: dict[Path, tuple[Path, Image]] = {}
    for file, target in work:
        try:
            photos[file] = target, read_image(file)
        except MienError as error:
            skipped[str(file)] = str(error)
    images = [image for _, image in photos.values()]
    found = []
    for (file, (target, image)), faces in zip(
        photos.items(), finder(images, [str(f) for f in photos]), strict=True
    ):
        try:
            one = choose(faces, "largest" if which == "all" else which, str(file), image.shape)
            found.append(_Found(file, target, image, faces if which == "all" else [one]))
        except FaceError as error:
            skipped[str(file)] = str(error)
    return found


def _fit(found: Sequence[_Found], chain: Chain, done: Done) -> list[_Found]:
    """Return the photos with the faces that are fit for the steps."""
    kept = []
    for each in found:
        try:
            faces, warnings = chain.fit(each.faces)
        except FaceError as error:
            done.skipped[str(each.file)] = str(error)
            continue
        kept.append(dataclasses.replace(each, faces=faces))
        done.warnings.extend(warnings)
    return kept


def _check_some(done: Done, count: int) -> None:
    if not done.written and not done.finished:
        reason = next(iter(done.skipped.values()))
        raise FaceError(reason if count == 1 else f"None of {count} photos; the first: {reason}")


def _files(photos: str | Path | Iterable[str | Path]) -> list[Path]:
    return photo_files([photos] if isinstance(photos, (str, Path)) else photos)


def fingerprint(chain: Chain, face: str | int, detector: str) -> str:
    """Return a hash of all that decides what a photo becomes."""
    digest = hashlib.sha256()
    steps = [
        (s.task, s.strength, dict(s.regions or {}), [] if s.shares is None else list(s.shares))
        for s in chain.steps
    ]
    digest.update(json.dumps([steps, str(face), detector, chain.record.version]).encode())
    digest.update(f"{chain.record.weights} {chain.record.weights_sha256}".encode())
    for drivers in chain.references:
        digest.update(b"-" if not drivers else b"".join(d.crop.tobytes() for d in drivers))
    return digest.hexdigest()


def _since(out: Path, name: str, settings: str, anew: bool) -> float:
    """Return since when a folder's files come from these settings; from now on if others did.

    Without the time, what other settings had left would pass for finished after an interruption.
    """
    known: dict[str, Any] = {}
    try:
        known = dict(json.loads((out / _SETTINGS).read_text()))
        if not anew and known[name]["settings"] == settings:
            return float(known[name]["since"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    now = time.time()
    write_json(out / _SETTINGS, {**known, name: {"settings": settings, "since": now}})
    return now


def _finished(target: Path, source: Path, since: float) -> bool:
    return target.is_file() and target.stat().st_mtime >= max(since, source.stat().st_mtime)
