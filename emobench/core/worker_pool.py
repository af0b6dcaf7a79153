"""Threads that work through a list of jobs, and hand back what they did in batches."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


class WorkerPool(Generic[Job, Result]):
    """Begins jobs in their order, `size` at a time, until `stopped()`.

    A thread takes its next job by itself: none waits for whoever writes the results down. The
    threads do not keep the process alive, so that a job which hangs can be abandoned. All methods
    are for one thread, the one that writes the results down.
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
        self._ended: SimpleQueue[Future[Result] | None] = SimpleQueue()
        """What jobs returned or raised; None for a thread that found no more jobs."""
        self._failed: Future[Result] | None = None
        self._closed = self._was_stopped = False
        self._lock = threading.Lock()
        self._size = 0
        self._running = 0
        """Threads that will take another job."""
        self._started = 0
        self.threads = 0
        """Threads that have (or look for) a job."""
        self.resize(size)

    def resize(self, size: int) -> None:
        """Have `size` jobs (at least one) at a time from now on: more begin at once, while of too
        many each goes on to its end."""
        with self._lock:
            self._size = max(1, size)
            more = min(self._size - self._running, len(self._jobs))
            if more <= 0 or self._closed or self._was_stopped or self._failed is not None:
                return
            self._running += more
            self.threads += more
            first, self._started = self._started, self._started + more
        for number in range(first, self._started):
            threading.Thread(target=self._run, name=f"episode-{number}", daemon=True).start()

    @property
    def left(self) -> int:
        """Jobs that have not begun."""
        return len(self._jobs)

    def wait_for_results(self, timeout_s: float) -> list[Result]:
        """Wait for a job to end, at most `timeout_s`; the results of all that have ended by then.

        Raises what a job (or `stopped`) raised, once the results before it have been handed over.
        """
        deadline = time.monotonic() + timeout_s
        results: list[Result] = []
        while self.threads and self._failed is None:
            try:
                wait = 0.0 if results else max(0.0, deadline - time.monotonic())
                ended = self._ended.get(timeout=wait)
            except Empty:
                break
            if ended is None:
                self.threads -= 1
            elif ended.exception() is not None:
                self._failed = ended
            else:
                results.append(ended.result())
        if self._failed is not None and not results:
            self._failed.result()
        return results

    def close(self) -> None:
        """Begin no further job."""
        self._closed = True

    def _run(self) -> None:
        try:
            while taken := self._take_job():
                ended: Future[Result] = Future()
                ended.set_result(self._work(*taken))
                self._ended.put(ended)
        except BaseException as error:
            failed: Future[Result] = Future()
            failed.set_exception(error)
            self._ended.put(failed)
        self._ended.put(None)

    def _take_job(self) -> tuple[Job] | None:
        """Return the next job, or None where this thread ends: there is none for it, or there are
        more threads than wanted."""
        stopped = self._stopped()
        with self._lock:
            self._was_stopped = self._was_stopped or stopped
            if stopped or self._closed or not self._jobs or self._running > self._size:
                self._running -= 1
                return None
            return (self._jobs.popleft(),)
