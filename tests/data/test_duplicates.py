from dataclasses import replace

import cv2
import numpy as np

from mien.data.duplicates import DISTANCE, Duplicates, face_hash
from mien.data.procedural import ProceduralFaces


def _flip(value: int, bits) -> int:
    for bit in bits:
        value ^= 1 << int(bit)
    return value


def test_find_equals_a_comparison_with_every_face():
    rng = np.random.default_rng(0)
    seen = Duplicates()
    known: list[int] = []
    for _ in range(600):
        if known and rng.random() < 0.7:  # near an old one, on both sides of the limit
            value = _flip(
                known[rng.integers(len(known))], rng.choice(64, rng.integers(0, 7), False)
            )
        else:
            value = int(rng.integers(1 << 63)) * 2 + int(rng.integers(2))
        near = [i for i, old in enumerate(known) if (old ^ value).bit_count() <= DISTANCE]
        assert seen.find(value) == (near[0] if near else -1)
        seen.add(value)
        known.append(value)
    assert len(seen) == 600


def test_a_copy_in_other_quality_and_size_is_near_and_other_faces_are_far():
    faces = ProceduralFaces(size=112)
    hashes = []
    for person in range(12):
        # Turned: a drawn face that looks straight ahead has two equal halves, a real one never.
        image, _ = faces.draw(replace(faces.parameters(person, 1)[0], yaw=15.0 + person))
        value = face_hash(image)
        hashes.append(value)
        low = cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 75])[1], 1)
        small = cv2.resize(cv2.resize(image, (72, 72), interpolation=cv2.INTER_AREA), (112, 112))
        dark = np.round(image * 0.85).astype(np.uint8)
        for copy in (low, small, dark):
            assert (face_hash(copy) ^ value).bit_count() <= DISTANCE
    far = [(a ^ b).bit_count() for i, a in enumerate(hashes) for b in hashes[:i]]
    assert min(far) > DISTANCE
    assert np.mean(far) > 15
