"""Plans for these tests, built without a sweep file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from emobench.core.cluster import ClusterProfile, JobResources, ServerResources
from emobench.core.models import RoleModel, ScriptedModel, VllmModel
from emobench.core.plan import CellBlock, Plan
from emobench.core.sweep import Cell, Matrix, Sweep, Variant

CONTROL = Variant(name="control", version="1", text="", sha256="0" * 64)
FRUSTRATION = Variant(name="frustration", version="1", text="You are fed up.", sha256="1" * 64)

CUDA = ClusterProfile(
    name="cuda",
    scheduler="slurm",
    accelerator="cuda",
    user_server=ServerResources(
        partition="gpu", account="lab", gres="gpu:h100", cpus=8, mem="64G", time="1-00:00:00"
    ),
    assistant_server=ServerResources(
        partition="gpu",
        qos="normal",
        constraint="h100",
        gres="gpu:h100",
        mem="64G",
        time="12:00:00",
    ),
    array=JobResources(partition="cpu", mem="4G", time="04:00:00", sbatch=("--mail-type=FAIL",)),
    python="/opt/emobench/bin/python",
    client_setup=("module load python/3.11",),
    server_setup=("module load cuda/12.8", "source /opt/vllm/bin/activate"),
    server_env={"HF_HOME": "/scratch/hf cache", "VLLM_LOGGING_LEVEL": "INFO"},
)
GAUDI = ClusterProfile(
    name="gaudi",
    scheduler="slurm",
    accelerator="gaudi",
    user_server=ServerResources(partition="gaudi", gres="gpu:hl225", cpus=16, mem="96G"),
    assistant_server=ServerResources(partition="gaudi", gres="gpu:hl225", cpus=16, mem="96G"),
    array=JobResources(partition="general", mem="4G"),
    python="/opt/emobench/bin/python",
    server_setup=("module load mamba/latest", "source activate gaudi-pytorch-vllm"),
    server_env={"PT_HPU_LAZY_MODE": "0"},
)
USER = VllmModel(model="Qwen/Qwen3-32B", tensor_parallel=2, reasoning_parser="qwen3")
ASSISTANT = VllmModel(
    model="Qwen/Qwen3-4B-Instruct-2507",
    revision="main",
    dtype="bfloat16",
    gpu_memory_utilization=0.9,
    tool_call_parser="hermes",
    extra_args=("--enable-prefix-caching",),
)


def make_plan(
    profile: ClusterProfile,
    logs: Path | str,
    user: RoleModel = USER,
    assistants: dict[str, RoleModel] | None = None,
    trials: int = 2,
    block_size: int = 1000,
    name: str = "study",
    **sweep: Any,
) -> Plan:
    """Two variants times `trials` cells of retail tool-calling for each assistant."""
    models: dict[str, RoleModel] = {"qwen3-4b": ASSISTANT} if assistants is None else assistants
    cells = [
        Cell(
            number=number,
            assistant=assistant,
            env="retail",
            agent_strategy="tool-calling",
            variant=variant,
            trial=trial,
            tasks=(0, 1),
        )
        for number, (assistant, trial, variant) in enumerate(
            (assistant, trial, variant)
            for assistant in models
            for trial in range(1, trials + 1)
            for variant in ("control", "frustration")
        )
    ]
    blocks = []
    for position, assistant in enumerate(models):
        for part, start in enumerate(range(0, 2 * trials, block_size)):
            blocks.append(
                CellBlock(
                    name=assistant if part == 0 else f"{assistant}_{part + 1}",
                    assistant=assistant,
                    first_cell=position * 2 * trials + start,
                    size=min(block_size, 2 * trials - start),
                )
            )
    return Plan(
        emobench="0.1.0",
        benchmark="tau_trait 0.1.1",
        sweep_file="study.yaml",
        created="2026-01-01T00:00:00+00:00",
        sweep=Sweep(
            name=name,
            matrix=Matrix(
                env=("retail",),
                agent_strategy=("tool-calling",),
                variant=("control", "frustration"),
                assistant=tuple(models),
            ),
            trials=trials,
            tasks={"retail": (0, 1)},
            user=user,
            assistants=models,
            variants={"control": CONTROL, "frustration": FRUSTRATION},
            **sweep,
        ),
        profile=profile,
        cells=tuple(cells),
        blocks=tuple(blocks),
        logs=str(logs),
    )


def scripted(**settings: Any) -> ScriptedModel:
    """A scripted role."""
    return ScriptedModel(**settings)
