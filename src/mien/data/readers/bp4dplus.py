"""BP4D+: spontaneous expressions of 140 persons, with action units coded by people."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from mien.data.readers import Record, register
from mien.data.readers.action_units import Bp4d

_TARGETS = {
    "T1": "happiness",
    "T2": "surprise",
    "T3": "sadness",
    "T4": "startle",
    "T5": "skepticism",
    "T6": "embarrassment",
    "T7": "fear",
    "T8": "pain",
}


@register
class Bp4dPlus(Bp4d):
    """BP4D+: the coded frames, the most expressive stretch of a task (T1, T6, T7 and T8).

    The expression is what the task was to elicit, not what a frame was seen to show; a frame may
    well be neutral. The names of the tasks are those of the set's publication. T9 (anger) and T10
    (disgust) were recorded, but not coded.
    """

    name = "bp4dplus"
    licence = "BP4D+: non-commercial research only"
    layout = (
        "2D+3D/F001/T1/0001.jpg (any folder name), AUCoding/AU_OCC/F001_T1.csv (first row: action "
        "units) and AU_INT/AU06/F001_T1_AU06.csv (frame,intensity)"
    )

    def records(self) -> Iterator[Record]:
        """Yield the coded frames; a task of a person is a clip."""
        for record in super().records():
            labels = record.labels
            labels = replace(
                labels, expression=_TARGETS[labels.clip], attributes={"task": labels.clip}
            )
            yield replace(record, labels=labels)
