"""Episodes on threads: as many at a time as asked, in order, every result handed over once."""

from __future__ import annotations

import threading

import pytest

from emobench.core.worker_pool import WorkerPool


def never() -> bool:
    return False


def gather(pool: WorkerPool[int, int]) -> list[int]:
    done: list[int] = []
    while pool.threads:
        done += pool.wait_for_results(10)
    return done


@pytest.mark.parametrize("size", [1, 3, 50])
def test_every_job_is_done_once(size: int) -> None:
    assert sorted(gather(WorkerPool(size, lambda job: job, range(20), never))) == list(range(20))


def test_one_thread_keeps_the_order() -> None:
    assert gather(WorkerPool(1, lambda job: job, range(20), never)) == list(range(20))


def test_as_many_at_a_time_as_asked() -> None:
    together = threading.Barrier(4)  # breaks unless four jobs run at the same time
    running, most, lock = 0, 0, threading.Lock()

    def work(job: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        together.wait(240)
        with lock:
            running -= 1
        return job

    assert len(gather(WorkerPool(4, work, range(12), never))) == 12
    assert most == 4


def test_nobody_waits_for_the_one_who_writes_the_results_down() -> None:
    begun = threading.Semaphore(0)

    def work(job: int) -> int:
        begun.release()
        return job

    pool = WorkerPool(1, work, range(5), never)
    for _ in range(5):
        assert begun.acquire(timeout=240)  # all five, and no result was fetched yet
    assert gather(pool) == list(range(5))


def test_a_stop_lets_running_jobs_end_and_begins_no_other() -> None:
    stop, begun, go = threading.Event(), threading.Semaphore(0), threading.Event()

    def work(job: int) -> int:
        begun.release()
        go.wait(240)
        return job

    pool = WorkerPool(2, work, range(9), stop.is_set)
    assert begun.acquire(timeout=240)
    assert begun.acquire(timeout=240)
    stop.set()
    assert pool.wait_for_results(0.0) == []
    go.set()
    assert sorted(gather(pool)) == [0, 1]


def test_a_job_that_hangs_can_be_abandoned() -> None:
    hang = threading.Event()

    def work(job: int) -> int:
        if job:
            hang.wait(240)
        return job

    pool = WorkerPool(2, work, range(2), never)
    assert pool.wait_for_results(10) == [0]
    assert pool.wait_for_results(0.05) == []
    assert pool.threads == 1
    assert all(t.daemon for t in threading.enumerate() if t.name.startswith("episode-"))
    hang.set()
    assert gather(pool) == [1]


def failing(job: int) -> int:
    if job == 2:
        raise KeyError("a defect")
    return job


def test_what_a_job_raises_comes_after_the_results_before_it() -> None:
    pool = WorkerPool(1, failing, range(9), never)
    done: list[int] = []
    with pytest.raises(KeyError, match="a defect"):
        while pool.threads:
            done += pool.wait_for_results(10)
    assert done == [0, 1]


def test_what_the_question_for_a_stop_raises_comes_after_the_results_before_it() -> None:
    answers = iter([False])
    pool = WorkerPool(1, lambda job: job, range(3), lambda: next(answers))
    assert pool.wait_for_results(10) == [0]
    with pytest.raises(StopIteration):
        pool.wait_for_results(10)


def test_a_closed_crew_begins_nothing_more() -> None:
    begun, go = threading.Semaphore(0), threading.Event()

    def work(job: int) -> int:
        begun.release()
        go.wait(240)
        return job

    pool = WorkerPool(1, work, range(9), never)
    assert begun.acquire(timeout=240)
    pool.close()
    go.set()
    assert gather(pool) == [0]


class Gate:
    """Jobs that say when they begin, and end one by one as they are let."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Semaphore(0), threading.Semaphore(0)
        self.running, self.most = 0, 0
        self._lock = threading.Lock()

    def work(self, job: int) -> int:
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
        self.begun.release()
        assert self.go.acquire(timeout=240)
        with self._lock:
            self.running -= 1
        return job

    def await_begun(self, jobs: int) -> None:
        for _ in range(jobs):
            assert self.begun.acquire(timeout=240)


def test_a_larger_size_begins_more_at_once() -> None:
    gate = Gate()
    pool = WorkerPool(1, gate.work, range(9), never)
    gate.await_begun(1)
    pool.resize(4)
    gate.await_begun(3)
    assert (pool.threads, pool.left, gate.running) == (4, 5, 4)
    gate.go.release(9)
    assert sorted(gather(pool)) == list(range(9))
    assert gate.most == 4


def test_a_smaller_size_lets_jobs_end_and_begins_fewer() -> None:
    gate = Gate()
    pool = WorkerPool(4, gate.work, range(12), never)
    gate.await_begun(4)
    pool.resize(2)
    gate.go.release(2)  # two end, and nothing begins in their place
    done: list[int] = []
    while len(done) < 2 or pool.threads > 2:
        done += pool.wait_for_results(240)
    assert (pool.threads, pool.left, gate.running) == (2, 8, 2)
    gate.most = 0
    gate.go.release(10)
    assert sorted(done + gather(pool)) == list(range(12))
    assert gate.most == 2


def test_no_size_is_too_small_to_go_on_or_begins_more_than_there_is() -> None:
    gate = Gate()
    pool = WorkerPool(2, gate.work, range(5), never)
    gate.await_begun(2)
    pool.resize(0)
    gate.go.release(5)
    assert sorted(gather(pool)) == list(range(5))
    pool.resize(7)
    assert pool.threads == 0


def test_sizes_that_change_all_the_time_lose_and_repeat_no_job() -> None:
    pool = WorkerPool(3, lambda job: job, range(3000), never)
    done: list[int] = []
    size = 0
    while pool.threads:
        size = (size * 5 + 3) % 11
        pool.resize(size)
        done += pool.wait_for_results(0.001)
    assert sorted(done) == list(range(3000))


def test_a_closed_pool_does_not_grow() -> None:
    gate = Gate()
    pool = WorkerPool(1, gate.work, range(5), never)
    gate.await_begun(1)
    pool.close()
    pool.resize(5)
    assert pool.threads == 1
    gate.go.release()
    assert gather(pool) == [0]


def test_a_stopped_pool_does_not_grow() -> None:
    """Or a loop that resizes it would begin threads for ever."""
    pool = WorkerPool(2, lambda job: job, range(5), lambda: True)
    while pool.threads:
        assert pool.wait_for_results(10) == []
    pool.resize(3)
    assert (pool.threads, pool.left) == (0, 5)
