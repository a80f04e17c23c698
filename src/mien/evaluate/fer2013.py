"""FER-2013 by linear probe: seven expressions, official split, selection on validation."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from mien.data.readers.fer2013 import Fer2013 as Reader
from mien.evaluate.cache import embed
from mien.evaluate.classify import class_details, classify, protocol_words
from mien.evaluate.encoders import Encoder
from mien.evaluate.pca import fit_pca
from mien.evaluate.pictures import fingerprint, read_pictures, to_rgb
from mien.evaluate.probe import Labels, bootstrap_interval
from mien.evaluate.task import Result, Settings, percent
from mien.faces.align import crop_to_photo, warp
from mien.faces.face import Array, Image
from mien.faces.landmarks import Landmarker
from mien.files.errors import FaceError, TableError

EXPRESSIONS = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
SPLITS = ("train", "val", "test")
SIDE = 48


@dataclass(frozen=True, eq=False)
class Fer2013:
    """The set in memory.

    Attributes:
        crops: uint8 ``(N, 48, 48)`` grey.
        labels: ``(N,)``, index into ``EXPRESSIONS``.
        split: ``(N,)``, index into ``SPLITS``.
        fingerprint: SHA-256 over the sorted content hashes.
    """

    name: ClassVar[str] = "fer2013"
    factor: ClassVar[str] = "expression"
    published: ClassVar[dict[str, float]] = {"FaceCycle": 48.76, "FAb-Net": 46.98, "TCAE": 45.05}
    headings: ClassVar[tuple[str, ...]] = ("FER-2013 %",)
    published_column: ClassVar[int] = 0

    crops: Image
    labels: Labels
    split: NDArray[np.int64]
    fingerprint: str

    @classmethod
    def read(cls, folder: Path) -> Fer2013:
        """Read the folders or the csv.

        Raises:
            TableError: Another layout, or a split that lacks a class.
            ImageError: A file that is not a picture.
        """
        reader = Reader(folder)
        records = list(reader.records())
        for record in records:
            if not record.labels.expression or not record.labels.split:
                raise TableError(f"{record.source} of {folder} has no expression or split.")
        labels = np.array([EXPRESSIONS.index(r.labels.expression) for r in records], np.int64)
        split = np.array([SPLITS.index(r.labels.split) for r in records], np.int64)
        for place, name in enumerate(SPLITS):
            for label, expression in enumerate(EXPRESSIONS):
                if not ((split == place) & (labels == label)).any():
                    raise TableError(
                        f"{folder} has no pictures of {expression!r} in its split {name!r}; "
                        f"expected: {reader.layout}"
                    )
        if records[0].index < 0:
            crops, hashes = read_pictures([r.file for r in records], size=SIDE, grey=True)
        else:
            crops = np.stack([reader.photo(r)[0][..., 0] for r in records])
            hashes = [hashlib.sha256(crop.tobytes()).hexdigest() for crop in crops]
        return cls(crops, labels, split, fingerprint(hashes))

    def copies(self) -> NDArray[np.bool_]:
        """Return ``(N,)``: training pictures whose pixels also lie in validation or test."""
        flat = self.crops.reshape(len(self.crops), -1)
        prints = [hashlib.sha256(row.tobytes()).digest() for row in flat]
        held = {p for p, s in zip(prints, self.split, strict=True) if s != 0}
        copied = np.array([p in held for p in prints], np.bool_)
        return np.asarray((self.split == 0) & copied, np.bool_)

    @cached_property
    def frames(self) -> Array:
        """``(N, 2, 3)``: for each picture its ``tight`` crop of 64 px, crop → picture pixels.

        Found by the landmark network; the whole picture where its points cannot be aligned.
        """
        whole = np.array([[SIDE / 64, 0, 0], [0, SIDE / 64, 0]], np.float32)
        whole[:, 2] = (SIDE / 64 - 1) / 2
        box = np.array([[2, 2, SIDE - 2, SIDE - 2]], np.float32)
        landmarker = Landmarker(batch_size=256)
        frames = []
        for start in tqdm(range(0, len(self.crops), 256), desc="align", leave=False, disable=None):
            pictures = list(to_rgb(self.crops[start : start + 256]))
            for found in landmarker(pictures, [box] * len(pictures)):
                try:
                    frames.append(crop_to_photo(found.points[0], "tight", 64))
                except FaceError:
                    frames.append(whole)
        return np.stack(frames)

    def aligned(self, size: int) -> Image:
        """Return the ``tight`` crops of all pictures, uint8 ``(N, size, size)`` grey."""
        grow = np.array([[64 / size, 0, (64 / size - 1) / 2], [0, 64 / size, (64 / size - 1) / 2]])
        grow = np.vstack([grow, [0, 0, 1]])
        return np.stack(
            [
                warp(crop, frame @ grow, (size, size), "reflect")
                for crop, frame in zip(self.crops, self.frames, strict=True)
            ]
        )

    def run(
        self, encoder: Encoder, settings: Settings, cache: Path | None, progress: bool
    ) -> Result:
        """Fit the probe on train, choose its strength on validation, measure on test."""
        start = time.monotonic()
        values = embed(
            encoder,
            self.aligned(encoder.input_size) if settings.align else self.crops,
            flip=settings.flip,
            batch_size=settings.batch_size,
            cache=cache,
            progress=progress,
        )
        dims = values.shape[1]
        copies = self.copies()
        keep = self.split == 0
        if settings.clean:
            keep &= ~copies
        train, validation, test = keep, self.split == 1, self.split == 2
        if encoder.pca and encoder.pca < dims:
            values = fit_pca(values[train], encoder.pca, settings.seed)(values)
        predicted, found = classify(
            (values[train], self.labels[train]),
            (values[validation], self.labels[validation]),
            (values[test], self.labels[test]),
            len(EXPRESSIONS),
            settings,
            progress,
        )
        correct = predicted == self.labels[test]
        return Result(
            task=self.name,
            encoder=encoder.name,
            key=encoder.key,
            value=float(correct.mean()),
            interval=bootstrap_interval(correct, settings.seed),
            dims=dims,
            settings={
                "protocol": f"{protocol_words(settings)}; official split",
                "probe": settings.protocol,
                "input_size": encoder.input_size,
                "pca": encoder.pca if encoder.pca < dims else 0,
                "flip": settings.flip,
                "align": settings.align,
                "clean": settings.clean,
                "seed": settings.seed,
            },
            details={
                **class_details(self.labels[test], predicted, EXPRESSIONS),
                **found,
                "trained_on_this_set": self.name in encoder.seen,
            },
            data={
                "fingerprint": self.fingerprint,
                "train": int(train.sum()),
                "validation": int(validation.sum()),
                "test": int(test.sum()),
                "copies_in_train": int(copies.sum()),
            },
            seconds=time.monotonic() - start,
        )

    @staticmethod
    def cells(result: Result) -> list[str]:
        """Return test accuracy with its interval."""
        return [percent(result.value, result.interval)]

    @staticmethod
    def note(results: Sequence[Result]) -> str:
        """Return the protocol."""
        chosen = results[0].settings
        return (
            "FER-2013: linear probe, test accuracy [95 % bootstrap interval]; official split"
            + (" without the training pictures that also lie in it" if chosen["clean"] else "")
            + ("; pictures aligned by the landmark network" if chosen["align"] else "")
            + ("" if chosen["probe"] == "mien" else f"; probe of {chosen['probe']}")
            + "."
        )
