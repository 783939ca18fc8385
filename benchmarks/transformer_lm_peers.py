"""Our language model's step and forward pass against the best public scripts.

    git clone https://github.com/ml-explore/mlx-examples
    git clone https://github.com/richiksc/mlx-benchmarks
    git clone https://github.com/karpathy/nanoGPT
    python -m benchmarks.transformer_lm_peers --mlx_examples mlx-examples \
        --mlx_benchmarks mlx-benchmarks --nanogpt nanoGPT

Peers: mlx-examples `transformer_lm/main.py` (MLX), mlx-benchmarks `transformer_lm/torch_main.py` and
nanoGPT `model.py` (PyTorch). Their models are imported unmodified. Their loops stand inside `main` and
cannot be, so the few calls are made here as published: in MLX the compiled step, the rate set before
it, mx.eval(state) and loss.item() after it; in PyTorch zero_grad, backward, step, loss.item().

Equal work. mlx-examples' model is ours; its AdamW gets bias_correction=True, which it leaves out.
mlx-benchmarks' model lacks positions and the last norm and has biases in its attention: the peer
"completed" has the positions added to its embedding, the norm that nn.TransformerEncoder has a
place for, and its attention's biases fixed at zero, which is our function; it and nanoGPT get the
fused AdamW, the fastest (the script itself uses plain SGD). Each of these must reach our losses over
the first steps from the same weights on the same batches before anything is timed. Two more are not
the same work and say so: mlx-benchmarks' model as published (less), and nanoGPT's (learned positions
tied weights, GELU, fewer biases).

Same process, BLAS, threads, arrays in memory and order of batches. A sample is one step, from the
row numbers of a batch to its loss as a number, or one forward pass to the likeliest words.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common, training
from benchmarks.training import Forward, Peers, Step
from measurement.errors import InputError
from models.transformer_lm.config import BETAS, EPSILON, VOCABULARY

WORKLOAD = "transformer_lm"
SOURCES = {  # framework -> option, script, where to get it
    "mlx": [("mlx_examples", "transformer_lm/main.py", "ml-explore/mlx-examples")],
    "pytorch": [
        ("mlx_benchmarks", "transformer_lm/torch_main.py", "richiksc/mlx-benchmarks"),
        ("nanogpt", "model.py", "karpathy/nanoGPT"),
    ],
}


def scripts(framework: str, options: argparse.Namespace) -> list[Path]:
    """The peers' files in the user's checkouts; InputError when one is missing."""
    found = []
    for option, script, repository in SOURCES[framework]:
        path = Path(getattr(options, option) or ".") / script
        if not getattr(options, option) or not path.is_file():
            raise InputError(
                f"--{option} {getattr(options, option) or 'is missing'}: expected a checkout that"
                f" holds {script}; git clone https://github.com/{repository}"
            )
        found.append(path.resolve())
    return found


def imported(path: Path) -> dict[str, Any]:
    """The script's names; what it does as a program is not run. Importable while it is used: a
    dataclass of it looks its own module up."""
    sys.path.insert(0, str(path.parent))  # it imports the datasets.py beside it
    try:
        name = f"peer_{path.stem}"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return vars(module)
    finally:
        sys.path.remove(str(path.parent))
        sys.modules.pop("datasets", None)


# --- the peers: model with our weights -> a step and a forward pass


def mlx_examples(session: Any, script: dict[str, Any]) -> tuple[Step, Forward]:
    import mlx.core as mx
    from mlx import nn, optimizers

    config = session.config
    model = script["TransformerLM"](
        VOCABULARY, config.blocks, config.dimension, config.heads, checkpoint=False
    )
    names = {
        "blocks.": "transformer.layers.",
        "attention_norm": "ln1",
        "feed_forward_norm": "ln2",
        "feed_forward.inner": "linear1",
        "feed_forward.outer": "linear2",
        "attention.output": "attention.out_proj",
    }
    values = {"head.": "out_proj.", "norm.": "transformer.ln."}
    start = {}
    for name, value in session.initial.items():
        for ours, theirs in values.items():
            name = theirs + name[len(ours) :] if name.startswith(ours) else name
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        if "qkv" not in name:
            start[name] = value
            continue
        for part, third in zip(("query", "key", "value"), np.split(value, 3), strict=True):
            start[name.replace("qkv", f"{part}_proj")] = third
    session.framework.write_parameters(model, start)
    dtype, positions = model.embedding.weight.dtype, model.pe
    if dtype != mx.float32:  # what the script makes in float32 would make all behind it float32
        model.pe = lambda numbers: positions(numbers).astype(dtype)
        attention = nn.MultiHeadAttention
        attention.create_additive_causal_mask = staticmethod(
            partial(attention.create_additive_causal_mask, dtype=dtype)
        )
    inputs = mx.concatenate([session.train[0], session.train[1][:, -1:]], axis=1)

    def loss_fn(model: Any, inputs: Any) -> Any:
        x, y = inputs[..., :-1], inputs[..., 1:]
        return nn.losses.cross_entropy(model(x), y, reduction="mean")

    optimizer = optimizers.AdamW(
        learning_rate=config.learning_rate,
        betas=list(BETAS),
        eps=EPSILON,
        weight_decay=config.weight_decay,
        bias_correction=True,
    )
    state = [model.state, optimizer.state]

    @partial(mx.compile, inputs=state, outputs=state)
    def update(inputs: Any) -> Any:
        loss, gradients = nn.value_and_grad(model, loss_fn)(model, inputs)
        optimizer.update(model, gradients)
        return loss

    done = [0]

    def step(rows: Any) -> float:
        optimizer.learning_rate = min(1, done[0] / config.warmup_steps) * config.learning_rate
        done[0] += 1
        loss = update(inputs[rows])
        mx.eval(state)
        return float(loss.item())

    forward = mx.compile(lambda x: mx.argmax(model(x), axis=2), inputs=[model.state])
    return step, lambda x: mx.eval(forward(x))


def mlx_benchmarks(session: Any, script: dict[str, Any], completed: bool) -> tuple[Step, Forward]:
    import torch

    config = session.config
    model = script["TransformerLM"](VOCABULARY, config.blocks, config.heads, config.dimension)
    ours = dict(session.initial)
    start = {"embedding.weight": ours["embedding.weight"]}
    for part in ("weight", "bias"):
        start[f"projection.{part}"] = ours[f"head.{part}"]
        if completed:
            start[f"transformer.norm.{part}"] = ours[f"norm.{part}"]
        for i in range(config.blocks):
            block, layer = f"blocks.{i}", f"transformer.layers.{i}"
            for mine, theirs in (
                ("attention_norm", "norm1"),
                ("feed_forward_norm", "norm2"),
                ("feed_forward.inner", "linear1"),
                ("feed_forward.outer", "linear2"),
            ):
                start[f"{layer}.{theirs}.{part}"] = ours[f"{block}.{mine}.{part}"]
    for i in range(config.blocks):
        block, layer = f"blocks.{i}.attention", f"transformer.layers.{i}.self_attn"
        start[f"{layer}.in_proj_weight"] = ours[f"{block}.qkv.weight"]
        start[f"{layer}.in_proj_bias"] = np.zeros(3 * config.dimension, np.float32)
        start[f"{layer}.out_proj.weight"] = ours[f"{block}.output.weight"]
        start[f"{layer}.out_proj.bias"] = np.zeros(config.dimension, np.float32)
    if completed:
        model.transformer.norm = torch.nn.LayerNorm(config.dimension, eps=1e-5)
        positions = session.framework.put(config.positions())
        model.embedding.register_forward_hook(lambda module, given, output: output + positions)
    session.framework.write_parameters(model, start)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not (completed and "self_attn" in name and "bias" in name))
    return _torch_steps(session, model, lambda x: model(x))


def nanogpt(session: Any, script: dict[str, Any]) -> tuple[Step, Forward]:
    import torch

    config = session.config
    model = script["GPT"](
        script["GPTConfig"](
            block_size=config.context,
            vocab_size=VOCABULARY,
            n_layer=config.blocks,
            n_head=config.heads,
            n_embd=config.dimension,
            dropout=0.0,
            bias=False,
        )
    ).to(session.train[0].device)
    device, dtype = session.train[0].device.type, session.framework.dtype

    def logits(x: Any) -> Any:
        # As its train.py: 16 bits by autocast. Called with targets, as in training: without them it
        # computes the last position only.
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            return model(x, x)[0]

    # It compiles by default, which its README advises against without a GPU.
    compiled = torch.compile(logits, dynamic=False) if device != "cpu" else logits
    return _torch_steps(session, model, compiled)


def _torch_steps(session: Any, model: Any, logits: Callable[[Any], Any]) -> tuple[Step, Forward]:
    """zero_grad, backward, step and item, the rate set before as the published schedule has it."""
    import torch

    config, done = session.config, [0]
    inputs, labels = (array.long() for array in session.train)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        trained,
        lr=config.learning_rate,
        betas=BETAS,
        eps=EPSILON,
        weight_decay=config.weight_decay,
        fused=True,
    )

    def step(rows: Any) -> float:
        for group in optimizer.param_groups:
            group["lr"] = min(1, done[0] / config.warmup_steps) * config.learning_rate
        done[0] += 1
        optimizer.zero_grad()
        found = logits(inputs[rows]).flatten(0, 1).float()
        loss = torch.nn.functional.cross_entropy(found, labels[rows].flatten())
        loss.backward()
        optimizer.step()
        return float(loss.item())

    def forward(x: Any) -> Any:
        with torch.inference_mode():
            return torch.argmax(logits(x.long()), dim=2)

    return step, forward


def peers(framework: str, options: argparse.Namespace, session: Any) -> tuple[Peers, list[str]]:
    """(every peer, the names of those that do our work)."""
    paths = [imported(path) for path in scripts(framework, options)]
    if framework == "mlx":
        return {"mlx-examples": mlx_examples(session, paths[0])}, ["mlx-examples"]
    found = {
        "mlx-benchmarks completed": mlx_benchmarks(session, paths[0], completed=True),
        "mlx-benchmarks as published (less work)": mlx_benchmarks(session, paths[0], False),
        "nanoGPT (other work)": nanogpt(session, paths[1]),
    }
    return found, ["mlx-benchmarks completed"]


def measure(framework: str, options: argparse.Namespace) -> common.Measured:
    """Runs in a process of its own."""
    return training.measure(framework, options, WORKLOAD, partial(peers, framework, options))


def main() -> int:
    parser = common.parser(str(__doc__).splitlines()[0], pairs=10, dataset="ptb", preset="cpu")
    for option, script, repository in (source for found in SOURCES.values() for source in found):
        parser.add_argument(f"--{option}", help=f"checkout of {repository}, for its {script}")
    return common.main(
        parser.parse_args(),
        "Transformer LM: our twins and the best public scripts",
        measure,
        scripts,
        WORKLOAD,
    )


if __name__ == "__main__":
    sys.exit(main())
