"""Greedy tokens of transformers for a Llama checkpoint, as a fixture: the reference of both twins.

    python -m tests.models.tinyllama_tokens FOLDER > tests/models/fixtures/tinyllama_tokens.json

It needs transformers and tokenizers; the tests that read the fixture do not.
"""

from __future__ import annotations

import importlib
import json
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from models import checkpoints
from models.tinyllama.checkpoint import PROMPTS
from tests.torchvision_shim import load_torchvision

COMMAND = "python -m tests.models.tinyllama_tokens FOLDER"
COUNT = 200


def greedy(folder: Path, prompts: list[list[int]], count: int) -> list[list[int]]:
    """The `count` tokens that transformers puts after each prompt, end token or not; float32."""
    load_torchvision()  # transformers imports it, and a CUDA build of it fails beside a CPU torch
    torch = importlib.import_module("torch")
    transformers = importlib.import_module("transformers")
    model = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    made = []
    for ids in prompts:
        inputs = torch.tensor([ids])
        output = model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=count,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        made.append(output[0, len(ids) :].tolist())
    return made


def fixture(folder: Path) -> dict[str, Any]:
    tokenizers = importlib.import_module("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    prompts = [tokenizer.encode(text).ids for text in PROMPTS]
    return {
        "command": COMMAND,
        "checkpoint": folder.name,
        "sha256": checkpoints.digest([folder / "model.safetensors"]),
        "transformers": metadata.version("transformers"),
        "torch": metadata.version("torch"),
        "items": [
            {"text": text, "prompt": ids, "tokens": tokens}
            for text, ids, tokens in zip(
                PROMPTS, prompts, greedy(folder, prompts, COUNT), strict=True
            )
        ],
    }


if __name__ == "__main__":
    print(json.dumps(fixture(Path(sys.argv[1]))))
