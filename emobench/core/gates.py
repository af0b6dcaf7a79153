"""What a sweep declares before its data: thresholds of the gates, and the judge.

Neither touches a conversation, so neither is part of an episode's identity.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from emobench.core.fields import EnvName, NonEmpty, Share, Strict, Url

JudgeLabel = Literal["neutral", "frustration", "anxiety", "anger", "confusion"]
"""What a judge can say of a user's turn."""


class ManipulationGate(Strict):
    """Is the emotion visible? Read off the judge's labels of the user's turns."""

    turns: Share = 0.25
    """Least share of a variant's user turns that the judge labels as the variant."""
    conversations: Share = 0.75
    """Least share of its conversations in which the judge labels at least one turn so."""
    above_control: Share = 0.2
    """Least difference of the first share from control's, paired by task."""
    placebo: Share = 0.1
    """For placebo and other neutral variants: most difference of the share of emotional turns."""


class FidelityGate(Strict):
    """Did the user stay with the task? Differences are variant minus control, paired by task."""

    conveyed: Share = 0.5
    """Least share of the instruction's facts that the user conveys."""
    conveyed_loss: Share = 0.05
    """Most that this share may lie below control's."""
    invented: Share = 0.05
    """Most excess of the share of conversations with an invented value."""
    contradicted: Share = 0.03
    """Most excess of the share of conversations with a contradicted value."""
    early_stops: Share = 0.05
    """Most excess of the share of conversations that the user ended too early."""
    role_flips: Share = 0.02
    """Most excess of the share of conversations in which the user speaks as the agent."""


class Gates(Strict):
    """Thresholds that a variant has to meet before its effect is shown without a label."""

    coverage: Share = 0.95
    """Least share of the planned episodes that have a result, for a variant and for control."""
    lost_attempts: Share = 0.03
    """Most by which the share of first attempts that were lost may differ from control's, either
    way."""
    smallest_effect: float = Field(default=0.1, gt=0, le=1)
    """Smallest drop in mean reward that the study must be able to detect."""
    manipulation: ManipulationGate = ManipulationGate()
    """Is the emotion visible?"""
    fidelity: FidelityGate = FidelityGate()
    """Did the user stay with the task?"""


def list_declared(gates: BaseModel) -> tuple[str, ...]:
    """Return the thresholds that stand in the sweep file, default or not:
    'smallest_effect', 'fidelity.conveyed'."""
    names: list[str] = []
    for name in sorted(gates.model_fields_set):
        value = getattr(gates, name)
        if isinstance(value, BaseModel):
            names += (f"{name}.{each}" for each in list_declared(value))
        else:
            names.append(name)
    return tuple(names)


def list_unlike_default(gates: BaseModel) -> tuple[str, ...]:
    """Return the thresholds that are no default, which must have been given."""
    names: list[str] = []
    for name, field in type(gates).model_fields.items():
        value = getattr(gates, name)
        if isinstance(value, BaseModel):
            names += (f"{name}.{each}" for each in list_unlike_default(value))
        elif value != field.default:
            names.append(name)
    return tuple(names)


class JudgeSettings(Strict):
    """The model that names the emotion of a user's turn: a server of the sweep, or an endpoint."""

    server: NonEmpty | None = None
    """`user` or an assistant's name; in place of `model`."""
    model: NonEmpty | None = None
    """The id that the endpoint knows."""
    base_url: Url | None = None
    """An OpenAI-compatible address, ending in /v1."""
    api_key_env: EnvName = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key."""
    concurrency: int = Field(default=8, ge=1, le=512)
    """Requests at a time."""
    max_tokens: int = Field(default=1024, ge=16, le=100_000)
    """Most tokens of an answer; a model that thinks aloud needs more than the answer itself."""
    sample: int | None = Field(default=None, ge=1)
    """Conversations of each variant in each group that are judged; unset: all of them."""
