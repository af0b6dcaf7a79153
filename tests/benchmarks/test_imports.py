"""Importing the benchmark leaves libraries out that a run seldom needs, and keeps them usable."""

from __future__ import annotations

import subprocess
import sys

import pytest

from emobench.benchmarks.adapter import load_benchmark


@pytest.mark.skipif(load_benchmark().package != "tau_trait", reason="only the fork has clients")
def test_model_libraries_are_imported_on_first_use() -> None:
    code = (
        "import sys; from emobench.benchmarks.adapter import load_benchmark; "
        "user = load_benchmark().import_module('envs.user'); "
        "print([name for name in ('litellm', 'openai') if name in sys.modules]); "
        "print(user.rewriter.client.chat.completions.create.__module__); "
        "import litellm; print(user.completion.__name__, litellm.__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=True
    )
    assert done.stdout.splitlines()[0] == "[]"
    assert done.stdout.splitlines()[1].startswith("openai.")
    assert done.stdout.splitlines()[2] == "completion litellm"
