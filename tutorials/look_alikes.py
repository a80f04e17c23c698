"""Embed a folder of photos and find, for each face, the one most like it: by person, by expression.

    python tutorials/look_alikes.py [PHOTOS]

Without a folder of yours it takes the eight photos of four persons that come with the package: each
smiles in one photo and does not in the other. Codes can tell who a person is. The file that is
written is readable by you alone; delete it when you are done.
"""

import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

import mien

photos = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(mien.__file__).parent / "assets"

# The same as `mien embed facecycle PHOTOS --out codes.parquet`, which goes on where it was stopped
# and does not mind a million photos. Photos that show no face are named in `skipped`.
embedded = mien.embed("facecycle", photos, out="codes.parquet")
for photo, reason in embedded.skipped.items():
    print(f"left out: {photo}: {reason}")

table = pq.read_table("codes.parquet")  # pandas, DuckDB and `datasets` read it as well
names = [Path(source).name for source in table["source"].to_pylist()]


def nearest(factor: str) -> list[int]:
    """Return for each face the number of the other face with the largest cosine."""
    code = np.array(table[factor].to_pylist())
    code -= code.mean(0)  # what all faces share says nothing about one of them
    code /= np.linalg.norm(code, axis=1, keepdims=True)
    likeness = code @ code.T
    np.fill_diagonal(likeness, -2)  # not itself
    return likeness.argmax(1).tolist()


person, expression = nearest("identity"), nearest("expression")
print(f"{'photo':20}{'nearest by identity':25}nearest by expression")
for i, name in enumerate(names):
    print(f"{name:20}{names[person[i]]:25}{names[expression[i]]}")

# On the shipped photos the file names tell what is right: PERSON_EXPRESSION.jpg. Eight photos show
# how it is done; how well it works is measured on thousands (`mien evaluate`).
if len(sys.argv) == 1:
    parts = [Path(name).stem.split("_") for name in names]
    same_person = sum(parts[i][0] == parts[k][0] for i, k in enumerate(person))
    same_expression = sum(parts[i][1] == parts[k][1] for i, k in enumerate(expression))
    print(f"same person by identity: {same_person} of {len(names)}")
    print(f"same expression by expression: {same_expression} of {len(names)}")
