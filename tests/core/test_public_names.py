"""The public names of the package: they exist, and importing it stays light."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import emobench


@pytest.mark.parametrize("name", emobench.__all__)
def test_a_public_name_is_what_its_module_has(name: str) -> None:
    value = getattr(emobench, name)
    assert name == "__version__" or value.__name__ == name


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nosuch'"):
        _ = emobench.nosuch


def test_importing_the_package_loads_nothing_else() -> None:
    code = "import json, sys, emobench; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert not loaded & {"pandas", "pyarrow", "pydantic", "numpy", "orjson", "yaml"}
    assert not [name for name in json.loads(done.stdout) if name.startswith("emobench.")]
