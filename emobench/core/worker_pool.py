"""Threads that work through a list of jobs, and hand back what they did in batches."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


class WorkerPool(Generic[Job, Result]):
    """Begins jobs in their order, `size` at a time, until `stopped()`.

    A thread takes its next job by itself: none waits for whoever writes the results down. The
    threads do not keep the process alive, so that a job which hangs can be abandoned.
    """

    def __init__(
        self,
        size: int,
        work: Callable[[Job], Result],
        jobs: Iterable[Job],
        stopped: Callable[[], bool],
    ) -> None:
        self._work, self._stopped = work, stopped
        self._jobs = deque(jobs)
        self._ended: SimpleQueue[tuple[Result | None, BaseException | None] | None] = SimpleQueue()
        """What jobs gave or raised; None for a thread that found no more jobs."""
        self._error: BaseException | None = None
        self._closed = False
        self.threads = min(size, len(self._jobs))
        """Threads that have (or look for) a job."""
        for number in range(self.threads):
            threading.Thread(target=self._run, name=f"episode-{number}", daemon=True).start()

    def results(self, timeout_s: float) -> list[Result]:
        """Wait for a job to end, at most so long; all that have ended by then.

        Raises what a job raised, when the results before it have been handed over.
        """
        if self._error is not None:
            raise self._error
        deadline = time.monotonic() + timeout_s
        results: list[Result] = []
        while self.threads:
            try:
                wait = 0.0 if results else max(0.0, deadline - time.monotonic())
                ended = self._ended.get(timeout=wait)
            except Empty:
                break
            if ended is None:
                self.threads -= 1
                continue
            result, self._error = ended
            if self._error is not None:
                break
            results.append(result)  # type: ignore[arg-type]
        if self._error is not None and not results:
            raise self._error
        return results

    def close(self) -> None:
        """Begin no further job."""
        self._closed = True

    def _run(self) -> None:
        while not self._closed and not self._stopped():
            try:
                job = self._jobs.popleft()
            except IndexError:
                break
            try:
                self._ended.put((self._work(job), None))
            except BaseException as error:
                self._ended.put((None, error))
                break
        self._ended.put(None)
