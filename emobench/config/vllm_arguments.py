"""The command line of `vllm serve` for a role. Pure."""

from __future__ import annotations

import json
from typing import Any, Literal

from emobench.core.models import VllmModel

Role = Literal["user", "assistant"]

SET_BY_KEY = {
    "--tensor-parallel-size": "tensor_parallel",
    "-tp": "tensor_parallel",
    "--pipeline-parallel-size": "pipeline_parallel",
    "-pp": "pipeline_parallel",
    "--data-parallel-size": "data_parallel",
    "-dp": "data_parallel",
    "--nnodes": "nodes",
    "-n": "nodes",
}
"""Flags that have to be keys, because Slurm is asked for as many cards and nodes."""

SET_BY_SCRIPT = (
    "--api-key",
    "--port",
    "--host",
    "--uds",
    "--served-model-name",
    "--headless",
    "--node-rank",
    "-r",
    "--master-addr",
    "--master-port",
)
"""Flags that the server's script sets, or that would take its address from it."""


def flag_of(argument: str) -> str:
    """The flag of one argument as vLLM reads it: without a value, with '-' for '_'."""
    flag = argument.partition("=")[0]
    if not flag.startswith("--"):
        return flag
    # What follows a dot is a key inside a JSON value.
    return flag.partition(".")[0].replace("_", "-").rstrip("+")


def option_of(model: VllmModel, flag: str) -> str | None:
    """The value that `extra_args` give a flag; '' for one without a value; None: not there."""
    found = None
    for i, argument in enumerate(model.extra_args):
        if flag_of(argument) == flag:
            _, equals, value = argument.partition("=")
            after = model.extra_args[i + 1] if i + 1 < len(model.extra_args) else ""
            found = value if equals else "" if after.startswith("-") else after
    return found


def template_kwargs(model: VllmModel, role: Role) -> dict[str, Any]:
    """The chat template's variables by default; the simulated user does not think aloud."""
    return (
        {"enable_thinking": False, **model.chat_template_kwargs}
        if role == "user"
        else dict(model.chat_template_kwargs)
    )


def serve_arguments(model: VllmModel, role: Role) -> list[str]:
    """Arguments of `vllm serve` after the model; address and node rank are the script's."""
    options: list[tuple[str, object]] = [
        ("--served-model-name", model.served),
        ("--revision", model.revision),
        ("--dtype", model.dtype),
        ("--gpu-memory-utilization", model.gpu_memory_utilization),
        ("--reasoning-parser", model.reasoning_parser),
        # A parser is process-wide: a user behind one starts to emit tool markup.
        ("--tool-call-parser", model.tool_call_parser if role == "assistant" else None),
        ("--chat-template", model.chat_template),
        ("--default-chat-template-kwargs", _json(template_kwargs(model, role))),
        ("--seed", model.seed),
        ("--max-model-len", model.max_model_len),
        ("--max-num-seqs", model.max_num_seqs),
        ("--tensor-parallel-size", model.tensor_parallel),
        ("--pipeline-parallel-size", _above_one(model.pipeline_parallel)),
        ("--data-parallel-size", _above_one(model.data_parallel)),
        ("--nnodes", _above_one(model.nodes)),
        # vLLM picks Ray on some platforms where it finds it.
        ("--distributed-executor-backend", "mp" if model.nodes > 1 else None),
    ]
    arguments: list[str] = []
    for flag, value in options:
        if value is not None:
            if flag == "--tool-call-parser":
                arguments.append("--enable-auto-tool-choice")
            arguments += [flag, str(value)]
    # How much of each prompt the prefix cache saved.
    arguments.append("--enable-prompt-tokens-details")
    return [*arguments, *model.extra_args]


def _json(value: dict[str, Any]) -> str | None:
    return json.dumps(value) if value else None


def _above_one(count: int) -> int | None:
    return count if count > 1 else None
