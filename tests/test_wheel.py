"""What a wheel ships is enough to render a sweep, away from the repository."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

REPOSITORY = Path(__file__).parents[1]


def test_an_installed_wheel_has_templates_profiles_and_sweeps(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", str(tmp_path), str(REPOSITORY)], check=True)
    (wheel,) = tmp_path.glob("emobench-*.whl")
    with ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
        names = archive.namelist()
    assert not [name for name in names if name.startswith(("tests/", "runs/", "logs/"))]
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r}); "
        "import emobench; assert 'site' in emobench.__file__; "
        "from emobench.config.templates import find_shipped_sweeps; "
        "from emobench.cli.main import main; "
        "file = str(find_shipped_sweeps() / 'emotions-retail-gaudi.yaml'); "
        "code = main(['sweep', file, '--dry-run', '--out', 'out']) or main(['init', 'new']); "
        "sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "120 cells" in done.stdout
    # Where its user finds them.
    assert f"more sweeps: {tmp_path}/site/emobench/_data/sweeps" in done.stdout
    assert (folder / "new" / "quickstart.yaml").exists()
    scripts = {path.name for path in folder.glob("out/scripts/*")}
    assert "user_vllm.sbatch" in scripts
    assert "tau_array_Qwen3-4B.sbatch" in scripts
