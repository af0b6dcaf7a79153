from __future__ import annotations

from collections.abc import Iterator

import pytest

from emobench.benchmarks.adapter import Benchmark, load_benchmark
from tests.support.answers import load_short_user


@pytest.fixture(scope="package")
def benchmark_() -> Iterator[Benchmark]:
    """The installed benchmark, its simulated user replaced by one that needs no model."""
    benchmark = load_benchmark()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark.import_module("envs.base"), "load_user", load_short_user)
        yield benchmark
