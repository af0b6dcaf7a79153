"""submitit's Slurm executor, submitting a rendered script as it is."""

from __future__ import annotations

import contextlib
import io
import os
import re
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import submitit
from submitit.core import utils
from submitit.slurm.slurm import SlurmJob

from emobench.core.job_id import PART_ID

SBATCH_TIMEOUT_S = 120


OWN_JOB = re.compile(
    rf"{PART_ID}$|"
    r"SLURM_(?!CONF$)|SLURMD_|PMI|CUDA_VISIBLE_DEVICES$|GPU_DEVICE_ORDINAL$|ROCR_VISIBLE_DEVICES$|"
    r"ZE_AFFINITY_MASK$|HABANA_VISIBLE_"
)
"""Variables that Slurm set for the job that submits: sbatch would hand them on to the new one."""


class ScriptExecutor(submitit.SlurmExecutor):  # type: ignore[misc]
    """Submits scripts that carry their own #SBATCH header."""

    def __init__(self, folder: Path, withheld: Collection[str] = ()) -> None:
        """`withheld` are variables that sbatch does not hand on to the job."""
        super().__init__(folder)
        utils.JobPaths.get_first_id_independent_folder(self.folder).mkdir(
            parents=True, exist_ok=True
        )
        self._withheld = withheld
        self._text = ""
        self._options: Sequence[str] = ()
        self._arguments: Sequence[str] = ()

    def submit_script(
        self, script: Path, options: Sequence[str] = (), arguments: Sequence[str] = ()
    ) -> SlurmJob[object]:
        """Submit `script` by sbatch with further options, and arguments for the script itself.

        Raises submitit's FailedJobError or FailedSubmissionError with what sbatch said.
        """
        self._text = script.read_text(encoding="utf-8")
        self._options, self._arguments = options, arguments
        self._throttle()
        self._last_job_submitted = time.time()
        # submitit prints what its error says as well.
        with contextlib.redirect_stderr(io.StringIO()):
            job: SlurmJob[object] = self._submit_command("")
        return job

    def _make_submission_file_text(self, command: str, uid: str) -> str:
        return self._text

    def _make_submission_command(self, submission_file_path: Path) -> list[str]:
        # submitit waits for sbatch without end; a controller that is down must not hold us.
        waiting = ["timeout", str(SBATCH_TIMEOUT_S)]
        script = [*self._options, str(submission_file_path), *self._arguments]
        names = sorted({*self._withheld, *_list_own_variables()})
        without = ["env", *(f"--unset={name}" for name in names)] if names else []
        return [*without, *waiting, "sbatch", *script]

    def _internal_process_submissions(self, delayed_submissions: Any) -> Any:
        raise TypeError("this executor submits scripts, no functions: use submit_script")


def _list_own_variables() -> list[str]:
    """Return this job's own variables: a server that submits its successor must not give it its own
    cards and restart count."""
    if "SLURM_JOB_ID" not in os.environ:
        return []
    return [name for name in os.environ if OWN_JOB.match(name)]
