"""Processes that read cell files for `scan`: asked over a pipe, answering in columns.

Not a process pool: its workers would import the caller's main module again, which a notebook or a
script without a guard does not survive.
"""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, cast

from emobench.core.errors import EmobenchError
from emobench.tables.scan import Batch, Part, Wanted, read_parts

AHEAD = 2
"""Chunks a worker may be ahead of what is written: the bound on memory."""


def in_processes(chunks: Iterable[Sequence[Part]], wanted: Wanted, workers: int) -> Iterator[Batch]:
    """The batches in the order of `chunks`. Raises what reading raised; EmobenchError where a
    worker ended early."""
    idle: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
    # The pipes close, and so the workers end, with this process whatever ends it.
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(workers)
    ]
    for process in processes:
        idle.put(process)

    def read(chunk: Sequence[Part]) -> Batch:
        process = idle.get()
        answer = _ask(process, chunk, wanted)
        idle.put(process)
        if isinstance(answer, Exception):
            raise answer
        return cast(Batch, answer)

    threads = ThreadPoolExecutor(workers)
    pending: deque[Future[Batch]] = deque()
    try:
        for chunk in chunks:
            pending.append(threads.submit(read, chunk))
            if len(pending) > AHEAD * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()  # idle, or its answer is wanted no more
        threads.shutdown()
        for process in processes:
            with suppress(OSError):  # a question that nobody reads any more
                process.communicate()
            process.wait()


def _ask(process: subprocess.Popen[bytes], chunk: Sequence[Part], wanted: Wanted) -> Any:
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        pickle.dump((chunk, wanted), process.stdin, protocol=5)
        process.stdin.flush()
        return pickle.load(process.stdout)
    except (OSError, EOFError, pickle.UnpicklingError):
        # It was killed: most likely for the memory it took.
        return EmobenchError(
            f"a process that read episodes ended early (exit code {process.wait()}); if memory is "
            "short, run with --workers 1"
        )


def main() -> None:
    """Answer until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    while True:
        try:
            parts, wanted = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        answer: Batch | Exception
        try:
            answer = read_parts(parts, wanted)
        except Exception as error:
            answer = error
        pickle.dump(answer, sys.stdout.buffer, protocol=5)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
