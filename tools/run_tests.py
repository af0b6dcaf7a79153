"""Run the whole suite: the tests on Slurm clusters in four processes beside three for all others.

Each of the cluster's has a cluster of its own and takes tests from the others when its own are
done. Most of these tests wait for most of their time, so that seven processes suit two cores.
Arguments are pytest's. Where they name tests, there is one run of these. What the cluster's tests
print comes in one piece, after the others.

What failed is run once more, alone, where it is no more than `FEW` tests: they use real processes
and clocks, and a machine may be busy. Tests that pass then are named at the end. Exits with the
worse of the two codes, or with that of the run alone.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

CLUSTER = "tests/cluster"
ON_CLUSTERS = ("-n", "4", "--dist", "worksteal")
FEW = 5
OTHERS = ("-n", "3", "--dist", "worksteal")


def main(arguments: Sequence[str]) -> int:
    pytest = [sys.executable, "-m", "pytest", *arguments]
    if any(Path(argument.split("::")[0]).exists() for argument in arguments):
        return subprocess.run(pytest).returncode
    with tempfile.TemporaryFile() as output, tempfile.TemporaryDirectory() as folder:
        run = [*pytest, "--durations=15"]
        caches = [Path(folder) / name for name in ("others", "cluster")]
        # Ctrl-C reaches both, as they share our process group; both then clean up behind them.
        cluster = subprocess.Popen(
            [*run, *ON_CLUSTERS, *_cache(caches[1]), CLUSTER],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        others = subprocess.Popen([*run, *OTHERS, *_cache(caches[0]), f"--ignore={CLUSTER}"])
        codes = [_wait(others), _wait(cluster)]
        print(f"\nThe tests of {CLUSTER}, which ran meanwhile:", flush=True)
        output.seek(0)
        sys.stdout.buffer.write(output.read())
        sys.stdout.flush()
        failed = [test for cache in caches for test in _failed_in(cache)]
        # 1: tests failed. Anything else, an interruption say, is no matter of single tests.
        if set(codes) <= {0, 1} and 1 <= len(failed) <= FEW:
            print(f"\nOnce more, alone: {', '.join(failed)}", flush=True)
            if (code := subprocess.run([*pytest, *failed]).returncode) == 0:
                print(f"\nFAILED BESIDE OTHERS, PASSED ALONE: {', '.join(failed)}", flush=True)
            return code
    return max(codes, key=abs)


def _cache(folder: Path) -> tuple[str, str]:
    """The two runs at once must not write one cache."""
    return "-o", f"cache_dir={folder}"


def _failed_in(cache: Path) -> list[str]:
    try:
        return sorted(json.loads((cache / "v" / "cache" / "lastfailed").read_text()))
    except FileNotFoundError:
        return []


def _wait(process: subprocess.Popen[bytes]) -> int:
    while True:
        with contextlib.suppress(KeyboardInterrupt):
            return process.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
