"""Each mistake names the file, the line, the key, what was found, and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from emobench.config.load import load_sweep
from emobench.core.errors import InvalidInput
from tests.support.sweep_files import SCRIPTED, load, problem, problems, write

VLLM = """\
matrix: {env: retail, variant: control, agent_strategy: react}
trials: 1
user: Qwen/Qwen3-32B
assistants: [Qwen/Qwen3-4B]
"""


def replaced(old: str, new: str, text: str = SCRIPTED) -> str:
    assert old in text
    return text.replace(old, new)


@pytest.mark.parametrize(
    ("text", "line", "key", "said"),
    [
        (replaced("trials: 2", "trials: 0"), 3, "trials", "found 0|from 1 to 1000"),
        (replaced("trials: 2", "trials: true"), 3, "trials", "found true"),
        (replaced("trials: 2", "trials: '2'"), 3, "trials", "found '2'|whole number"),
        (replaced("trials: 2", "trials: 1.0"), 3, "trials", "found 1.0"),
        (replaced("trials: 2\n", ""), 1, "trials", "this key is missing"),
        (replaced("trials: 2", "trials:"), 3, "trials", "has no value"),
        (replaced("[control, anger]", "[control, angr]"), 2, "matrix.variant[1]", "'anger'?"),
        (replaced("env: retail", "env: telecom"), 2, "matrix.env", "retail, airline"),
        (replaced("env: retail", "env: []"), 2, "matrix.env", "an empty list"),
        (replaced("env: retail, ", ""), 2, "matrix.env", "this key is missing"),
        (replaced("[control, anger]", "[control, control]"), 2, "matrix.variant[1]", "twice"),
        (replaced("env: retail", "env: retail, assistant: goood"), 2, "matrix.assistant", "good"),
        (replaced("tasks: 0-2", "tasks: 0-115"), 4, "tasks", "0 to 114"),
        (replaced("tasks: 0-2", "tasks: [1, -1]"), 4, "tasks[1]", "out of range"),
        (replaced("tasks: 0-2", "tasks: 9-2"), 4, "tasks", "backwards"),
        (replaced("tasks: 0-2", "tasks: some"), 4, "tasks", "found 'some'|a range"),
        (replaced("tasks: 0-2", "tasks: []"), 4, "tasks", "an empty list"),
        (replaced("tasks: 0-2", "tasks: {airline: all}"), 4, "tasks.retail", "missing"),
        (replaced("tasks: 0-2", "tasks: {retail: all, x: 1}"), 4, "tasks.x", "unknown key"),
        (SCRIPTED + "seeed: 1\n", 6, "seeed", "did you mean 'seed'"),
        (SCRIPTED + "seed: -1\n", 6, "seed", "from 0 to 2147483647"),
        (SCRIPTED + "name: ../up\n", 6, "name", "'../up'|letters, digits"),
        (SCRIPTED + "name: a b\n", 6, "name", "'a b'"),
        (SCRIPTED + "user_strategy: human\n", 6, "user_strategy", "unattended"),
        (SCRIPTED + "user_strategy: lm\n", 6, "user_strategy", "did you mean 'llm'"),
        (SCRIPTED + "cluster: loca\n", 6, "cluster", "did you mean 'local'"),
        (SCRIPTED + "cluster: ./none.yaml\n", 6, "cluster", "looked for"),
        (SCRIPTED + "exclude: {variant: anxiety}\n", 6, "exclude.variant", "control, anger"),
        (SCRIPTED + "exclude: [{trial: 3}]\n", 6, "exclude[0].trial", "from 1 to 2"),
        (SCRIPTED + "exclude: [{}]\n", 6, "exclude[0]", "an empty mapping"),
        (SCRIPTED + "exclude: {env: retail}\n", 6, "exclude", "leaves no cell"),
        (SCRIPTED + "include: {assistant: x}\n", 6, "include.assistant", "good, bad"),
        (SCRIPTED + "include: {agent_strategy: few-shot}\n", 1, "few_shot_displays", "retail"),
        (SCRIPTED + "few_shot_displays: {retail: x}\n", 6, "few_shot_displays.retail", "No such"),
        (SCRIPTED + "variants: {anger: x}\n", 6, "variants.anger", "built-in"),
        (SCRIPTED + "variants: {mine: '  '}\n", 6, "variants.mine", "not empty"),
        (SCRIPTED + "variants: {mine: {version: 1}}\n", 6, "variants.mine", "text or file"),
        (SCRIPTED + "variants: {mine: {file: x}}\n", 6, "variants.mine.file", "No such file"),
        (SCRIPTED + "variants: {a/b: x}\n", 6, "variants.a/b", "letters, digits"),
        (replaced("0.9", "1.1"), 5, "assistants.bad.mistakes", "from 0 to 1"),
        (
            replaced("0.9", "{angr: 0.5}"),
            5,
            "assistants.bad.mistakes.angr",
            "did you mean 'anger'",
        ),
        (
            replaced("0.9", "{anger: 2}"),
            5,
            "assistants.bad.mistakes.anger",
            "found 2|from 0 to 1",
        ),
        (
            replaced("mistakes: 0.9", "faults: {hang: 2}"),
            5,
            "assistants.bad.faults.hang",
            "from 0 to 1",
        ),
        (replaced("mistakes: 0.9", "base_url: x"), 5, "assistants.bad.base_url", "engine openai"),
        (replaced("mistakes: 0.9", "engine: vlm"), 5, "assistants.bad.engine", "'vllm'"),
        (replaced("good:", "a/b:"), 5, "assistants.a/b", "letters, digits"),
        (replaced("user: Qwen/Qwen3-32B\n", "", VLLM), 1, "user", "missing"),
        (replaced("user: Qwen/Qwen3-32B", "user: 4", VLLM), 3, "user", "a model id"),
        (replaced("[Qwen/Qwen3-4B]", "[a/x, b/x]", VLLM), 4, "assistants[1]", "named 'x'"),
        (replaced("Qwen/Qwen3-32B", '"a\\nb"', VLLM), 3, "user", "more than one line"),
        (
            replaced("Qwen/Qwen3-32B", "{model: x, tool_call_parser: hermes}", VLLM),
            3,
            "user.tool_call_parser",
            "whole server",
        ),
        (
            replaced("Qwen/Qwen3-32B", "{model: x, extra_args: --tool-call-parser=x}", VLLM),
            3,
            "user.extra_args",
            "whole server",
        ),
        (
            replaced("Qwen/Qwen3-32B", "{model: x, extra_args: [--api-key=y]}", VLLM),
            3,
            "user.extra_args[0]",
            "emobench sets it",
        ),
        (
            replaced("Qwen/Qwen3-32B", "{engine: openai, model: x, provider: antropic}", VLLM),
            3,
            "user.provider",
            "unknown provider 'antropic'|did you mean 'anthropic'",
        ),
        (
            replaced("agent_strategy: react", "agent_strategy: tool-calling", VLLM),
            4,
            "assistants[0]",
            "needs a tool_call_parser|add 'tool_call_parser: hermes'",
        ),
        (
            replaced("agent_strategy: react", "agent_strategy: tool-calling", VLLM).replace(
                "Qwen/Qwen3-4B", "meta-llama/Llama-3.1-8B-Instruct"
            ),
            4,
            "assistants[0]",
            "add 'tool_call_parser: llama3_json'",
        ),
        (
            replaced("Qwen/Qwen3-32B", "{model: x, extra_args: [-tp, '2']}", VLLM),
            3,
            "user.extra_args[0]",
            "write it as tensor_parallel",
        ),
        (
            replaced("Qwen/Qwen3-32B", "{model: x, extra_args: --served_model_name=y}", VLLM),
            3,
            "user.extra_args",
            "write it as served_name",
        ),
        (
            replaced("Qwen/Qwen3-32B", "{model: x, extra_args: [--enforce-eager, --grpc]}", VLLM),
            3,
            "user.extra_args[1]",
            "'--grpc' is not allowed|loads no middleware",
        ),
        (
            replaced("Qwen/Qwen3-32B", "{model: x, extra_args: --grp=true}", VLLM),
            3,
            "user.extra_args",
            "'--grp' is not allowed|loads no middleware",
        ),
        (
            replaced(
                "Qwen/Qwen3-32B",
                "{model: x, extra_args: --data_parallel_multi_port_external_lb}",
                VLLM,
            ),
            3,
            "user.extra_args",
            "ports of its own",
        ),
        (
            replaced("Qwen/Qwen3-32B", "{model: x, extra_args: --config=x.yaml}", VLLM),
            3,
            "user.extra_args",
            "flags in it are not checked",
        ),
        (
            replaced("Qwen/Qwen3-32B", "{model: x, extra_args: --hos=0.0.0.0}", VLLM),
            3,
            "user.extra_args",
            "'--hos' is not allowed|emobench sets it",
        ),
        (
            replaced("Qwen/Qwen3-32B", "{model: x, tensor_parallel: 2, nodes: 3}", VLLM),
            3,
            "user.nodes",
            "2 cards cannot be spread evenly over 3 nodes",
        ),
        (
            replaced("Qwen/Qwen3-32B", "{model: x, data_parallel: 2, nodes: 2}", VLLM),
            3,
            "user.data_parallel",
            "leave one of them out",
        ),
        (
            replaced("Qwen/Qwen3-32B", "{model: x, chat_template: no/such.jinja}", VLLM),
            3,
            "user.chat_template",
            "No such file|looked for|only the nodes have",
        ),
        (
            replaced("Qwen/Qwen3-32B", "{model: x, chat_template_kwargs: {a: [1]}}", VLLM),
            3,
            "user.chat_template_kwargs.a",
            "found a list",
        ),
    ],
)
def test_one_mistake(tmp_path: Path, text: str, line: int, key: str, said: str) -> None:
    found = problem(tmp_path, text)
    assert (found.line, found.key) == (line, key)
    for part in said.split("|"):
        assert part in str(found)


def test_an_unknown_engine_of_the_file_is_named(tmp_path: Path) -> None:
    first = problems(tmp_path, replaced("engine: scripted", "engine: scriptd"))[0]
    assert (first.line, first.key) == (1, "engine") and "'scripted'" in str(first)


def test_a_misspelt_key_is_told_before_the_missing_one(tmp_path: Path) -> None:
    first, second = problems(tmp_path, replaced("variant:", "varient:"))
    assert first.key == "matrix.varient" and first.hint == "did you mean 'variant'?"
    assert second.key == "matrix.variant" and second.message == "this key is missing"


def test_many_mistakes_come_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = "trials: 0\nseed: x\nmatrix: {env: [r], variant: []}\nuser: 3\nassistants: 4\nzz: 1\n"
    found = problems(tmp_path, text)
    lines = [item.line for item in found]
    assert lines == sorted(lines) and set(lines) == {1, 2, 3, 4, 5, 6}


def test_a_broken_matrix_hides_no_other_mistake(tmp_path: Path) -> None:
    text = replaced("env: retail", "env: retial").replace("tasks: 0-2", "tasks: {retail: 0-200}")
    text += "include: {env: retail, trial: 9}\nexclude: {variant: anxiety}\njudge: {model: m}\n"
    keys = {item.key for item in problems(tmp_path, text)}
    assert keys == {
        "matrix.env",
        "tasks.retail",
        "include.trial",
        "exclude.variant",
        "judge.base_url",
    }


def test_every_mistake_of_a_role_is_told(tmp_path: Path) -> None:
    role = "{model: x, tool_call_parser: hermes, temprature: 1, extra_args: [-tp, '2']}"
    found = problems(tmp_path, replaced("Qwen/Qwen3-32B", role, VLLM))
    keys = {"user.tool_call_parser", "user.temprature", "user.extra_args[0]"}
    assert {item.key for item in found} == keys
    assert "did you mean 'temperature'?" in "".join(map(str, found))


def test_a_mistake_in_a_list_of_assistants_names_the_item(tmp_path: Path) -> None:
    found = problem(tmp_path, replaced("[Qwen/Qwen3-4B]", "[a/x, {model: y, top_p: 2}]", VLLM))
    assert (found.key, found.line) == ("assistants[1].top_p", 4)


def test_more_cells_than_anyone_means(tmp_path: Path) -> None:
    names = ", ".join(f"a{i}: {{}}" for i in range(200))
    text = "engine: scripted\nmatrix: {env: retail, variant: control}\ntrials: 1000\n"
    assert "200,000 cells" in str(problem(tmp_path, text + f"assistants: {{{names}}}\n"))


def test_a_file_name_that_cannot_name_the_study(tmp_path: Path) -> None:
    file = write(tmp_path, SCRIPTED, "my früh study.yaml")
    with pytest.raises(InvalidInput, match=r"my früh study\.yaml:1: name.*\n.*\n.*add a line"):
        load_sweep(file)
    named = write(tmp_path, SCRIPTED + "name: fine\n", "my früh study.yaml")
    assert load_sweep(named).name == "fine"


def test_a_model_id_never_becomes_a_path(tmp_path: Path) -> None:
    sweep = load(tmp_path, VLLM.replace("[Qwen/Qwen3-4B]", "[a/../../x]"))
    assert list(sweep.assistants) == ["x"]
    assert sweep.assistants["x"].model == "a/../../x"


def test_a_profile_with_mistakes_is_reported_with_the_sweep(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text("scheduler: slurmm\nthrotle: 3\n")
    with pytest.raises(InvalidInput) as caught:
        load(tmp_path, SCRIPTED.replace("trials: 2", "trials: 0") + "cluster: site.yaml\n")
    files = [Path(item.file).name for item in caught.value.problems]
    assert sorted(files) == ["site.yaml", "site.yaml", "study.yaml"]
