"""VoxCeleb: frames of interviews, or the clips themselves."""

from __future__ import annotations

from collections.abc import Iterator

from mien.data.readers import Reader, Record, register
from mien.data.readers.folder import below, pictures
from mien.faces.image import IMAGE_SUFFIXES
from mien.faces.video import VIDEO_SUFFIXES

_WRAPPERS = ("dev", "test", "train", "mp4", "unzippedfaces", "unzippedintervalfaces", "data")
_SPLITS = {"dev": "train", "train": "train", "test": "test"}


@register
class VoxCeleb(Reader):
    """One clip is one folder of frames (VoxCeleb1's faces, extracted frames) or one mp4."""

    name = "voxceleb"
    licence = "VoxCeleb: CC BY 4.0 for the lists; videos belong to their owners, research only"
    layout = (
        "[dev|test/]PERSON[/1.6]/YOUTUBE_ID[/CLIP]/0000001.jpg, or "
        "[dev|test/][mp4/]PERSON/YOUTUBE_ID/00001.mp4"
    )

    def records(self) -> Iterator[Record]:
        """Yield every frame or clip, sorted by path."""
        found = False
        for path in pictures(self.root, IMAGE_SUFFIXES + VIDEO_SUFFIXES):
            source = below(path, self.root)
            parents = source.split("/")[:-1]
            split = ""
            while parents and parents[0].lower() in _WRAPPERS:
                split = _SPLITS.get(parents.pop(0).lower(), split)
            if len(parents) < 2:
                continue
            found = True
            video = path.suffix.lower() in VIDEO_SUFFIXES
            labels = self.labels(
                person=parents[0],
                clip="/".join([*parents[1:], *([path.stem] if video else [])]),
                split=split,
            )
            # VoxCeleb cuts the face out with a wide margin.
            record = Record(source, path, labels=labels, crop=True)
            if video:
                yield from self.stretches(record)
            else:
                digits = "".join(c for c in path.stem if c.isdigit())
                labels.frame = int(digits[-9:]) if digits else -1
                yield record
        if not found:
            raise self.wrong("holds no frames or clips")
