"""Arguments of `vllm serve`, checked before a job waits hours to fail over one.

vllm_known.txt lists those of one version. Where a `vllm` can be asked, its own help counts.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Literal

from emobench.config.vllm_arguments import TEMPLATE_KWARGS, parse_flag
from emobench.core.cluster import ClusterProfile
from emobench.core.errors import suggest_nearest
from emobench.core.files import read_json, write_json
from emobench.serving.site_shell import run_lines

VERSION = "0.33"
OLDEST = "0.9.0"
"""The oldest vLLM that these servers can be: before it, a reasoning parser needs a second flag."""
OLDEST_GAUDI = "0.11.2"
"""The first vLLM of which the Gaudi plugin, which has the same numbers, is meant for use."""
SINCE = {TEMPLATE_KWARGS: "0.14.0"}
"""Flags that emobench sets and that came after `OLDEST`."""
REMOVED: Mapping[str, str] = {
    "--device": "remove it: the installed vLLM knows its device",
    "--disable-log-requests": "remove it: requests are logged only with --enable-log-requests, and "
    "releases before 0.33 refuse it",
    "--enable-reasoning": "remove it: reasoning_parser alone is enough",
    "--swap-space": "remove it: vLLM no longer swaps to the CPU's memory; --kv-offloading-size "
    "comes closest",
    "--num-scheduler-steps": "remove it: --async-scheduling, on by default, took its place",
    "--multi-step-stream-outputs": "remove it: it went with --num-scheduler-steps",
    "--use-v2-block-manager": "remove it: there is one block manager",
    "--worker-use-ray": "use --distributed-executor-backend ray, or `nodes` without Ray",
    "--engine-use-ray": "remove it",
    "--guided-decoding-backend": "use --structured-outputs-config.backend",
    "--max-seq-len-to-capture": "use --max-cudagraph-capture-size",
    "--max-context-len-to-capture": "use --max-cudagraph-capture-size",
    "--cuda-graph-sizes": "use --cudagraph-capture-sizes",
    "--full-cuda-graph": "use --compilation-config.cudagraph_mode",
    "--rope-scaling": "use --hf-overrides.rope_parameters",
    "--rope-theta": "use --hf-overrides.rope_parameters",
    "--speculative-model": "use --speculative-config.model",
    "--num-speculative-tokens": "use --speculative-config.num_speculative_tokens",
    "--num-lookahead-slots": "use --speculative-config",
    "--scheduler-delay-factor": "remove it",
    "--preemption-mode": "remove it: what is preempted is computed again",
    "--disable-async-output-proc": "remove it",
    "--disable-mm-preprocessor-cache": "use --mm-processor-cache-gb 0",
    "--task": "use --runner; a chat model needs neither",
}
"""Arguments of older releases that this version lacks, or that some releases refuse."""

ASK_TIMEOUT_S = 90.0
"""Importing vLLM from a shared file system takes long; a submission waits no longer than this."""
CACHE_S = 24 * 3600.0
_NO_VLLM = 97
_SURE = "--tensor-parallel-size"


@dataclass(frozen=True)
class Known:
    """The flags there are, and who says so."""

    flags: frozenset[str]
    source: str
    asked: bool
    """Whether the site's own vLLM says so."""


@cache
def load_shipped() -> Known:
    """Return the flags of the version that the list was made for."""
    flags = frozenset(line for line in _read_shipped_lines() if line.startswith("-"))
    return Known(flags, f"vLLM {VERSION} (emobench's list)", asked=False)


def list_shipped_parsers(kind: Literal["tool", "reasoning"]) -> list[str]:
    """Return the parsers that this version registers by name."""
    lines = (line.split() for line in _read_shipped_lines())
    return [line[1] for line in lines if line[0] == f"{kind}-parser"]


@cache
def _read_shipped_lines() -> list[str]:
    text = Path(__file__).with_name("vllm_known.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if not line.startswith("#")]


def parse_version(text: str) -> tuple[int, ...]:
    """Return the numbers of a version: '0.11.2.dev3+g1' and '0.11.2' are (0, 11, 2); () of none."""
    match = re.search(r"\d+(?:\.\d+){1,2}", text)
    return tuple(map(int, match[0].split("."))) if match else ()


def find_oldest(profile: ClusterProfile) -> str:
    """Return the oldest vLLM that a site's servers can be."""
    return OLDEST_GAUDI if profile.accelerator == "gaudi" else OLDEST


def find_by_version(version: str) -> Known:
    """Return the flags of a version that nobody can be asked about, as far as they are known."""
    newer = {f for f, since in SINCE.items() if parse_version(version) < parse_version(since)}
    return Known(load_shipped().flags - newer, f"vLLM {version} (vllm_version)", asked=False)


_asked: dict[str, Known | None] = {}


def ask_installed(profile: ClusterProfile, cache_file: Path | None = None) -> Known | None:
    """Return the flags of the vLLM that `server_setup` makes reachable here; None where there is
    none.

    The answer is kept for this process, and for a day in `cache_file` where its folder exists.
    """
    if profile.container is not None:
        return None
    lines = [*profile.server_setup, *(f"{k}={v}" for k, v in profile.server_env.items())]
    key = sha256("\n".join(lines).encode()).hexdigest()
    if key in _asked:
        return _asked[key]
    kept = read_json(cache_file) if cache_file else None
    if (
        isinstance(kept, dict)
        and kept.get("key") == key
        and isinstance(kept.get("flags"), list)
        and 0 <= time.time() - float(kept.get("asked", 0)) < CACHE_S
    ):
        flags = frozenset(map(str, kept["flags"]))
    else:
        flags = _ask(profile)
        if flags and cache_file and cache_file.parent.is_dir():
            write_json(cache_file, {"key": key, "asked": time.time(), "flags": sorted(flags)})
    _asked[key] = Known(flags, "the installed vLLM", asked=True) if flags else None
    return _asked[key]


def find_known_flags(profile: ClusterProfile, cache_file: Path | None = None) -> Known:
    """Return the flags of the site's vLLM: by its own word, by the profile's, or the newest's."""
    found = ask_installed(profile, cache_file)
    if found is None and profile.vllm_version is not None:
        found = find_by_version(profile.vllm_version)
    return found or load_shipped()


def _ask(profile: ClusterProfile) -> frozenset[str]:
    # Releases before 0.10 list everything without =all, and with it what has "all" in its name.
    command = (
        f"command -v vllm >/dev/null || exit {_NO_VLLM}\n"
        f'help=$(vllm serve --help=all) && grep -q -e {_SURE} <<<"$help" ||\n'
        'help=$(vllm serve --help) || exit\nprintf "%s\\n" "$help"'
    )
    ran = run_lines(profile.server_setup, profile.server_env, command, ASK_TIMEOUT_S)
    flags = parse_help(ran.output) if ran.code == 0 else frozenset()
    # A list without this is not the list.
    return flags if _SURE in flags else frozenset()


def parse_help(text: str) -> frozenset[str]:
    """Return the options that a help page defines, not those that its sentences mention."""
    lines = re.findall(r"^ {1,4}(-\S.*)$", text, flags=re.MULTILINE)
    heads = [re.split(r"\s{2,}", line)[0] for line in lines]
    return frozenset(
        flag for head in heads for flag in re.findall(r"(?<![\w-])--?[A-Za-z][\w-]*", head)
    )


def list_flags(arguments: Sequence[str]) -> list[str]:
    """Return the flags among arguments, as vLLM reads them."""
    return [
        parse_flag(argument)
        for argument in arguments
        if re.match(r"--?[A-Za-z]", argument) and not re.match(r"-O\d", argument)
    ]


def is_known(flag: str, flags: Iterable[str]) -> bool:
    """Return whether argparse would take the flag: as it is, as --no-X, or as the start of one
    flag."""
    flags = frozenset(flags)
    flag = flag if flag.startswith("--") else flag.partition(".")[0]
    positive = f"--{flag.removeprefix('--no-')}" if flag.startswith("--no-") else flag
    if flag in flags or positive in flags:
        return True
    return flag.startswith("--") and sum(other.startswith(flag) for other in flags) == 1


def describe_removed(flag: str, known: Known) -> str:
    """Return what to do about a flag that vLLM dropped; empty where it did not, or where it is
    back."""
    if known.asked and is_known(flag, known.flags):
        return ""
    return REMOVED.get(flag, "")


def describe_unknown(flag: str, known: Known) -> str:
    """Return what is odd about a flag that is not known; empty where it is."""
    if is_known(flag, known.flags):
        return ""
    guess = suggest_nearest(flag, known.flags)
    return f"{known.source} has no {flag}" + (f"; {guess}" if guess else "")
