"""The plan of a run directory that is made of tau-bench's own result files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from emobench import __version__
from emobench.core.cluster import ClusterProfile
from emobench.core.models import OpenAIModel
from emobench.core.plan import CellBlock, Plan
from emobench.core.sweep import Cell, Fidelity, Matrix, Sweep, Variant
from emobench.tables.compatibility import PUBLISHED
from emobench.tables.published import Described


def published_plan(
    described: Described,
    trials: Mapping[str, int],
    tasks: tuple[int, ...],
    name: str,
    files: Sequence[Path],
    newest: datetime,
) -> Plan:
    """`trials` by assistant; `newest` is when the newest file was last written."""
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
    control = described.variant == "control"
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
        blocks=blocks_of(cells),
        logs="",
    )


def blocks_of(cells: Sequence[Cell]) -> tuple[CellBlock, ...]:
    """Neighbouring cells of one assistant as blocks, named as plans name them."""
    blocks: list[CellBlock] = []
    for cell in cells:
        last = blocks[-1] if blocks else None
        if last is not None and last.assistant == cell.assistant:
            blocks[-1] = last.model_copy(update={"size": last.size + 1})
            continue
        before = sum(block.assistant == cell.assistant for block in blocks)
        name = f"{cell.assistant}_{before + 1}" if before else cell.assistant
        blocks.append(
            CellBlock(name=name, assistant=cell.assistant, first_cell=cell.number, size=1)
        )
    return tuple(blocks)
