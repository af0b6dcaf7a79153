from __future__ import annotations

from pathlib import Path

import pytest

from emobench.config.load import load_profile
from emobench.config.templates import find_shipped_templates, list_template_dirs
from emobench.core.errors import InvalidInput


def refused(folder: Path, text: str) -> str:
    file = folder / "site.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidInput) as caught:
        load_profile(str(file))
    assert str(file) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: x\n", "scheduler: this key is missing"),
        ("scheduler: slrm\n", "did you mean 'slurm'"),
        ("scheduler: slurm\naray: {}\n", ":2: aray: unknown key"),
        ("scheduler: slurm\narray: {gres: gpu}\n", ":2: array.gres: unknown key"),
        ("scheduler: slurm\narray: {time: soon}\n", ":2: array.time: found 'soon'"),
        ("scheduler: slurm\narray: {mem: 4 GB}\n", ":2: array.mem: found '4 GB'"),
        ("scheduler: slurm\narray: {cpus: 0}\n", "of at least 1"),
        ("scheduler: slurm\narray: {partition: 'a\"b'}\n", "without quotes"),
        ('scheduler: slurm\narray: {partition: "a\\nb"}\n', "one line"),
        ("scheduler: slurm\narray: {sbatch: mail}\n", "array.sbatch: found 'mail'"),
        ("scheduler: slurm\nuser_server: {gres: 'gpu:2'}\n", "has a count"),
        ("scheduler: slurm\nserver_env: {A: true}\n", "server_env.A: found true"),
        ("scheduler: slurm\nserver_env: {A-B: x}\n", "environment variable"),
        ("scheduler: slurm\nmax_array_size: 1\n", "of at least 2"),
        ("scheduler: slurm\nserver_deadline_min: 0\n", "above 0"),
        (
            "scheduler: slurm\ncontainer: {runtime: docker, image: x}\n",
            "allowed: apptainer, enroot",
        ),
        (
            "scheduler: slurm\ncontainer: {runtime: enroot}\n",
            "container.image: this key is missing",
        ),
        ("scheduler: slurm\ncontainer: {imge: x}\n", "container.imge: unknown key"),
        (
            "scheduler: slurm\ncontainer: {runtime: apptainer, image: x, options: -C}\n",
            "container.options: '-C' keeps the environment out",
        ),
        ("name: a b\nscheduler: slurm\n", "found 'a b'"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, said: str) -> None:
    assert said in refused(tmp_path, text)


def test_short_forms(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(
        "scheduler: slurm\n"
        "array: {time: 24:00:00, mem: 4000, sbatch: --exclusive}\n"
        "user_server: {gres: gpu:4090}\n"
        "server_setup: module load x\n"
        "server_env: {A: 1, B: 'true'}\n"
        "container: {runtime: enroot, image: /x.sqsh, bind: '/a:/b'}\n"
    )
    profile = load_profile("site.yaml", base=tmp_path)
    assert profile.name == "site"
    assert (profile.array.time, profile.array.mem) == ("24:00:00", "4000")
    assert profile.array.sbatch == ("--exclusive",)
    assert profile.user_server.gres == "gpu:4090"
    assert profile.server_setup == ("module load x",)
    assert profile.server_env == {"A": "1", "B": "true"}
    assert profile.container is not None
    assert (profile.container.bind, profile.container.options) == (("/a:/b",), ())


def test_own_profiles_come_before_the_shipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clusters = tmp_path / "mine" / "clusters"
    clusters.mkdir(parents=True)
    (clusters / "lab.yaml").write_text("scheduler: local\n")
    assert load_profile("lab").scheduler == "slurm"
    monkeypatch.setenv("EMOBENCH_TEMPLATES", str(tmp_path / "mine"))
    assert load_profile("lab").scheduler == "local"
    assert load_profile("cuda").accelerator == "cuda"


def test_template_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EMOBENCH_TEMPLATES", raising=False)
    monkeypatch.chdir(tmp_path)
    assert list_template_dirs() == [find_shipped_templates()]
    (tmp_path / "slurm_templates").mkdir()
    (tmp_path / "own").mkdir()
    assert list_template_dirs(tmp_path / "own") == [
        tmp_path / "own",
        tmp_path / "slurm_templates",
        find_shipped_templates(),
    ]
    with pytest.raises(InvalidInput, match="names no folder"):
        list_template_dirs(tmp_path / "missing")
    monkeypatch.setenv("EMOBENCH_TEMPLATES", "missing")
    with pytest.raises(InvalidInput, match="EMOBENCH_TEMPLATES"):
        list_template_dirs()


def test_an_unknown_profile_lists_what_there_is() -> None:
    with pytest.raises(InvalidInput) as caught:
        load_profile("sol-gaud")
    (problem,) = caught.value.problems
    assert problem.allowed.startswith("cuda, cuda-container, lab, local, sol-gaudi")
    assert problem.hint == "did you mean 'sol-gaudi'?"
    for bad in ("", "..", "a\0b.yaml", "~nobody/x.yaml", "x" * 5000, "/"):
        with pytest.raises(InvalidInput, match="no cluster profile"):
            load_profile(bad)
