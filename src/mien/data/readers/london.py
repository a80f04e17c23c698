"""Face Research Lab London Set: neutral and smiling, frontal."""

from __future__ import annotations

import re
from collections.abc import Iterator

from mien.data.readers import Reader, Record, register
from mien.data.readers.folder import below, csv_rows, pictures

_NAME = re.compile(r"(\d{3})_(neutral|smiling|0[38])(?:_front)?$")
_EXPRESSIONS = {"03": "neutral", "08": "smiling"}  # names of the set as published


@register
class London(Reader):
    """Every person is in the split ``test``: the set is small and best kept for evaluation."""

    name = "london"
    licence = (
        "CC BY 4.0: Face Research Lab London Set, DeBruine & Jones, "
        "doi:10.6084/m9.figshare.5047666.v5"
    )
    layout = "001_neutral.jpg, 001_smiling.jpg (or 001_03.jpg, 001_08.jpg); optional persons.csv"

    def records(self) -> Iterator[Record]:
        """Yield every picture, sorted by name."""
        persons = {row["id"]: row for row in csv_rows(self.root / "persons.csv")}
        found = False
        for path in pictures(self.root):
            match = _NAME.match(path.stem)
            if not match:
                continue
            found = True
            person, expression = match.groups()
            said = {k: v for k, v in persons.get(person, {}).items() if k != "id" and v}
            labels = self.labels(
                person=person,
                expression=_EXPRESSIONS.get(expression, expression),
                attributes=said,
                split="test",
            )
            yield Record(below(path, self.root), path, labels=labels)
        if not found:
            raise self.wrong("holds no picture named so")
