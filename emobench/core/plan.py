"""plan.json: what a run directory is a run of. Written by `emobench sweep` only."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationError

from emobench.core.cluster import ClusterProfile, Placement
from emobench.core.errors import InvalidInput, Problem
from emobench.core.fields import Strict
from emobench.core.files import read_json, write_json
from emobench.core.gates import list_unlike_default
from emobench.core.models import RoleModel
from emobench.core.ownership import open_own_run_dir
from emobench.core.run_dir import RunDir
from emobench.core.sweep import Cell, Sweep

SCHEMA_VERSION = 1
USER_SERVER = "user"


class CellBlock(Strict):
    """Neighbouring cells of one assistant: one job array, whose index 0 is `first_cell`."""

    name: str
    """File and job name part: the assistant, with _2, _3, ... for later blocks."""
    assistant: str
    first_cell: int
    size: int

    @property
    def cells(self) -> range:
        return range(self.first_cell, self.first_cell + self.size)


class Plan(Strict):
    """The resolved sweep, the site and the numbered cells."""

    schema_version: int = SCHEMA_VERSION
    emobench: str
    """Version of this package that wrote the plan."""
    benchmark: str
    """Package and version of tau-bench that the results belong to."""
    sweep_file: str
    created: str
    """ISO 8601, UTC."""
    sweep: Sweep
    profile: ClusterProfile
    cells: tuple[Cell, ...]
    blocks: tuple[CellBlock, ...]
    logs: str
    """Absolute path of the log folder."""
    vllm_lacks: tuple[str, ...] = ()
    """Flags that emobench sets and the site's vLLM does not take; optional ones are left out."""
    gates_declared: tuple[str, ...] | None = None
    """Thresholds that stand in the sweep file (`list_declared_gates`); None: an earlier version
    wrote the plan."""
    gates_changed: str = ""
    """When the thresholds were last changed with results on disk, ISO 8601; empty: never."""
    commits: dict[str, str] = Field(default_factory=dict)
    """Commits of the sweep file, emobench and the benchmark, where they have one (`commits`);
    those of earlier submissions that left results on disk come first, with '; ' between."""
    settings_changed: tuple[str, ...] = Field(default=(), exclude=True)
    """What `config.current_plan` took from the sweep file as it is now, in words; not on disk."""


def list_declared_gates(plan: Plan) -> tuple[str, ...]:
    """Return the thresholds that stand in the sweep file: 'smallest_effect', 'fidelity.conveyed'.
    Of an earlier version's plan, those that are no default."""
    if plan.gates_declared is not None:
        return plan.gates_declared
    return list_unlike_default(plan.sweep.gates)


def name_assistant_server(assistant: str) -> str:
    """Name of an assistant's server: of its endpoint file and of its log."""
    return f"assistant_{assistant}"


def get_placement(plan: Plan) -> Placement:
    """Return how servers that need each other start; on one machine each is a job of its own."""
    if plan.profile.one_machine:
        return "apart"
    return plan.sweep.placement or plan.profile.placement


def list_needed_servers(assistant: str) -> tuple[str, str]:
    """Return the servers that a conversation with the assistant needs."""
    return USER_SERVER, name_assistant_server(assistant)


def list_roles(sweep: Sweep) -> dict[str, RoleModel]:
    """Return the model of each role, by its server's name."""
    assistants = {name_assistant_server(name): model for name, model in sweep.assistants.items()}
    return {USER_SERVER: sweep.user, **assistants}


def list_servers(sweep: Sweep) -> dict[str, RoleModel]:
    """Return the servers that this sweep has to start; `openai` endpoints exist already."""
    return {name: model for name, model in list_roles(sweep).items() if model.engine != "openai"}


def name_instance(server: str, replica: int) -> str:
    """Name of a server's replica, counted from 1: user, user+2, user+3, ...

    >>> name_instance("user", 1), name_instance("user", 2)
    ('user', 'user+2')
    """
    return server if replica == 1 else f"{server}+{replica}"


def get_server_name(instance: str) -> str:
    """Return the server that an instance is a replica of; no server's own name has a '+'."""
    return instance.partition("+")[0]


def get_replica_number(instance: str) -> int:
    """Return the number of a replica, from 1."""
    return int(instance.partition("+")[2] or 1)


def list_instances(sweep: Sweep) -> dict[str, RoleModel]:
    """Return every replica of every server that this sweep has to start, by name."""
    return {
        name: model
        for server, model in list_servers(sweep).items()
        for name in list_replicas(server, model)
    }


def list_blocks(plan: Plan, instance: str) -> set[str]:
    """Return the names of the blocks whose cells use the server."""
    server = get_server_name(instance)
    return {block.name for block in plan.blocks if server in list_needed_servers(block.assistant)}


def list_replicas(server: str, model: RoleModel) -> list[str]:
    """Return the instances of one server, the first one first."""
    return [name_instance(server, number) for number in range(1, model.replicas + 1)]


def load_plan(run_dir: RunDir) -> Plan:
    """Read a run directory's plan. Raises InvalidInput where `run_dir` is no run directory."""
    data = read_json(run_dir.plan)
    if data is None:
        if run_dir.plan.exists():
            raise InvalidInput(
                Problem(
                    "this plan cannot be read: it is damaged or cut off",
                    file=str(run_dir.plan),
                    hint="`emobench sweep` with the run's sweep file makes it again",
                )
            )
        raise InvalidInput(
            Problem(
                "no run directory: it has no readable plan.json",
                file=str(run_dir.path),
                hint="give the folder that `emobench sweep` made, e.g. runs/quickstart",
            )
        )
    try:
        if data.get("schema_version", 1) > SCHEMA_VERSION:
            raise InvalidInput(
                Problem(
                    f"a plan of schema {data['schema_version']}; this emobench reads up to "
                    f"{SCHEMA_VERSION}",
                    file=str(run_dir.plan),
                    hint="a newer version wrote it; use that one",
                )
            )
        for cell in data["cells"]:
            cell["tasks"] = data["sweep"]["tasks"][cell["env"]]
        plan = Plan.model_validate(data)
        _check_names(plan)
        return plan
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        why = "it has not the form of a plan"
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            why = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        elif type(error) is ValueError:
            why = str(error)
        raise InvalidInput(
            Problem(
                f"this plan cannot be read: {why}",
                file=str(run_dir.plan),
                hint="it was changed by hand or written by another version of emobench; use that "
                "version, or another --run-dir",
            )
        ) from None


def _check_names(plan: Plan) -> None:
    """Raise ValueError where cells or blocks speak of what the plan does not have."""
    sweep, count = plan.sweep, len(plan.cells)
    for place, cell in enumerate(plan.cells):
        if cell.number != place or cell.variant not in sweep.variants:
            raise ValueError(f"cell {place} has number {cell.number}, variant {cell.variant!r}")
        if cell.assistant not in sweep.assistants:
            raise ValueError(f"cell {place} has the assistant {cell.assistant!r}")
    for block in plan.blocks:
        first, end = block.cells.start, block.cells.stop
        if block.assistant not in sweep.assistants or not 0 <= first <= end <= count:
            raise ValueError(f"block {block.name!r} has cells or an assistant that are not there")


def save_plan(run_dir: RunDir, plan: Plan) -> None:
    """Write plan.json; a cell's tasks are its environment's, and are left out of the file, which
    every array task reads. One that cannot be read is kept as plan.json.damaged."""
    if run_dir.plan.exists() and read_json(run_dir.plan) is None:
        run_dir.plan.replace(run_dir.plan.with_name("plan.json.damaged"))
    write_json(
        run_dir.plan, plan.model_dump(mode="json", exclude={"cells": {"__all__": {"tasks"}}})
    )


def find_run_dir(path: str | None, *, to_act: bool = False) -> RunDir:
    """Return the given run directory, or the newest below runs/. Raises InvalidInput, also where it
    is not this user's own, and the command is `to_act` in it."""
    find = open_own_run_dir if to_act else lambda path: RunDir(Path(path).resolve())
    if path is not None:
        return find(path)
    plans = sorted(Path("runs").glob("*/plan.json"), key=lambda file: file.stat().st_mtime)
    if not plans:
        raise InvalidInput("no run directory below runs/; name one: emobench status runs/NAME")
    return find(plans[-1].parent)
