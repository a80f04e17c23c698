"""How many pictures a second does each recipe train on, and what does the time go to?

Steps are first timed as ``mien train`` runs them, batches drawn ahead by its threads. Then a few
steps run under torch's profiler, their batches drawn in the same thread; every moment belongs to
one of these:

- convolutions: those of networks, forward and backward;
- other layers: all else that modules do, forward and backward;
- optimiser: its steps;
- batches: drawing and augmenting pictures;
- rest: losses, views that a step makes, Python between operations outside of modules.

The profiler itself takes time, of many small operations more than of few large ones: the shares are
rough, the pictures a second are not measured under it. Batches and the rest are outside of the
networks; neither should take more than a fifth. Tables that are missing are drawn: their pictures
are as large, so the time is nearly the same.

    python benchmarks/recipes.py --tables tables --out recipes.json
    python benchmarks/recipes.py ipgan/laptop-synthesise --threads 1
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.profiler import ProfilerActivity, profile, record_function

from mien.data.procedural import write_table
from mien.data.table import Row, Table, TableWriter
from mien.files.atomic import write_json
from mien.files.errors import MienError
from mien.files.memory import keep_memory
from mien.methods.derl.method import FER
from mien.train.loop import Job, Training
from mien.train.parallel import Parallel, cores, fast_precision, launch
from mien.train.prefetch import channels_last, prefetch
from mien.train.recipe import load_recipe, recipe_names

PARTS = ("convolutions", "other layers", "optimiser", "batches", "rest")
OUTSIDE = ("batches", "rest")
BATCH, STEP, MODULE = "mien.batch", "mien.step", "mien.module"
BACKWARD = "autograd::engine::evaluate_function"
CONVOLUTION = re.compile(r"conv(olution|_|\d)|Winograd", re.IGNORECASE)
MOST = 0.2  # of a step that anything outside of the networks should take


# The tables ---------------------------------------------------------------------------------------


def tables_of(names: tuple[str, ...], folder: Path | None, drawn: Path) -> tuple[list[str], bool]:
    """Return a table for each name, drawn ones for those that are missing, and whether some are."""
    found = [folder / Path(name).name if folder else Path(name) for name in names]
    missing = [not (table / "table.json").is_file() for table in found]
    chosen = []
    for table, absent in zip(found, missing, strict=True):
        kind = next((k for k in ("clips", "pairs") if k in table.name), "photos")
        chosen.append(str(drawn / kind if absent else table))
    return chosen, any(missing)


def draw_tables(folder: Path) -> None:
    """Draw a table of clips; write its pictures again as photos, and as pairs of renders."""
    write_table(folder / "clips", persons=60, frames=8)
    plain = ("image", "source", "dataset", "person", "expression", "yaw", "pitch", "roll")
    more = ("clip", "action_units", "makeup", "landmarks", "split")
    words = cycle(FER)  # every class shall have photos
    with (
        TableWriter(folder / "photos", crop="tight", size=112) as photos,
        TableWriter(folder / "pairs", crop="tight", size=112) as pairs,
    ):
        for batch in Table(folder / "clips").batches([*plain, *more], 4096):
            for values in batch.to_pylist():
                values["action_units"] = dict(values["action_units"] or ())
                values["landmarks"] = np.array(values["landmarks"], np.float32).reshape(68, 2)
                row = Row(**{k: v for k, v in values.items() if v is not None})
                photos.add(replace(row, clip="", expression=next(words)))
                pairs.add(replace(row, dataset="ict_pairs"))


# The profile --------------------------------------------------------------------------------------


@contextmanager
def marked_modules() -> Iterator[None]:
    """Let the profiler see when a module runs; a method's own step is no module's."""
    open_ranges: list[Any] = []

    def enter(module: nn.Module, inputs: Any) -> None:
        open_ranges.append(record_function(MODULE))
        open_ranges[-1].__enter__()

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        open_ranges.pop().__exit__(None, None, None)

    hooks = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def shares(events: Any) -> dict[str, float]:
    """Return the share of each of ``PARTS`` in the profiled steps."""
    lines = {id(e): line_of(e) for e in events}
    forward: dict[int, str] = {}  # sequence number of an operation that has a gradient → its part
    for event in events:
        names = lines[id(event)]
        if event.sequence_nr >= 0 and not any(n.startswith(BACKWARD) for n in names):
            part = part_of_forward(names)
            if forward.get(event.sequence_nr) != "convolutions":
                forward[event.sequence_nr] = part
    total = dict.fromkeys(PARTS, 0.0)
    for event in events:
        names = lines[id(event)]
        if BATCH in names:
            part = "batches"
        elif STEP not in names:
            continue
        elif any(n.startswith("Optimizer.") for n in names):
            part = "optimiser"
        else:
            part = part_of_backward(event, forward) or part_of_forward(names)
        total[part] += event.self_cpu_time_total
    whole = sum(total.values())
    return {part: seconds / whole for part, seconds in total.items()}


def line_of(event: Any) -> list[str]:
    """Return the names of an event and of all that it is part of, the innermost first."""
    names = []
    while event is not None:
        names.append(event.name)
        event = event.cpu_parent
    return names


def part_of_forward(names: list[str]) -> str:
    if MODULE not in names:
        return "rest"
    inner = names[: names.index(MODULE)]
    return "convolutions" if any(CONVOLUTION.search(n) for n in inner) else "other layers"


def part_of_backward(event: Any, forward: dict[int, str]) -> str | None:
    """Return the part that the forward operation of a gradient belongs to; None: no gradient."""
    while event is not None and not event.name.startswith(BACKWARD):
        event = event.cpu_parent
    if event is None:
        return None
    return forward.get(event.sequence_nr, "other layers")


# The measurement ----------------------------------------------------------------------------------


def measure(parallel: Parallel, job: Job, steps: int, profiled: int) -> dict[str, Any]:
    """Time a training's steps, then profile some."""
    keep_memory()
    training = Training(job, parallel)
    batches = prefetch(training.sampler, 0, steps + 1)
    training.step(*next(batches))  # warms up
    clock = time.perf_counter()
    for step, batch in batches:
        training.step(step, batch)
    seconds = (time.perf_counter() - clock) / steps
    with marked_modules(), profile(activities=[ProfilerActivity.CPU]) as found:
        for step in range(steps + 1, steps + 1 + profiled):
            with record_function(BATCH):
                drawn = {n: channels_last(v) for n, v in training.sampler(step).items()}
                drawn = parallel.to_device(drawn)
            with record_function(STEP):
                training.step(step, drawn)
    return {
        "images_per_second": job.recipe.batch_size / seconds,
        "seconds_per_step": seconds,
        "batch_size": job.recipe.batch_size,
        "precision": job.recipe.precision,
        "shares": shares(found.events()),
    }


def main() -> None:
    """Measure the recipes in turn."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("recipes", nargs="*", help="names; all for laptops if none")
    parser.add_argument("--tables", type=Path, help="folder of the tables")
    parser.add_argument("--steps", type=int, default=10, help="that are timed")
    parser.add_argument("--profiled", type=int, default=3, help="steps under the profiler")
    parser.add_argument("--threads", type=int, default=cores(1))
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    args = parser.parse_args()

    names = args.recipes or [n for n in recipe_names() if n.split("/")[1].startswith("laptop")]
    results: dict[str, dict[str, Any]] = {}
    print(f"{'recipe':28s} {'img/s':>8s}  " + "  ".join(f"{part:>12s}" for part in PARTS))
    with tempfile.TemporaryDirectory() as folder:
        draw_tables(Path(folder))
        for name in names:
            recipe = load_recipe(name)
            tables, drawn = tables_of(recipe.tables, args.tables, Path(folder))
            changes: dict[str, Any] = {"tables": tables}
            if recipe.config.get("teacher"):
                changes["config.teacher"] = []  # a linear layer that costs nothing
            recipe = load_recipe(name, changes)
            if recipe.precision == "auto":
                recipe = replace(recipe, precision=fast_precision("cpu"))
            job = Job(recipe, Path(folder) / "run", "", threads=args.threads)
            work = partial(measure, steps=args.steps, profiled=args.profiled)
            try:
                found = launch(work, job, devices=1, accelerator="cpu", precision=recipe.precision)
            except MienError as error:
                results[name] = {"left_out": str(error)}
                print(f"{name:28s} left out: {error}")
                continue
            results[name] = {**found, "drawn_tables": drawn}
            cells = "  ".join(
                f"{100 * share:9.1f} %{'!' if part in OUTSIDE and share > MOST else ' '}"
                for part, share in found["shares"].items()
            )
            print(f"{name:28s} {found['images_per_second']:8.1f}  {cells}", flush=True)
    print(f"! outside of the networks and more than {100 * MOST:.0f} %")
    if args.out:
        write_json(
            args.out,
            {
                "question": "training speed of the recipes, and what the time goes to",
                "recipes": results,
                "steps": args.steps,
                "profiled": args.profiled,
                "threads": args.threads,
                "load": os.getloadavg(),
                "machine": {"cpus": os.cpu_count(), "processor": platform.processor()},
                "torch": torch.__version__,
            },
        )


if __name__ == "__main__":
    main()
