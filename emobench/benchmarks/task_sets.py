"""Which tasks there are. Kept apart from the benchmark itself, whose import takes seconds."""

from __future__ import annotations

PACKAGES = ("tau_bench", "tau_trait")
"""Names under which the benchmark may be installed, in order of preference."""
TASK_COUNTS = {"retail": 115, "airline": 50}
"""Tasks of tau-bench's test split; forks append their own behind these."""
