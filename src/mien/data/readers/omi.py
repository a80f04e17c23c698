"""One Million Impressions: generated faces with mean ratings of perceived traits."""

from __future__ import annotations

from collections.abc import Iterator

from mien.data.readers import Reader, Record, register
from mien.data.readers.folder import csv_rows


@register
class Omi(Reader):
    """StyleGAN2 faces (nobody is depicted); those whose number is divisible by 10 are ``test``."""

    name = "omi"
    licence = "CC BY-NC-SA 4.0: One Million Impressions, Peterson et al. 2022"
    layout = "NUMBER.jpg; optional attribute_means.csv (stimulus,trait,…)"

    def records(self) -> Iterator[Record]:
        """Yield every picture by its number."""
        ratings = {row["stimulus"]: row for row in csv_rows(self.root / "attribute_means.csv")}
        files = [path for path in self.root.glob("*.jpg") if path.stem.isdecimal()]
        if not files:
            raise self.wrong("holds no picture named so")
        for path in sorted(files, key=lambda p: int(p.stem)):
            said = {k: v for k, v in ratings.get(path.stem, {}).items() if k != "stimulus" and v}
            split = "test" if int(path.stem) % 10 == 0 else "train"
            labels = self.labels(attributes=said, split=split)
            yield Record(path.name, path, labels=labels, crop=True)
