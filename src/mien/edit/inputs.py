"""Photos and faces however they are given: path, pixels, or a face that was found before."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mien.faces.face import Face, Image
from mien.faces.find import Finder, choose
from mien.faces.image import check_image, read_image


def face_of(given: str | Path | Image | Face, finder: Finder, which: str | int = "only") -> Face:
    """Return the face that a photo shows.

    Args:
        given: A photo's path, its pixels uint8 ``(H, W, 3)`` RGB, or a face (returned as it is).
        finder: Finds it.
        which: As for ``mien.faces.find.choose``.

    Raises:
        FaceError: No face, or several and none chosen.
        ImageError: Not a picture.
    """
    if isinstance(given, Face):
        return given
    if isinstance(given, np.ndarray):
        check_image(given)
        name, photo = "", given
    else:
        name, photo = str(given), read_image(given)
    found = finder([photo], [name])[0]
    return choose(found, which, name or "The driver", photo.shape)
