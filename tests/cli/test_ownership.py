"""Commands that act refuse a run directory that is not their user's own; real users, real files."""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import pytest

import emobench.cli
from emobench.cli.main import main
from emobench.core.errors import InvalidInput
from emobench.core.plan import load_plan
from emobench.core.run_dir import RunDir
from emobench.runs import cleanup
from emobench.serving import supervise
from emobench.store.endpoints import load_api_key
from tests.support.other_users import ALICE, MALLORY, as_user, give, needs_root
from tests.support.plans import scripted
from tests.support.runs import fill, make_run

pytestmark = needs_root
SWEEP = """\
name: study
cluster: local
engine: scripted
matrix: {env: retail, variant: [control, anger]}
trials: 1
tasks: [0, 1]
assistants: {a: {}}
"""
ACTING = [
    "sweep {home}/x.yaml --run-dir {run}",
    "sweep {home}/x.yaml --run-dir {run} --no-submit",
    "cancel {run}",
    "rerun {run} --task 0",
    "judge {run} --base-url http://127.0.0.1:1/v1 --model m",
    "run --run-dir {run} --cell 0",
    "run --run-dir {run} --env retail --model m --model-base-url http://127.0.0.1:1/v1",
    "sbatch {run}",
    "supervise --run-dir {run} --server user",
    "cleanup {run}",
]
LOOKING = ["status {run}", "logs {run}", "watch {run} --once", "rerun {run} --task 0 --dry-run"]


@pytest.fixture(scope="module", autouse=True)
def imported(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Import all that the commands import: alice cannot read root's Python."""
    folder = tmp_path_factory.mktemp("imported")
    (folder / "x.yaml").write_text(SWEEP)
    for more in (["--no-submit"], ["--dry-run", "--out", str(folder / "out")]):
        main(["sweep", str(folder / "x.yaml"), "--run-dir", str(folder / "r"), *more])
    run_dir = make_run(folder / "s", assistants={"a": scripted()}, variants=("control", "anger"))
    fill(run_dir, load_plan(run_dir).cells)
    for words in (*LOOKING, "cancel {run}", "sbatch {run}"):
        with suppress(InvalidInput):
            main(shlex.split(words.format(run=run_dir.path)))
    for module in iter_modules(emobench.cli.__path__, "emobench.cli."):
        if not module.name.endswith("__main__"):
            import_module(module.name)


class Site:
    """A folder that everybody may write to, as /tmp, with alice's run and her home."""

    def __init__(self, folder: Path) -> None:
        self.shared, self.home = folder / "shared", folder / "home"
        for path, mode in ((folder, 0o755), (self.shared, 0o1777), (self.home, 0o755)):
            path.mkdir(exist_ok=True)
            path.chmod(mode)
        (self.home / "x.yaml").write_text(SWEEP)
        self.run = make_run(
            self.shared / "study",
            assistants={"a": scripted()},
            variants=("control", "anger"),
            tasks=2,
            logs=self.home,
        )
        fill(self.run, load_plan(self.run).cells)
        self.run.scripts.mkdir()
        (self.run.scripts / "tau_array_a.sbatch").write_text("touch pwned\n")
        load_api_key(self.run, create=True)
        (self.home / "diary").mkdir()
        (self.home / "diary" / "serve_me.sh").write_text("dear diary\n")
        give(self.home, ALICE)
        give(self.run.path, ALICE)

    def ask(self, words: str, path: Path | None = None) -> tuple[int, str]:
        """Carry out a command as alice."""
        place = path or self.run.path
        name, *argv = shlex.split(words.format(run=place, home=self.home))

        def carry_out() -> int:
            os.chdir(self.home)
            own = {"supervise": supervise.main, "cleanup": cleanup.main}.get(name)
            return own(argv) if own is not None else main([name, *argv])

        return as_user(ALICE, carry_out)

    def files(self) -> dict[str, tuple[int, int, bytes]]:
        """All that is there: owner, mode, contents."""
        found = {}
        for path in sorted(self.home.parent.rglob("*")):
            status = path.lstat()
            data = b"" if path.is_dir() else path.read_bytes()
            found[str(path)] = (status.st_uid, status.st_mode, data)
        return found


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Not below pytest's own folder, which is its owner's alone."""
    folder = Path(tempfile.mkdtemp(prefix="emobench-"))
    yield Site(folder)
    shutil.rmtree(folder)


def belongs_to_somebody(site: Site) -> Path:
    give(site.run.path, MALLORY)
    return site.run.path


def world_writable(site: Site) -> Path:
    site.run.path.chmod(0o777)
    return site.run.path


def group_writable(site: Site) -> Path:
    site.run.path.chmod(0o775)  # alice's group has no entry, so it may be anybody's
    return site.run.path


def behind_somebodys_symlink(site: Site) -> Path:
    link = site.shared / "link"
    link.symlink_to(site.run.path)
    give(link, MALLORY)
    return link


def below_somebodys_symlink(site: Site) -> Path:
    link = site.shared / "link"
    link.symlink_to(site.shared)
    give(link, MALLORY)
    return link / "study"


def scripts_of_somebody(site: Site) -> Path:
    give(site.run.scripts, MALLORY)
    return site.run.path


def scripts_writable(site: Site) -> Path:
    site.run.scripts.chmod(0o777)
    return site.run.path


def scripts_behind_somebodys_symlink(site: Site) -> Path:
    shutil.rmtree(site.run.scripts)
    site.run.scripts.symlink_to(site.home / "diary")
    give(site.run.scripts, MALLORY)
    return site.run.path


def endpoints_of_somebody(site: Site) -> Path:
    give(site.run.endpoints, MALLORY)
    return site.run.path


def pickles_writable(site: Site) -> Path:
    site.run.submitit.mkdir()
    site.run.submitit.chmod(0o777)
    give(site.run.path, ALICE)
    return site.run.path


def script_of_somebody(site: Site) -> Path:
    """Left from when others could write to the folder."""
    give(site.run.scripts / "tau_array_a.sbatch", MALLORY)
    return site.run.path


def plan_writable(site: Site) -> Path:
    site.run.plan.chmod(0o666)
    return site.run.path


def replaceable(site: Site) -> Path:
    site.shared.chmod(0o777)  # without the sticky bit anybody may rename what is in it
    return site.run.path


FOREIGN: dict[Callable[[Site], Path], str] = {
    belongs_to_somebody: "belongs to user 61002",
    world_writable: "others may write",
    group_writable: "others may write",
    behind_somebodys_symlink: "symlink is user 61002's",
    below_somebodys_symlink: "symlink is user 61002's",
    scripts_of_somebody: "scripts: this belongs to user 61002",
    scripts_writable: "others may write",
    scripts_behind_somebodys_symlink: "symlink is user 61002's",
    endpoints_of_somebody: "endpoints: this belongs to user 61002",
    pickles_writable: "others may write",
    script_of_somebody: "tau_array_a.sbatch: this file is not yours alone to write",
    plan_writable: "plan.json: this file is not yours alone to write",
    replaceable: "put another in the place of study",
}


@pytest.mark.parametrize("arrange", FOREIGN, ids=lambda arrange: arrange.__name__)
@pytest.mark.parametrize("command", ACTING)
def test_what_acts_refuses_what_is_not_its_users_own(
    site: Site, command: str, arrange: Callable[[Site], Path]
) -> None:
    path = arrange(site)
    before = site.files()
    code, said = site.ask(command, path)
    assert FOREIGN[arrange] in said
    assert code == (0 if command.startswith("cleanup") else 2)
    assert site.files() == before


@pytest.mark.parametrize("arrange", FOREIGN, ids=lambda arrange: arrange.__name__)
@pytest.mark.parametrize("command", LOOKING)
def test_what_looks_works_on_anybodys_run(
    site: Site, command: str, arrange: Callable[[Site], Path]
) -> None:
    path = arrange(site)
    before = site.files()
    code, said = site.ask(command, path)
    assert code == 0, said
    assert site.files() == before


def own_folder(site: Site) -> Path:
    return site.run.path


def behind_own_symlink(site: Site) -> Path:
    """runs/ on scratch space, as sites advise."""
    link = site.home / "runs"
    link.symlink_to(site.shared)
    give(link, ALICE)
    return link / "study"


def behind_the_systems_symlink(site: Site) -> Path:
    (site.shared / "scratch").symlink_to(site.shared)
    return site.shared / "scratch" / "study"


def parts_on_scratch(site: Site) -> Path:
    """A symlink of alice's to a folder of hers."""
    for part in (site.run.scripts, site.run.path / "cells"):
        part.rename(site.shared / part.name)
        part.symlink_to(site.shared / part.name)
        give(part, ALICE)
    return site.run.path


@pytest.mark.parametrize(
    "arrange", [own_folder, behind_own_symlink, behind_the_systems_symlink, parts_on_scratch]
)
def test_what_acts_takes_what_is_its_users_own(site: Site, arrange: Callable[[Site], Path]) -> None:
    path = arrange(site)
    code, said = site.ask("cancel {run}", path)
    assert (code, said) == (0, f"nothing of {site.run.path} was running\n")


def test_a_dry_run_changes_nothing_of_somebody_elses(site: Site) -> None:
    path = scripts_behind_somebodys_symlink(site)
    shutil.rmtree(path / "cells")
    before = site.files()
    code, said = site.ask("sweep {home}/x.yaml --run-dir {run} --dry-run --out {home}/out", path)
    assert code == 0, said
    after = site.files()
    assert {name: after[name] for name in before} == before
    shutil.rmtree(site.home / "out")


def test_a_new_run_is_its_users_alone_whatever_the_umask(site: Site) -> None:
    def submit() -> int:
        os.chdir(site.home)
        os.umask(0)
        return main(["sweep", str(site.home / "x.yaml"), "--no-submit"])

    code, said = as_user(ALICE, submit)
    assert code == 0, said
    run_dir = RunDir(site.home / "runs" / "study")
    assert (run_dir.scripts / "user_vllm.sbatch").exists()
    others = stat.S_IWGRP | stat.S_IWOTH
    for folder in (run_dir.path, *run_dir.path.parents[:2], run_dir.scripts, run_dir.submitit):
        assert folder.stat().st_mode & others == 0
    # The files that submitit writes there and executes are anybody's to write with this umask.
    assert stat.S_IMODE(run_dir.submitit.stat().st_mode) == 0o700


@pytest.mark.parametrize("owner, mode", [(MALLORY, 0o755), (ALICE, 0o777)])
def test_templates_of_somebody_in_the_present_folder_are_refused(
    site: Site, owner: int, mode: int
) -> None:
    """As in /tmp, where anybody can put such a folder."""
    templates = site.shared / "slurm_templates"
    templates.mkdir()
    (templates / "serve_scripted.sh.j2").write_text("touch pwned\n")
    give(templates, owner)
    templates.chmod(mode)

    def submit() -> int:
        os.chdir(site.shared)
        return main(["sweep", str(site.home / "x.yaml"), "--no-submit"])

    code, said = as_user(ALICE, submit)
    assert code == 2
    assert "this belongs to user 61002" in said or "others may write to this folder" in said
    give(templates, ALICE)
    templates.chmod(0o755)
    assert as_user(ALICE, submit)[0] == 0


def test_only_scripts_are_taken_away(site: Site) -> None:
    """A folder of one's own with other files, reached by a symlink of one's own."""
    shutil.rmtree(site.run.path)
    run_dir = RunDir(site.home / "mine")
    run_dir.path.mkdir()
    run_dir.scripts.symlink_to(site.home / "diary")
    for name in ("tau_array_old.sbatch", "notes.txt", "serve.py"):
        (site.home / "diary" / name).write_text("x")
    give(site.home, ALICE)
    code, said = site.ask("sweep {home}/x.yaml --run-dir {run} --no-submit", run_dir.path)
    assert code == 0, said
    left = {path.name for path in (site.home / "diary").iterdir()}
    assert {"notes.txt", "serve.py", "tau_array_a.sbatch"} <= left
    assert "tau_array_old.sbatch" not in left
