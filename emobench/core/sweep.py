"""The sweep file, resolved: shorthand is expanded, defaults are filled in, variants are loaded."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from emobench.core.cluster import Placement
from emobench.core.fields import Accepts, Axis, FromNumber, Known, OneOrMany, SafeName, Strict
from emobench.core.gates import Gates, JudgeLabel, JudgeSettings
from emobench.core.models import RoleModel
from emobench.core.outcomes import CONTROL, Condition, Group

Env = Literal["retail", "airline"]
AgentStrategy = Literal["tool-calling", "act", "react", "few-shot"]
UserStrategy = Literal["llm", "react", "verify", "reflection"]
ENVS: tuple[Env, ...] = get_args(Env)
AGENT_STRATEGIES: tuple[AgentStrategy, ...] = get_args(AgentStrategy)
USER_STRATEGIES: tuple[UserStrategy, ...] = get_args(UserStrategy)
ProbeMode = Annotated[
    Literal["off", "warn", "enforce"],
    # A bare `off` is false to some YAML readers, and false is what ours tells people to write.
    BeforeValidator(lambda value: "off" if value is False else value),
    WithJsonSchema({"enum": ["off", "warn", "enforce", False]}),
]
BUILTIN_VARIANTS = ("control", "placebo", "frustration", "anxiety", "anger", "confusion")
EARLIER_VARIANTS = tuple(f"{name}-v1" for name in BUILTIN_VARIANTS if name != CONTROL)
"""The texts of emobench 0.1, which had the names of `BUILTIN_VARIANTS` then."""
VariantName = Annotated[
    str,
    Known("variant"),
    Accepts(
        f"{', '.join(BUILTIN_VARIANTS)}, one of these with -v1 for its text of 0.1, or a name from "
        "`variants`"
    ),
    WithJsonSchema(
        {"anyOf": [{"enum": [*BUILTIN_VARIANTS, *EARLIER_VARIANTS]}, {"type": "string"}]}
    ),
]
AssistantName = Annotated[str, Known("assistant"), Accepts("a name from `assistants`")]
Trials = Annotated[
    tuple[int, ...],
    Field(min_length=1),
    OneOrMany(),
    AfterValidator(lambda trials: tuple(dict.fromkeys(trials))),
]


class Variant(Strict):
    """An emotional persona of the simulated user, or none: a suffix to its system prompt."""

    name: SafeName
    version: str
    text: str
    """The suffix; empty for control."""
    sha256: str
    """Of the text's UTF-8 bytes, in hex."""
    judged_as: JudgeLabel | None = None
    """The label that a judge of its turns should find; None: there is none for it. No part of an
    episode's identity."""

    @model_validator(mode="before")
    @classmethod
    def _judge_by_name(cls, data: Any) -> Any:
        """Give built-in variants of plans from before `judged_as` the label that their name is."""
        if (
            isinstance(data, dict)
            and "judged_as" not in data
            and data.get("name") in BUILTIN_VARIANTS
        ):
            name = data["name"]
            data = {**data, "judged_as": "neutral" if name in (CONTROL, "placebo") else name}
        return data


class Fidelity(Strict):
    """Where a run departs from stock tau-bench; each repair can be switched on and off.

    None on by default ends a conversation that stock goes on with (docs/fidelity.md).
    `fidelity: stock` switches all of them off.
    """

    skip_opening_call: bool = True
    """Leave out the conversation that the user has in its constructor, before its instruction."""
    sanitize_think: bool = True
    """Take reasoning markup out of both roles' replies, and go on with what is left."""
    end_at_empty_reply: bool = False
    """End the conversation, with reward 0, at a reply that has nothing in it but reasoning."""
    send_seed: bool = True
    """Send a seed to both models, and draw few-shot examples by it."""
    lean_client: bool = True
    """Reach OpenAI-compatible URLs without litellm."""
    shared_state: bool = True
    """Read the benchmark's data once and score against it, instead of three loads a task."""
    plain_messages: bool = True
    """Keep the role, text and tool calls of litellm's messages, and none of its other fields."""
    react_user_reply: bool = False
    """Give the agent a react user's response only, where stock gives it the thought as well."""
    standalone_stop: bool = False
    """End at ###STOP### only where it closes the user's message, not where it is quoted."""

    @classmethod
    def stock(cls) -> Fidelity:
        """Return the settings of exactly stock's behaviour."""
        return cls(**dict.fromkeys(cls.model_fields, False))

    @model_validator(mode="before")
    @classmethod
    def _rename_earlier(cls, data: Any) -> Any:
        """Rename what plans and sweep files from before call `end_at_empty_reply`
        `check_replies`."""
        if isinstance(data, dict) and "check_replies" in data and "end_at_empty_reply" not in data:
            data = dict(data)
            data["end_at_empty_reply"] = data.pop("check_replies")
        return data


class CellFilter(Strict):
    """Cells that match every given key (a value or a list of values)."""

    env: Axis[Env] | None = None
    agent_strategy: Axis[AgentStrategy] | None = None
    variant: Axis[VariantName] | None = None
    assistant: Axis[AssistantName] | None = None
    trial: Trials | None = None
    """Trial numbers, from 1."""


class Matrix(Strict):
    """What is crossed with what: the cells are all combinations, `trials` times."""

    env: Axis[Env]
    """Environments of tau-bench."""
    agent_strategy: Axis[AgentStrategy] = ("tool-calling",)
    """How the agent calls its tools."""
    variant: Axis[VariantName]
    """Conditions of the simulated user: built-in, or from `variants`."""
    assistant: Axis[AssistantName] = ()
    """Names from `assistants`; a plan has them all."""


class Include(Matrix):
    """Cells beside the matrix: the product of the given values."""

    trial: Trials | None = None
    """None: all trials of the sweep."""


class Settings(Strict):
    """The keys of a sweep that stand in the file as they are, without shorthand."""

    name: Annotated[SafeName, FromNumber()]
    """Of the study and of `runs/<name>/`; default: the file's name without `.yaml`."""
    description: str = ""
    """What the study asks, for its report."""
    trials: int = Field(ge=1, le=1000)
    """Repetitions of each cell; pass^k needs k of them."""
    seed: int = Field(default=10, ge=0, lt=2**31)
    """Of the whole study."""
    user_strategy: UserStrategy = "llm"
    """tau-bench's strategy of the simulated user. `human` is refused: a sweep runs unattended."""
    max_steps: int = Field(default=30, ge=1, le=1000)
    """Agent steps in an episode; tau-bench's own limit is 30."""
    concurrency: int | None = Field(default=None, ge=1, le=512)
    """Most episodes at a time within one cell; unset: as many as its servers hold."""
    throttle: int | None = Field(default=None, ge=1)
    """Cells at a time within one array; unset: the profile's, or enough to keep servers busy."""
    placement: Placement | None = None
    """How servers that need each other start (`hetjob`, `together`, `apart`; see the profile's
    key); unset: the profile's."""
    idle_limit_min: float = Field(default=60, ge=0, le=100_000)
    """Minutes without a request after which a server leaves; 0: never."""
    keep_servers_min: float = Field(default=0, ge=0, le=100_000)
    """Minutes that the servers stay after the last cell, for work by hand; also
    `emobench sweep --keep-servers MIN`."""
    max_gpu_hours: float | None = Field(default=None, gt=0)
    """Accelerator-hours of all server jobs after which the sweep is stopped; unset: no limit."""
    max_cost: float | None = Field(default=None, gt=0)
    """US dollars for hosted models, of all cells together, after which no new conversation begins;
    with an `accelerator_hour_price` in the profile for the servers too, after which the sweep is
    stopped; unset: no limit."""
    timeout_s: float = Field(default=600, gt=0, le=86_400)
    """Seconds that a model may take for one whole reply before the call counts as unanswered."""
    probe: ProbeMode = "enforce"
    """Whether endpoints are asked before a cell's first episode: `enforce` ends a cell that could
    only fail, `warn` writes that into its log and goes on, `false` (or `"off"`, in quotes) asks
    nothing."""


class Sweep(Settings):
    """One study. What `load_sweep` returns and what plan.json holds."""

    cluster: str = "local"
    """A profile's name, or the absolute path of a profile."""
    matrix: Matrix
    tasks: dict[Env, tuple[int, ...]]
    """Task indices of the test split by environment, sorted, without repeats."""
    exclude: tuple[CellFilter, ...] = ()
    include: tuple[Include, ...] = ()
    user: RoleModel
    assistants: dict[SafeName, RoleModel] = Field(min_length=1)
    variants: dict[SafeName, Variant]
    """Every variant that a cell uses, with its text."""
    few_shot_displays: dict[Env, str] = Field(default_factory=dict)
    """For agent_strategy few-shot: a file of examples by environment (absolute path)."""
    few_shot_sha256: dict[Env, str] = Field(default_factory=dict)
    """Of those files' bytes, in hex."""
    chat_template_sha256: dict[str, str] = Field(default_factory=dict)
    """Of the chat templates that can be read where the sweep is submitted, by path, in hex."""
    fidelity: Fidelity = Fidelity()
    """Departures from stock tau-bench."""
    gates: Gates = Gates()
    """Thresholds of the checks before a headline; no part of an episode's identity."""
    judge: JudgeSettings | None = None
    """Who labels the users' turns for the manipulation check; no part of an episode's identity."""


class Cell(Strict):
    """One array task: (assistant, env, agent strategy, variant, trial) on a set of tasks."""

    number: int = Field(ge=0)
    assistant: str
    env: Env
    agent_strategy: AgentStrategy
    variant: str
    trial: int = Field(ge=1)
    tasks: tuple[int, ...]

    @property
    def key(self) -> tuple[str, str, str, str, int]:
        """What makes it this cell, whatever its number."""
        return (self.assistant, self.env, self.agent_strategy, self.variant, self.trial)

    @property
    def group(self) -> Group:
        return Group(self.env, self.agent_strategy, self.assistant)

    @property
    def condition(self) -> Condition:
        return self.group.to_condition(self.variant)

    @property
    def title(self) -> str:
        return (
            f"{self.env}/{self.agent_strategy}/{self.variant}/{self.assistant}/trial {self.trial}"
        )
