"""The names of litellm's providers, read without importing it."""

from __future__ import annotations

import subprocess
import sys

from emobench.llm.providers import list_providers


def test_they_are_those_of_the_installed_litellm() -> None:
    script = (
        "import sys\n"
        "from emobench.llm.providers import list_providers\n"
        "read = set(list_providers())\n"
        "assert 'litellm' not in sys.modules\n"
        "from litellm.types.utils import LlmProviders\n"
        "from litellm.llms.openai_like.json_loader import JSONProviderRegistry as further\n"
        "assert read == {p.value for p in LlmProviders} | set(further.list_providers())\n"
    )
    environment = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "PATH": ""}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)
    assert {"openai", "anthropic", "gemini", "hosted_vllm"} <= set(list_providers())
