"""Make-up transfer set (MT): photos with and without make-up, parsing masks."""

from __future__ import annotations

from collections.abc import Iterator

from mien.data.readers import Reader, Record, register
from mien.data.readers.folder import csv_rows, pictures


@register
class Makeup(Reader):
    """With FILES.csv (loose photos, terms a picture) everything is in the split ``test``."""

    name = "makeup"
    licence = "MT: research only"
    layout = (
        "images/{makeup,non-makeup}/*.png, segs/{makeup,non-makeup}/*.png, makeup_test.txt and "
        "non-makeup_test.txt; or makeup/, non-makeup/ and seg/ with FILES.csv (file,seg,terms)"
    )

    def records(self) -> Iterator[Record]:
        """Yield the photos with make-up, then those without."""
        listed = {row["file"]: row for row in csv_rows(self.root / "FILES.csv")}
        base = self.root / "images" if (self.root / "images").is_dir() else self.root
        found = False
        for kind in ("makeup", "non-makeup"):
            if not (base / kind).is_dir():
                continue
            tested = self._tested(kind)
            for path in pictures(base / kind):
                found = True
                source = path.relative_to(self.root).as_posix()
                row = listed.get(source, {})
                mask = row.get("seg") or f"segs/{kind}/{path.stem}.png"
                known = {"mask": mask} if (self.root / mask).is_file() else {}
                split = "train" if tested else ""
                if listed or f"{kind}/{path.name}" in tested or path.name in tested:
                    split = "test"
                labels = self.labels(makeup=kind == "makeup", attributes=known, split=split)
                labels.licence = row.get("terms") or self.licence
                yield Record(source, path, labels=labels)
        if not found:
            raise self.wrong("holds no such folders")

    def _tested(self, kind: str) -> set[str]:
        file = self.root / f"{kind}_test.txt"
        return set(file.read_text().split()) if file.is_file() else set()
