"""Requests that arrive together are worked on together: a micro-batcher for asyncio."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Generic, TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


class Batcher(Generic[Job, Result]):
    """Collect jobs and hand them to one function, in one thread, a batch at a time.

    While a batch is worked on, the next one gathers; ``linger`` is what a lone job waits for
    company. A job whose caller gave up is dropped before work on it begins.

    Args:
        work: Jobs → one result or exception each. Should it raise, its jobs are tried one by one,
            so that one job cannot spoil the others'.
        largest: Jobs in a batch.
        cost: What a job costs, e.g. its pixels.
        budget: Largest cost of a batch of several jobs.
        linger: Seconds.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Job]], Sequence[Result | Exception]],
        largest: int = 16,
        cost: Callable[[Job], int] = lambda _: 0,
        budget: int = 0,
        linger: float = 0.005,
    ) -> None:
        self.work, self.largest, self.cost, self.budget = work, largest, cost, budget
        self.linger = linger
        self._waiting: deque[tuple[Job, asyncio.Future[Result]]] = deque()
        self._filled: asyncio.Event
        self._thread: ThreadPoolExecutor
        self._loop: asyncio.Task[None]

    def start(self) -> None:
        """Begin to work; called inside the event loop, again after ``stop`` if wanted."""
        self._filled = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mien-batch")
        self._loop = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Stop after the batch in work; who still waits gets ``CancelledError``."""
        self._loop.cancel()
        with suppress(asyncio.CancelledError):
            await self._loop
        while self._waiting:
            self._waiting.popleft()[1].cancel()
        self._thread.shutdown()

    async def __call__(self, job: Job, timeout: float) -> Result:
        """Return the result of a job.

        Raises:
            TimeoutError: There was none within ``timeout`` seconds.
        """
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((job, future))
        self._filled.set()
        try:
            return await asyncio.wait_for(future, timeout)
        except asyncio.TimeoutError:  # another class than TimeoutError before Python 3.11
            raise TimeoutError from None

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._filled.wait()
            if len(self._waiting) < self.largest:
                await asyncio.sleep(self.linger)
            batch = self._take()
            if not batch:
                continue
            jobs = [job for job, _ in batch]
            results = await loop.run_in_executor(self._thread, self._try, jobs)
            for (_, future), result in zip(batch, results, strict=True):
                if future.done():
                    continue
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)

    def _take(self) -> list[tuple[Job, asyncio.Future[Result]]]:
        batch: list[tuple[Job, asyncio.Future[Result]]] = []
        spent = 0
        while self._waiting and len(batch) < self.largest:
            job, future = self._waiting[0]
            spent += self.cost(job)
            if batch and spent > self.budget > 0:
                break
            self._waiting.popleft()
            if future.done():
                spent -= self.cost(job)
            else:
                batch.append((job, future))
        if not self._waiting:
            self._filled.clear()
        return batch

    def _try(self, jobs: list[Job]) -> Sequence[Result | Exception]:
        try:
            return self.work(jobs)
        except Exception as error:
            if len(jobs) == 1:
                return [error]
            return [self._try([job])[0] for job in jobs]
