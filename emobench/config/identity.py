"""What makes an episode this episode: everything that affects its content, and nothing else.

Left out are the transport (addresses, keys, latency), the hardware (accelerators) and the course
of a run (concurrency, throttle, limits, cluster, partition, which other tasks or variants there
are).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from emobench.core.models import RoleModel, ScriptedModel, VllmModel
from emobench.core.redaction import redact_urls
from emobench.core.sweep import Cell, Fidelity, Sweep

_NOT_CONTENT = {
    "base_url",
    "api_key_env",
    "price",
    "rate_limit_wait_min",
    "accelerators",
    "served_name",
    "tensor_parallel",
    "pipeline_parallel",
    "data_parallel",
    "nodes",
    "replicas",
    "reuse",
    "max_num_seqs",
    "gpu_memory_utilization",
    "latency_ms",
    "hardware",
    "model_size",
    "time_scale",
}
# Keys that came later count only where they are set: results from before keep their identity.
_WHERE_SET = ("chat_template", "chat_template_kwargs", "seed")


def collect_cell_content(sweep: Sweep, cell: Cell, benchmark: str) -> dict[str, object]:
    """Return the values that an episode of the cell depends on; `benchmark` names its version."""
    variant = sweep.variants[cell.variant]
    content: dict[str, object] = {
        "assistant": _describe_role(sweep, sweep.assistants[cell.assistant], cell.variant),
        "user": _describe_role(sweep, sweep.user, cell.variant),
        "user_strategy": sweep.user_strategy,
        "agent_strategy": cell.agent_strategy,
        "env": cell.env,
        "variant": {"name": variant.name, "sha256": variant.sha256},
        "seed": sweep.seed,
        "trial": cell.trial,
        "max_steps": sweep.max_steps,
        "fidelity": _list_repairs(sweep.fidelity),
        "benchmark": benchmark,
    }
    if cell.agent_strategy == "few-shot":
        content["few_shot_sha256"] = sweep.few_shot_sha256.get(cell.env, "")
    return content


def _list_repairs(fidelity: Fidelity) -> dict[str, bool]:
    """Return the repairs, by the names and in the number that results from before have them."""
    repairs: dict[str, bool] = fidelity.model_dump()
    if fidelity.plain_messages:
        del repairs["plain_messages"]
    # Only this pair is new: a reply that was reasoning alone used to end the conversation.
    if fidelity.end_at_empty_reply or not fidelity.sanitize_think:
        repairs["check_replies"] = repairs.pop("end_at_empty_reply")
    return repairs


def _describe_role(sweep: Sweep, model: RoleModel, variant: str) -> dict[str, Any]:
    content = model.model_dump(mode="json", exclude=_NOT_CONTENT)
    if isinstance(model, VllmModel):
        content = {k: v for k, v in content.items() if k not in _WHERE_SET or v not in (None, {})}
        if model.chat_template is not None:
            # The text, wherever it stands; the path where it cannot be read from here.
            sha256_of = sweep.chat_template_sha256
            content["chat_template"] = sha256_of.get(model.chat_template, model.chat_template)
    if isinstance(model, ScriptedModel) and isinstance(model.mistakes, dict):
        # Another variant's rate does not touch this cell.
        content["mistakes"] = float(model.mistakes.get(variant, 0))
    return content


def hash_content(content: Mapping[str, object], task_id: int | None = None) -> str:
    """Return the SHA-256, in hex, of the content and, for an episode, the task."""
    whole = {"content": content, "task_id": task_id}
    text = json.dumps(whole, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return sha256(text.encode("utf-8")).hexdigest()


def find_differing_keys(old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    """Return the dotted paths that differ, with both values: 'assistant.temperature: was 0, now
    1'."""
    before, after = dict(_flatten(old)), dict(_flatten(new))
    return [
        f"{key}: was {_say(before, key)}, now {_say(after, key)}"
        for key in dict.fromkeys((*before, *after))
        if (key not in before or key not in after or before[key] != after[key])
        and not _is_unset_group(key, before, after)
        and not _is_unset_group(key, after, before)
    ]


def _is_unset_group(key: str, here: Mapping[str, object], there: Mapping[str, object]) -> bool:
    """Return whether a key is unset here and a group of keys there, which are told one by one."""
    return here.get(key, "") is None and any(each.startswith(f"{key}.") for each in there)


def _flatten(content: Mapping[str, object], prefix: str = "") -> list[tuple[str, object]]:
    pairs: list[tuple[str, object]] = []
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            pairs += _flatten(value, f"{prefix}{key}.")
        else:
            pairs.append((prefix + key, value))
    return pairs


def _say(values: Mapping[str, object], key: str) -> str:
    if key not in values:
        return "not there"
    value = values[key]
    return "unset" if value is None else redact_urls(json.dumps(value, ensure_ascii=False))
