"""Measure an encoder of your own: what it is good for, and what it gives away.

    python tutorials/measure_encoder.py

Anything that turns face crops into vectors can be measured like the methods of this package: a
Python function as here, an ONNX file (`onnx:FILE`), or weights. The faces are drawn; their labels
are exact.
"""

from pathlib import Path

import numpy as np

import mien
from mien.data.procedural import write_table
from mien.evaluate.leakage import evaluate_leakage

write_table("faces", persons=40, frames=6, size=64)


def tiles(crops: np.ndarray) -> np.ndarray:
    """Return the mean colours of an 8 x 8 grid: uint8 ``(B, S, S, 3)`` to float ``(B, 192)``."""
    b, s = crops.shape[:2]
    return crops.reshape(b, 8, s // 8, 8, s // 8, 3).mean((2, 4)).reshape(b, -1)


# What is it good for? A linear probe reads labels from the vectors, of persons that it was not
# fitted on. Without something to compare with a figure says little: HOG needs no training, and an
# untrained network of the same shape shows what training adds to weights (`untrained:NAME`).
report = mien.evaluate(
    [tiles, "hog,size=64"], ["expression", "pose"], tables=["faces"], cache=False, progress=False
)
print(report.markdown())

# What does it give away? Every label of the table is decoded, also those that the code has no
# business to know: 0 is chance, 1 is everything. For weights with several codes (`"facecycle"`)
# this is a row a code, and shows whether they are apart.
leakage = evaluate_leakage(
    tiles, ["faces"], factors=["identity", "expression", "yaw"], cache=False, progress=False
)
leakage.save(Path("leakage"))
print(leakage.markdown())
print("look at leakage/leakage.png")
