"""Why an engine ended, from the last lines that it printed and its exit code. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "device_memory",
    "device_busy",
    "kv_cache",
    "host_memory",
    "argument",
    "model",
    "port",
    "driver",
    "device",
    "missing",
    "chat_template",
    "chat",
    "disk",
    "timeout",
    "unknown",
]
TITLES: dict[Kind, str] = {
    "device_memory": "out of the accelerator's memory",
    "device_busy": "another process holds the accelerator",
    "kv_cache": "the KV cache is too small for max_model_len",
    "host_memory": "out of the node's memory",
    "argument": "vLLM does not take an argument",
    "model": "the model was not found",
    "port": "the port is in use",
    "driver": "no usable accelerator or driver",
    "device": "a fault of the accelerator or its network",
    "missing": "a program or module is missing",
    "chat_template": "the chat template does not work",
    "chat": "the first requests failed",
    "disk": "no space on a disk",
    "timeout": "it took too long to start",
    "unknown": "the cause was not recognised",
}
LINE_LIMIT = 300


@dataclass(frozen=True)
class Cause:
    kind: Kind
    line: str
    """The engine's own words, on one line; empty where only the exit code tells."""
    advice: str

    def format_text(self) -> str:
        """Return the cause and what to do, each on a line."""
        said = f": {self.line}" if self.line else ""
        return f"{TITLES[self.kind]}{said}\nwhat to do: {self.advice}"


@dataclass(frozen=True)
class _Rule:
    kind: Kind
    pattern: re.Pattern[str]
    advice: str


def _make_rule(kind: Kind, pattern: str, advice: str) -> _Rule:
    return _Rule(kind, re.compile(pattern, re.IGNORECASE), advice)


_LESS_MEMORY = (
    "use more cards (tensor_parallel), a smaller max_model_len, or a smaller or quantised model"
)
_RULES = (
    # More special wordings first: several rules may fit one line.
    _make_rule(
        "kv_cache",
        r"larger than the maximum number of tokens that can be stored in KV cache"
        r"|larger than the available KV cache memory",
        "lower max_model_len (the message names the largest that fits), raise "
        "gpu_memory_utilization, or use more cards (tensor_parallel)",
    ),
    _make_rule(
        "device_busy",
        r"Free memory on device .*less than desired GPU memory utilization"
        r"|synStatus ?= ?20\b.*|Device already acquired"
        r"|CUDA-capable device\(s\) is/are busy",
        "see with nvidia-smi or hl-smi on that node who uses the card; exclude the node "
        "(sbatch: --exclude) or lower gpu_memory_utilization",
    ),
    _make_rule("device_memory", r"No available memory for the cache blocks", _LESS_MEMORY),
    _make_rule(
        "device_memory",
        r"(?:CUDA|HIP|HPU|XPU) out of memory|(?:torch|cuda)\.OutOfMemoryError"
        r"|CUDA error: out of memory|cudaErrorMemoryAllocation|CUBLAS_STATUS_ALLOC_FAILED"
        r"|PT_DEVMEM.*Allocation failed|(?:workspace|HBM).*Allocation failed for size",
        f"{_LESS_MEMORY}; if it died only at start, lower gpu_memory_utilization",
    ),
    _make_rule(
        "argument",
        r"error: (?:unrecognized arguments|argument \S+.*(?:invalid|expected)|ambiguous option)"
        r"|error: the following arguments are required|^KeyError: .*invalid (?:tool call|reasoning)"
        r"|invalid (?:tool call|reasoning) parser|(?:tool|reasoning) parser '.*' not found"
        r"|^(?:\S*pydantic\S*: )?\d+ validation errors? for \w*Config",
        "correct extra_args or the key in the sweep file; `vllm serve --help=all` in the "
        "server's environment lists what this version takes. A flag that neither names is "
        "emobench's: say the site's version (vllm_version in the profile), and submit again",
    ),
    _make_rule(
        "model",
        r"(?:GatedRepoError|Cannot access gated repo|Access to model .* is restricted|401 Client "
        r"Error)",
        "accept the model's licence on its page and put HF_TOKEN into the server's environment, "
        "or download the model once and give its folder",
    ),
    _make_rule(
        "model",
        r"LocalEntryNotFoundError|OfflineModeIsEnabled|outgoing traffic has been disabled"
        r"|couldn't connect to .?https://huggingface\.co|Max retries exceeded with url.*huggingface"
        r"|Failed to resolve 'huggingface\.co'",
        "this node has no way to the hub: download the model on a login node into the HF_HOME "
        "that the job uses, or give the model's folder",
    ),
    _make_rule(
        "model",
        r"RepositoryNotFoundError|RevisionNotFoundError|Repository Not Found for url"
        r"|is not a local folder and is not a valid model identifier"
        r"|Can't load (?:the configuration|tokenizer|the model) (?:of|for)"
        r"|HFValidationError|does not appear to have a file named"
        r"|Invalid repository ID or local directory specified"
        r"|Cannot find any model weights|Model architectures .* (?:are not|failed to be) "
        r"|is not a valid git identifier",
        "check `model` and `revision` in the sweep file; a folder must be visible from the "
        "node and complete, and this vLLM must know its architecture",
    ),
    _make_rule(
        "port",
        r"address already in use|EADDRINUSE",
        "nothing: the next start takes another port; if it stays, another job may use "
        "this node's ports",
    ),
    _make_rule(
        "driver",
        r"No CUDA GPUs are available|no CUDA-capable device is detected|Found no NVIDIA driver"
        r"|NVIDIA driver on your system is too old|driver version is insufficient"
        r"|CUDA driver initialization failed|Failed to infer device type"
        r"|no kernel image is available for execution|invalid device ordinal"
        r"|libcuda\.so\.1: cannot open shared object|Device not found"
        r"|no module ids for the cards",
        "check gres and server_setup of the profile: does `nvidia-smi` or `hl-smi` in such a job "
        "show the cards, and does the driver suit this vLLM? `emobench doctor` looks at the rest",
    ),
    _make_rule(
        "device",
        r"NCCL error|ncclSystemError|ncclUnhandledCudaError|ncclInternalError|ncclRemoteError"
        r"|HCCL.*(?:error|fail)|Device acquire failed|synStatus ?=|synFail"
        r"|CUDA error: (?!out of memory)|Xid \(PCI|uncorrectable ECC|device-side assert"
        r"|Connection closed by peer \[|DistNetworkError",
        "often gone at the next start; if not, exclude the node (sbatch: --exclude) and tell the "
        "site, or set NCCL_DEBUG=INFO in server_env to see more",
    ),
    _make_rule(
        "missing",
        r"(?:vllm|apptainer|enroot|hl-smi|nvidia-smi|module|python\S*|srun): "
        r"(?:command not found|not found)|No module named '?[\w.]+|^ImportError: "
        r"|undefined symbol: |cannot execute: required file not found"
        r"|emobench_guard.*(?:not found|No module)",
        "check server_setup (or the container) of the profile: `vllm --version` must work after "
        "those lines on a node of that partition; `emobench doctor` tries them here",
    ),
    _make_rule(
        "chat_template",
        r"jinja2\.exceptions\.|chat template string .*is invalid|ChatTemplateError"
        r"|supplied chat template .*(?:does not exist|cannot be opened|appears path-like)"
        r"|tokenizer does not define one|no longer allowed, so you must provide a chat template",
        "give `chat_template` (a file that the node can read), or an instruction-tuned model "
        "that brings its own",
    ),
    _make_rule(
        "disk",
        r"No space left on device|Disk quota exceeded|ENOSPC",
        "free space, or point HF_HOME, VLLM_CACHE_ROOT or TMPDIR (server_env) to another disk; "
        "a full /dev/shm counts as well",
    ),
)
_LAST_RESORT = (
    _make_rule(
        "host_memory",
        r"oom[-_]kill|Out of memory: Killed process|DefaultCPUAllocator: can't allocate memory"
        r"|^MemoryError|Cannot allocate memory|Exceeded job memory limit",
        "ask for more `mem` in the profile's server job; a model is read through the node's memory",
    ),
    _make_rule(
        "timeout",
        r"Timed out waiting for engine|did not become ready within|engine_ready_timeout"
        r"|Timeout waiting for (?:engine|worker)|No available shared memory broadcast block",
        "raise VLLM_ENGINE_READY_TIMEOUT_S (server_env) and server_deadline_min; put the weights "
        "on a faster disk, and keep compiled graphs (recipe cache) between runs",
    ),
)
_PREFIX = re.compile(
    r"^(?:\d+: )?(?:\(\w+[^)]*\bpid=\d+\)\s*)*(?:\[rank\d+\]:\s*)?"
    r"(?:(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL)[ :]+(?:\d\d-\d\d \d\d:\d\d:\d\d )?"
    r"(?:\[[\w.]+:\d+\]\s?)?)?(?:\(\w+[^)]*\bpid=\d+\)\s*)*(?:\[rank\d+\]:\s*)?"
)
"""What vLLM writes before a line: srun's label, the process, the level, the place."""
_FRAME = re.compile(r"^\s*(?:File \"|\^+|~+|Traceback |raise |return |self\.|\.\.\.<)")
_CONSEQUENCE = re.compile(r"EngineDeadError|Engine core initialization failed|CancelledError")
"""What vLLM's first process says where another one broke before."""
_KILLED = (-9, 137)
_NO_COMMAND = 127


def diagnose(lines: Iterable[str], exit_code: int | None = None) -> Cause:
    """Return the first line that says why, before what it led to; `exit_code`: negative for a
    signal."""
    said = [text for line in lines if (text := _strip_prefix(line))]
    for rules in (_RULES, _LAST_RESORT):
        for text in said:
            for rule in rules:
                if rule.pattern.search(text):
                    return Cause(rule.kind, text[:LINE_LIMIT], rule.advice)
        if rules is _RULES and exit_code in _KILLED:
            # Nobody else sends SIGKILL as often as the kernel does for memory.
            line = next((text for text in said if _LAST_RESORT[0].pattern.search(text)), "")
            return Cause("host_memory", line or "killed (SIGKILL)", _LAST_RESORT[0].advice)
    if exit_code == _NO_COMMAND:
        advice = next(rule.advice for rule in _RULES if rule.kind == "missing")
        return Cause("missing", said[-1][:LINE_LIMIT] if said else "", advice)
    errors = [text for text in said if re.match(r"[\w.]*(?:Error|Exception)\b", text)]
    roots = [text for text in errors if not _CONSEQUENCE.search(text)]
    last = (roots or errors or [""])[-1]
    return Cause("unknown", last[:LINE_LIMIT], "read the server's log from its first traceback on")


def diagnose_slow_start() -> Cause:
    """Return the cause of an engine that runs, says nothing wrong and is not ready in time."""
    return Cause(
        "timeout", "", next(rule.advice for rule in _LAST_RESORT if rule.kind == "timeout")
    )


def may_recover(cause: Cause, served: bool) -> bool:
    """Return whether another start may help. `served`: the engine had been ready before it
    ended."""
    if cause.kind in ("port", "device", "device_busy"):
        return True
    return served and cause.kind not in (
        "argument",
        "model",
        "missing",
        "chat_template",
        "kv_cache",
    )


def _strip_prefix(line: str) -> str:
    """Return the words of a line without vLLM's prefix; empty for mere information and for
    frames."""
    match = _PREFIX.match(line)
    if match is None or match["level"] in ("DEBUG", "INFO", "WARNING"):
        return ""
    text = line[match.end() :]
    return "" if _FRAME.match(text) else " ".join(text.split())
