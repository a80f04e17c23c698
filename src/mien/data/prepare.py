"""Photos, videos and public data sets to a table of faces: ``mien prepare``."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mien.data.cropping import BATCH, CHOICES, THUMBNAIL, Cropper, Outcome, Rejected, Settings
from mien.data.duplicates import Duplicates
from mien.data.facs import MEDIAPIPE_SHAPES, UnitReader
from mien.data.readers import Reader, Record, reader
from mien.data.table import Table, TableWriter
from mien.faces.align import check_crop
from mien.faces.detectors import detector_names
from mien.faces.face import Image
from mien.faces.image import decode_image, write_image
from mien.files.atomic import atomic_path, write_json
from mien.files.errors import ConfigError, ImageError, MienError, TableError, nearest

TASK = 2 * BATCH  # records handed to a process at once
PART = 16 * TASK  # records of a part of the table
SHEET = 192  # thumbnails on the sheet of rejected faces
_COLUMNS = 16
_LABEL = 14  # height of a thumbnail's label in pixels
_SMALL = 256  # records below which other processes are not worth their start
_PROGRESS = ".progress"


def prepare(
    sources: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    detector: str = "dlib",
    crop: str = "tight",
    size: int = 112,
    resume: bool = False,
    workers: int | None = None,
    faces: str = "largest",
    min_size: float = 24.0,
    min_score: float | None = None,
    max_yaw: float | None = None,
    max_pitch: float | None = None,
    max_roll: float | None = None,
    deduplicate: bool = True,
    annotations: str | Path | None = None,
    quality: int = 95,
    every: int = 5,
    max_side: int = 1600,
    progress: bool = True,
) -> dict[str, Any]:
    """Make a table of faces.

    Landmarks that a data set (or ``annotations``) gives are used as they are; a box that it gives
    or a picture that already is a face crop needs no detector; in every other picture faces are
    searched for. Head pose is the data set's if it has one, else the landmark network's. The
    table's roll is that of the crop, which is turned upright; its yaw and pitch are the photo's.

    Beside the table lie ``rejected.csv`` (source, reason, detail) and ``rejected.jpg`` (the first
    192 of them). The table depends on the sources and the settings only, not on the number of
    processes nor on interruptions.

    Args:
        sources: ``NAME:DIR`` for a reader (``mien.data.readers``), or a folder, picture or video.
        out: The table's folder; new or empty unless ``resume``.
        detector: Name of a detector (``mien.faces.detectors``).
        crop: ``tight``, ``ffhq``, or ``whole``: the picture's central square.
        size: Side of the crops in pixels.
        resume: Go on with a run that was cut off; nothing to do if it had finished.
        workers: Processes; by default as many as processors, one for few pictures.
        faces: Of several faces in a photo take the ``largest``, the most ``central`` or ``all``;
            ``only`` rejects such photos.
        min_size: Least larger side of the landmarks' bounding box, in photo pixels.
        min_score: Least face probability; 0.5 where faces are searched for, else 0, by default.
        max_yaw: Largest turn to a side in degrees.
        max_pitch: Largest turn up or down in degrees.
        max_roll: Largest tilt in degrees.
        deduplicate: Leave out near-copies of a face that came before, save in data sets with an
            official split and within clips.
        annotations: Parquet file with columns ``file`` (the path inside the source's folder),
            ``landmarks68`` (136 numbers x0 y0 x1 y1 … in pixels of the picture, (0, 0) being the
            outer corner of its top left pixel) and, if known, ``yaw``, ``pitch``, ``roll`` in
            degrees and ``blendshapes`` (MediaPipe's 52 scores, kept as ``action_units``). Pictures
            that it names need no detector. For a single source.
        quality: JPEG quality of the crops, 1 to 100.
        every: Of a video every n-th frame is taken.
        max_side: Larger photos are searched and cut at this size in pixels.
        progress: Show a progress bar.

    Returns:
        The content of ``table.json``, with the numbers of ``rejected`` faces by reason.

    Raises:
        TableError: The folder is not empty (without ``resume``), was begun with other settings, or
            no face was found.
        ConfigError: Unknown reader, detector, crop or choice, or an impossible number.
    """
    settings = Settings(
        detector=detector,
        crop=crop,
        size=size,
        faces=faces,
        min_size=min_size,
        min_score=min_score,
        max_yaw=max_yaw,
        max_pitch=max_pitch,
        max_roll=max_roll,
        deduplicate=deduplicate,
        quality=quality,
        max_side=max_side,
    )
    _check(settings, every, workers)
    if isinstance(sources, str | Path):
        sources = [sources]
    if annotations is not None and len(sources) != 1:
        raise ConfigError("Annotations belong to one source; prepare the sources one by one.")
    readers = [_open(str(source), every) for source in sources]
    plan = {
        "sources": [f"{r.name}:{r.root}" for r in readers],
        "annotations": str(annotations or ""),
        "every": every,
        **asdict(settings),
    }
    out = Path(out)
    if _begin(out, plan, resume):
        return {**Table(out).info, "rejected": _count_rejected(out)}
    run = _Run(out, readers, settings, _read_annotations(annotations))
    return run(workers, progress)


def _check(settings: Settings, every: int, workers: int | None) -> None:
    check_crop(settings.crop, "whole")
    name = settings.detector.partition(":")[0]
    if name not in detector_names():
        raise ConfigError(f"No detector named {name!r}{nearest(name, detector_names())}")
    if settings.faces not in CHOICES:
        raise ConfigError(
            f"No choice {settings.faces!r} of faces{nearest(settings.faces, CHOICES)}"
        )
    if not 16 <= settings.size <= 2048:
        raise ConfigError(f"Crops have 16 to 2048 pixels a side, not {settings.size}.")
    if not 1 <= settings.quality <= 100:
        raise ConfigError(f"The JPEG quality is 1 to 100, not {settings.quality}.")
    if every < 1 or settings.max_side < 64 or (workers is not None and workers < 1):
        raise ConfigError("every and workers are at least 1, max_side is at least 64.")


def _open(source: str, every: int) -> Reader:
    """Return the reader of ``NAME:DIR``, or of a plain path."""
    name, colon, root = source.partition(":")
    # A path may hold a colon; "C:" is a drive.
    plain = not colon or Path(source).exists() or len(name) == 1 or "/" in name
    made = reader("folder", source) if plain else reader(name, Path(root).expanduser())
    made.every = every
    return made


def _begin(out: Path, plan: dict[str, Any], resume: bool) -> bool:
    """Make ``out`` ready; return whether the table is finished already."""
    file = out / "prepare.json"
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if not resume:
            raise TableError(
                f"{out} is not empty; give a new folder with --out, or --resume to go on with a "
                "run that was cut off."
            )
        try:
            old = json.loads(file.read_text())
        except (OSError, ValueError):
            names = {path.name for path in out.iterdir()} - {_PROGRESS}
            if any(not (n.startswith(".") and n.endswith(".tmp")) for n in names):
                raise TableError(
                    f"{out} was not begun by `mien prepare`; give a new folder with --out."
                ) from None
            old = plan  # cut off while its very first file was written
        for key, value in plan.items():
            if old.get(key) != value:
                raise TableError(
                    f"{out} was begun with {key} = {old.get(key)!r}, not {value!r}; resume with "
                    "the same settings or give a new folder with --out."
                )
        for left in out.glob(".*.tmp"):
            left.unlink()
        if (out / "table.json").is_file():
            shutil.rmtree(out / _PROGRESS, ignore_errors=True)
            return True
    (out / _PROGRESS).mkdir(parents=True, exist_ok=True)
    write_json(file, plan)
    return False


@dataclass(frozen=True)
class _Task:
    """Consecutive records of one reader."""

    reader: int
    records: list[Record]

    @property
    def weight(self) -> int:
        return sum(_weight(record) for record in self.records)


def _listed(source: Reader) -> Iterator[Record]:
    """Yield the records; what is wrong with a data set's lists is one sentence."""
    try:
        yield from source.records()
    except (LookupError, ValueError, OSError) as error:
        raise source.wrong(f"has a list that cannot be read ({error!r})") from error


def _line(record: Record) -> bytes:
    return f"{record.source}\n".encode("utf-8", "surrogateescape")


def _weight(record: Record) -> int:
    """Return how many pictures a record gives, about."""
    return max(record.frames, 1)


class _Run:
    """One run: a part after the other, each noted in a file once it is on disk."""

    def __init__(
        self, out: Path, readers: list[Reader], settings: Settings, notes: _Annotations | None
    ) -> None:
        self.out, self.readers, self.settings, self.notes = out, readers, settings, notes
        self.seen = Duplicates()
        self.parts = 0  # of the table
        self.chunks = 0  # of the records
        self.done = 0  # records
        self.digest = hashlib.sha256()  # of their sources
        self.expected = ""  # digest that an earlier run noted
        self.faces = 0
        self.thumbnails = 0
        self._restore()

    def __call__(self, workers: int | None, progress: bool) -> dict[str, Any]:
        from tqdm import tqdm

        try:
            total, before = self._count()
        except MienError:
            if not self.chunks:  # leave the folder as empty as it was
                shutil.rmtree(self.out / _PROGRESS)
                (self.out / "prepare.json").unlink()
            raise
        count = min(workers or os.cpu_count() or 1, -(-total // TASK))
        if workers is None and total - before < _SMALL:
            count = 1
        writer = TableWriter(
            self.out, crop=self.settings.crop, size=self.settings.size, rows_per_part=1 << 62
        )
        with tqdm(
            total=total, initial=before, desc="prepare", unit="img", disable=not progress
        ) as bar:
            part = Outcome()
            gathered = 0
            for task, outcome in _work(self._tasks(), self._recipes(), self.settings, count):
                part.rows += outcome.rows
                part.hashes += outcome.hashes
                part.rejected += outcome.rejected
                gathered += task.weight
                self.done += len(task.records)
                for record in task.records:
                    self.digest.update(_line(record))
                bar.update(task.weight)
                if gathered >= PART:
                    self._finish(part, writer)
                    part, gathered = Outcome(), 0
            if gathered:
                self._finish(part, writer)
        return self._close(writer)

    def _count(self) -> tuple[int, int]:
        """Return how many pictures there are and how many of them are done."""
        total = before = 0
        for number, record in enumerate(chain.from_iterable(map(_listed, self.readers))):
            total += _weight(record)
            before += _weight(record) if number < self.done else 0
        if not total:
            where = ", ".join(str(r.root) for r in self.readers)
            raise TableError(
                f"{where} holds no pictures; give a folder with {self.readers[0].layout}."
            )
        return total, before

    def _recipes(self) -> list[tuple[str, str, int]]:
        return [(r.name, str(r.root), r.every) for r in self.readers]

    def _records(self) -> Iterator[tuple[int, Record]]:
        for number, each in enumerate(self.readers):
            for record in _listed(each):
                if self.notes:
                    record = self.notes.join(record)
                if len(self.readers) > 1:  # sources are unique within a table
                    record = replace(record, source=f"{each.root}/{record.source}")
                yield number, record

    def _tasks(self) -> Iterator[_Task]:
        """Cut the records into tasks, after those that are done."""
        records = self._records()
        for _, record in islice(records, self.done):
            self.digest.update(_line(record))
        if self.done and self.digest.hexdigest() != self.expected:
            raise TableError(
                f"The pictures have changed since {self.out} was begun; give a new folder with "
                "--out."
            )
        task = _Task(-1, [])
        for number, record in records:
            if number != task.reader or task.weight + _weight(record) > TASK:
                if task.records:
                    yield task
                task = _Task(number, [])
            task.records.append(record)
        if task.records:
            yield task

    def _finish(self, part: Outcome, writer: TableWriter) -> None:
        """Drop duplicates, write a part, then note it."""
        hashes = []
        sources: dict[int, str] = {}
        for row, value in zip(part.rows, part.hashes, strict=True):
            if value is not None:
                twin = self.seen.find(value)
                if twin >= 0:
                    where = sources.get(twin, "")
                    detail = f"of {where}" if where else "of an earlier face"
                    thumbnail = row.image if self.thumbnails < SHEET else b""
                    part.rejected.append(Rejected(row.source, "duplicate", detail, thumbnail))
                    continue
                sources[len(self.seen)] = row.source
                self.seen.add(value)
            hashes.append(value)
            writer.add(row)
            self.faces += 1
        writer.flush()
        self.parts += bool(hashes)
        thumbnails = [
            (base64.b64encode(r.thumbnail).decode(), r.reason) for r in part.rejected if r.thumbnail
        ][: SHEET - self.thumbnails]
        self.thumbnails += len(thumbnails)
        note = {
            "parts": self.parts,
            "records": self.done,
            "faces": self.faces,
            "sources": self.digest.hexdigest(),
            "hashes": [value for value in hashes if value is not None],
            "rejected": [(r.source, r.reason, r.detail) for r in part.rejected],
            "thumbnails": thumbnails,
        }
        with atomic_path(self.out / _PROGRESS / f"{self.chunks:06d}.json") as temporary:
            temporary.write_text(json.dumps(note))
        self.chunks += 1

    def _restore(self) -> None:
        """Read what an earlier run noted; what it wrote after its last note is removed."""
        for note in self._notes():
            self.chunks += 1
            self.parts, self.done, self.faces = note["parts"], note["records"], note["faces"]
            self.expected = note["sources"]
            self.thumbnails += len(note["thumbnails"])
            for value in note["hashes"]:
                self.seen.add(value)
        for left in (self.out / _PROGRESS).glob(".*.tmp"):
            left.unlink()
        for file in sorted(self.out.glob("part-*.parquet"))[self.parts :]:
            file.unlink()

    def _notes(self) -> Iterator[dict[str, Any]]:
        for file in sorted((self.out / _PROGRESS).glob("*.json")):
            yield json.loads(file.read_text())

    def _close(self, writer: TableWriter) -> dict[str, Any]:
        """Write what was rejected and ``table.json``; remove the notes."""
        with (
            atomic_path(self.out / "rejected.csv") as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            lines = csv.writer(file)
            lines.writerow(["source", "reason", "detail"])
            for note in self._notes():
                lines.writerows(note["rejected"])
        thumbnails = [each for note in self._notes() for each in note["thumbnails"]]
        if thumbnails:
            _write_sheet(self.out / "rejected.jpg", thumbnails)
        rejected = _count_rejected(self.out)
        if not self.faces:
            shutil.rmtree(self.out / _PROGRESS)
            most = max(rejected, key=lambda reason: rejected[reason])
            raise TableError(
                f"None of {self.done} pictures gave a face (most often: {most}); look at "
                f"{self.out / 'rejected.csv'} and change the settings."
            )
        info = writer.close()
        shutil.rmtree(self.out / _PROGRESS)
        return {**info, "rejected": rejected}


class _Annotations:
    """Landmarks and pose by file."""

    def __init__(self, file: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(file)
            names = table.column("file").to_pylist()
            points = table.column("landmarks68").combine_chunks()
            flat = points.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
            # Stored from the outer corner of the first pixel; here its centre is (0, 0).
            self.points = flat.reshape(len(names), 68, 2) - np.float32(0.5)
            self.pose = {
                angle: np.asarray(table.column(angle).to_numpy(), np.float64)
                for angle in ("yaw", "pitch", "roll")
                if angle in table.schema.names
            }
            self.shapes = None
            if "blendshapes" in table.schema.names:
                scores = table.column("blendshapes").combine_chunks().flatten()
                flat = scores.to_numpy(zero_copy_only=False).astype(np.float32)
                self.shapes = flat.reshape(len(names), len(MEDIAPIPE_SHAPES))
                self.units = UnitReader(MEDIAPIPE_SHAPES)
        except (OSError, pa.ArrowException, KeyError, ValueError) as error:
            raise TableError(
                f"{file} is no annotation file ({error}); it needs the columns 'file' and "
                "'landmarks68' (136 numbers); 'blendshapes', if there, holds MediaPipe's 52 scores."
            ) from None
        self.rows = {name: i for i, name in enumerate(names)}

    def join(self, record: Record) -> Record:
        """Return the record with its landmarks and pose, if it has any here."""
        row = self.rows.get(record.source)
        if row is None:
            return record
        labels = replace(record.labels)
        for angle, values in self.pose.items():
            setattr(labels, angle, float(values[row]))
        if self.shapes is not None:
            labels.action_units = self.units(self.shapes[row].tolist())
        return replace(record, labels=labels, landmarks=self.points[row])


def _read_annotations(file: str | Path | None) -> _Annotations | None:
    return None if file is None else _Annotations(Path(file))


def _count_rejected(out: Path) -> dict[str, int]:
    with (out / "rejected.csv").open(newline="", encoding="utf-8") as file:
        return dict(Counter(row["reason"] for row in csv.DictReader(file)).most_common())


def _write_sheet(file: Path, thumbnails: Iterable[tuple[str, str]]) -> None:
    """Draw the thumbnails with their reasons."""
    tiles: list[Image] = []
    for data, reason in thumbnails:
        tile = np.full((THUMBNAIL + _LABEL, THUMBNAIL, 3), 32, np.uint8)
        try:
            picture = decode_image(base64.b64decode(data))[:, :, :3]
        except ImageError:
            continue
        share = THUMBNAIL / max(picture.shape[:2])
        size = [max(1, round(side * share)) for side in picture.shape[1::-1]]
        picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
        tile[: picture.shape[0], : picture.shape[1]] = picture
        place = (2, THUMBNAIL + _LABEL - 4)
        cv2.putText(tile, reason, place, cv2.FONT_HERSHEY_SIMPLEX, 0.32, (255, 255, 255))
        tiles.append(tile)
    columns = min(_COLUMNS, len(tiles))
    tiles += [np.full_like(tiles[0], 32)] * (-len(tiles) % columns)
    rows = [np.concatenate(tiles[i : i + columns], 1) for i in range(0, len(tiles), columns)]
    write_image(file, np.concatenate(rows), quality=85)


# --- processes ---------------------------------------------------------------------------------

_Recipes = list[tuple[str, str, int]]
_cut: Callable[[_Task], Outcome] | None = None  # of a worker process


def _cutter(recipes: _Recipes, settings: Settings) -> Callable[[_Task], Outcome]:
    """Return what turns tasks into outcomes."""
    cropper = Cropper(settings)
    opened: dict[int, Reader] = {}

    def cut(task: _Task) -> Outcome:
        if task.reader not in opened:
            name, root, every = recipes[task.reader]
            opened[task.reader] = reader(name, root)
            opened[task.reader].every = every
        return cropper(opened[task.reader], task.records)

    return cut


def _start_worker(recipes: _Recipes, settings: Settings) -> None:
    global _cut
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the run
    threading.Thread(target=_end_with_parent, daemon=True).start()
    cv2.setNumThreads(1)  # the processes share the processors
    _cut = _cutter(recipes, settings)


def _end_with_parent() -> None:
    """Leave when the parent is gone, however it went."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run_task(task: _Task) -> Outcome:
    assert _cut is not None  # noqa: S101
    return _cut(task)


def _work(
    tasks: Iterator[_Task], recipes: _Recipes, settings: Settings, workers: int
) -> Iterator[tuple[_Task, Outcome]]:
    """Yield tasks and outcomes in order; a bounded number is on its way."""
    if workers == 1:
        cut = _cutter(recipes, settings)
        for task in tasks:
            yield task, cut(task)
        return

    def pool(count: int) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(count, context, _start_worker, (recipes, settings))

    waiting: deque[tuple[_Task, Future[Outcome]]] = deque()
    busy = pool(workers)
    try:
        while True:
            for task in islice(tasks, 2 * workers - len(waiting)):
                waiting.append((task, busy.submit(_run_task, task)))
            if not waiting:
                return
            task, future = waiting.popleft()
            try:
                outcome = future.result()
            except BrokenProcessPool:
                # A picture took the whole process down: find it, go on with the others.
                busy.shutdown(cancel_futures=True)
                outcome = _one_by_one(task, pool)
                busy = pool(workers)
                waiting = deque((t, busy.submit(_run_task, t)) for t, _ in waiting)
            yield task, outcome
    finally:
        busy.shutdown(cancel_futures=True)


def _one_by_one(task: _Task, pool: Callable[[int], ProcessPoolExecutor]) -> Outcome:
    """Do a task record by record; one that ends its process is rejected."""
    whole = Outcome()
    single = pool(1)
    try:
        single.submit(os.getpid).result()
    except BrokenProcessPool:
        raise ConfigError(
            "Other processes cannot be started; give workers=1, or in a script call prepare below "
            "`if __name__ == '__main__':`."
        ) from None
    for record in task.records:
        try:
            outcome = single.submit(_run_task, _Task(task.reader, [record])).result()
        except BrokenProcessPool:
            single.shutdown(cancel_futures=True)
            single = pool(1)
            outcome = Outcome(rejected=[Rejected(record.source, "unreadable", "ended its process")])
        whole.rows += outcome.rows
        whole.hashes += outcome.hashes
        whole.rejected += outcome.rejected
    single.shutdown()
    return whole
