"""Photos named on the command line: files, and folders of files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mien.faces.image import IMAGE_SUFFIXES
from mien.files.errors import ImageError


def photo_files(sources: Iterable[str | Path]) -> list[Path]:
    """Return the files of ``sources``; a folder stands for every picture in and below it.

    Raises:
        ImageError: Nothing is given, a source does not exist, or a folder holds no picture.
    """
    files: list[Path] = []
    for source in map(Path, sources):
        if source.is_dir():
            found = sorted(f for f in source.rglob("*") if f.suffix.lower() in IMAGE_SUFFIXES)
            if not found:
                raise ImageError(
                    f"The folder {source} holds no pictures; put {', '.join(IMAGE_SUFFIXES)} "
                    "files into it or name another one."
                )
            files += found
        elif source.exists():
            files.append(source)
        else:
            raise ImageError(f"{source} does not exist; give the path of a picture or a folder.")
    if not files:
        raise ImageError("Name at least one picture or folder of pictures.")
    return list(dict.fromkeys(files))
