"""Logs of engines that ended, as vLLM and its friends write them, and what is made of them."""

from __future__ import annotations

import pytest

from emobench.serving.failure_diagnosis import TITLES, Cause, diagnose, may_recover

START = """\
W1121 07:31:26.629000 12752 torch/_library/triton.py:53] Triton not available
INFO 09-28 15:47:01 [__init__.py:241] Automatically detected platform cuda.
WARNING 09-28 15:47:02 [interface.py:171] Failed to import from vllm._C with \
ModuleNotFoundError("No module named 'vllm._C'")
(APIServer pid=1) INFO 09-28 15:47:03 [utils.py:326] non-default args: {'model': 'm', 'port': 1}
node1:4533:4533 [0] NCCL INFO NET/Plugin : dlerror=libnccl-net.so: cannot open shared object \
file: No such file or directory No plugin found (libnccl-net.so), using internal implementation
(EngineCore_DP0 pid=2) INFO 09-28 15:47:15 [core.py:636] Waiting for init message from front-end.
(EngineCore_DP0 pid=2) WARNING 09-28 15:47:16 [loader.py:9] CUDA out of memory is handled here
"""
ENGINE = "(EngineCore_DP0 pid=2) ERROR 09-28 15:47:24 [core.py:718] "
END = """\
(EngineCore_DP0 pid=2) Process EngineCore_DP0:
(EngineCore_DP0 pid=2) Traceback (most recent call last):
(EngineCore_DP0 pid=2)   File "/usr/lib/python3.12/multiprocessing/process.py", line 314, in _b
(EngineCore_DP0 pid=2)     self.run()
[rank0]:[W508 11:47:03.157 ProcessGroupNCCL.cpp:1554] Warning: WARNING: destroy_process_group() \
was not called
(EngineCore_DP0 pid=2) torch.distributed.DistBackendError: NCCL error in: c10d/ProcessGroup.cpp:1
(APIServer pid=1) Traceback (most recent call last):
(APIServer pid=1)   File "/opt/venv/bin/vllm", line 10, in <module>
(APIServer pid=1)     sys.exit(main())
(APIServer pid=1)              ^^^^^^
(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above. \
Failed core proc(s): {'EngineCore_DP0': 1}
"""


def in_a_traceback(words: str) -> list[str]:
    """The words as an engine process logs them, with what comes before and after."""
    frames = [
        "EngineCore failed to start.",
        "Traceback (most recent call last):",
        '  File "/opt/venv/vllm/v1/engine/core.py", line 709, in run_engine_core',
        "    engine_core = EngineCoreProc(*args, **kwargs)",
        "                  ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^",
        '    raise ValueError("No available memory for the cache blocks. "',
        *words.splitlines(),
    ]
    return [*START.splitlines(), *(ENGINE + line for line in frames), *END.splitlines()]


ENGINE_ERRORS = [
    (
        "device_memory",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.16 GiB. GPU 0 has a total "
        "capacity of 7.75 GiB of which 1.17 GiB is free.",
    ),
    ("device_memory", "torch.OutOfMemoryError: HIP out of memory. Tried to allocate 12.95 GiB."),
    ("device_memory", "RuntimeError: CUDA error: out of memory"),
    (
        "device_memory",
        "ValueError: No available memory for the cache blocks. Try increasing "
        "`gpu_memory_utilization` when initializing the engine.",
    ),
    (
        "device_memory",
        "RuntimeError: [Rank:0] FATAL ERROR :: MODULE:PT_DEVMEM Allocation failed for "
        "size::939524096 (896)MB",
    ),
    (
        "device_busy",
        "ValueError: Free memory on device (3.22/4.0 GiB) on startup is less than desired GPU "
        "memory utilization (0.9, 3.6 GiB). Decrease GPU memory utilization or reduce GPU memory "
        "used by other processes.",
    ),
    ("device_busy", "RuntimeError: synStatus=20 [Device already acquired] Device acquire failed."),
    (
        "kv_cache",
        "ValueError: The model's max seq len (32768) is larger than the maximum number of tokens "
        "that can be stored in KV cache (7344). Try increasing `gpu_memory_utilization` or "
        "decreasing `max_model_len` when initializing the engine.",
    ),
    (
        "kv_cache",
        "ValueError: To serve at least one request with the model's max seq len (32768), (4.5 GiB "
        "KV cache is needed, which is larger than the available KV cache memory (1.02 GiB). Based "
        "on the available memory, the estimated maximum model length is 7424.",
    ),
    ("device", "RuntimeError: NCCL error: unhandled system error (run with NCCL_DEBUG=INFO)"),
    (
        "device",
        "torch.distributed.DistBackendError: NCCL error in: ../torch/csrc/distributed/c10d/"
        "NCCLUtils.hpp:121, unhandled cuda error\nncclUnhandledCudaError: Call failed.",
    ),
    ("device", "RuntimeError: synStatus=26 [Generic failure] Device acquire failed."),
    (
        "device",
        "RuntimeError: Graph compile failed. synStatus=synStatus 26 [Generic failure]. compile",
    ),
    ("device", "RuntimeError: CUDA error: an illegal memory access was encountered"),
    ("driver", "RuntimeError: No CUDA GPUs are available"),
    ("driver", "RuntimeError: Failed to infer device type, please set the environment variable"),
    (
        "driver",
        "RuntimeError: The NVIDIA driver on your system is too old (found version 12020). Please "
        "update your GPU driver",
    ),
    (
        "driver",
        "ncclUnhandledCudaError: Call to CUDA function failed.\n"
        "Cuda failure 'CUDA driver version is insufficient for CUDA runtime version'",
    ),
    (
        "model",
        "OSError: Qwen/Nothing is not a local folder and is not a valid model identifier listed "
        "on 'https://huggingface.co/models'",
    ),
    ("model", "RuntimeError: Cannot find any model weights with `/models/empty`"),
    ("disk", "OSError: [Errno 28] No space left on device: '/dev/shm/psm_1'"),
    ("chat_template", "jinja2.exceptions.TemplateSyntaxError: unexpected '}'"),
    ("missing", "ModuleNotFoundError: No module named 'habana_frameworks'"),
]


@pytest.mark.parametrize(("kind", "words"), ENGINE_ERRORS)
def test_the_root_cause_is_found_in_the_noise(kind: str, words: str) -> None:
    cause = diagnose(in_a_traceback(words), 1)
    if words.startswith("ncclUnhandledCudaError: Call to"):
        assert cause.kind in ("device", kind)  # both name the driver's call
    else:
        assert cause.kind == kind
        assert cause.line in " ".join(words.split())
    assert cause.advice


OTHER_ERRORS = [
    # What a real vLLM 0.32 printed.
    ("argument", "usage: vllm [-h] [-v]\nvllm: error: unrecognized arguments: --nosuch 1", 2),
    (
        "argument",
        "usage: vllm serve [model_tag] [options]\nvllm serve: error: argument --dtype: invalid "
        "choice: 'nosuch' (choose from 'auto', 'bfloat16')",
        2,
    ),
    (
        "argument",
        "    raise KeyError(\nKeyError: 'invalid tool call parser: nosuch (chose from { hermes })'",
        1,
    ),
    (
        "model",
        "    raise HFValidationError(\nhuggingface_hub.errors.HFValidationError: Repo id must be "
        "in the form 'repo_name' or 'namespace/repo_name': '/no/such/model'.",
        1,
    ),
    (
        "model",
        "huggingface_hub.errors.LocalEntryNotFoundError: Cannot find an appropriate cached "
        "snapshot folder for the specified revision on the local disk and outgoing traffic has "
        "been disabled.",
        1,
    ),
    (
        "model",
        "requests.exceptions.HTTPError: 401 Client Error: Unauthorized for url: https://hf.co/x\n"
        "The above exception was the direct cause of the following exception:\n"
        "huggingface_hub.errors.GatedRepoError: 401 Client Error.",
        1,
    ),
    (
        "model",
        "huggingface_hub.utils._errors.RepositoryNotFoundError: 404 Client Error.\n"
        "Repository Not Found for url: https://huggingface.co/api/models/a/b.",
        1,
    ),
    ("port", "(APIServer pid=3) OSError: [Errno 98] Address already in use", 1),
    ("port", "cannot listen on 127.0.0.1:8000: Address already in use", 1),
    ("missing", "/runs/x/scripts/serve_user.sh: line 9: vllm: command not found", 127),
    ("missing", "serve_user.sh: line 9: exec: vllm: not found", 127),
    ("missing", "ModuleNotFoundError: No module named 'emobench_guard'", 1),
    ("driver", "emobench: no module ids for the cards '0,1' of this job: not started", 1),
    (
        "chat_template",
        "ValueError: The supplied chat template string (/x.jinja) appears path-like, but doesn't "
        "exist!",
        1,
    ),
    (
        "host_memory",
        "slurmstepd: error: Detected 1 oom_kill event in StepId=7.batch. Some of the step tasks "
        "have been OOM Killed.",
        1,
    ),
    ("host_memory", "Loading safetensors checkpoint shards:  40% Completed | 2/5", -9),
    ("host_memory", "serve_user.sh: line 12:  4711 Killed   vllm serve m", 137),
    (
        "timeout",
        "TimeoutError: Timed out waiting for engine core processes to start. This is often "
        "caused by slow weight loading for large models. Waited 600s",
        1,
    ),
    ("disk", "OSError: [Errno 122] Disk quota exceeded: '/home/me/.cache/x'", 1),
]


@pytest.mark.parametrize(("kind", "words", "code"), OTHER_ERRORS)
def test_what_ends_a_server_before_or_beside_its_engine(kind: str, words: str, code: int) -> None:
    cause = diagnose([*START.splitlines(), *words.splitlines()], code)
    assert cause.kind == kind
    assert cause.advice


def test_a_label_of_srun_and_a_rank_do_not_hide_a_cause() -> None:
    line = "1: (EngineCore pid=7) (Worker_TP1 pid=9) ERROR 09-28 15:47:24 [core.py:718] [rank1]: "
    cause = diagnose([line + "torch.OutOfMemoryError: CUDA out of memory."])
    assert cause.kind == "device_memory"
    assert cause.line.startswith("torch.OutOfMemoryError")


def test_an_engines_cause_beats_the_signal_that_ended_it() -> None:
    log = in_a_traceback("RuntimeError: No CUDA GPUs are available")
    assert diagnose(log, -9).kind == "driver"


@pytest.mark.parametrize("lines", [[], START.splitlines()])
def test_a_log_that_says_nothing_has_no_known_cause(lines: list[str]) -> None:
    for code in (None, 0, 1, -11):
        assert diagnose(lines, code) == Cause("unknown", "", diagnose([]).advice)


def test_an_unknown_error_is_quoted() -> None:
    cause = diagnose([*START.splitlines(), "ZeroDivisionError: division by zero", "bye"], 1)
    assert (cause.kind, cause.line) == ("unknown", "ZeroDivisionError: division by zero")


def test_an_unknown_error_of_a_worker_is_quoted_rather_than_what_it_led_to() -> None:
    """From vLLM 0.32 on a CPU: a seed in a request whose prompt is computed in parts."""
    worker = "(Worker pid=7) ERROR 11-21 07:55:22 [multiproc_executor.py:1063] "
    core = "(EngineCore pid=6) ERROR 11-21 07:55:22 [core.py:1512] "
    api = "(APIServer pid=5) ERROR 11-21 07:55:22 [async_llm.py:906] "
    broke = "CPU Generator does not use offset"
    cause = diagnose(
        [
            f"{worker}RuntimeError: {broke}",
            f"{core}RuntimeError: Worker failed with error '{broke}', please check the stack trace",
            f"{api}vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue.",
            "(APIServer pid=5) INFO:     Application shutdown complete.",
        ],
        0,
    )
    assert cause.kind == "unknown"
    assert cause.line.startswith("RuntimeError: Worker failed with error 'CPU Generator")
    only = diagnose([f"{api}EngineDeadError: EngineCore encountered an issue."], 0)
    assert only.line == "EngineDeadError: EngineCore encountered an issue."


def test_a_cause_and_its_advice_stand_on_lines_of_their_own() -> None:
    cause = diagnose(["vllm: error: unrecognized arguments: --nosuch " + "x" * 1000], 2)
    title, advice = cause.format_text().splitlines()
    assert title.startswith(f"{TITLES['argument']}: vllm: error: unrecognized arguments: --nosuch")
    assert len(title) < 400
    assert advice == f"what to do: {cause.advice}"


@pytest.mark.parametrize(
    ("kind", "first", "later"),
    [
        ("port", True, True),
        ("device", True, True),
        ("device_busy", True, True),
        ("device_memory", False, True),
        ("host_memory", False, True),
        ("unknown", False, True),
        ("argument", False, False),
        ("model", False, False),
        ("missing", False, False),
        ("chat_template", False, False),
        ("kv_cache", False, False),
    ],
)
def test_only_what_can_heal_is_tried_again(kind: str, first: bool, later: bool) -> None:
    cause = Cause(kind, "", "")  # type: ignore[arg-type]
    assert may_recover(cause, served=False) is first
    assert may_recover(cause, served=True) is later
