"""What locks/ pins is what pyproject.toml allows, and docs/licences.md names all of it."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tools.licences import PARTS, read_lock

REPOSITORY = Path(__file__).parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
LOCKS = [REPOSITORY / "locks" / f"{name}.txt" for name, _ in PARTS]
RUN, DEV = (REPOSITORY / "locks" / name for name in ("run.txt", "dev.txt"))


def ranges(extra: str | None = None) -> list[Requirement]:
    project = PROJECT["project"]
    lines = project["optional-dependencies"][extra] if extra else project["dependencies"]
    read = [Requirement(line) for line in lines]
    return [each for each in read if each.url is None and each.name != project["name"]]


ALL_RANGES = [
    *ranges(),
    *ranges("pdf"),
    *ranges("dev"),
    *map(Requirement, PROJECT["build-system"]["requires"]),
]


@pytest.mark.parametrize("wanted", ALL_RANGES, ids=str)
def test_every_range_has_an_upper_bound(wanted: Requirement) -> None:
    assert {"<", "<=", "==", "~="} & {each.operator for each in wanted.specifier}


def test_malicious_and_broken_releases_of_litellm_are_excluded() -> None:
    (litellm,) = (each.specifier for each in ranges() if each.name == "litellm")
    asked = ("1.82.6", "1.82.7", "1.82.8", "1.82.9", "1.105.3", "1.106.2", "1.109.1")
    assert [version for version in asked if version in litellm] == ["1.82.6", "1.82.9", "1.105.3"]


@pytest.mark.parametrize(
    ("lock", "wanted"), [(RUN, ranges()), (DEV, ALL_RANGES)], ids=["run", "dev"]
)
def test_locks_keep_to_the_ranges(lock: Path, wanted: list[Requirement]) -> None:
    pinned: dict[str, list[SpecifierSet]] = {}
    for each in read_lock(lock):
        pinned.setdefault(canonicalize_name(each.name), []).append(each.specifier)
    for requirement in wanted:
        for exact in pinned[canonicalize_name(requirement.name)]:
            assert str(exact).removeprefix("==") in requirement.specifier, requirement


def test_an_environment_of_the_tests_is_one_of_the_runs_with_more() -> None:
    assert set(map(str, read_lock(RUN))) < set(map(str, read_lock(DEV)))


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_a_lock_has_exact_versions_with_hashes_and_no_host(lock: Path) -> None:
    text = lock.read_text(encoding="utf-8")
    assert "://" not in text
    assert "index" not in text
    pins = re.split(r"\n(?! )", re.sub(r"(?m)^#.*\n", "", text).rstrip("\n"))
    assert len(pins) == len(read_lock(lock))
    for pin in pins:
        exact = r"[a-z0-9-]+==[0-9a-z.]+( ; [^\\\n]+)?"
        assert re.fullmatch(exact + r"( \\\n    --hash=sha256:[0-9a-f]{64})+", pin), pin


def test_the_makefile_and_the_lock_name_one_benchmark() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    (benchmark,) = read_lock(REPOSITORY / "locks" / "benchmark.txt")
    assert f"TAU_TRAIT := {benchmark}\n" in makefile


def test_the_page_of_licences_names_every_dependency() -> None:
    page = (REPOSITORY / "docs" / "licences.md").read_text(encoding="utf-8")
    rows = page.replace("| package | licence |\n", "")
    named = re.findall(r"^\| ([a-z0-9.-]+) \| (?!not stated)\S", rows, re.MULTILINE)
    expected = {each.name for lock in LOCKS for each in read_lock(lock)}
    assert sorted(named) == sorted(expected)


@pytest.mark.parametrize(
    ("target", "parts"),
    [("quickstart", ["run", "benchmark"]), ("check", ["run", "dev", "benchmark"])],
)
def test_make_installs_what_is_locked(target: str, parts: list[str], tmp_path: Path) -> None:
    # What the make that runs the tests was told is not for this one.
    environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "LOCK")}

    def installs(*arguments: str) -> list[str]:
        make = ["make", "--dry-run", f"VENV={tmp_path}/venv", target, *arguments]
        done = subprocess.run(
            make, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True
        )
        return [line for line in done.stdout.splitlines() if " pip install " in line]

    locked = installs()
    option = r"--require-hashes --no-deps --requirement locks/(\w+)\.txt"
    assert re.findall(option, "\n".join(locked)) == parts
    # Only emobench itself comes from elsewhere, and brings nothing along.
    assert [line for line in locked if "locks/" not in line and "--no-deps" not in line] == []
    assert not any("locks/" in line for line in installs("LOCK=no"))
