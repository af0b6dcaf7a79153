"""Counters under vLLM's names, in Prometheus' text format."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Metrics:
    model: str
    running: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    finished: Counter[str] = field(default_factory=Counter)
    """Completions by finish reason."""
    responses: Counter[int] = field(default_factory=Counter)
    """HTTP responses of /v1 by status."""

    def text(self) -> str:
        # The label's value is quoted as the format prescribes.
        quoted = self.model.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
        label = f'model_name="{quoted}"'
        values: list[tuple[str, str, list[tuple[str, int]]]] = [
            ("vllm:num_requests_running", "gauge", [("", self.running)]),
            ("vllm:num_requests_waiting", "gauge", [("", 0)]),
            ("vllm:prompt_tokens_total", "counter", [("", self.prompt_tokens)]),
            ("vllm:generation_tokens_total", "counter", [("", self.generation_tokens)]),
            (
                "vllm:request_success_total",
                "counter",
                [(f',finished_reason="{why}"', n) for why, n in sorted(self.finished.items())],
            ),
            (
                "http_requests_total",
                "counter",
                [(f',status="{status}"', n) for status, n in sorted(self.responses.items())],
            ),
        ]
        lines: list[str] = []
        for name, kind, samples in values:
            lines.append(f"# TYPE {name} {kind}")
            lines += [f"{name}{{{label}{more}}} {value}" for more, value in samples]
        return "\n".join(lines) + "\n"
