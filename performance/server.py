"""The scripted server as a process of its own, and children that measure themselves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen


@dataclass(frozen=True)
class Server:
    """A server that answers for both roles."""

    url: str
    """Base URL, ending in /v1."""
    pid: int

    def cpu_s(self) -> float:
        """CPU seconds of the server so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def calls(self) -> int:
        """Completions so far."""
        with urlopen(self.url.removesuffix("/v1") + "/metrics") as answer:
            lines = answer.read().decode().splitlines()
        return sum(
            int(line.rsplit(" ", 1)[1])
            for line in lines
            if line.startswith("vllm:request_success_total{")
        )


@contextmanager
def scripted_server(spans: Path | None = None, **settings: Any) -> Iterator[Server]:
    """A scripted server with these settings, for the length of the block; at its end it writes
    `spans`, when each request reached it and was answered."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "settings.json"
        file.write_text(json.dumps(settings))
        module = "emobench.scripted"
        program = [module] if spans is None else ["performance.watched_server", str(spans)]
        command = [sys.executable, "-m", *program, "--model", "scripted"]
        process = subprocess.Popen(
            [*command, "--without-key", "--role", "both", "--settings", str(file)],
            stdout=subprocess.PIPE,
            env=environment(),
            text=True,
        )
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            if not said.startswith("listening on "):
                raise RuntimeError(f"the scripted server did not start: {said!r}")
            yield Server(said.split()[-1] + "/v1", process.pid)
        finally:
            process.terminate()
            process.wait()
            process.stdout.close()  # type: ignore[union-attr]


def environment(url: str | None = None) -> dict[str, str]:
    """This process's environment, with `url` where litellm looks for its endpoint."""
    ours = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "OPENAI_API_KEY": "none"}
    if url is not None:
        ours |= {"OPENAI_API_BASE": url, "OPENAI_BASE_URL": url}
    keys = ("EMOBENCH_API_KEY", "VLLM_API_KEY")  # the server would ask for them
    return {k: v for k, v in os.environ.items() if k not in keys} | ours


def child(kind: str, url: str, **arguments: Any) -> Any:
    """Run `performance.children` for one measurement; what it reports."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        request = json.dumps({"url": url, "report": str(report), **arguments})
        command = [sys.executable, "-m", "performance.children", kind, request]
        done = subprocess.run(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment(url)
        )
        if done.returncode or not report.exists():
            raise RuntimeError(f"{kind} failed:\n{done.stderr.decode()[-4000:]}")
        return json.loads(report.read_text())
