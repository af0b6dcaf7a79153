"""Rendered scripts on a real cluster: submission, refusal, the queue's answers, and the end."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from emobench.config.templates import find_shipped_templates
from emobench.core.cluster import ClusterProfile, JobResources, ServerResources
from emobench.core.errors import EmobenchError, InvalidInput, SubmissionRefused
from emobench.core.job_id import get_array_id
from emobench.core.models import OpenAIModel
from emobench.core.plan import Plan, save_plan
from emobench.core.run_dir import RunDir
from emobench.runs.held_jobs import find_held
from emobench.scheduler.interface import Phase
from emobench.scheduler.render import render
from emobench.scheduler.schedulers import Schedulers
from emobench.scheduler.slurm import SlurmScheduler
from emobench.scheduler.slurm_commands import ask_slurm_states, cancel_slurm
from emobench.store.endpoints import read_endpoint
from emobench.store.jobs import JobRecord, read_jobs
from tests.cluster.lab import Lab
from tests.support.plans import make_plan, scripted
from tests.support.processes import until
from tests.support.runs import finish_cell

SLURM = SlurmScheduler()
SMALL = {"cpus": 1, "mem": "200M", "time": "10"}
PROFILE = ClusterProfile(
    name="lab",
    scheduler="slurm",
    user_server=ServerResources(partition="cuda", gres="gpu:h100", **SMALL),  # type: ignore[arg-type]
    assistant_server=ServerResources(partition="gaudi", gres="hpu:gaudi2", **SMALL),  # type: ignore[arg-type]
    array=JobResources(partition="cuda", **SMALL),  # type: ignore[arg-type]
    python=sys.executable,
    throttle=2,
    server_deadline_min=1,
)
PLACEMENTS = pytest.mark.parametrize("placement", ["hetjob", "apart"])


class Study:
    """A run directory of two assistants with four cells each, whose jobs do `body`."""

    def __init__(self, folder: Path, lab: Lab, profile: ClusterProfile = PROFILE) -> None:
        self.lab = lab
        # Slurm and the shell meet a path with everything in it.
        self.folder = folder / "my 'runs' $(touch pwned) 100% Ü"
        self.run_dir = RunDir(self.folder / "study")
        self.logs = self.folder / "logs"
        for path in (self.run_dir.scripts, self.run_dir.endpoints, self.logs):
            path.mkdir(parents=True)
        model = scripted(accelerators=1)
        self.plan: Plan = make_plan(profile, self.logs, model, {"a": model, "b": model})
        self.write()

    def place(self, placement: str) -> None:
        """Have servers start as this placement says, in scripts that are written from now on."""
        profile = self.plan.profile.model_copy(update={"placement": placement})
        self.plan = self.plan.model_copy(update={"profile": profile})

    def write(self, servers: str | None = None, arrays: str | None = None) -> None:
        """Write the scripts; the given text replaces what follows their header."""
        save_plan(self.run_dir, self.plan)
        for name, text in render(self.plan, self.run_dir, [find_shipped_templates()]).items():
            body = arrays if name.startswith("tau_array") else servers
            if body is not None and name.endswith(".sbatch"):
                text = re.match(r"(#.*\n)+", text)[0] + body + "\n"  # type: ignore[index]
            (self.run_dir.scripts / name).write_text(text)

    def submit(
        self, cells: dict[str, list[int]], *servers: str, plan: Plan | None = None
    ) -> list[JobRecord]:
        return SLURM.submit(plan or self.plan, self.run_dir, cells, servers)


@pytest.fixture
def study(tmp_path: Path, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Iterator[Study]:
    for name, value in lab.env.items():
        monkeypatch.setenv(name, value)
    yield Study(tmp_path, lab)
    assert not list(tmp_path.rglob("pwned"))


@PLACEMENTS
def test_servers_go_first_and_arrays_wait_for_their_own(study: Study, placement: str) -> None:
    study.place(placement)
    study.write(servers="sleep 600", arrays="sleep 600")
    study.lab.run("scontrol", "update", "nodename=cuda[1-2],gaudi[1-2]", "state=drain", "reason=t")
    seen: list[JobRecord] = []
    jobs = SLURM.submit(
        study.plan,
        study.run_dir,
        {"a": [0, 1, 3], "b": [5]},
        ["user", "assistant_a", "assistant_b"],
        seen.append,
    )
    assert [job.name for job in jobs] == ["user", "assistant_a", "assistant_b", "a", "b"]
    assert jobs == seen == read_jobs(study.run_dir)
    user, first, second, array, other = (job.job_id for job in jobs)
    lines = study.lab.ask("squeue", "-h", "-o", "%F|%i|%j|%E|%k").splitlines()
    rows = {row[0]: row[1:] for row in (line.split("|") for line in lines)}
    run = study.run_dir.identity
    shown = f"{user}+0" if placement == "hetjob" else user
    said = f"emobench {run} server user: study, scripted"
    assert rows[user] == [shown, "user-study", "(null)", said]
    shown, name, dependencies, comment = rows[array]
    assert (shown, name) == (f"{array}_[0-1,3%2]", "run-a-study")
    assert comment == f"emobench {run} array a: study, cells 0-3"
    assert set(re.findall(r"after:(\d+)", dependencies)) == {user, first}
    assert rows[other][0] == f"{other}_[1%2]"
    assert set(re.findall(r"after:(\d+)", rows[other][2])) == {user, second}
    states = SLURM.ask_states(jobs)
    tasks = [f"{array}_{index}" for index in (0, 1, 3)]
    assert set(states) == {user, first, second, *tasks, f"{other}_1"}
    assert {state.state for state in states.values()} == {"PENDING"}
    assert states[tasks[0]].reason
    SLURM.cancel(jobs)
    assert not SLURM.find_live(jobs)


@PLACEMENTS
def test_jobs_that_nobody_recorded_are_found(study: Study, placement: str) -> None:
    study.place(placement)
    study.write(servers=': "$@"; sleep 600', arrays="sleep 600")
    study.lab.run("scontrol", "update", "nodename=cuda[1-2],gaudi[1-2]", "state=drain", "reason=t")
    submitted = study.submit({"a": [0, 1, 3]}, "user", "assistant_b", "user+2")
    submitted += SLURM.submit_successors(study.run_dir, {"user+2": "77"})
    other = study.run_dir.path.with_name("other")
    study.lab.run("sbatch", "--comment=mine", "--wrap=sleep 600")
    by_hand = study.lab.run("sbatch", study.run_dir.scripts / "assistant_vllm_a.sbatch").stdout
    found = SLURM.find_jobs(study.plan, study.run_dir)
    assert [replace(job, submitted="") for job in found[:-1]] == [
        replace(job, submitted="") for job in submitted
    ]
    assert (found[-1].name, found[-1].job_id) == ("assistant_a", by_hand.split()[-1])
    assert abs((found[-1].submitted_at or 0) - (submitted[0].submitted_at or 0)) < 60
    assert SLURM.find_jobs(study.plan, RunDir(other)) == []
    ours = Schedulers(SLURM)
    missing = ours.find_unrecorded(study.plan, study.run_dir, read_jobs(study.run_dir))
    assert missing == found[-2:]
    study.lab.run("scancel", "--me")
    study.lab.wait_jobs(*(job.job_id for job in found))
    assert SLURM.find_jobs(study.plan, study.run_dir) == []


def test_slurmctlds_own_state_holds_no_key(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps the environment and the script of each batch job, on its disk."""
    key = "sk-in-nobodys-state-0123456789"
    monkeypatch.setenv("THE_HOSTED_KEY", key)
    monkeypatch.setenv("TRAVELS", "as-sites-expect")
    hosted = OpenAIModel(
        model="m", base_url="https://models.example/v1", api_key_env="THE_HOSTED_KEY"
    )
    study.plan = make_plan(PROFILE, study.logs, scripted(accelerators=1), {"a": hosted})
    study.write(servers=': "$@"; sleep 600', arrays="sleep 600")
    study.lab.run("scontrol", "update", "nodename=cuda[1-2],gaudi[1-2]", "state=drain", "reason=t")
    jobs = study.submit({"a": [0]}, "user")
    jobs += SLURM.submit_successors(study.run_dir, {"user": jobs[0].job_id})

    def kept() -> list[bytes]:
        state = study.lab.folder / "state"
        return [path.read_bytes() for path in state.rglob("*") if path.is_file()]

    until(lambda: sum(b"as-sites-expect" in text for text in kept()) == len(jobs), "its state")
    assert not [text for text in kept() if key.encode() in text]
    SLURM.cancel(jobs)


def test_running_servers_are_no_dependency(study: Study) -> None:
    study.write(servers="sleep 600", arrays="true")
    servers = study.submit({}, "user", "assistant_a")
    until(
        lambda: {state.state for state in SLURM.ask_states(servers).values()} == {"RUNNING"},
        "the servers to run",
    )
    study.submit({"a": [2]})
    array = read_jobs(study.run_dir)[-1]
    shown = study.lab.ask("scontrol", "show", "job", array.job_id)
    assert "Dependency=(null)" in shown
    study.lab.wait_jobs(array.job_id)
    SLURM.cancel(servers)


def test_ended_jobs_say_how(study: Study) -> None:
    study.write(arrays="exit $SLURM_ARRAY_TASK_ID")
    (job,) = study.submit({"a": [0, 1, 3]})
    array = job.job_id

    def ended() -> bool:
        # Accounting lags; until then the exit code is not known.
        return all(state.exit_code and not state.live for state in SLURM.ask_states([job]).values())

    study.lab.wait_jobs(array)
    until(ended, "accounting", poll=0.2)
    found = {key: (value.state, value.exit_code) for key, value in SLURM.ask_states([job]).items()}
    assert found == {
        f"{array}_0": ("COMPLETED", "0:0"),
        f"{array}_1": ("FAILED", "1:0"),
        f"{array}_3": ("FAILED", "3:0"),
    }
    assert (study.logs / f"run_{array}_0.log").is_file()


def test_a_held_job_says_so_until_it_is_released(study: Study) -> None:
    go = study.folder / "go"
    study.write(servers=f"while [ ! -e {shlex.quote(str(go))} ]; do sleep 0.1; done")
    study.lab.run("scontrol", "update", "nodename=cuda[1-2]", "state=drain", "reason=t")
    (job,) = study.submit({}, "user")
    study.lab.run("scontrol", "hold", job.job_id)
    until(lambda: SLURM.ask_states([job])[job.job_id].is_held, "the job to be held")
    (held,) = find_held([job], SLURM.ask_states([job]))
    study.lab.run(*held.command.split())
    until(lambda: not SLURM.ask_states([job])[job.job_id].is_held, "the job to be released")
    study.lab.resume_nodes()
    until(lambda: SLURM.ask_states([job])[job.job_id].phase is Phase.STARTED, "the job to start")
    study.lab.run("scontrol", "requeuehold", job.job_id)
    until(lambda: SLURM.ask_states([job])[job.job_id].is_held, "the job to be held again")
    (held,) = find_held([job], SLURM.ask_states([job]))
    study.lab.run(*held.command.split())
    go.touch()
    assert study.lab.wait_jobs(job.job_id) == {job.job_id: "COMPLETED"}


def test_a_site_without_accounting_or_without_an_answer(
    study: Study, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "bin").mkdir()
    failing = tmp_path / "bin" / "sacct"
    failing.write_text("#!/bin/sh\necho 'Slurm accounting storage is disabled' >&2\nexit 1\n")
    failing.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    assert ask_slurm_states(["99999"])["99999"].state == "GONE"
    assert ask_slurm_states(["99998", "99999"])["99999"].state == "GONE"
    study.write(servers="false")
    (job,) = study.submit({}, "user")
    study.lab.wait_jobs(job.job_id)
    assert SLURM.ask_states([job])[job.job_id].state == "FAILED"
    failing.rename(failing.with_name("squeue"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert SLURM.ask_states([job])[job.job_id].state == "UNKNOWN"


def test_a_refused_array_leaves_what_works_and_the_next_call_completes_it(study: Study) -> None:
    study.write(servers="sleep 600", arrays="sleep 600")
    script = study.run_dir.scripts / "tau_array_b.sbatch"
    good = script.read_text()
    script.write_text(good.replace("--partition=cuda", "--partition=nowhere"))
    with pytest.raises(SubmissionRefused) as caught:
        study.submit({"a": [0], "b": [4]}, "user", "assistant_a", "assistant_b")
    text = str(caught.value)
    assert "Invalid partition name specified" in text
    assert "`sinfo -s` lists them" in text
    assert "taken back: assistant_b" in text
    kept = read_jobs(study.run_dir)
    assert [job.name for job in kept] == ["user", "assistant_a", "a"]
    assert {get_array_id(job) for job in study.lab.queue()} == {job.job_id for job in kept}
    script.write_text(good)
    study.submit({"b": [4]}, "assistant_b")
    assert len(read_jobs(study.run_dir)) == 5
    SLURM.cancel(read_jobs(study.run_dir))


@pytest.mark.parametrize(
    ("script", "change", "said", "advice"),
    [
        ("servers_a", ("hpu:gaudi2:1", "hpu:gaudi9:1"), "", "check cpus, mem and gres"),
        ("tau_array_a", ("--partition=cuda", "--partition=x"), "partition", "sinfo -s"),
        ("tau_array_a", ("--mem=200M", "--mem=900G"), "Memory", "check cpus, mem and gres"),
        ("user_vllm", ("gpu:h100:1", "gpu:a100:1"), "", "check cpus, mem and gres"),
        (
            "assistant_vllm_a",
            ("--ntasks=1", "--ntasks=1\n#SBATCH --account=x"),
            "account",
            "account",
        ),
    ],
)
def test_a_refusal_leaves_no_server_alone(
    script: str, change: tuple[str, str], said: str, advice: str, study: Study
) -> None:
    if "_vllm" in script:
        study.place("apart")
    study.write(servers="sleep 600", arrays="sleep 600")
    path = study.run_dir.scripts / f"{script}.sbatch"
    right = path.read_text()
    path.write_text(right.replace(*change))
    assert path.read_text() != right
    with pytest.raises(SubmissionRefused, match=f"(?s)sbatch refused .*{said}.*{advice}"):
        study.submit({"a": [0, 1]}, "user", "assistant_a")
    assert read_jobs(study.run_dir) == []
    until(lambda: not study.lab.queue(), "an empty queue", poll=0.1)


def test_a_refusal_leaves_a_pair_of_which_one_is_needed(study: Study) -> None:
    """Slurm cancels no part of a heterogeneous job that has not begun."""
    study.write(servers="sleep 600", arrays="sleep 600")
    study.lab.run("scontrol", "update", "nodename=cuda[1-2],gaudi[1-2]", "state=drain", "reason=t")
    study.submit({"b": [4]}, "assistant_b")
    script = study.run_dir.scripts / "tau_array_a.sbatch"
    script.write_text(script.read_text().replace("--partition=cuda", "--partition=nowhere"))
    with pytest.raises(SubmissionRefused) as caught:
        study.submit({"a": [0]}, "user", "assistant_a")
    assert "taken back" not in str(caught.value)
    jobs = read_jobs(study.run_dir)
    assert [job.name for job in jobs] == ["assistant_b", "b", "user", "assistant_a"]
    SLURM.cancel(jobs)


def test_a_full_array_limit_and_a_controller_that_is_gone_are_refusals(
    study: Study,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    block = study.plan.blocks[0].model_copy(update={"size": 5000})
    plan = study.plan.model_copy(update={"blocks": (block,)})
    with pytest.raises(SubmissionRefused, match=r"(?s)Invalid job array.*max_array_size"):
        study.submit({"a": [4000]}, plan=plan)
    assert SLURM.find_max_array_size(study.plan.profile) == 1001
    gone = "#!/bin/sh\necho 'Unable to contact slurm controller (connect failure)' >&2\nexit 1\n"
    (tmp_path / "bin").mkdir()
    for name in ("sbatch", "scontrol", "scancel"):
        (tmp_path / "bin" / name).write_text(gone)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    capfd.readouterr()
    with pytest.raises(SubmissionRefused, match=r"(?s)connect failure.*controller does not answer"):
        study.submit({}, "user")
    with pytest.raises(InvalidInput, match=r"MaxArraySize: .*connect failure"):
        SLURM.find_max_array_size(study.plan.profile)
    with pytest.raises(EmobenchError, match="scancel failed"):
        cancel_slurm(["1"])
    assert capfd.readouterr() == ("", "")


def test_the_throttle_holds(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    events = study.logs / "events"
    # By the environment: the path has quotes of every kind.
    monkeypatch.setenv("EVENTS", str(events))
    study.write(arrays='echo start >>"$EVENTS"; sleep 0.5; echo end >>"$EVENTS"')
    (job,) = study.submit({"a": [0, 1, 2, 3]})
    study.lab.wait_jobs(job.job_id)
    running = most = 0
    for event in events.read_text().split():
        running += 1 if event == "start" else -1
        most = max(most, running)
    assert most == 2


def test_a_single_run_by_hand_takes_one_task_and_cancels_the_rest(study: Study) -> None:
    script = study.run_dir.scripts / "tau_array_a.sbatch"
    recorder = study.folder / "python"
    recorder.write_text(f'#!/bin/bash\necho "$@" >>"{study.logs}/ran"\n'.replace("$(", "\\$("))
    recorder.chmod(0o755)
    profile = study.plan.profile.model_copy(update={"python": str(recorder), "throttle": 1})
    study.plan = study.plan.model_copy(update={"profile": profile})
    study.write()
    said = study.lab.run("sbatch", script, "retail", "react", "Qwen/Qwen3-4B", "1").stdout
    study.lab.wait_jobs(said.split()[-1])
    ran = (study.logs / "ran").read_text().splitlines()
    assert len(ran) == 1
    assert ran[0].endswith("--model Qwen/Qwen3-4B --trial 1 --variant control")


def test_a_server_announces_itself_and_leaves_when_its_cells_are_done(study: Study) -> None:
    (job,) = study.submit({}, "assistant_a")

    def state() -> str:
        endpoint = read_endpoint(study.run_dir, "assistant_a")
        return endpoint.state if endpoint else ""

    until(lambda: state() == "ready", "the server to be ready")
    endpoint = read_endpoint(study.run_dir, "assistant_a")
    assert endpoint is not None
    assert endpoint.job_id == job.job_id
    log = study.logs / f"assistant_vllm_{job.job_id}.out"
    until(lambda: "server assistant_a is ready" in log.read_text(), "its line in the log")
    for cell in study.plan.blocks[0].cells:
        finish_cell(study.run_dir, cell)
    assert study.lab.wait_jobs(job.job_id) == {job.job_id: "COMPLETED"}
    assert state() == "left"


def test_a_cancelled_server_leaves_in_order(study: Study) -> None:
    (job,) = study.submit({}, "user")
    log = study.logs / f"user_vllm_{job.job_id}.out"
    until(lambda: log.is_file() and "is ready" in log.read_text(), "the server to be ready")
    SLURM.cancel([job])
    endpoint = read_endpoint(study.run_dir, "user")
    assert endpoint is not None
    assert (endpoint.state, endpoint.reason) == ("left", "received SIGTERM")
