"""What a conversation takes where nothing was measured: published dialogues, the benchmark's own
prompts, and how far models differ. Tokens are characters / 4 throughout, which is an approximation.

Sources of the dialogues, both in tau-bench's repository (commit 59a200c): airline, the 200
conversations of gpt-4o in `historical_trajectories`; retail, the 69 of `few_shot_data`, as long as
gpt-4o's there (28 messages in the mean; their median is 28).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from emobench.core.models import OpenAIModel, RoleModel, ScriptedModel, VllmModel
from emobench.core.outcomes import Group
from emobench.core.sweep import Sweep
from emobench.store.forecast import Estimate

SOURCE = "typical figures: tau-bench's published dialogues, prompts at 4 characters a token"


@dataclass(frozen=True)
class RoleWork:
    """What one role does in one conversation."""

    calls: Estimate
    tokens_in: Estimate
    """Tokens of all prompts together."""
    tokens_out: Estimate
    fresh: float
    """Tokens of prompts that no earlier request had, so that a server has to compute them."""


Work = Mapping[str, RoleWork]
"""By role."""


@dataclass(frozen=True)
class _Dialogue:
    """Means of published dialogues of one environment; tokens without system prompt and tools."""

    policy: int
    """Tokens of the system prompt."""
    tools: int
    """Tokens of the tools' descriptions."""
    example: int
    """Tokens of one dialogue, as a few-shot example."""
    calls: Mapping[str, float]
    said: Mapping[str, float]
    """Tokens of replies."""
    heard: Mapping[str, float]
    """Tokens of the conversation so far, summed over the calls."""
    length: Mapping[str, float]
    """Tokens of the conversation at its end, as the role sees it."""


_DIALOGUES: Mapping[str, _Dialogue] = {
    "retail": _Dialogue(
        policy=1430,
        tools=2807,
        example=2000,
        calls={"user": 7.7, "assistant": 13.7},
        said={"user": 162, "assistant": 616},
        heard={"user": 2356, "assistant": 12_989},
        length={"user": 620, "assistant": 2000},
    ),
    "airline": _Dialogue(
        policy=1539,
        tools=2293,
        example=1505,
        calls={"user": 7.5, "assistant": 12.3},
        said={"user": 186, "assistant": 708},
        heard={"user": 2980, "assistant": 14_011},
        length={"user": 694, "assistant": 1825},
    ),
}
_USER_PROMPT, _VARIANT = 350, 257
"""Tokens of the user's system prompt with its instruction, and of an emotional suffix."""
_SHOTS = 5
_RULES: Mapping[str, int] = {"act": 409, "react": 472}
"""Tokens of the strategy's own instruction."""
_AGENT_TALKS: Mapping[str, float] = {"react": 2.0}
_USER_CALLS: Mapping[str, float] = {"verify": 2.0, "reflection": 2.5}
"""Calls for a message, where a strategy looks at its own reply again."""
_USER_TALKS: Mapping[str, float] = {"react": 2.0, "reflection": 1.5}

# Models differ by more than tasks do: some give up after six calls, some go on to the step limit.
CALLS = Estimate(0.55, 1.0, 1.8)
HEARD = Estimate(0.35, 1.0, 2.8)
"""Grows faster than the calls: each one repeats the conversation."""
SAID = Estimate(0.5, 1.0, 3.0)
THINKS = Estimate(1.0, 4.0, 12.0)
"""Tokens of a reply whose reasoning a parser takes out, against one without."""


def build_typical_work(sweep: Sweep, group: Group, emotional: float) -> dict[str, RoleWork]:
    """Return what a conversation of the group takes by role; `emotional` is the share of
    conversations with a variant's suffix."""
    strategy, found = group.agent_strategy, _DIALOGUES[group.env]
    prefix = {
        "user": _USER_PROMPT + emotional * _VARIANT,
        "assistant": found.policy
        + found.tools
        + _RULES.get(strategy, 0)
        + (_SHOTS * found.example if strategy == "few-shot" else 0),
    }
    more_calls = {"user": _USER_CALLS.get(sweep.user_strategy, 1.0), "assistant": 1.0}
    more_said = {
        "user": _USER_TALKS.get(sweep.user_strategy, 1.0),
        "assistant": _AGENT_TALKS.get(strategy, 1.0),
    }
    models = {"user": sweep.user, "assistant": sweep.assistants[group.assistant]}
    work = {}
    for role, model in models.items():
        calls = CALLS * (found.calls[role] * more_calls[role])
        most = float(sweep.max_steps * more_calls[role])
        calls = Estimate(*(min(each, most) for each in (calls.low, calls.typical, calls.high)))
        said = SAID * (found.said[role] * more_said[role])
        heard = HEARD * (found.heard[role] * more_calls[role] * more_said[role] ** 0.5)
        first = _USER_PROMPT if role == "user" else 0
        work[role] = RoleWork(
            calls,
            calls * prefix[role] + heard,
            said * THINKS if _thinks(model) else said,
            found.length[role] + first,
        )
    return work


def _thinks(model: RoleModel) -> bool:
    return isinstance(model, VllmModel) and bool(model.reasoning_parser)


LOAD_S: Mapping[str, Estimate] = {
    "cuda": Estimate(60, 180, 600),
    "gaudi": Estimate(120, 600, 3600),
    "none": Estimate(30, 120, 600),
}
"""Seconds until a vLLM server answers, by the site's cards: loading, compiling, warming up. On
Gaudi 66 s for an 8B model to an hour for the largest (vllm-gaudi's documentation)."""
SCRIPTED_LOAD_S = Estimate(1.5, 3.0, 15.0)
HOSTED_CALL_S = Estimate(0.3, 0.8, 3.0)
"""Seconds to the first token of a hosted model, and seconds for each further one."""
HOSTED_TOKEN_S = Estimate(0.006, 0.015, 0.04)
SCRIPTED_CALL_S = Estimate(0.0005, 0.004, 0.03)
CELL_S = Estimate(2.0, 6.0, 30.0)
"""Seconds of a cell beside its conversations: its start, its probes, its files."""
TAIL = Estimate(0.2, 1.0, 2.0)
"""Conversations' lengths that a cell waits for its last one."""
LEAVING_S = Estimate(0.0, 15.0, 60.0)
"""Seconds from a server's last conversation to the end of its job."""
CACHED = Estimate(0.9, 0.6, 0.0)
"""Share of a hosted prompt that the provider has cached; the less, the more it costs."""


def estimate_load_s(model: RoleModel, accelerator: str) -> Estimate:
    """Return the seconds until a server of the role answers."""
    if isinstance(model, OpenAIModel):
        return Estimate.of(0.0)
    return SCRIPTED_LOAD_S if isinstance(model, ScriptedModel) else LOAD_S[accelerator]
