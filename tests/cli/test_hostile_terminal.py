"""No command passes on a character that acts on a terminal, whoever wrote it: an endpoint, a model,
a plan, a record, a log, Slurm."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from emobench.cli.main import COMMANDS, main
from emobench.core.models import OpenAIModel
from emobench.core.outcomes import Outcome
from emobench.core.plan import load_plan
from emobench.core.run_dir import RunDir
from emobench.core.sweep import Cell
from emobench.store.endpoints import publish, read_endpoint
from emobench.store.episodes import make_cell_filter, parse_episode
from emobench.store.events import EventLog
from emobench.store.jobs import JobKind, JobRecord, add_jobs, read_jobs
from emobench.store.summaries import read_summary
from tests.support.model_server import ModelServer, Reply, answering
from tests.support.plans import CUDA, LOCAL, scripted
from tests.support.runs import append, episode, fill, make_run, summarise
from tests.support.serving import READY
from tests.support.slurm_commands import SlurmCommands

BAD = "\x1b]0;owned\x07\x1b[2J\x1b[8m\r\x9b6n\u202e\u2066\x7f\x08x"
OURS = re.compile(r"\x1b\[([0-79;]|38;|48;|[1-9]\d)*m|\x1b\[\?(25|1049)[hl]|\x1b\[H|\x1b\[\d*[AK]")
"""Colours, and what draws a screen."""
ACTS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
SWEEP: dict[str, Any] = {
    "name": "spoilt",
    "description": "\u202ewords",
    "engine": "scripted",
    "matrix": {"env": "retail", "variant": ["control", "own"]},
    "variants": {"own": "\u202eYou are cross."},
    "trials": 1,
    "tasks": 0,
    "assistants": {
        "a": {"engine": "openai", "model": "\u202em", "base_url": "http://127.0.0.1:9/v1"}
    },
}

LINES: dict[str, list[str]] = {
    "init": ["", "{bad}/site"],
    "sweep": [
        *("{file} --dry-run --run-dir {bad}/new", "{file} --no-submit --run-dir new"),
        *("{file} --dry-run --run-dir {run}", "{file} --run-dir {run}", "{wrong} --dry-run"),
        *("{file} --json --dry-run", "{bad}/none.yaml", "{slurm_file} --run-dir submitted"),
    ],
    "run": [
        "--run-dir {hosted} --cell 0",
        "--run-dir {run} --cell 0",
        "--run-dir {run} --env retail --model {model}",
        "--env retail --tasks 0 --max-steps 2 --model {model} --model-base-url {url}",
        "--env retail --tasks 0-3 --max-steps 2 --model m --model-base-url {url} --probe off",
    ],
    "status": ["{run}", "{run} --json", "{bad}"],
    "watch": ["{run} --once", "{run} --once --json", "{over} --interval 0.2"],
    "logs": ["{run}", "{run} user", "{run} cell 0", "{run} cell 9", "{run} server {model}"],
    "rerun": [
        *("{run} --outcome failed --dry-run", "{run} --cell 0 --json", "{run} --task 1"),
        "{run} --cell 0-3",
    ],
    "sbatch": ["{run}", "{bad}"],
    "cancel": ["{run}", "{run} --json --force"],
    "report": ["{run}", "{run} -o {bad}/r.html --export {bad}/figures", "{run} -o {bad}/no/r.html"],
    "conversations": [
        *("{run} --list", "{run} --task 0", "{run} --task 0 --full --side-by-side"),
        *(
            "{run} --table",
            "{run} --table --json",
            "{run} --json --full",
            "{run} --variant {model}",
        ),
    ],
    "collect": ["{run} --csv", "{run} -o {bad}/tables --json", "{bad}", "{run} {over}"],
    "judge": [
        *("{run} --base-url {url} --model m", "{run} --base-url {url} --model m --json"),
        *("{run} --base-url {url} --model {model} --max-tokens 9", "{run} --server user"),
    ],
    "check": ["{run}", "{run} --json"],
    "power": ["{file}", "{run}", "{file} --pilot {run} --json", "{wrong}"],
    "plan": ["{file}", "{run}", "{file} --pilot {run} --json", "{wrong}", "{bad}/none.yaml"],
    "doctor": ["--cluster {profile} --run-dir {bad}", "--cluster {profile} --json"],
    "probe": ["--base-url {url} --model {model}", "--base-url {url} --model m --json"],
    "schema": [""],
    "serve-scripted": ["--settings {wrong} --without-key", "--host {model} --without-key"],
    "completion": ["bash", "zsh"],
}
"""What every command is asked; `{bad}` and `{model}` hold BAD themselves."""


KEPT = {"variant_sha256", "sha256", "benchmark", "provider", "logs"}
"""Keys by which records are told to belong together: what differs there is not read at all."""


def spoil(value: Any, accepted: Callable[[Any], bool]) -> Any:
    """The value with BAD in each of its texts and names that the reader takes it in."""
    whole = [value]

    def visit(parent: Any, key: Any) -> None:
        here = parent[key]
        if isinstance(here, str):
            parent[key] = here + BAD
            if not accepted(whole[0]):
                parent[key] = here
        elif isinstance(here, dict | list):
            for each in here.keys() - KEPT if isinstance(here, dict) else range(len(here)):
                visit(here, each)

    visit(whole, 0)
    return whole[0]


def spoil_file(path: Path, accepted: Callable[[], bool]) -> None:
    def try_out(data: Any) -> bool:
        path.write_text(json.dumps(data))
        with suppress(Exception):
            return accepted()
        return False

    data = spoil(json.loads(path.read_text()), try_out)
    path.write_text(json.dumps(data))
    assert "owned" in path.read_text()


def is_of(cell: Cell, line: Any) -> bool:
    record = parse_episode(line)
    return record is not None and make_cell_filter(cell)(record) and record.outcome in set(Outcome)


def make_hostile(folder: Path, kind: str, url: str) -> RunDir:
    """A run with BAD in each text that its readers accept."""
    hosted = OpenAIModel(model="m", base_url=url)
    logs = folder / f"logs{BAD}"
    logs.mkdir(parents=True)
    run = make_run(
        folder / "study",
        profile=CUDA if kind == "slurm" else LOCAL,
        user=hosted if kind == "over" else scripted(),
        assistants={"a": hosted if kind == "over" else scripted()},
        variants=("control", "anger"),
        tasks=3,
        trials=2,
        logs=logs,
        description="words",
    )
    cells = load_plan(run).cells
    spoil_file(run.plan, lambda: load_plan(run).cells == cells)
    fill(run, cells if kind == "over" else cells[1:])
    if kind != "over":
        lines = [episode(cells[0], 0, "infra_error"), episode(cells[0], 1, "agent_error")]
        append(run, cells[0], lines)
        summarise(run, cells[0], "failed", exit_reason="error", message="why\nand more")
        for name, job_id in (("user", "41"), ("assistant_a", "42")):
            add_jobs(run, [JobRecord(JobKind.SERVER, name, job_id)])
            server = replace(READY, server=name, job_id=job_id, url="http://127.0.0.1:1/v1")
            publish(run, replace(server, state="failed", reason="it broke\nso", warnings=("slow",)))
            EventLog(run, name, job_id).note("failed", reason="it broke", cause="port")
            spoil_file(
                run.endpoint(name),
                lambda name=name: read_endpoint(run, name) is not None,  # type: ignore[misc]
            )
        add_jobs(run, [JobRecord(JobKind.ARRAY, "a", "43", cells=(0,))])
        spoil_file(run.jobs, lambda: len(read_jobs(run)) == 3)
        (logs / "user_vllm_41.out").write_text(f"words{BAD}\nmore{BAD}\n")
        (logs / "run_retail_tool-calling_scripted_43_0.log").write_text(f"{BAD}\n{BAD}")
    for cell in cells:
        paths = run.cell(cell.number)
        lines = [json.loads(line) for line in paths.episodes.read_text().splitlines()]
        spoilt = [spoil(line, lambda line: is_of(cell, line)) for line in lines]  # noqa: B023
        paths.episodes.write_text("".join(json.dumps(line) + "\n" for line in spoilt))
        spoil_file(paths.summary, lambda cell=cell: read_summary(run, cell.number) is not None)  # type: ignore[misc]
    run.scripts.mkdir()
    return run


KINDS = ("over", "local", "slurm")


def make_all(folder: Path, url: str) -> None:
    """A run of each kind; one of which the folder's name holds BAD, and one whose plan is refused;
    sweep files and a profile."""
    runs = {kind: make_hostile(folder / kind, kind, url).path for kind in KINDS}
    bad = folder / f"bad{BAD}"
    shutil.copytree(runs["local"], bad / "copy")
    plan = json.loads((runs["over"] / "plan.json").read_text())
    (folder / "hosted").mkdir()
    (folder / "hosted" / "plan.json").write_text(json.dumps(plan))
    (bad / "refused").mkdir()
    wrong = {**plan, "sweep": {**plan["sweep"], "name": BAD, BAD: 1}}
    (bad / "refused" / "plan.json").write_text(json.dumps(wrong))
    profile = {"name": "spoilt", "scheduler": "slurm", "user_server": {"partition": "p"}}
    texts = {
        "file": SWEEP,
        "slurm_file": {**SWEEP, "cluster": "profile.yaml"},
        "wrong": {**SWEEP, "name": BAD, BAD: BAD, "trials": BAD, "user": {"model": BAD}},
        "profile": {**profile, "client_setup": ["echo \u202e"]},
    }
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(json.dumps(text))


class Hostile:
    """What the commands are asked about, made by `make_all`."""

    def __init__(self, folder: Path, url: str) -> None:
        bad = folder / f"bad{BAD}"
        runs = [folder / kind / "study" for kind in KINDS]
        self.runs = [*runs, bad / "copy", bad / "refused"]
        files = {path.stem: path for path in folder.glob("*.yaml")}
        self.values = {"over": runs[0], "bad": bad, "url": url, "model": f"m{BAD}", **files}
        self.values["hosted"] = folder / "hosted"


@pytest.fixture(scope="module")
def server() -> Iterator[ModelServer]:
    """It answers with BAD in all that it says."""
    calls = [Reply(BAD), Reply(None, [(BAD, BAD)]), Reply(BAD, [("think", json.dumps({BAD: BAD}))])]
    replies = [*calls, *(Reply(status=status, error=BAD) for status in (400, 500))]
    with answering(ModelServer()) as server:
        server.answer = lambda request: replies[len(server.bodies) % len(replies)]
        server.models = {"data": [{"id": BAD, "max_model_len": BAD}, {"id": "m"}]}
        yield server


@pytest.fixture(scope="module")
def made(server: ModelServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "all"
    make_all(folder, server.url)
    return folder


@pytest.fixture
def hostile(
    server: ModelServer, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Hostile:
    slurm = SlurmCommands(tmp_path / "slurm")
    monkeypatch.setenv("PATH", slurm.environment["PATH"])
    for name in ("squeue", "sacct", "scontrol", "scancel", "srun"):
        slurm.answer(name, f"printf '%s' '{BAD}'; printf '%s' '{BAD}' >&2")
    slurm.answer("sbatch", f"printf '%s' '{BAD}' >&2; exit 1")
    monkeypatch.chdir(tmp_path)
    return Hostile(Path(shutil.copytree(made, tmp_path / "all")), server.url)


def ask(argv: list[str]) -> None:
    with suppress(SystemExit):
        main(argv)


@pytest.fixture(params=["pipe", "terminal"])
def printed(
    request: pytest.FixtureRequest,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[list[str]], str]:
    """What a command prints into a pipe, or to a terminal."""

    def into_pipe(argv: list[str]) -> str:
        ask(argv)
        return "".join(capfd.readouterr())

    def to_terminal(argv: list[str]) -> str:
        parent, child = pty.openpty()
        got: list[bytes] = []

        def read() -> None:
            with suppress(OSError):  # the other side is closed
                while part := os.read(parent, 65536):
                    got.append(part)

        reader = Thread(target=read)
        reader.start()
        with monkeypatch.context() as patch, open(child, "w", encoding="utf-8") as stream:  # noqa: PTH123
            patch.setenv("TERM", "xterm-256color")
            patch.setattr(sys, "stdout", stream)
            patch.setattr(sys, "stderr", stream)
            ask(argv)
        reader.join()
        os.close(parent)
        text = b"".join(got).decode()
        return OURS.sub("", re.sub(r"\r(?=\n|\x1b\[2K|\d+ of \d+ turns)", "", text))

    return into_pipe if request.param == "pipe" else to_terminal


@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_that_acts_reaches_a_terminal(
    command: str, hostile: Hostile, printed: Callable[[list[str]], str]
) -> None:
    shown = ""
    for line in ["{model} --{model}", *LINES[command]]:
        for run in hostile.runs if "{run}" in line else hostile.runs[:1]:
            words = [word.format(**hostile.values, run=run) for word in line.split()]
            said = printed([command, *words])
            found = ACTS.search(said)
            assert found is None, (words, said[max(found.start() - 300, 0) : found.end() + 100])
            shown += said
    assert "]0;owned" in shown


def test_every_command_is_asked() -> None:
    assert LINES.keys() == COMMANDS.keys()
