"""Run the whole suite: the tests on Slurm clusters in four processes beside three for all others.

Each of the cluster's has a cluster of its own. Who has no tests left takes some from another; many
tests wait for most of their time, so that seven processes suit two cores. Arguments are pytest's.
Where they name tests, there is one run of these. What the cluster's tests print comes in one
piece, after the others. Exits with the worse of the two codes.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

CLUSTER = "tests/cluster"
ON_CLUSTERS = ("-n", "4", "--dist", "worksteal")
OTHERS = ("-n", "3", "--dist", "worksteal")


def main(arguments: Sequence[str]) -> int:
    pytest = [sys.executable, "-m", "pytest", "--durations=15", *arguments]
    if any(Path(argument.split("::")[0]).exists() for argument in arguments):
        return subprocess.run(pytest).returncode
    with tempfile.TemporaryFile() as output:
        # Ctrl-C reaches both, as they share our process group; both then clean up behind them.
        cluster = subprocess.Popen(
            [*pytest, *ON_CLUSTERS, CLUSTER], stdout=output, stderr=subprocess.STDOUT
        )
        others = subprocess.Popen([*pytest, *OTHERS, f"--ignore={CLUSTER}"])
        codes = [_wait(others), _wait(cluster)]
        print(f"\nThe tests of {CLUSTER}, which ran meanwhile:", flush=True)
        output.seek(0)
        sys.stdout.buffer.write(output.read())
    return max(codes, key=abs)


def _wait(process: subprocess.Popen[bytes]) -> int:
    while True:
        with contextlib.suppress(KeyboardInterrupt):
            return process.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
