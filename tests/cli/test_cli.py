"""The command line: answers at once, and each mistake is one clear error that changes nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from emobench.cli.main import COMMANDS, build_command_parser
from tests.support.commands import as_process, emobench

SWEEP = """\
name: tiny
engine: scripted
matrix: {env: retail, variant: [control, anger]}
trials: 1
tasks: 0
"""
HAND = ["--env", "retail", "--model", "m", "--model-base-url", "http://127.0.0.1:1"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    home = tmp_path / "Ümläut and spaces"
    home.mkdir()
    (home / "tiny.yaml").write_text(SWEEP)
    return home


def refused(result: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert result.returncode == 2, result
    assert "Traceback" not in result.stderr
    for part in parts:
        assert part in result.stderr


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["x.yaml", "empty"]),
        ("- 1\n", ["x.yaml:1"]),
        (SWEEP + "trials: 2\n", ["x.yaml:6", "trials"]),
        (SWEEP.replace("anger", "angry"), ["x.yaml:3", "angry", "did you mean 'anger'"]),
        (SWEEP.replace("tasks: 0", "tasks: 0-115"), ["x.yaml:5", "0 to 114"]),
        (SWEEP.replace("trials: 1", "trials: 0"), ["x.yaml:4", "trials"]),
        (SWEEP + "\tseed: 1\n", ["x.yaml:6", "tab"]),
        (SWEEP + "cluster: mars\n", ["x.yaml:6", "mars", "local"]),
        (SWEEP + "clutser: lab\n", ["x.yaml:6", "did you mean 'cluster'"]),
    ],
)
def test_mistakes_in_the_file(folder: Path, text: str, parts: Sequence[str]) -> None:
    (folder / "x.yaml").write_text(text)
    refused(emobench(folder, "sweep", "x.yaml"), *parts)
    assert not (folder / "runs").exists()
    assert not (folder / "logs").exists()


def test_a_file_that_is_not_there(folder: Path) -> None:
    refused(as_process(folder, "nope.yaml", module="emobench.sweep"), "nope.yaml")


def test_a_dry_run_writes_what_would_be_submitted_beside_the_run_and_starts_nothing(
    folder: Path,
) -> None:
    dry = ("sweep", "tiny.yaml", "--dry-run", "--json", "--out", "out")
    first = emobench(folder, *dry)
    assert first.returncode == 0, first.stderr
    done = json.loads(first.stdout)
    assert not (folder / "runs").exists()
    assert not (folder / "logs").exists()
    assert (done["out"], done["servers"]) == (str(folder / "out"), ["user", "assistant_scripted"])
    assert done["arrays"] == {"scripted": [0, 1]}
    refused(emobench(folder, *dry), "out: there is something already", "--out")
    refused(emobench(folder, "sweep", "tiny.yaml", "--out", "new"), "--dry-run")
    by_hand = emobench(folder, "sweep", "tiny.yaml", "--no-submit", "--json")
    assert by_hand.returncode == 0, by_hand.stderr
    written = {Path(path).name: Path(path) for path in json.loads(by_hand.stdout)["scripts"]}
    assert {"user_vllm.sbatch", "tau_array_scripted.sbatch"} <= written.keys()
    copies = {Path(path).name: Path(path) for path in done["scripts"]}
    assert copies.keys() == {*written, "plan.json"}
    for name, path in written.items():
        assert path.parent == folder / "runs/tiny/scripts"
        assert path.read_bytes() == copies[name].read_bytes()


def test_a_dry_run_without_a_folder_for_its_scripts_leaves_none(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (scratch := folder / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    done = emobench(folder, "sweep", "tiny.yaml", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "would submit array scripted: 2 cells (0-1)" in done.stdout
    assert "--out DIR" in done.stdout
    assert sorted(path.name for path in folder.iterdir()) == ["scratch", "tiny.yaml"]
    assert not list(scratch.iterdir())


def test_a_dry_run_works_where_slurm_cannot_be_asked(folder: Path) -> None:
    done = emobench(folder, "sweep", "tiny.yaml", "--dry-run", "--cluster", "cuda", "--out", "out")
    assert done.returncode == 0, done.stderr
    assert "arrays are split at its default 1001" in done.stderr
    assert "would submit the clean-up job, after the arrays" in done.stdout
    assert (folder / "out/scripts/cleanup.sbatch").is_file()


def test_no_scheduler_on_this_machine_is_said_before_anything_is_written(folder: Path) -> None:
    result = emobench(folder, "sweep", "tiny.yaml", "--cluster", "cuda", PATH="/nonexistent")
    assert result.returncode in (1, 2)
    assert "Traceback" not in result.stderr
    assert "scontrol" in result.stderr or "sbatch" in result.stderr
    assert not (folder / "runs/tiny/jobs.json").exists()


def test_a_folder_that_cannot_be_written(folder: Path) -> None:
    result = emobench(folder, "sweep", "tiny.yaml", "--run-dir", "/proc/nothing/here")
    assert result.returncode in (1, 2)
    assert "Traceback" not in result.stderr
    assert "/proc/nothing" in result.stderr


def test_a_model_id_like_a_path_stays_inside_the_run_directory(folder: Path) -> None:
    (folder / "x.yaml").write_text(SWEEP + "assistants: ['../../x']\n")
    result = emobench(folder, "sweep", "x.yaml", "--no-submit")
    assert result.returncode == 0, result.stderr
    names = {path.name for path in (folder / "runs/tiny/scripts").iterdir()}
    assert "tau_array_x.sbatch" in names
    assert sorted(path.name for path in folder.iterdir()) == ["logs", "runs", "tiny.yaml", "x.yaml"]


def test_a_hosted_api_without_its_key_is_refused(folder: Path) -> None:
    (folder / "x.yaml").write_text(
        SWEEP.replace("engine: scripted", "engine: openai") + "user: gpt-4o\nassistants: [gpt-4o]\n"
    )
    refused(emobench(folder, "sweep", "x.yaml", OPENAI_API_KEY=""), "OPENAI_API_KEY")
    assert not (folder / "runs/tiny/jobs.json").exists()


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--cell", "0"], ["--run-dir"]),
        (["--run-dir", ".", "--cell", "0"], ["plan.json"]),
        (["--model-base-url", "http://127.0.0.1:1/v1"], ["--env"]),
        ([*HAND[:-1], "nonsense"], ["command line: --model-base-url: found 'nonsense'"]),
        ([*HAND, "--user-base-url", "x"], ["command line: --user-base-url: found 'x'"]),
        ([*HAND, "--trial", "0"], ["command line: --trial: found 0", "from 1 to 1000"]),
        ([*HAND, "--trial", "1004"], ["command line: --trial: found 1004", "from 1 to 1000"]),
        ([*HAND, "--timeout", "0"], ["command line: --timeout: found 0.0"]),
        ([*HAND, "--max-concurrency", "0"], ["command line: --max-concurrency: found 0"]),
        ([*HAND, "--temperature", "9"], ["command line: --temperature: found 9.0"]),
        (
            [
                "--env",
                "retail",
                "--model",
                "m",
                "--model-base-url",
                "http://127.0.0.1:1",
                "--variant",
                "fury",
            ],
            ["fury", "frustration"],
        ),
        (
            [
                "--env",
                "retail",
                "--model",
                "m",
                "--model-base-url",
                "http://127.0.0.1:1",
                "--tasks",
                "0-999",
            ],
            ["0-999", "114"],
        ),
    ],
)
def test_mistakes_in_a_run_by_hand(folder: Path, arguments: list[str], parts: list[str]) -> None:
    result = emobench(folder, *arguments, command="run")
    refused(result, *parts)
    lines = result.stderr.splitlines()
    assert len(set(lines)) == len(lines), "each mistake once"
    assert not (folder / "runs").exists()


@pytest.mark.parametrize("command", ["status", "report", "cancel"])
def test_a_folder_that_is_no_run(folder: Path, command: str) -> None:
    refused(emobench(folder, command, "."), "plan.json")


def test_a_single_run_names_what_the_sweep_has(folder: Path) -> None:
    emobench(folder, "sweep", "tiny.yaml", "--no-submit")
    run = ["--run-dir", "runs/tiny", "--env", "retail", "--model", "scripted"]
    refused(emobench(folder, *run, "--trial", "9", command="run"), "trial", "1")
    refused(emobench(folder, *run[:-1], "scriptd", command="run"), "scripted")
    refused(emobench(folder, *run[:2], "--cell", "7", command="run"), "0 to 1")


HEAVY = [
    "aiohttp",
    "jinja2",
    "litellm",
    "pandas",
    "pydantic",
    "rich",
    "submitit",
    "tau_trait",
    "yaml",
]


LOADED_BY_HELP = f"""
import json, sys
from contextlib import redirect_stdout
from io import StringIO
from emobench.cli.main import COMMANDS, main
found = {{}}
for name in ("", *COMMANDS):
    with redirect_stdout(StringIO()) as text:
        try:
            code = main([name, "--help"] if name else ["--help"])
        except SystemExit as done:
            code = done.code
    assert code == 0, name
    found[name] = text.getvalue(), [heavy for heavy in {HEAVY!r} if heavy in sys.modules]
print(json.dumps(found))
"""


def test_every_command_explains_itself_at_once(folder: Path) -> None:
    """The help of all, in one process, loads none of the heavy packages."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED_BY_HELP], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    text, loaded = found.pop("")
    assert "examples:" in text
    assert not loaded
    assert all(f"    {name}" in text for name in COMMANDS)
    assert found.keys() == COMMANDS.keys()
    for name, (text, loaded) in found.items():
        assert text.startswith(f"usage: emobench {name} ")
        assert max(map(len, text.splitlines())) <= 100
        assert set(loaded) <= {"pydantic"}, name


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_explained(name: str) -> None:
    actions = build_command_parser(name)._actions
    assert [each.option_strings for each in actions if each.option_strings and not each.help] == []


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["stauts"], ["there is no command 'stauts'; did you mean 'status'?"]),
        (["xyz"], ["there is no command 'xyz'; emobench --help lists the commands"]),
        ([], ["required: COMMAND"]),
        (["--jsno"], ["required: COMMAND"]),
        (["status", "--jsno"], ["unrecognized arguments: --jsno; did you mean '--json'?"]),
        (["status", "--cell"], ["unrecognized arguments: --cell\n"]),
        (["sweep", "x.yaml", "--xyz"], ["unrecognized arguments: --xyz\n"]),
        (["check", "--sample", "0"], ["argument --sample: '0': give a whole number from 1"]),
    ],
)
def test_a_mistyped_command_line(folder: Path, arguments: list[str], parts: list[str]) -> None:
    result = emobench(folder, *arguments)
    refused(result, *parts)
    assert result.stderr.count("usage:") == 1
    assert result.stderr.count("error:") == 1


def test_the_package_is_the_command(folder: Path) -> None:
    shown = as_process(folder, "status", "--help", module="emobench")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith("usage: emobench status ")


def test_a_module_by_its_own_name_says_so(folder: Path) -> None:
    for module in ("emobench.sweep", "emobench.run"):
        shown = as_process(folder, "--help", module=module)
        assert shown.stdout.startswith(f"usage: python -m {module} ")


def test_a_shell_completes_commands_options_and_folders(folder: Path) -> None:
    script = emobench(folder, "completion", "bash").stdout
    (folder / "completion.bash").write_text(script)
    (folder / "runs").mkdir()
    ask = """
source ./completion.bash
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
function=$(complete -p emobench | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
"$function"
printf '%s\\n' "${COMPREPLY[@]}"
"""
    for words, expected in (
        (("emobench", "sta"), ["status"]),
        (("emobench", "status", "--js"), ["--json"]),
        (("emobench", "conversations", "--side"), ["--side-by-side"]),
        (("emobench", "report", "ru"), ["runs"]),
    ):
        done = subprocess.run(
            ["bash", "-c", ask, "-", *words], cwd=folder, capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == expected, done.stderr
