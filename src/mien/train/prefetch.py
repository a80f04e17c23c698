"""Batches drawn ahead of the training by background threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from mien.methods.base import Batch, Sampler


def prefetch(
    sampler: Sampler, start: int, stop: int, *, threads: int = 2, ahead: int = 4
) -> Generator[tuple[int, Batch], None, None]:
    """Yield ``(step, batch)`` for the steps from ``start`` to ``stop``, in order.

    A batch is a pure function of its step, so neither the number of threads nor the start changes
    what a step sees.

    Args:
        sampler: Function from step to batch.
        start: First step.
        stop: First step that is not drawn.
        threads: Background threads; each computes single-threaded.
        ahead: Batches that wait at most.
    """
    torch.get_num_threads()  # settles this thread's number, which the workers' would replace else
    pool = ThreadPoolExecutor(threads, "mien-prefetch", torch.set_num_threads, (1,))
    waiting: deque[Future[Batch]] = deque()
    drawn = start
    try:
        for step in range(start, stop):
            while drawn < stop and len(waiting) < ahead:
                waiting.append(pool.submit(_draw, sampler, drawn))
                drawn += 1
            yield step, waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _draw(sampler: Sampler, step: int) -> Batch:
    return {name: channels_last(value) for name, value in sampler(step).items()}


def channels_last(value: torch.Tensor) -> torch.Tensor:
    """Return images in the memory layout that convolutions are fastest in."""
    if value.ndim != 4:
        return value
    return value.contiguous(memory_format=torch.channels_last)
