"""RAF-DB, basic expressions."""

from __future__ import annotations

from collections.abc import Iterator

from mien.data.readers import Reader, Record, register

_EXPRESSIONS = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")


@register
class RafDb(Reader):
    """Aligned crops (the originals where those are missing); official split."""

    name = "rafdb"
    licence = "RAF-DB: non-commercial research only"
    layout = (
        "basic/EmoLabel/list_patition_label.txt (train_00001.jpg 5) and "
        "basic/Image/aligned/train_00001_aligned.jpg"
    )

    def records(self) -> Iterator[Record]:
        """Yield every picture in the order of the list."""
        lists = sorted(self.root.rglob("list_pa*tition_label.txt"))  # sic: patition
        if not lists:
            raise self.wrong("has no list_patition_label.txt")
        base = lists[0].parent.parent / "Image"
        with lists[0].open(encoding="ascii") as lines:
            for line in lines:
                if not line.strip():
                    continue
                name, label = line.split()
                stem = name.rpartition(".")[0]
                path = base / "aligned" / f"{stem}_aligned.jpg"
                crop = path.is_file() or not (base / "original" / name).is_file()
                path = path if crop else base / "original" / name
                labels = self.labels(
                    expression=_EXPRESSIONS[int(label) - 1], split=stem.partition("_")[0]
                )
                yield Record(name, path, labels=labels, crop=crop)
