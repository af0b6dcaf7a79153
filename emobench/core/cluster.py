"""A cluster profile: what a site's Slurm wants to be told."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from emobench.core.models import Strict

# A value that stands in an #SBATCH line: one line, no quote and no backslash.
SbatchValue = Annotated[str, Field(pattern=r"^[^\r\n\"'\\`$]+$")]
OneLine = Annotated[str, Field(pattern=r"^[^\r\n]+$")]
EnvName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class JobResources(Strict):
    """What one kind of job asks Slurm for."""

    partition: SbatchValue | None = None
    account: SbatchValue | None = None
    qos: SbatchValue | None = None
    constraint: SbatchValue | None = None
    cpus: int = Field(default=2, ge=1)
    mem: SbatchValue | None = None
    """As sbatch takes it: 8G, 4000M."""
    time: SbatchValue | None = None
    """As sbatch takes it: D-HH:MM:SS, HH:MM:SS or minutes."""
    sbatch: tuple[SbatchValue, ...] = ()
    """Further sbatch options as they are, e.g. '--mail-type=FAIL'."""


class ServerResources(JobResources):
    """A server job; cpus and mem are for one accelerator (or for the job if it has none)."""

    gres: SbatchValue | None = None
    """GRES without the count, e.g. gpu:h100, gpu:hl225, hpu."""


class Container(Strict):
    """The image that `vllm serve` runs in; emobench itself stays outside."""

    runtime: Literal["apptainer", "enroot"]
    image: OneLine
    """Path of a .sif or .sqsh file on the nodes, or whatever else the runtime takes."""
    options: tuple[OneLine, ...] = ()
    """Further options of `apptainer exec` or `enroot start`, one word each."""
    bind: tuple[OneLine, ...] = ()
    """Folders of the host: path, or path:path in the container."""


class ClusterProfile(Strict):
    name: str
    description: str = ""
    scheduler: Literal["slurm", "local"]
    accelerator: Literal["none", "cuda", "gaudi"] = "none"
    user_server: ServerResources = ServerResources()
    assistant_server: ServerResources = ServerResources()
    array: JobResources = JobResources()
    python: str | None = None
    """Interpreter of the environment that emobench is installed in; None: the submitting one."""
    client_setup: tuple[str, ...] = ()
    """Shell lines before emobench starts on a node, as they are (the site's, not the sweep's)."""
    server_setup: tuple[str, ...] = ()
    """Shell lines before `vllm serve`, e.g. module load, source activate."""
    container: Container | None = None
    """None: `vllm` is a command after `server_setup`."""
    server_env: dict[EnvName, str] = Field(default_factory=dict)
    """Environment of the servers; values are quoted."""
    throttle: int | None = Field(default=None, ge=1)
    """Cells at a time within one array; None: from what the servers can batch."""
    max_array_size: int | None = Field(default=None, ge=2)
    """None: asked of the site (scontrol show config)."""
    server_deadline_min: float = Field(default=30, gt=0)
    """Minutes from the start of a server's job until it has to answer."""
    handover_lead_min: float | None = Field(default=None, gt=0)
    """Minutes before a server's time limit at which its successor is submitted, at most half of the
    limit; None: server_deadline_min."""
