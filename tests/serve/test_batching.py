"""Jobs that wait together are worked on together; one spoils none of the others."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from mien.serve.batching import Batcher


class Doubler:
    """Doubles numbers; raises for a negative one; the first batch waits for ``go``."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go = threading.Event()
        self.go.set()

    def __call__(self, jobs: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(jobs))
        self.go.wait(5)
        if any(j < 0 for j in jobs):
            raise ValueError("negative")
        return [ValueError("zero") if j == 0 else 2 * j for j in jobs]


def together(batcher: Batcher[int, int], jobs: Sequence[int], timeout: float = 5.0) -> list:
    async def run() -> list:
        batcher.start()
        try:
            return await asyncio.gather(
                *(batcher(j, timeout) for j in jobs), return_exceptions=True
            )
        finally:
            await batcher.stop()

    return asyncio.run(run())


def test_jobs_share_batches_of_bounded_size() -> None:
    work = Doubler()
    assert together(Batcher(work, largest=4), range(1, 11)) == [2 * i for i in range(1, 11)]
    assert work.batches == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]


def test_cost_bounds_a_batch_but_never_keeps_a_job_out() -> None:
    work = Doubler()
    batcher = Batcher(work, largest=9, cost=lambda job: job, budget=5)
    assert together(batcher, [2, 3, 1, 9, 1]) == [4, 6, 2, 18, 2]
    assert work.batches == [[2, 3], [1], [9], [1]]


def test_a_bad_job_fails_alone() -> None:
    work = Doubler()
    found = together(Batcher(work), [1, -1, 0, 2])
    assert found[0] == 2
    assert found[3] == 4
    assert [str(e) for e in found[1:3]] == ["negative", "zero"]


def test_who_gave_up_is_not_worked_on() -> None:
    work = Doubler()
    batcher = Batcher(work, largest=1, linger=0)

    async def run() -> None:
        batcher.start()
        work.go.clear()
        first = asyncio.create_task(batcher(1, 5))
        await asyncio.sleep(0.02)
        with pytest.raises(TimeoutError):
            await batcher(2, 0.02)
        work.go.set()
        assert await first == 2
        assert await batcher(3, 5) == 6
        await batcher.stop()

    asyncio.run(run())
    assert work.batches == [[1], [3]]
