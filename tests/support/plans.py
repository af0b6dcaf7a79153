"""Plans, built without a sweep file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emobench.config.expand import expand, split_into_blocks
from emobench.core.cluster import ClusterProfile, JobResources, ServerResources
from emobench.core.models import RoleModel, ScriptedModel, VllmModel
from emobench.core.plan import Plan
from emobench.core.sweep import AgentStrategy, Env, Matrix, Sweep, Variant

LOCAL = ClusterProfile(name="local", scheduler="local", server_deadline_min=5)
CUDA = ClusterProfile(
    placement="apart",
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
    placement="apart",
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


def variant(name: str) -> Variant:
    """A variant with a text of its own; control has none."""
    text = "" if name == "control" else f"How you come across:\n- You show {name}."
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Variant(name=name, version="1", text=text, sha256=digest)


def make_plan(
    profile: ClusterProfile = LOCAL,
    logs: Path | str = "/tmp/logs",
    user: RoleModel = USER,
    assistants: Mapping[str, RoleModel] | None = None,
    *,
    name: str = "study",
    envs: Sequence[Env] = ("retail",),
    strategies: Sequence[AgentStrategy] = ("tool-calling",),
    variants: Sequence[str] = ("control", "frustration"),
    tasks: int = 2,
    trials: int = 2,
    block_size: int = 1000,
    **sweep: Any,
) -> Plan:
    """What a sweep file of these values would be planned as."""
    models: dict[str, RoleModel] = dict(
        {"qwen3-4b": ASSISTANT} if assistants is None else assistants
    )
    resolved = Sweep(
        name=name,
        matrix=Matrix(
            env=tuple(envs),
            agent_strategy=tuple(strategies),
            variant=tuple(variants),
            assistant=tuple(models),
        ),
        trials=trials,
        tasks={env: tuple(range(tasks)) for env in envs},
        user=user,
        assistants=models,
        variants={name: variant(name) for name in variants},
        **sweep,
    )
    cells = expand(resolved)
    return Plan(
        emobench="0.1.0",
        benchmark="tau_trait 0.1.1",
        sweep_file=f"/home/somebody/sweeps/{name}.yaml",
        created="2026-01-01T00:00:00+00:00",
        sweep=resolved,
        profile=profile,
        cells=tuple(cells),
        blocks=tuple(split_into_blocks(cells, block_size)),
        logs=str(logs),
    )


def scripted(**settings: Any) -> ScriptedModel:
    """A scripted role."""
    return ScriptedModel(**settings)
