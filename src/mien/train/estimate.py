"""What a training would cost: ``mien train --dry-run``."""

from __future__ import annotations

import time

import yaml
from torch.utils.flop_counter import FlopCounterMode

from mien.train.log import duration
from mien.train.loop import Job, Training, count_parameters
from mien.train.parallel import Parallel, launch
from mien.train.prefetch import prefetch

_WARMUP, _STEPS, _SECONDS = 1, 5, 20.0


def estimate(job: Job, devices: int, accelerator: str) -> str:
    """Return resolved recipe, sizes, speed and hours as text; train a few steps, write nothing."""
    text: str = launch(
        _measure,
        job,
        devices,
        devices=1,
        accelerator=accelerator,
        precision=job.recipe.precision,
    )
    return text


def _measure(parallel: Parallel, job: Job, devices: int) -> str:
    training, recipe = Training(job, parallel), job.recipe
    trainable, frozen = count_parameters(training.method)
    flops, seconds, timed = 0, 0.0, 0
    clock = time.perf_counter()
    for step, batch in prefetch(training.sampler, 0, _WARMUP + _STEPS):
        if step < _WARMUP:
            with FlopCounterMode(display=False) as counter:
                training.step(step, batch)
            flops = counter.get_total_flops()
            clock = time.perf_counter()
            continue
        training.step(step, batch)
        timed += 1
        seconds = time.perf_counter() - clock
        if seconds > _SECONDS:
            break
    speed = recipe.batch_size * timed / seconds
    images = recipe.steps * recipe.batch_size  # of one process
    lines = [
        yaml.safe_dump(recipe.as_dict(), sort_keys=False).rstrip(),
        "",
        f"faces       {sum(int(entry['faces']) for entry in training.data):,}",
        f"parameters  {trainable:,} trainable, {frozen:,} frozen",
        f"compute     {flops / recipe.batch_size / 1e9:.3f} GFLOP per image, forward and backward",
        f"speed       {speed:.1f} images/s in one process (over {timed} steps)",
        f"training    {recipe.steps:,} steps, {images * devices:,} images, {devices} process(es), "
        f"about {duration(images / speed)}",
    ]
    return "\n".join(lines)
