"""The model behind a role: one class per engine, so that a key of another engine is refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Strict(BaseModel):
    """Base of everything read from YAML: unknown keys are errors, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


Probability = Annotated[float, Field(ge=0, le=1)]


class Sampling(Strict):
    """What is sent with every request of the role. Unset values are the server's defaults."""

    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    max_tokens: int | None = Field(default=None, ge=1)


class VllmModel(Sampling):
    """A vLLM server that this sweep starts as a job of its own."""

    engine: Literal["vllm"] = "vllm"
    model: str = Field(min_length=1)
    """Hugging Face id, or a folder: an absolute path on the cluster, or one relative to the sweep
    file that begins with ./ or ../."""
    revision: str | None = None
    dtype: str | None = None
    max_model_len: int = Field(default=32768, ge=1024)
    served_name: str | None = Field(default=None, min_length=1)
    """The id that clients send; default: `model`."""
    tensor_parallel: int = Field(default=1, ge=1, le=64)
    """Cards that share each layer."""
    pipeline_parallel: int = Field(default=1, ge=1, le=64)
    """Groups of cards that hold the layers one after the other."""
    data_parallel: int = Field(default=1, ge=1, le=64)
    """Copies of the model behind the server's one address."""
    nodes: int = Field(default=1, ge=1, le=64)
    """Nodes that the cards are spread over evenly."""
    max_num_seqs: int | None = Field(default=None, ge=1, le=65_536)
    """Requests that one copy of the model computes at a time."""
    replicas: int = Field(default=1, ge=1, le=64)
    """Jobs that each serve the whole model; the cells are spread over them."""
    reuse: bool = False
    """Share the running server of another sweep beside this one, where one fits."""
    gpu_memory_utilization: float | None = Field(default=None, gt=0, le=1)
    tool_call_parser: str | None = None
    """Assistants only: a parser on the user's server pollutes the user."""
    reasoning_parser: str | None = None
    chat_template: str | None = Field(default=None, min_length=1)
    """A file: relative to the sweep file, or an absolute path on the cluster."""
    chat_template_kwargs: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Variables of the chat template, by default for every request. On the user's server
    `enable_thinking` is false unless it is set here."""
    seed: int | None = Field(default=None, ge=0)
    extra_args: tuple[str, ...] = ()
    """Further arguments of `vllm serve`, passed as they are."""

    @property
    def accelerators(self) -> int:
        """Cards, on all nodes together."""
        return self.tensor_parallel * self.pipeline_parallel * self.data_parallel

    @property
    def served(self) -> str:
        """The id that requests name and /v1/models lists."""
        return self.served_name or self.model


class OpenAIModel(Sampling):
    """An endpoint that exists already: a hosted API, or any OpenAI-compatible base URL."""

    engine: Literal["openai"] = "openai"
    model: str = Field(min_length=1)
    base_url: str | None = Field(default=None, pattern=r"^https?://[^\s]+$")
    """None: the provider's own address."""
    api_key_env: str = Field(default="OPENAI_API_KEY", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Name of the environment variable that holds the key; the key itself is never stored."""
    provider: str = "openai"
    """litellm's name of the provider."""

    @property
    def accelerators(self) -> int:
        return 0

    @property
    def nodes(self) -> int:
        return 0

    @property
    def replicas(self) -> int:
        return 1

    @property
    def reuse(self) -> bool:
        return False

    @property
    def served(self) -> str:
        return self.model


class Faults(Strict):
    """Probability per request of each injected fault, for tests and drills."""

    http_500: float = Field(default=0, ge=0, le=1)
    hang: float = Field(default=0, ge=0, le=1)
    disconnect: float = Field(default=0, ge=0, le=1)
    bad_tool_json: float = Field(default=0, ge=0, le=1)
    think_complete: float = Field(default=0, ge=0, le=1)
    think_unterminated: float = Field(default=0, ge=0, le=1)
    think_closing_only: float = Field(default=0, ge=0, le=1)
    null_content: float = Field(default=0, ge=0, le=1)
    hang_seconds: float = Field(default=3600, gt=0)


class ScriptedModel(Sampling):
    """The scripted server of this package: plays the role from the task's ground truth."""

    engine: Literal["scripted"] = "scripted"
    model: str = Field(default="scripted", min_length=1)
    mistakes: Probability | dict[str, Probability] = 0.0
    """Probability that the assistant fails a task, or one by variant (others: 0)."""
    latency_ms: float = Field(default=0, ge=0, le=600_000)
    faults: Faults = Faults()
    accelerators: int = Field(default=0, ge=0, le=64)
    """Cards asked of Slurm all the same, to try out a site without a model."""
    replicas: int = Field(default=1, ge=1, le=64)
    """Jobs that each serve the role; the cells are spread over them."""
    reuse: bool = False
    """Share the running server of another sweep beside this one, where one fits."""

    @property
    def nodes(self) -> int:
        return 1

    @property
    def served(self) -> str:
        return self.model


RoleModel = Annotated[VllmModel | OpenAIModel | ScriptedModel, Field(discriminator="engine")]


def sampling_of(model: Sampling) -> dict[str, Any]:
    """The request parameters that are set, by their OpenAI names."""
    return model.model_dump(include=set(Sampling.model_fields), exclude_none=True)
