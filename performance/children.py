"""What is measured, each in a process of its own: stock's runner, ours, and bare HTTP calls.

`python -m performance.children KIND JSON`, started by `server.child`; the time counts from the
moment when everything is imported, for all of them.
"""

from __future__ import annotations

import http.client
import importlib
import json
import os
import queue
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from performance.sends import Sends

Report = dict[str, Any]


class Clock:
    """Wall and CPU seconds of this process since it was made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> Report:
        return {
            "wall_s": time.perf_counter() - self._wall,
            "cpu_s": time.process_time() - self._cpu,
        }


class InFlight:
    """When each call of an episode began and ended, seen by its caller."""

    def __init__(self) -> None:
        self.spans: list[tuple[float, float, int]] = []

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            if threading.current_thread() is threading.main_thread():
                return call(*args, **kwargs)  # stock's first environment, our probe
            began = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                self.spans.append((began, time.perf_counter(), threading.get_ident()))

        return timed


def stock(tasks: list[int], concurrency: int, watch: bool = False, **_: Any) -> Report:
    """The benchmark's own `run()`, unpatched (unless calls are to be watched)."""
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    from emobench.benchmarks.adapter import load_benchmark

    package = load_benchmark().package
    module = importlib.import_module(f"{package}.run")
    types = importlib.import_module(f"{package}.types")
    # Through importlib: the adapter's modules would have a stand-in for litellm.
    callers: list[Any] = [
        importlib.import_module(f"{package}.{name}")
        for name in ("agents.tool_calling_agent", "envs.user", "envs.retail")
    ]
    in_flight = InFlight()
    if watch:
        for caller in callers[:2]:
            caller.completion = in_flight.around(caller.completion)
    with tempfile.TemporaryDirectory() as folder:
        config = types.RunConfig(
            model_provider="openai",
            user_model_provider="openai",
            model="scripted",
            user_model="scripted",
            task_ids=tasks,
            log_dir=folder,
            max_concurrency=concurrency,
        )
        clock = Clock()
        results = module.run(config)
    return {
        **clock.read(),
        "rewards": {r.task_id: r.reward for r in results},
        "errors": [r.info["error"] for r in results if "error" in r.info],
        "spans": in_flight.spans,
    }


def ours(
    url: str,
    concurrency: int,
    tasks: list[int] | None = None,
    watch: bool = False,
    record: str | None = None,
    sample: str | None = None,
    cells: int = 1,
    **_: Any,
) -> Report:
    """A run of one cell (or several at a time) as `python -m emobench.run` does it."""
    from emobench.benchmarks.adapter import load_benchmark
    from emobench.cli.main import build_command_parser
    from emobench.llm import client
    from emobench.runner.by_hand import plan_by_hand
    from emobench.runner.cell import run_cell

    for name in ("completion", "episode", "injection"):  # the cell's own imports
        importlib.import_module(f"emobench.runner.{name}")
    for name in ("emobench.probe.cells", "jsonschema"):  # the probe's
        importlib.import_module(name)
    in_flight = InFlight()
    bodies: list[bytes] = []
    if watch:
        client.ChatClient.chat = in_flight.around(client.ChatClient.chat)  # type: ignore[method-assign]
    if record:
        send = client.ChatClient._send

        def recorded(self: Any, method: str, path: str, body: Any) -> Any:
            if body:
                bodies.append(bytes(body))
            return send(self, method, path, body)

        client.ChatClient._send = recorded  # type: ignore[method-assign]
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        runs = []
        for number in range(cells):
            # Of three cells at a time one is airline's: its data is the larger.
            env = "airline" if number == 2 else "retail"
            command = ["--env", env, "--model", "scripted", "--model-base-url", url]
            command += ["--run-dir", f"{folder}/{number}"]
            command += ["--max-concurrency", str(min(concurrency, 50 if number == 2 else 115))]
            concurrency -= min(concurrency, 50 if number == 2 else 115) if cells > 1 else 0
            if tasks is not None:
                command += ["--tasks", ",".join(map(str, tasks))]
            run_dir, plan = plan_by_hand(build_command_parser("run").parse_args(command))
            # Stock sends no seed, by which the scripted models choose their mistakes.
            fidelity = plan.sweep.fidelity.model_copy(update={"send_seed": False})
            sweep = plan.sweep.model_copy(update={"fidelity": fidelity})
            runs.append((run_dir, plan.model_copy(update={"sweep": sweep})))
        benchmark = load_benchmark()
        for name in ("envs.user", "envs.retail", "envs.airline", "agents.tool_calling_agent"):
            benchmark.import_module(name)
        written = written_bytes()
        clock = Clock()
        threads = [
            threading.Thread(target=run_cell, args=(plan, run_dir, 0, lines.append))
            for run_dir, plan in runs[1:]
        ]
        for thread in threads:
            thread.start()
        run_cell(runs[0][1], runs[0][0], 0, lines.append)
        for thread in threads:
            thread.join()
        read = clock.read()
        written = written_bytes() - written
        folders = [run_dir.cell(0).folder for run_dir, _ in runs]
        results = [path.stat().st_size for at in folders for path in at.iterdir()]
        episodes = [at / "episodes.jsonl" for at in folders]
        records = [json.loads(line) for path in episodes for line in path.open()]
        size = sum(path.stat().st_size for path in episodes)
    if record:
        _write_frames(Path(record), bodies)
    if sample:
        Path(sample).write_text(json.dumps(records[-1]))
    return {
        **read,
        "tasks": len(records),
        "calls": sum(len(record["calls"]) for record in records),
        "rewards": {r["task_id"]: r["reward"] for r in records if r["env"] == "retail"},
        "errors": [r["error"]["message"] for r in records if r["error"]],
        "spans": in_flight.spans,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "written": written,
        "results": sum(results),
        "episodes": size,
    }


def bare(url: str, concurrency: int, bodies: str, **_: Any) -> Report:
    """Recorded request bodies sent by `http.client` on kept connections, and nothing else."""
    parts = urlsplit(url)
    waiting: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    frames = _read_frames(Path(bodies))
    for body in frames:
        waiting.put(body)
    failed: list[int] = []

    def send() -> None:
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port)
        while True:
            try:
                body = waiting.get_nowait()
            except queue.Empty:
                connection.close()
                return
            headers = {"Content-Type": "application/json"}
            connection.request("POST", f"{parts.path}/chat/completions", body, headers)
            response = connection.getresponse()
            response.read()
            if response.status != 200:
                failed.append(response.status)

    threads = [threading.Thread(target=send) for _ in range(concurrency)]
    clock = Clock()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise RuntimeError(f"{len(failed)} calls failed")
    return {**clock.read(), "calls": len(frames)}


def written_bytes() -> int:
    """Bytes that this process handed to write(), sockets apart."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["wchar"])


def _write_frames(path: Path, bodies: list[bytes]) -> None:
    with path.open("wb") as stream:
        for body in bodies:
            stream.write(len(body).to_bytes(4, "big") + body)


def _read_frames(path: Path) -> list[bytes]:
    data = path.read_bytes()
    bodies, at = [], 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        bodies.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    return bodies


def main() -> None:
    kind, request = sys.argv[1], json.loads(sys.argv[2])
    kinds: dict[str, Callable[..., Report]] = {"stock": stock, "ours": ours, "bare": bare}
    sends = Sends()
    if request.get("note_sends"):
        sends.begin()
    report = kinds[kind](**request) | {"sends": sends.times}
    Path(request["report"]).write_text(json.dumps(report))


if __name__ == "__main__":
    main()
