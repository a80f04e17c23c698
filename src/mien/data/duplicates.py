"""Near-duplicate faces by a perceptual hash, found in memory of fixed size a face."""

from __future__ import annotations

from array import array

import cv2
import numpy as np

from mien.faces.face import Image

_BANDS = 4
DISTANCE = _BANDS - 1
"""Bits in which two near-duplicates differ at most: then one of four bands is equal."""


def face_hash(crop: Image) -> int:
    """Return 64 bits that re-encoding, resizing and small changes of light hardly change.

    They are signs of cosine coefficients that are odd across the face (16 vertical, 4 horizontal
    frequencies). What all aligned faces share is even, so these bits tell persons and pictures
    apart where a plain perceptual hash gives all faces nearly the same bits.

    Args:
        crop: uint8 ``(S, S, 3)`` RGB, aligned.
    """
    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
    bits = np.packbits(cv2.dct(small)[:16, 1:8:2] > 0)
    return int.from_bytes(bits.tobytes(), "big")


class Duplicates:
    """The hashes of the faces so far: a lookup instead of a comparison with each of them.

    About 50 bytes a face; the result is exact, as if every pair had been compared.
    """

    def __init__(self) -> None:
        self._hashes = array("Q")
        self._bands: list[dict[int, array[int]]] = [{} for _ in range(_BANDS)]

    def __len__(self) -> int:
        return len(self._hashes)

    def find(self, value: int) -> int:
        """Return the number of the first face within ``DISTANCE`` bits of ``value``, -1 if none."""
        first = -1
        for band, faces in zip(_split(value), self._bands, strict=True):
            for face in faces.get(band, ()):
                if first >= 0 and face >= first:
                    break
                if (self._hashes[face] ^ value).bit_count() <= DISTANCE:
                    first = face
                    break
        return first

    def add(self, value: int) -> None:
        """Add a face; they are numbered in this order."""
        number = len(self._hashes)
        self._hashes.append(value)
        for band, faces in zip(_split(value), self._bands, strict=True):
            faces.setdefault(band, array("L")).append(number)


def _split(value: int) -> list[int]:
    return [(value >> (16 * i)) & 0xFFFF for i in range(_BANDS)]
