"""Take a face apart, change one part, and put it back together.

    python tutorials/take_apart.py

Photos of two persons come with the package. The edited ones are in ``take-apart/`` afterwards.
"""

from pathlib import Path

import mien
from mien.faces.provenance import read_provenance

photos = Path(mien.__file__).parent / "assets"
smile, calm = photos / "004_smiling.jpg", photos / "004_neutral.jpg"
friend = photos / "025_smiling.jpg"
out = Path("take-apart")

# Codes: one vector for each part of a face. `mien.embed` finds the faces of photos, cuts them out
# as the weights want them, and gives a row a face. `mien weights` lists the weights that there are.
codes = mien.embed("facecycle", [smile, calm]).table
for factor in ("expression", "identity"):
    print(f"{factor}: {len(codes[factor][0])} numbers a face")

# Edits: the face is changed in the photo, at the photo's own resolution. Strength 0 is the photo,
# bit for bit; 1 is all of it.
half = mien.edit("neutralise", smile, out=out / "half.png", strength=0.5)[0]
neutral = mien.edit("neutralise", smile, out=out / "neutral.png")[0]

# The driver says which expression is put on. The person stays.
smiling = mien.edit("expression", calm, friend, out=out / "smiling.png")[0]

for edited in (half, neutral, smiling):
    change = abs(edited.image.astype(float) - edited.photo).mean()
    print(f"{edited.path}: mean change {change:.2f} of 255")

# Every picture that was written says so. `mien inspect FILE` prints the same.
print(read_provenance(out / "neutral.png"))
