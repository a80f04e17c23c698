"""UTKFace: age, gender and race in the file's name."""

from __future__ import annotations

import re
from collections.abc import Iterator

from mien.data.readers import Reader, Record, register
from mien.data.readers.folder import below, csv_rows, pictures

_NAME = re.compile(r"(\d{1,3})_([01])(?:_([0-4]))?_")
_GENDERS = ("male", "female")
_RACES = ("White", "Black", "Asian", "Indian", "others")


@register
class UTKFace(Reader):
    """The aligned and cropped faces. Groups of look-alikes and their split are read if given."""

    name = "utkface"
    licence = "UTKFace: non-commercial research only"
    layout = (
        "[age]_[gender]_[race]_[date].jpg.chip.jpg; optional splits.csv (file,group,split) and "
        "conflicting_labels.csv (file: leave out its labels)"
    )

    def records(self) -> Iterator[Record]:
        """Yield every crop, sorted by name."""
        splits = {row["file"]: row for row in csv_rows(self.root / "splits.csv")}
        doubtful = {row["file"] for row in csv_rows(self.root / "conflicting_labels.csv")}
        found = False
        for path in pictures(self.root):
            match = _NAME.match(path.name)
            if not match:
                continue
            found = True
            source = below(path, self.root)
            known = splits.get(source, {})
            said = {}
            if source not in doubtful:  # the same picture is there with other labels
                age, gender, race = match.groups()
                said = {"age": age, "gender": _GENDERS[int(gender)]}
                if race:  # some names lack it
                    said["race"] = _RACES[int(race)]
            if "group" in known:
                said["group"] = known["group"]
            labels = self.labels(split=known.get("split", ""), attributes=said)
            yield Record(source, path, labels=labels, crop=True)
        if not found:
            raise self.wrong("holds no picture named so")
