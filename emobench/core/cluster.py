"""A cluster profile: what a site's Slurm wants to be told."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from emobench.core.fields import (
    EnvName,
    Found,
    FromNumber,
    Items,
    SafeName,
    Strict,
    make_mistake,
    refuse,
)

_EMPTIES_ENVIRONMENT = ("-e", "--cleanenv", "-C", "--containall")


def _refuse_count(gres: str) -> str:
    # A type may be a number too (gpu:4090); a count is short.
    if re.search(r":[0-9]{1,2}$", gres):
        hint = f"write {gres.rsplit(':', 1)[0]}: the count comes from the model's tensor_parallel"
        raise make_mistake(f"{gres!r} has a count", hint=hint)
    return gres


# Values that stand in an #SBATCH line: one line, no quote and no backslash.
_Line = Annotated[str, Field(pattern=r"^[^\r\n\"'\\`$]+$")]
SbatchValue = Annotated[_Line, FromNumber()]
SbatchOption = Annotated[str, Field(pattern=r"^-[^\r\n\"'\\`$]+$")]
Gres = Annotated[_Line, AfterValidator(_refuse_count)]
Memory = Annotated[str, Field(pattern=r"^[0-9]+[KMGT]?$"), FromNumber()]
TimeLimit = Annotated[
    str,
    Field(pattern=r"^([0-9]+(:[0-9]{1,2}){0,2}|[0-9]+-[0-9]{1,2}(:[0-9]{1,2}){0,2}|UNLIMITED)$"),
    FromNumber(),
]
# Three numbers, because YAML reads 0.10 as 0.1.
Version = Annotated[str, Field(pattern=r"^[0-9]+\.[0-9]+\.[0-9]+\S*$"), FromNumber()]
OneLine = Annotated[str, Field(pattern=r"^[^\r\n]+$")]
Placement = Literal["hetjob", "together", "apart"]


class JobResources(Strict):
    """What one kind of job asks Slurm for."""

    partition: SbatchValue | None = None
    """As sbatch takes it; unset: the site's default."""
    account: SbatchValue | None = None
    """As sbatch takes it; unset: the site's default."""
    qos: SbatchValue | None = None
    """As sbatch takes it; unset: the site's default."""
    constraint: SbatchValue | None = None
    """As sbatch takes it; unset: none."""
    cpus: int = Field(default=2, ge=1)
    """On a server: for each card."""
    mem: Memory | None = None
    """`8G`, `4000M`. On a server: for each card; unset: the site's default."""
    time: TimeLimit | None = None
    """Minutes, `HH:MM:SS` or `D-HH:MM:SS`; unset: the site's default."""
    sbatch: Items[SbatchOption] = ()
    """Further options of sbatch as they are, e.g. `--mail-type=FAIL`."""


class ServerResources(JobResources):
    """A server job; cpus and mem are for one accelerator (or for the job if it has none)."""

    gres: Gres | None = None
    """Servers only, **without the count**: `gpu:h100`, `gpu:hl225`, `hpu`."""


class Container(Strict):
    """The image that `vllm serve` runs in; emobench itself stays outside."""

    runtime: Literal["apptainer", "enroot"]
    """What runs it."""
    image: OneLine
    """Whole path of a .sif or .sqsh file on the nodes, or whatever else the runtime takes; `~` and
    `$` are not expanded."""
    options: Items[OneLine] = ()
    """Further options of `apptainer exec` or `enroot start`, one word each."""
    bind: Items[OneLine] = ()
    """Folders of the host that vLLM has to see: path, or path:path in the container."""

    @model_validator(mode="after")
    def _keep_environment(self) -> Container:
        found: Found = {}
        for i, option in enumerate(self.options if self.runtime == "apptainer" else ()):
            if option in _EMPTIES_ENVIRONMENT:
                hint = (
                    "vLLM would run without its key; PYTHONNOUSERSITE in server_env keeps "
                    "~/.local out"
                )
                found["options", i] = make_mistake(
                    f"{option!r} keeps the environment out of the container", hint=hint
                )
        refuse(found)
        return self


class ClusterProfile(Strict):
    """A site: what its Slurm wants to be told, and what its nodes need."""

    name: Annotated[SafeName, FromNumber()]
    """Default: the file's name."""
    description: str = ""
    """Of the site, in words."""
    scheduler: Literal["slurm", "local"]
    """Where jobs run: Slurm, or this machine."""
    accelerator: Literal["none", "cuda", "gaudi"] = "none"
    """Kind of the servers' cards."""
    user_server: ServerResources = ServerResources()
    """What the job of the user's server asks for."""
    assistant_server: ServerResources = ServerResources()
    """What the job of an assistant's server asks for."""
    array: JobResources = JobResources()
    """What a task of the array, one cell, asks for."""
    python: str | None = None
    """Interpreter on the nodes that emobench is installed for; unset: the submitting one."""
    client_setup: Items[str] = ()
    """Shell lines before emobench starts on a node, as they are."""
    server_setup: Items[str] = ()
    """Shell lines before `vllm serve`, as they are: `module load`, `source activate`."""
    container: Container | None = None
    """The image that `vllm serve` runs in; unset: `vllm` is a command after `server_setup`."""
    vllm_version: Version | None = None
    """Of the vLLM on the nodes, where the submitting machine cannot ask it: flags that it lacks are
    left out."""
    server_env: dict[EnvName, Annotated[str, FromNumber()]] = Field(default_factory=dict)
    """Environment of the servers; values are quoted."""
    placement: Placement = "hetjob"
    """How servers that need each other start. `hetjob`: the user's server and an assistant's are
    one heterogeneous job, and Slurm starts both at once, or neither; `together`: all servers are
    one job on one node; `apart`: each server is a job of its own."""
    throttle: int | None = Field(default=None, ge=1)
    """Cells at a time within one array (without Slurm, of all arrays together); unset: enough to
    keep the servers busy."""
    max_array_size: int | None = Field(default=None, ge=2)
    """Slurm's MaxArraySize, at which arrays are split; unset: asked of the site."""
    server_deadline_min: float = Field(default=30, gt=0)
    """Minutes from the start of a server's job until it has to answer."""
    accelerator_hour_price: float | None = Field(default=None, ge=0)
    """US dollars for one accelerator for one hour: `emobench plan` and the report then name the
    servers' cost, and `max_cost` counts it; unset: not known."""
    handover_lead_min: float | None = Field(default=None, gt=0)
    """Minutes before a server's time limit at which its successor is submitted, at most half of the
    limit; unset: `server_deadline_min`."""

    @property
    def one_machine(self) -> bool:
        """Whether all jobs run where the run is submitted: no queue, no other node."""
        return self.scheduler == "local"
