"""What vLLM is started with: the arguments of a role, and the parsers that fit a model. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
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

UNGUARDED = {
    "--grpc": "it loads no middleware, so everybody could use that server",
    "--grpc-port": "it is for --grpc, which loads no middleware",
    "--data-parallel-multi-port-external-lb": "it serves on ports of its own that nobody checks",
    "--config": "write what is in that file as keys and extra_args: flags in it are not checked",
}
"""Flags that start vLLM by another entry than the guarded one, or hide such flags, and why not."""

SECRET = {"--hf-t": "--hf-token", "--ssl-keyfile-": "--ssl-keyfile-password"}
"""Flags whose value is a secret, by the shortest text that vLLM takes for them."""


def resolve_flag(flag: str) -> str:
    """Return the flag among those with a rule that vLLM takes this one for, which may be cut
    short."""
    known = (*SET_BY_KEY, *SET_BY_SCRIPT, *UNGUARDED)
    if flag in known:
        return flag
    if not flag.startswith("--"):  # the value of a short one may follow at once: -n2
        return next((name for name in known if len(name) == 2 and flag.startswith(name)), flag)
    for shortest, name in SECRET.items():
        if flag.startswith(shortest) and name.startswith(flag):
            return name
    return next((name for name in known if name.startswith(flag)), flag)


def parse_flag(argument: str) -> str:
    """Return the flag of one argument as vLLM reads it: without a value, with '-' for '_'."""
    flag = re.split(r"[=\s]", argument, maxsplit=1)[0]
    if not flag.startswith("--"):
        return flag
    # What follows a dot is a key inside a JSON value.
    return flag.partition(".")[0].replace("_", "-").rstrip("+")


def find_option(model: VllmModel, flag: str) -> str | None:
    """Return the value that `extra_args` give a flag; '' for one without a value; None: not
    there."""
    found = None
    for i, argument in enumerate(model.extra_args):
        if parse_flag(argument) == flag:
            _, equals, value = argument.partition("=")
            after = model.extra_args[i + 1] if i + 1 < len(model.extra_args) else ""
            found = value if equals else "" if after.startswith("-") else after
    return found


def build_template_kwargs(model: VllmModel, role: Role) -> dict[str, Any]:
    """Return the chat template's variables by default; the simulated user does not think aloud."""
    return (
        {"enable_thinking": False, **model.chat_template_kwargs}
        if role == "user"
        else dict(model.chat_template_kwargs)
    )


TEMPLATE_KWARGS = "--default-chat-template-kwargs"
TOKEN_DETAILS = "--enable-prompt-tokens-details"


def is_optional(flag: str, model: VllmModel) -> bool:
    """Return whether a server does without a flag that emobench sets, where its vLLM lacks it."""
    return flag == TOKEN_DETAILS or (flag == TEMPLATE_KWARGS and not model.chat_template_kwargs)


def build_serve_arguments(model: VllmModel, role: Role, lacking: Collection[str] = ()) -> list[str]:
    """Return the arguments of `vllm serve` after the model; address and node rank are the script's.

    Optional flags that are `lacking` in the site's vLLM are left out.
    """
    options: list[tuple[str, object]] = [
        ("--served-model-name", model.served),
        ("--revision", model.revision),
        ("--dtype", model.dtype),
        ("--gpu-memory-utilization", model.gpu_memory_utilization),
        ("--reasoning-parser", model.reasoning_parser),
        # A parser is process-wide: a user behind one starts to emit tool markup.
        ("--tool-call-parser", model.tool_call_parser if role == "assistant" else None),
        ("--chat-template", model.chat_template),
        (TEMPLATE_KWARGS, _dump_json(build_template_kwargs(model, role))),
        ("--seed", model.seed),
        ("--max-model-len", model.max_model_len),
        ("--max-num-seqs", model.max_num_seqs),
        ("--tensor-parallel-size", model.tensor_parallel),
        ("--pipeline-parallel-size", _keep_above_one(model.pipeline_parallel)),
        ("--data-parallel-size", _keep_above_one(model.data_parallel)),
        ("--nnodes", _keep_above_one(model.nodes)),
        # vLLM picks Ray on some platforms where it finds it.
        ("--distributed-executor-backend", "mp" if model.nodes > 1 else None),
    ]
    arguments: list[str] = []
    left_out = {flag for flag in lacking if is_optional(flag, model)}
    for flag, value in options:
        if value is not None and flag not in left_out:
            if flag == "--tool-call-parser":
                arguments.append("--enable-auto-tool-choice")
            arguments += [flag, str(value)]
    if TOKEN_DETAILS not in left_out:
        # How much of each prompt the prefix cache saved.
        arguments.append(TOKEN_DETAILS)
    return [*arguments, *model.extra_args]


def _dump_json(value: dict[str, Any]) -> str | None:
    return json.dumps(value) if value else None


def _keep_above_one(count: int) -> int | None:
    return count if count > 1 else None


Thinks = Literal["never", "unless enable_thinking is false", "if thinking is true", "always"]


@dataclass(frozen=True)
class Family:
    """Models of one chat format. Patterns are searched in the lower-cased id without its owner."""

    pattern: str
    tool_parsers: tuple[str, ...]
    """Every name that fits, the usual one first; empty: it calls no tools through vLLM."""
    reasoning_parser: str | None = None
    thinks: Thinks = "never"


_HYBRID: Thinks = "unless enable_thinking is false"

# From vLLM 0.33's registered names and its pages on tool calling and reasoning outputs, read in
# 2026-11. A model that no pattern knows gets no suggestion and no warning.
# The first that matches counts: a special model stands before its family.
FAMILIES = (
    Family(r"xlam", ("xlam",)),
    Family(r"functiongemma", ("functiongemma",)),
    Family(r"gemma-?4", ("gemma4",), "gemma4", "if thinking is true"),
    Family(r"r1-distill", (), "deepseek_r1", "always"),
    Family(r"deepseek-r1", ("deepseek_v3",), "deepseek_r1", "always"),
    Family(r"deepseek-v3\.1", ("deepseek_v31",), "deepseek_v3", "if thinking is true"),
    Family(r"deepseek-v3\.2", ("deepseek_v32",), "deepseek_v3", "if thinking is true"),
    Family(r"deepseek-v3", ("deepseek_v3",)),
    Family(r"qwq", ("hermes",), "deepseek_r1", "always"),
    Family(r"qwen3-coder", ("qwen3_xml", "qwen3_coder")),
    Family(r"qwen3(-[\w.]+)*-thinking", ("hermes",), "qwen3", "always"),
    Family(r"qwen3(-[\w.]+)*-instruct", ("hermes",)),
    Family(r"qwen3\.[5-9]", ("qwen3_xml", "qwen3_coder"), "qwen3", _HYBRID),
    Family(r"qwen3-", ("hermes",), "qwen3", _HYBRID),
    Family(r"qwen2\.5", ("hermes",)),
    Family(r"hermes-[234]", ("hermes",)),
    Family(r"llama-?4", ("llama4_pythonic", "llama4_json", "pythonic")),
    Family(r"llama-?3\.2-[13]b", ("llama3_json", "pythonic")),
    Family(r"llama-?3", ("llama3_json",)),
    Family(r"gpt-oss", ("openai",), "openai_gptoss", "always"),
    Family(r"magistral", ("mistral",), "mistral", "always"),
    Family(r"(mi[sx]|mini)tral|devstral", ("mistral",)),
    Family(r"glm-4\.[56]", ("glm45",), "glm45", _HYBRID),
    Family(r"glm-4\.7", ("glm47",), "glm47", _HYBRID),
    Family(r"kimi-k2-thinking", ("kimi_k2",), "kimi_k2", "always"),
    Family(r"kimi-k2", ("kimi_k2",)),
    Family(r"granite-20b-functioncalling", ("granite-20b-fc",)),
    Family(r"granite-4", ("granite4",)),
    Family(r"granite-3\.[23]", ("granite",), "granite", "if thinking is true"),
    Family(r"granite-3", ("granite",)),
    Family(r"phi-4-mini-instruct", ("phi4_mini_json",)),
    Family(r"olmo-3.*-think", ("olmo3",), "olmo3", "always"),
    Family(r"olmo-3", ("olmo3",)),
    Family(r"minimax-m2", ("minimax_m2",), "minimax_m2_append_think", "always"),
    Family(r"seed-oss", ("seed_oss",), "seed_oss", "always"),
    Family(r"hunyuan-a13b", ("hunyuan_a13b",), "hunyuan_a13b", _HYBRID),
    Family(r"internlm2_5", ("internlm",)),
    Family(r"jamba", ("jamba",)),
    Family(r"longcat-flash-chat", ("longcat",)),
    Family(r"gigachat3", ("gigachat3",)),
    Family(r"apertus", ("apertus",)),
    Family(r"toolace", ("pythonic",)),
)


def find_family(model_id: str) -> Family | None:
    """Return the family of a Hugging Face id or of a path whose last part is like one."""
    name = model_id.rstrip("/").rpartition("/")[2].lower()
    return next((family for family in FAMILIES if re.search(family.pattern, name)), None)


def suggest_parser(model_id: str) -> str | None:
    """Return the usual tool-call parser of the model; None where there is none or it is not
    known."""
    family = find_family(model_id)
    return family.tool_parsers[0] if family and family.tool_parsers else None


def thinks_aloud(family: Family, template_kwargs: Mapping[str, Any]) -> bool:
    """Return whether replies contain reasoning, with these variables of the chat template."""
    if family.thinks == "if thinking is true":
        return any(template_kwargs.get(key) is True for key in ("thinking", "enable_thinking"))
    if family.thinks == _HYBRID:
        return template_kwargs.get("enable_thinking", True) is not False
    return family.thinks == "always"
