"""Pictures in the tar shards of WebDataset, read in place."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mien.data.readers import Reader, Record, register
from mien.data.readers.folder import below, pictures
from mien.faces.face import Image
from mien.faces.image import IMAGE_SUFFIXES, MAX_BYTES, read_image_sized
from mien.files.errors import ImageError

_BLOCK = tarfile.BLOCKSIZE
_NOTE_BYTES = 1_000_000  # of the JSON beside a picture
COLUMNS = ("person", "clip", "expression", "split")  # of a table; all else becomes an attribute


def labelled(values: dict[str, Any]) -> dict[str, Any]:
    """Sort what a set says of a picture into the table's columns and ``attributes``."""
    said = {str(k): str(v) for k, v in values.items() if isinstance(v, str | int | float)}
    known: dict[str, Any] = {name: said.pop(name) for name in COLUMNS if said.get(name)}
    return {**known, "attributes": said}


@register
class WebDataset(Reader):
    """Tar shards whose files of one picture share a name: ``0001.jpg``, ``0001.json``.

    Of the JSON, ``person``, ``clip``, ``expression`` and ``split`` become columns, other plain
    values attributes. A shard that was cut off gives the pictures before the cut and is listed
    among the rejected.
    """

    name = "webdataset"
    layout = "*.tar, not compressed, each of NAME.jpg (.png, .webp) and, if there, NAME.json"

    def records(self) -> Iterator[Record]:
        """Yield every picture of every shard, in the order of the shards."""
        found = False
        for shard in pictures(self.root, (".tar",)):
            found = True
            inside = below(shard, self.root)
            try:
                with tarfile.open(shard, "r:") as tar:
                    yield from self._samples(tar, shard, inside)
            except (tarfile.TarError, EOFError):
                yield Record(inside, shard, labels=self.labels())
        if not found:
            raise self.wrong("holds no .tar")

    def _samples(self, tar: tarfile.TarFile, shard: Path, inside: str) -> Iterator[Record]:
        """Yield the pictures of a shard; files of one picture follow each other."""
        key = ""
        photos: list[tarfile.TarInfo] = []
        note: dict[str, Any] = {}
        cut: tarfile.TarError | None = None
        members = iter(tar)
        while True:
            try:
                member = next(members, None)
            except tarfile.TarError as error:
                cut, member = error, None
            folder, slash, name = (member.name if member else "").rpartition("/")
            stem, _, suffix = name.partition(".")
            if member is None or folder + slash + stem != key:
                for photo in photos:
                    labels = self.labels(**labelled(note))
                    source = f"{inside}/{photo.name}"
                    # The plain header, which pax and GNU headers come before, tells the size.
                    start = photo.offset_data - _BLOCK
                    yield Record(source, shard, start, labels=labels)
                key, photos, note = folder + slash + stem, [], {}
            if member is None:
                break
            if not member.isreg():
                continue
            if f".{suffix.lower().rpartition('.')[2]}" in IMAGE_SUFFIXES:
                photos.append(member)
            elif suffix == "json" and member.size <= _NOTE_BYTES:
                note = _note(tar, member)
            tar.members = []  # type: ignore[attr-defined]  # a shard may hold millions
        if cut:
            raise cut

    def photo(self, record: Record, max_side: int | None = None) -> tuple[Image, tuple[int, int]]:
        """Return the pixels of a picture inside a shard.

        Raises:
            ImageError: They cannot be read, or the record stands for a shard that was cut off.
        """
        if record.index < 0:
            raise ImageError(f"{record.file} is damaged or cut off; copy or download it again.")
        with record.file.open("rb") as shard:
            shard.seek(record.index)
            head = tarfile.TarInfo.frombuf(shard.read(_BLOCK), "utf-8", "surrogateescape")
            if head.size > MAX_BYTES:
                raise ImageError(
                    f"{record.source} has {head.size:,} bytes; at most {MAX_BYTES:,} are read."
                )
            return read_image_sized(shard.read(head.size), max_side=max_side)


def _note(tar: tarfile.TarFile, member: tarfile.TarInfo) -> dict[str, Any]:
    """Return the object that a JSON file inside a shard holds; one that is damaged says nothing."""
    file = tar.extractfile(member)
    try:
        said = json.loads(file.read() if file else b"")
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}
