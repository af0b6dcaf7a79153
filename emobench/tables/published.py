"""tau-bench's own result files as a run directory, so that published conversations stand beside
one's own.

A file is a list of {task_id, reward, info, traj, trial}. It does not say what was run: the caller
does. Three things in it are not what they seem: an exception is written as reward 0 with an empty
traj, the step limit as reward 0 with no reward_info, and every shard of a study says trial 0.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

from emobench import __version__
from emobench.benchmarks.task_sets import TASK_COUNTS
from emobench.benchmarks.transcript import Reply, read_messages
from emobench.config.expand import split_into_blocks
from emobench.core.cluster import ClusterProfile
from emobench.core.errors import InvalidInput, Problem
from emobench.core.models import OpenAIModel
from emobench.core.outcomes import CONTROL, SUCCESS, Outcome
from emobench.core.plan import Plan, save_plan
from emobench.core.run_dir import RunDir
from emobench.core.sweep import (
    AgentStrategy,
    Cell,
    Env,
    Fidelity,
    Matrix,
    Sweep,
    UserStrategy,
    Variant,
)
from emobench.llm.refusals import CONTEXT_WORDS
from emobench.store.episodes import (
    BenchmarkVersion,
    EpisodeError,
    EpisodeRecord,
    LineCounts,
    format_line,
    parse_number,
)
from emobench.tables.compatibility import PUBLISHED

_DECODER = json.JSONDecoder()
_ENTRY = re.compile(r"[^ \t\r\n,\[\]]")
# A key of a result, so no text that is quoted within one: its quotes would be escaped.
_RESULT = re.compile(r'\{\s*"(?:task_id|reward|info|traj|trial)"\s*:')
_TASK_KEY = re.compile(r'"task_id"\s*:')
_POLICY = re.compile(r"\b(retail|airline) agent policy", re.I)
_LAST = re.compile(r"^(?:[\w.]+\.)?(\w+)(?::|$)")
_FRAME = re.compile(r'File "[^"]*tau_\w{1,40}[\\/](agents|envs)[\\/]([\w\\/]{1,200})\.py"')
# From a reply that could not be used: a call whose arguments are no JSON, an action without a
# name or arguments, no content at all.
_UNUSABLE = {"JSONDecodeError", "AssertionError", "ValidationError", "AttributeError"}
_UNSCORED = (Outcome.AGENT_ERROR, Outcome.USER_ERROR, Outcome.CONTEXT_OVERFLOW)


@dataclass(frozen=True)
class Described:
    """What result files do not say about themselves."""

    env: Env
    variant: str
    assistants: tuple[str, ...]
    """One a file."""
    agent_strategy: AgentStrategy = "tool-calling"
    user_model: str = "unknown"
    user_strategy: UserStrategy = "llm"
    max_steps: int = 30
    tasks: tuple[int, ...] | None = None
    """None: those in the files."""


@dataclass(frozen=True)
class Found:
    """One result of a file, without its transcript."""

    task: int
    trial: int
    place: int
    """Of its first character in the file's text."""
    copy: tuple[str, int]
    """Its content's digest, and how many like it came before in the file."""
    has_messages: bool
    """False where stock wrote an exception."""


@dataclass(frozen=True)
class FileAccount:
    """What one file holds."""

    path: Path
    found: list[Found]
    left_out: LineCounts
    """damaged: entries that are no results; torn: the file was cut off, or its last entry cannot
    be read; foreign: on tasks that were not asked for; repeated: copies of an earlier result."""

    @property
    def episodes(self) -> int:
        return len(self.found) - self.left_out.repeated


def convert(
    files: Sequence[Path], described: Described, folder: Path, name: str
) -> list[FileAccount]:
    """Write `folder` as a run directory and return an account of each file.

    Raises InvalidInput where a file is absent, is no results file or belongs to another
    environment; OSError where the disk refuses.
    """
    accounts = [_survey(path, described) for path in files]
    numbers = number_trials(accounts, described.assistants)
    tasks = described.tasks or tuple(sorted({found.task for a in accounts for found in a.found}))
    trials = Counter[str]()
    for assistant, given in zip(described.assistants, numbers, strict=True):
        trials[assistant] = max([trials[assistant], *(n for n in given if n is not None)])
    stamp = max(path.stat().st_mtime for path in files)
    run_dir = RunDir(folder)
    plan = _build_plan(
        described, dict(trials), tasks, name, files, datetime.fromtimestamp(stamp, UTC)
    )
    folder.mkdir(parents=True)
    cells = {(cell.assistant, cell.trial): cell for cell in plan.cells}
    for account, assistant, given in zip(accounts, described.assistants, numbers, strict=True):
        text = _read(account.path)
        for found, trial in zip(account.found, given, strict=True):
            if trial is None:
                continue
            cell = cells[assistant, trial]
            paths = run_dir.cell(cell.number)
            paths.folder.mkdir(parents=True, exist_ok=True)
            result, _ = _DECODER.raw_decode(text, found.place)
            with paths.episodes.open("ab") as stream:
                record = build_record(result, described, assistant, trial, cell.number, found)
                stream.write(format_line(record) + b"\n")
    save_plan(run_dir, plan)
    return [
        replace(account, left_out=replace(account.left_out, repeated=given.count(None)))
        for account, given in zip(accounts, numbers, strict=True)
    ]


def number_trials(
    accounts: Sequence[FileAccount], assistants: Sequence[str]
) -> list[list[int | None]]:
    """Return the trial of each result, from 1, on from file to file of one assistant; None for a
    copy of an earlier result.

    A file whose results all differ in (task, trial) keeps its trials. In any other (merged shards
    all say trial 0) the trials of a task are told apart by their order.
    """
    copies = _find_copies(accounts, assistants)
    used: Counter[str] = Counter()
    numbers: list[list[int | None]] = []
    for account, assistant, copied in zip(accounts, assistants, copies, strict=True):
        own = [found for found, copy in zip(account.found, copied, strict=True) if not copy]
        ranks = {trial: rank for rank, trial in enumerate(sorted({f.trial for f in own}), 1)}
        distinct = len({(found.task, found.trial) for found in own}) == len(own)
        before: Counter[int] = Counter()
        given: list[int | None] = []
        for found, copy in zip(account.found, copied, strict=True):
            before[found.task] += not copy
            rank = ranks.get(found.trial, 0) if distinct else before[found.task]
            given.append(None if copy else used[assistant] + rank)
        used[assistant] = max([used[assistant], *(n for n in given if n is not None)])
        numbers.append(given)
    return numbers


def _find_copies(accounts: Sequence[FileAccount], assistants: Sequence[str]) -> list[list[bool]]:
    """Return whether each result is a copy of an earlier one of its assistant.

    Conversations that are the same word for word, with the same ids of calls, are one. Exceptions
    are alike in several trials too: of those that are, as many count as the merged shards can hold,
    by the number of conversations that they hold on other tasks.
    """
    pooled = [
        [(assistant, found) for found in account.found]
        for account, assistant in zip(accounts, assistants, strict=True)
    ]
    conversations: defaultdict[tuple[str, int, int], set[str]] = defaultdict(set)
    for assistant, found in chain(*pooled):
        if found.has_messages:
            conversations[assistant, found.trial, found.task].add(found.copy[0])
    shards: Counter[tuple[str, int]] = Counter()
    for (assistant, trial, _), held in conversations.items():
        shards[assistant, trial] = max(shards[assistant, trial], len(held))
    met: Counter[tuple[str, str]] = Counter()

    def is_copy(assistant: str, found: Found) -> bool:
        met[assistant, found.copy[0]] += 1
        held = len(conversations.get((assistant, found.trial, found.task), ()))
        most = 1 if found.has_messages else max(1, shards[assistant, found.trial] - held)
        return met[assistant, found.copy[0]] > most

    return [[is_copy(assistant, found) for assistant, found in file] for file in pooled]


def build_record(
    result: dict[str, Any],
    described: Described,
    assistant: str,
    trial: int,
    cell: int,
    found: Found,
) -> EpisodeRecord:
    """Return a result as a line of episodes.jsonl; what it does not say is null."""
    outcome, reward, error = classify_result(result)
    messages = read_messages(result["traj"], described.agent_strategy)
    said = [more for *_, more in messages if isinstance(more, Reply)]
    calls = sum(bool(reply.calls) for reply in said)
    control = described.variant == CONTROL
    identity = [assistant, described.env, described.agent_strategy, described.variant, *found.copy]
    return EpisodeRecord(
        episode=hashlib.sha256(json.dumps(identity).encode()).hexdigest(),
        cell=cell,
        env=described.env,
        agent_strategy=described.agent_strategy,
        variant=described.variant,
        assistant=assistant,
        trial=trial,
        task_id=result["task_id"],
        reward=reward,
        info=result["info"],
        traj=result["traj"],
        outcome=outcome,
        error=error,
        steps=len(said),
        turns=len(said) - calls,
        tool_calls=calls,
        variant_sha256=hashlib.sha256(b"").hexdigest() if control else None,
        user_strategy=described.user_strategy,
        benchmark=BenchmarkVersion(*PUBLISHED.split()),
    )


def classify_result(result: dict[str, Any]) -> tuple[Outcome, float | None, EpisodeError | None]:
    """Return (outcome, reward, error) of a result, told apart as runs of emobench do."""
    info, reward = result["info"], float(result["reward"])
    if "error" in info and info.get("outcome") in _UNSCORED:
        # Of our own results.json, which says it.
        error = EpisodeError(str(info.get("error_type") or ""), str(info["error"])[:2000])
        return Outcome(info["outcome"]), 0.0, error
    if "error" in info and not result["traj"]:
        outcome, kind = classify_error(str(info["error"]), str(info.get("traceback") or ""))
        error = EpisodeError(kind, str(info["error"])[:2000])
        return outcome, None if outcome is Outcome.INFRA_ERROR else 0.0, error
    if reward >= SUCCESS:
        return Outcome.SOLVED, reward, None
    # tau-bench scores a conversation where it ends; one that did not end ran into the step limit.
    unscored = "reward_info" in info and info["reward_info"] is None
    return (Outcome.MAX_STEPS if unscored else Outcome.FAILED), reward, None


def _survey(path: Path, described: Described) -> FileAccount:
    """Look through a result file. Raises InvalidInput where the file is absent, is no results file
    or holds no result that was asked for."""
    text = _read(path)
    found: list[Found] = []
    copies: Counter[str] = Counter()
    foreign = damaged = torn = place = 0
    while (begun := _ENTRY.search(text, place)) is not None:
        start = begun.start()
        result: Any = None
        with suppress(ValueError, RecursionError):
            result, place = _DECODER.raw_decode(text, start)
        if not _is_result(result):
            place = _find_next_result(text, start)
            damaged += max(1, len(_TASK_KEY.findall(text, start, place)))
            torn = int(result is None and place == len(text))
        elif described.tasks is not None and result["task_id"] not in described.tasks:
            foreign += 1
        else:
            check_env(path, result, described.env)
            content = json.dumps(result, sort_keys=True).encode("utf-8", "replace")
            digest = hashlib.sha256(content).hexdigest()
            task, trial, copy = result["task_id"], result["trial"], (digest, copies[digest])
            found.append(Found(task, trial, start, copy, bool(result["traj"])))
            copies[digest] += 1
    damaged -= torn
    # A list that nobody closed was cut off, also where that was between two results.
    torn |= not text.endswith("]")
    if not found:
        if damaged and not foreign:
            raise make_no_results_error(path)
        raise InvalidInput(
            Problem(
                "no whole result in it" + (" on these tasks" if foreign else ""),
                file=str(path),
                hint="the file is empty, or was cut off within its first result",
            )
        )
    return FileAccount(path, found, LineCounts(damaged=damaged, torn=torn, foreign=foreign))


def _read(path: Path) -> str:
    """Return the text of a JSON list. Raises InvalidInput where the file is absent or none."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace").strip("\ufeff \t\r\n")
    except OSError as error:
        raise InvalidInput(Problem(f"cannot be read: {error.strerror}", file=str(path))) from None
    if not text.startswith("["):
        raise make_no_results_error(path)
    return text


def _find_next_result(text: str, start: int) -> int:
    """Return where the next whole result begins after a damaged one at `start`; the end if there is
    none."""
    for match in _RESULT.finditer(text, start + 1):
        with suppress(ValueError, RecursionError):
            if _is_result(_DECODER.raw_decode(text, match.start())[0]):
                return match.start()
    return len(text)


def _build_plan(
    described: Described,
    trials: Mapping[str, int],
    tasks: tuple[int, ...],
    name: str,
    files: Sequence[Path],
    newest: datetime,
) -> Plan:
    """Return the plan. `trials` are by assistant; `newest` is when the newest file was last
    written."""
    cells = [
        Cell(
            number=0,
            assistant=assistant,
            env=described.env,
            agent_strategy=described.agent_strategy,
            variant=described.variant,
            trial=trial,
            tasks=tasks,
        )
        for assistant, count in trials.items()
        for trial in range(1, count + 1)
    ]
    cells = [cell.model_copy(update={"number": number}) for number, cell in enumerate(cells)]
    control = described.variant == CONTROL
    sweep = Sweep(
        name=name,
        description="tau-bench's own results: " + ", ".join(path.name for path in files),
        trials=max(trials.values()),
        user_strategy=described.user_strategy,
        max_steps=described.max_steps,
        matrix=Matrix(
            env=(described.env,),
            agent_strategy=(described.agent_strategy,),
            variant=(described.variant,),
            assistant=tuple(trials),
        ),
        tasks={described.env: tasks},
        user=OpenAIModel(model=described.user_model),
        assistants={assistant: OpenAIModel(model=assistant) for assistant in trials},
        variants={
            described.variant: Variant(
                name=described.variant,
                version="unknown",
                text="",
                # Control is the stock user, without a suffix; another's text is not known.
                sha256=hashlib.sha256(b"").hexdigest() if control else "",
            )
        },
        fidelity=Fidelity.stock(),
    )
    return Plan(
        emobench=__version__,
        benchmark=PUBLISHED,
        sweep_file="",
        created=newest.isoformat(timespec="seconds"),
        sweep=sweep,
        profile=ClusterProfile(name="local", scheduler="local"),
        cells=tuple(cells),
        blocks=tuple(split_into_blocks(cells, len(cells))),
        logs="",
    )


def check_env(path: Path, result: dict[str, Any], env: Env) -> None:
    task, count = result["task_id"], TASK_COUNTS[env]
    first = result["traj"][0] if result["traj"] else {}
    policy = _POLICY.search(str(first.get("content"))[:2000]) if isinstance(first, dict) else None
    if policy is not None and policy[1].lower() != env:
        raise InvalidInput(
            Problem(
                f"task {task} is a conversation of {policy[1].lower()}, not of {env}",
                file=str(path),
                key="--env",
                hint=f"give --env {policy[1].lower()}",
            )
        )
    if not 0 <= task < count:
        raise InvalidInput(
            Problem(
                f"task {task}: {env} has the test tasks 0 to {count - 1}",
                file=str(path),
                key="--env",
                hint=f"is it another environment's file? --tasks 0-{count - 1} leaves the rest out",
            )
        )


def _is_result(element: object) -> bool:
    if not isinstance(element, dict):
        return False
    task, trial, reward = (element.get(key) for key in ("task_id", "trial", "reward"))
    return (
        type(task) is int
        and type(trial) is int
        and parse_number(reward) is not None
        and isinstance(element.get("info"), dict)
        and isinstance(element.get("traj"), list)
    )


def make_no_results_error(path: Path) -> InvalidInput:
    return InvalidInput(
        Problem(
            "no results file of tau-bench",
            file=str(path),
            allowed="a JSON list of {task_id, reward, info, traj, trial}, or a run directory",
        )
    )


def classify_error(message: str, traceback: str) -> tuple[Outcome, str]:
    """Return (outcome, error type) of what stock wrote into info.error and info.traceback.

    The boundary is that of our own runs (docs/architecture.md): what the agent or the user wrote
    is data, what the infrastructure or the harness did is missing. What cannot be told is an
    infrastructure error, so missing: never a silent failure of the agent. Its type stays in the
    table.
    """
    lines = [line for line in traceback.strip().splitlines() if line.strip()]
    named = _find_exception(lines)
    kind = f"stock:{named or 'unknown'}"
    if named == "ContextWindowExceededError" or CONTEXT_WORDS.search(message):
        return Outcome.CONTEXT_OVERFLOW, kind
    frames = _FRAME.findall(traceback)
    nothing = named == "TypeError" and "NoneType" in message and "iterable" in message
    if frames and (named in _UNUSABLE or nothing):
        folder, module = frames[-1]
        if folder == "agents":
            return Outcome.AGENT_ERROR, kind
        if module == "user" or (module == "base" and nothing):
            return Outcome.USER_ERROR, kind
    return Outcome.INFRA_ERROR, kind


def _find_exception(lines: list[str]) -> str:
    """Return the name of the exception that ended a traceback: on the last line that is not
    indented and looks like one (messages may have several lines)."""
    for line in reversed(lines):
        match = _LAST.match(line)
        if match and match[1].endswith(("Error", "Exception", "Timeout", "Interrupt")):
            return match[1]
    return ""
