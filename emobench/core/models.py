"""The model behind a role: one class per engine, so that a key of another engine is refused."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from emobench.core.fields import EnvName, Items, NonEmpty, Share, Strict, Url


class Sampling(Strict):
    """What is sent with every request of the role. Unset values are the server's defaults."""

    temperature: float | None = Field(default=None, ge=0, le=2)
    """Unset: the server's default."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    """Unset: the server's default."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Most tokens of a reply; unset: the server's default."""


class VllmModel(Sampling):
    """A vLLM server that this sweep starts as a job of its own."""

    engine: Literal["vllm"] = "vllm"
    """Default: the file's `engine`."""
    model: NonEmpty
    """Hugging Face id, or a folder: an absolute path on the cluster, or one relative to the sweep
    file that begins with ./ or ../."""
    revision: str | None = None
    """Branch, tag or commit of the model on Hugging Face; unset: the newest."""
    dtype: str | None = None
    """Such as `bfloat16`; unset: the model's."""
    max_model_len: int = Field(default=32768, ge=1024)
    """Tokens of a conversation; tau-bench's policies and tools alone take about 4,600."""
    served_name: NonEmpty | None = None
    """The id that clients send; unset: `model`. Shorter in reports where `model` is a path."""
    tensor_parallel: int = Field(default=1, ge=1, le=64)
    """Cards that share each layer."""
    pipeline_parallel: int = Field(default=1, ge=1, le=64)
    """Groups of cards that hold the layers one after the other."""
    data_parallel: int = Field(default=1, ge=1, le=64)
    """Copies of the model behind the server's one address; not together with `nodes`."""
    nodes: int = Field(default=1, ge=1, le=64)
    """Nodes that the cards are spread over evenly."""
    max_num_seqs: int | None = Field(default=None, ge=1, le=65_536)
    """Requests that one copy of the model computes at a time; unset: vLLM's default."""
    replicas: int = Field(default=1, ge=1, le=64)
    """Jobs that each serve the whole model; the cells are spread over them."""
    reuse: bool = False
    """Share the running server of another sweep beside this one, where one fits."""
    gpu_memory_utilization: float | None = Field(default=None, gt=0, le=1)
    """Share of a card's memory that vLLM takes; unset: vLLM's default."""
    tool_call_parser: str | None = None
    """Assistants only, and needed there for `tool-calling`: a parser on the user's server pollutes
    the user."""
    reasoning_parser: str | None = None
    """`qwen3`, `deepseek_r1`, `openai_gptoss`, ...: takes the reasoning out of the replies."""
    chat_template: NonEmpty | None = None
    """A file: relative to the sweep file, or an absolute path on the nodes or in the container;
    unset: the model's."""
    chat_template_kwargs: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Variables of the chat template, by default for every request. On the user's server
    `enable_thinking` is false unless it is set here."""
    seed: int | None = Field(default=None, ge=0)
    """Of the engine; requests carry seeds of their own. Unset: vLLM's default."""
    extra_args: Items[str] = ()
    """Further arguments of `vllm serve`, passed as they are."""

    @property
    def accelerators(self) -> int:
        """Cards, on all nodes together."""
        return self.tensor_parallel * self.pipeline_parallel * self.data_parallel

    @property
    def served(self) -> str:
        """The id that requests name and /v1/models lists."""
        return self.served_name or self.model


class Price(Strict):
    """What a hosted model's tokens cost, in US dollars for a million."""

    input: float = Field(ge=0)
    """Of the prompt."""
    output: float = Field(ge=0)
    """Of the reply, reasoning included."""
    cached_input: float | None = Field(default=None, ge=0)
    """Of the part of the prompt that the provider had cached; unset: as `input`."""


class OpenAIModel(Sampling):
    """An endpoint that exists already: a hosted API, or any OpenAI-compatible base URL."""

    engine: Literal["openai"] = "openai"
    """Default: the file's `engine`."""
    model: NonEmpty
    """The id that the endpoint knows."""
    base_url: Url | None = None
    """An OpenAI-compatible address; unset: the provider's own."""
    api_key_env: EnvName = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key; the key itself stands in no file
    but `endpoints/hosted_keys.json` of the run directory, which is for its owner alone."""
    provider: str = "openai"
    """litellm's name of the provider."""
    rate_limit_wait_min: float = Field(default=30, ge=0, le=10_000)
    """Minutes that one call may wait, all in all, where the endpoint has had too many requests
    (HTTP 429); 0: such an answer is a failure like others."""
    price: Price | None = None
    """US dollars for a million tokens, where a reply does not say what it cost; unset: litellm's
    list of prices, for a model that is in it."""

    # It takes nothing of the site.
    accelerators: ClassVar[int] = 0
    nodes: ClassVar[int] = 0
    replicas: ClassVar[int] = 1
    reuse: ClassVar[bool] = False

    @property
    def served(self) -> str:
        return self.model


class Faults(Strict):
    """Probability per request of each injected fault, for tests and drills."""

    http_500: Share = 0.0
    """An answer of status 500."""
    hang: Share = 0.0
    """No answer for `hang_seconds`."""
    disconnect: Share = 0.0
    """The connection is cut."""
    bad_tool_json: Share = 0.0
    """A tool call whose arguments are no JSON."""
    think_complete: Share = 0.0
    """Reasoning markup before the reply."""
    think_unterminated: Share = 0.0
    """Reasoning markup that does not end."""
    think_closing_only: Share = 0.0
    """The end of reasoning markup alone."""
    null_content: Share = 0.0
    """A reply with neither text nor tool call."""
    hang_seconds: float = Field(default=3600, gt=0)
    """How long `hang` lasts."""


Hardware = Literal["h100", "a100", "gaudi2"]


class ScriptedModel(Sampling):
    """The scripted server of this package: plays the role from the task's ground truth."""

    engine: Literal["scripted"] = "scripted"
    """Default: the file's `engine`."""
    model: NonEmpty = "scripted"
    """The name that it goes by."""
    mistakes: Share | dict[str, Share] = 0.0
    """Probability that the assistant fails a task, or one by variant (others: 0)."""
    latency_ms: float = Field(default=0, ge=0, le=600_000)
    """Milliseconds before each reply."""
    hardware: Hardware | None = None
    """Take the time that a vLLM on `accelerators` such cards (at least one) would take."""
    model_size: float = Field(default=4, gt=0, le=1000)
    """With `hardware`: billions of parameters."""
    time_scale: float = Field(default=1, gt=0, le=10_000)
    """With `hardware`: seconds of that time in a real second."""
    faults: Faults = Faults()
    """Probability per request of each injected fault."""
    accelerators: int = Field(default=0, ge=0, le=64)
    """Cards asked of Slurm all the same, to try out a site without a model."""
    replicas: int = Field(default=1, ge=1, le=64)
    """Jobs that each serve the role; the cells are spread over them."""
    reuse: bool = False
    """Share the running server of another sweep beside this one, where one fits."""

    nodes: ClassVar[int] = 1

    @property
    def served(self) -> str:
        return self.model


RoleModel = Annotated[VllmModel | OpenAIModel | ScriptedModel, Field(discriminator="engine")]


def select_sampling(model: Sampling) -> dict[str, Any]:
    """Return the request parameters that are set, by their OpenAI names."""
    return model.model_dump(include=set(Sampling.model_fields), exclude_none=True)
