"""What a training tells: metrics as JSON lines, TensorBoard, a progress bar."""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm

from mien.files.atomic import write_text
from mien.files.errors import MissingExtraError
from mien.train.checkpoint import disk_errors


def say(text: str) -> None:
    """Tell the user something without tearing the progress bar."""
    tqdm.write(text, file=sys.stderr)


class Log:
    """Averages the scalars of steps and writes a line every ``every`` steps.

    Args:
        folder: Folder of the run; ``metrics.jsonl`` lies in it.
        steps: Last step of the training.
        every: Steps that a line averages.
        images_per_step: Over all processes.
        state: What ``state()`` returned at the checkpoint that is resumed, or empty.
        start: Step to start from; later lines of an earlier run are cut off.
        tensorboard: Also write event files into ``folder/tensorboard``.
    """

    def __init__(
        self,
        folder: Path,
        *,
        steps: int,
        every: int,
        images_per_step: int,
        state: dict[str, Any],
        start: int = 0,
        tensorboard: bool = False,
    ) -> None:
        self.file = folder / "metrics.jsonl"
        self.every, self.images_per_step, self.steps = every, images_per_step, steps
        self.sums: dict[str, float] = dict(state.get("sums", {}))
        self.counts: dict[str, int] = dict(state.get("counts", {}))
        self.seconds = float(state.get("seconds", 0.0))
        self.since = float(state.get("since", 0.0))
        self.before = int(state.get("before", 0))
        self.clock = time.perf_counter()
        with disk_errors(folder):
            self._cut(start)
        self.board = _board(folder / "tensorboard", start) if tensorboard else None
        self.quiet = not sys.stderr.isatty()
        self.bar = tqdm(total=steps, initial=start, unit="step", disable=self.quiet)

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.close()
        if self.board is not None:
            self.board.close()

    def state(self) -> dict[str, Any]:
        """Return the averages under way and the clock, for the checkpoint."""
        self._tick()
        return {
            "sums": self.sums,
            "counts": self.counts,
            "seconds": self.seconds,
            "since": self.since,
            "before": self.before,
        }

    def add(self, step: int, scalars: dict[str, float], learning_rate: float) -> None:
        """Take in the scalars of a step; ``step`` counts the steps done, this one included."""
        for name, value in scalars.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1
        self.bar.update()
        if step % self.every and step != self.steps:
            return
        self._tick()
        speed = (step - self.before) * self.images_per_step / max(1e-9, self.seconds - self.since)
        means = {name: self.sums[name] / self.counts[name] for name in self.sums}
        line: dict[str, Any] = {
            "step": step,
            "images": step * self.images_per_step,
            "seconds": round(self.seconds, 2),
            "images_per_second": round(speed, 2),
            "learning_rate": learning_rate,
        }
        line |= {name: mean if math.isfinite(mean) else None for name, mean in means.items()}
        with disk_errors(self.file.parent), self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self.board is not None:
            for name, mean in {**means, "learning_rate": learning_rate}.items():
                self.board.add_scalar(name, mean, step)
        self._show(step, means, speed)
        self.sums, self.counts = {}, {}
        self.since, self.before = self.seconds, step

    def note(self, step: int, values: dict[str, Any]) -> None:
        """Write a line of its own: what was measured after ``step`` steps."""
        line = {"step": step, "images": step * self.images_per_step, **values}
        with disk_errors(self.file.parent), self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, float(value), step)
        say(f"step {step}/{self.steps}  " + "  ".join(f"{n} {v:.4g}" for n, v in values.items()))

    def _show(self, step: int, means: dict[str, float], speed: float) -> None:
        text = "  ".join(f"{name} {mean:.4g}" for name, mean in list(means.items())[:4])
        if not self.quiet:
            self.bar.set_postfix_str(f"{text}  {speed:.1f} img/s")
            return
        left = (self.steps - step) * self.images_per_step / max(1e-9, speed)
        say(f"step {step}/{self.steps}  {text}  {speed:.1f} img/s  {duration(left)} left")

    def _tick(self) -> None:
        now = time.perf_counter()
        self.seconds, self.clock = self.seconds + now - self.clock, now

    def _cut(self, start: int) -> None:
        """Drop lines after ``start``: the steps that a resumed run computes again."""
        if not self.file.is_file():
            return
        kept = []
        for line in self.file.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= start:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError):  # the line that a killed run was writing
                continue
        write_text(self.file, "".join(kept))


def duration(seconds: float) -> str:
    """Return ``1 h 05 min``, ``12 min`` or ``40 s``."""
    minutes = round(seconds / 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min" if minutes >= 2 else f"{seconds:.0f} s"


def _board(folder: Path, start: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingExtraError("tensorboard", "train") from None
    return SummaryWriter(str(folder), purge_step=start + 1 if start else None)
