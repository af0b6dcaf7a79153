"""The command line of `vllm serve`, and what is odd about it before anything is submitted."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from emobench.cli.main import main
from emobench.config.templates import find_shipped_templates
from emobench.config.vllm_arguments import (
    FAMILIES,
    SET_BY_KEY,
    SET_BY_SCRIPT,
    UNGUARDED,
    Role,
    build_serve_arguments,
    find_option,
    resolve_flag,
    suggest_parser,
)
from emobench.core.cluster import ClusterProfile
from emobench.core.errors import InvalidInput
from emobench.core.models import VllmModel
from emobench.core.run_dir import RunDir
from emobench.scheduler.render import render
from emobench.serving import vllm_flags as flags
from emobench.serving.preflight import check_servers, list_parser_warnings
from tests.support.plans import CUDA, make_plan


def value_of(arguments: list[str], flag: str) -> str | None:
    return arguments[arguments.index(flag) + 1] if flag in arguments else None


def test_the_tool_parser_is_the_assistants_alone() -> None:
    model = VllmModel(model="m", tool_call_parser="hermes")
    assistant, user = (
        build_serve_arguments(model, "assistant"),
        build_serve_arguments(model, "user"),
    )
    assert value_of(assistant, "--tool-call-parser") == "hermes"
    assert "--enable-auto-tool-choice" in assistant
    assert not {"--tool-call-parser", "--enable-auto-tool-choice"} & set(user)


@pytest.mark.parametrize(
    ("role", "given", "expected"),
    [
        ("user", {}, '{"enable_thinking": false}'),
        ("user", {"enable_thinking": True}, '{"enable_thinking": true}'),
        ("user", {"x": "a b"}, '{"enable_thinking": false, "x": "a b"}'),
        ("assistant", {}, None),
        ("assistant", {"enable_thinking": False}, '{"enable_thinking": false}'),
    ],
)
def test_the_user_does_not_think_unless_told(
    role: Role, given: dict[str, Any], expected: str | None
) -> None:
    arguments = build_serve_arguments(VllmModel(model="m", chat_template_kwargs=given), role)
    assert value_of(arguments, "--default-chat-template-kwargs") == expected


def test_all_that_can_be_set() -> None:
    model = VllmModel(
        model="/models/a b",
        served_name="a",
        revision="r",
        dtype="bfloat16",
        max_model_len=4096,
        tensor_parallel=4,
        pipeline_parallel=2,
        nodes=2,
        gpu_memory_utilization=0.8,
        reasoning_parser="qwen3",
        chat_template="/t.jinja",
        seed=0,
        extra_args=("--enforce-eager",),
    )
    assert model.accelerators == 8
    arguments = build_serve_arguments(model, "assistant")
    pairs = dict(pairwise(arguments))
    assert {flag: pairs[flag] for flag in pairs if flag.startswith("--")} == {
        "--served-model-name": "a",
        "--revision": "r",
        "--dtype": "bfloat16",
        "--gpu-memory-utilization": "0.8",
        "--reasoning-parser": "qwen3",
        "--chat-template": "/t.jinja",
        "--seed": "0",
        "--max-model-len": "4096",
        "--tensor-parallel-size": "4",
        "--pipeline-parallel-size": "2",
        "--nnodes": "2",
        "--distributed-executor-backend": "mp",
        "--enable-prompt-tokens-details": "--enforce-eager",
    }
    assert arguments[-1] == "--enforce-eager"
    assert "--data-parallel-size" in build_serve_arguments(
        VllmModel(model="m", data_parallel=2), "user"
    )
    unknown = [
        flag
        for flag in flags.list_flags(arguments)
        if not flags.is_known(flag, flags.load_shipped().flags)
    ]
    assert unknown == []


def test_only_flags_with_a_rule_and_what_they_are_cut_to_meet_it() -> None:
    ruled = {*SET_BY_KEY, *SET_BY_SCRIPT, *UNGUARDED}
    assert {
        flag for flag in flags.load_shipped().flags - ruled if resolve_flag(flag) in ruled
    } == set()
    assert [resolve_flag(flag) for flag in ("--grp", "--api-ke", "--tensor-parallel", "-n")] == [
        *("--grpc", "--api-key", "--tensor-parallel-size", "-n"),
    ]
    assert [resolve_flag(flag) for flag in ("-n2", "-r1", "--hf-to", "--ssl-keyfile", "-np")] == [
        *("-n", "-r", "--hf-token", "--ssl-keyfile", "-n"),
    ]


def test_options_inside_extra_args() -> None:
    model = VllmModel(model="m", extra_args=("--a=1", "--b_c", "2", "--d", "--e"))
    assert [find_option(model, f) for f in ("--a", "--b-c", "--d", "--e", "--f")] == [
        "1",
        "2",
        "",
        "",
        None,
    ]


@pytest.mark.parametrize(
    ("model", "parser"),
    [
        ("Qwen/Qwen2.5-7B-Instruct", "hermes"),
        ("Qwen/Qwen3-4B-Instruct-2507", "hermes"),
        ("Qwen/Qwen3-30B-A3B-Thinking-2507", "hermes"),
        ("/scratch/models/Qwen3-32B/", "hermes"),
        ("Qwen/Qwen3-Coder-30B-A3B-Instruct", "qwen3_xml"),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama3_json"),
        ("meta-llama/Llama-4-Scout-17B-16E-Instruct", "llama4_pythonic"),
        ("openai/gpt-oss-20b", "openai"),
        ("mistralai/Mistral-Small-3.2-24B-Instruct-2506", "mistral"),
        ("deepseek-ai/DeepSeek-V3-0324", "deepseek_v3"),
        ("deepseek-ai/DeepSeek-V3.1", "deepseek_v31"),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-8B", None),
        ("zai-org/GLM-4.6", "glm45"),
        ("moonshotai/Kimi-K2-Instruct", "kimi_k2"),
        ("ibm-granite/granite-4.0-h-small", "granite4"),
        ("Salesforce/Llama-xLAM-2-8B-fc-r", "xlam"),
        ("somebody/something-new", None),
    ],
)
def test_a_parser_is_suggested_by_family(model: str, parser: str | None) -> None:
    assert suggest_parser(model) == parser


def test_the_table_names_parsers_that_there_are() -> None:
    tools = {name for family in FAMILIES for name in family.tool_parsers}
    assert tools <= set(flags.list_shipped_parsers("tool"))
    reasoning = {family.reasoning_parser for family in FAMILIES} - {None}
    assert reasoning <= set(flags.list_shipped_parsers("reasoning"))


@pytest.mark.parametrize(
    ("role", "model", "said"),
    [
        ("assistant", {"model": "Qwen/Qwen3-4B-Instruct-2507", "tool_call_parser": "hermes"}, []),
        ("assistant", {"model": "somebody/new", "tool_call_parser": "hermes"}, []),
        ("assistant", {"model": "somebody/new", "tool_call_parser": "hermse"}, ["did you mean"]),
        (
            "assistant",
            {"model": "meta-llama/Llama-3.1-8B", "extra_args": ["--tool-call-parser=hermes"]},
            ["its family's is llama3_json"],
        ),
        (
            "assistant",
            {
                "model": "somebody/new",
                "tool_call_parser": "mine",
                "extra_args": ["--tool-parser-plugin", "x.py"],
            },
            [],
        ),
        ("user", {"model": "Qwen/Qwen3-32B"}, []),
        (
            "user",
            {"model": "Qwen/Qwen3-32B", "chat_template_kwargs": {"enable_thinking": True}},
            ["the assistant would read its reasoning"],
        ),
        ("user", {"model": "openai/gpt-oss-20b"}, ["'reasoning_parser: openai_gptoss'"]),
        ("user", {"model": "openai/gpt-oss-20b", "reasoning_parser": "openai_gptoss"}, []),
        (
            "assistant",
            {"model": "Qwen/Qwen3-32B", "tool_call_parser": "hermes"},
            ["the user would read its reasoning"],
        ),
    ],
)
def test_odd_parsers_are_warned_of(role: Role, model: dict[str, Any], said: list[str]) -> None:
    found = list(list_parser_warnings(VllmModel(**model), role))
    assert len(found) == len(said), found
    for text, part in zip(found, said, strict=True):
        assert part in text


def warnings_of(tmp_path: Path, *arguments: str, profile: Any = CUDA) -> list[str]:
    model = VllmModel(model="m", tool_call_parser="hermes", extra_args=arguments)
    plan = make_plan(profile, tmp_path, VllmModel(model="u"), {"a": model})
    said: list[str] = []
    check_servers(plan, RunDir(tmp_path), said.append)
    return said


NO_SETUP = CUDA.model_copy(update={"server_setup": ()})


@pytest.mark.parametrize(
    "flag",
    [
        "--device",
        "--disable-log-requests",
        "--enable-reasoning",
        "--swap-space=4",
        "--num_scheduler_steps",
    ],
)
def test_a_dropped_argument_is_an_error_that_says_what_to_do(flag: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        warnings_of(tmp_path, flag, profile=NO_SETUP)
    (problem,) = caught.value.problems
    assert problem.key == "assistants.a.extra_args"
    assert problem.hint


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--max_num_seqs", "4", "--no-enable-prefix-caching", "-O3", "--seed", "-1"], None),
        (["--compilation-config.cudagraph_mode", "none", "--hf-overrides.a.b+=1"], None),
        (["--max-num-batched", "9"], None),  # argparse takes the start of a flag
        (["--max-num-sequences", "4"], "did you mean '--max-num-seqs'?"),
    ],
)
def test_an_unknown_argument_is_a_warning_with_the_nearest(
    arguments: list[str], said: str | None, tmp_path: Path
) -> None:
    found = warnings_of(tmp_path, *arguments, profile=NO_SETUP)
    assert len(found) == (said is not None), found
    assert all(str(said) in text and "vLLM 0.33" in text for text in found)


HELP = """\
usage: vllm serve [model_tag] [options]

options:
  -h, --help            show this help message and exit
  --swap-space SWAP_SPACE
                        back again. Unlike --gone, which went.
  --tensor-parallel-size, -tp TENSOR_PARALLEL_SIZE
                        Number of groups. (default: 1)
  --served-model-name SERVED_MODEL_NAME [SERVED_MODEL_NAME ...]
  --tool-call-parser {hermes,--odd} or name
  --enable-auto-tool-choice, --no-enable-auto-tool-choice
  --max-model-len MAX_MODEL_LEN
  --enable-prompt-tokens-details, --no-enable-prompt-tokens-details
"""


def test_the_installed_version_is_asked_once_and_its_word_counts(tmp_path: Path) -> None:
    vllm = tmp_path / "bin" / "vllm"
    vllm.parent.mkdir()
    vllm.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/calls\ncat <<END\n{HELP}\nEND\n')
    vllm.chmod(0o755)
    profile = CUDA.model_copy(update={"server_setup": (f"PATH={vllm.parent}:$PATH",)})
    said = warnings_of(tmp_path, "--swap-space", "4", "--enforce-eager", profile=profile)
    assert [text.partition(";")[0] for text in said] == [
        "user: the installed vLLM does not take --default-chat-template-kwargs (vLLM 0.14.0 was "
        "the first), so u may think before it answers: set reasoning_parser: ..., choose a model "
        "that does not, or use a newer vLLM in server_setup",
        "assistants.a.extra_args: the installed vLLM has no --enforce-eager",
    ]
    flags._asked.clear()  # as another process would find it
    assert warnings_of(tmp_path, "--gone", profile=profile)
    assert (tmp_path / "calls").read_text() == "serve --help=all\n"


OLDER = """\
for argument do
  [ "$argument" != --help=all ] || { echo "  --allow-credentials"; exit 0; }
done
cat <<END
""" + HELP.replace("  --enable-prompt-tokens-details, --no-enable-prompt-tokens-details\n", "")


def test_flags_that_an_older_vllm_lacks_are_left_out(tmp_path: Path) -> None:
    vllm = tmp_path / "bin" / "vllm"
    vllm.parent.mkdir()
    vllm.write_text(f"#!/bin/sh\n{OLDER}END\n")
    vllm.chmod(0o755)
    asked = CUDA.model_copy(update={"server_setup": (f"PATH={vllm.parent}:$PATH",)})
    plain = VllmModel(model="Qwen/Qwen3-4B-Instruct-2507", tool_call_parser="hermes")
    thinking = VllmModel(model="Qwen/Qwen3-32B", seed=1, chat_template_kwargs={"a": 1})
    said: list[str] = []

    def scripts(user: VllmModel, profile: ClusterProfile) -> str:
        plan = make_plan(profile, tmp_path, user, {"a": plain})
        plan = check_servers(plan, RunDir(tmp_path), said.append)
        texts = render(plan, RunDir(tmp_path), [find_shipped_templates()])
        return texts["serve_user.sh"] + texts["serve_assistant_a.sh"]

    text = scripts(plain, asked)
    assert "--default-chat-template-kwargs" not in text and "prompt-tokens-details" not in text
    assert "--tool-call-parser hermes" in text
    assert not said  # neither is missed: the models do not think
    # What the sweep file asks for stays, with the word which key it is.
    assert "--default-chat-template-kwargs" in scripts(thinking, asked)
    assert [line.split(": ")[0] for line in said] == ["user", "user"]
    assert "cannot start: leave out chat_template_kwargs, or use a newer vLLM" in said[0]
    assert "--seed" in said[1] and "leave out seed, or" in said[1]

    said.clear()
    older = NO_SETUP.model_copy(update={"vllm_version": "0.11.2"})
    text = scripts(plain, older)
    assert "--default-chat-template-kwargs" not in text and "prompt-tokens-details" in text
    hybrid = VllmModel(model="Qwen/Qwen3-32B")
    assert "--default-chat-template-kwargs" not in scripts(hybrid, older)
    (only,) = said
    assert "so Qwen/Qwen3-32B will think before it answers: set reasoning_parser: qwen3" in only
    newer = NO_SETUP.model_copy(update={"vllm_version": "0.14.0"})
    assert "--default-chat-template-kwargs" in scripts(hybrid, newer)


def test_a_vllm_that_hangs_or_fails_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flags, "ASK_TIMEOUT_S", 0.2)
    for line in ("vllm() { sleep 60; }", "vllm() { return 1; }", "exit 3", "vllm() { echo hi; }"):
        profile = CUDA.model_copy(update={"server_setup": (line, f"# {tmp_path}")})
        assert flags.ask_installed(profile) is None


def test_several_nodes_need_slurm(tmp_path: Path) -> None:
    profile = NO_SETUP.model_copy(update={"scheduler": "local"})
    plan = make_plan(profile, tmp_path, VllmModel(model="u", tensor_parallel=2, nodes=2))
    with pytest.raises(InvalidInput, match=r"user\.nodes: 2 nodes, but profile cuda has no Slurm"):
        check_servers(plan, RunDir(tmp_path), lambda text: None)


def test_the_sweep_command_refuses_before_it_writes_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "site.yaml").write_text("scheduler: slurm\nmax_array_size: 100\n")
    text = (
        "cluster: site.yaml\nmatrix: {env: retail, variant: control}\ntrials: 1\ntasks: 0\n"
        "user: openai/gpt-oss-20b\n"
        "assistants: {a: {model: Qwen/Qwen3-4B-Instruct-2507, tool_call_parser: hermes, "
        "extra_args: [--swap-space, '4']}}\n"
    )
    (tmp_path / "s.yaml").write_text(text)
    assert main(["sweep", "s.yaml", "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert "assistants.a.extra_args: vLLM no longer takes --swap-space" in said
    assert "user: openai/gpt-oss-20b thinks aloud" in said
    assert not (tmp_path / "runs").exists()
    (tmp_path / "s.yaml").write_text(text.replace("--swap-space, '4'", "--enforce-eager"))
    assert main(["sweep", "s.yaml", "--dry-run", "--out", "out"]) == 0
    assert (tmp_path / "out" / "scripts" / "serve_user.sh").exists()


def test_a_models_folder_that_is_not_there_is_refused_where_servers_run_here(
    tmp_path: Path,
) -> None:
    model = VllmModel(model=str(tmp_path / "small"), tool_call_parser="hermes")
    said: list[str] = []
    local = ClusterProfile(name="local", scheduler="local")
    plan = make_plan(local, tmp_path, VllmModel(model="u"), {"a": model})
    with pytest.raises(InvalidInput, match=r"there is no folder .*/small"):
        check_servers(plan, RunDir(tmp_path), said.append)
    elsewhere = make_plan(NO_SETUP, tmp_path, VllmModel(model="u"), {"a": model})
    check_servers(elsewhere, RunDir(tmp_path), said.append)
    assert "no folder" in said[0] and "on this machine" in said[0]
    (tmp_path / "small").mkdir()
    check_servers(plan, RunDir(tmp_path), said.append)
    assert len(said) == 1
