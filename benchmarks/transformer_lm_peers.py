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
import itertools
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks import common
from benchmarks.common import Samples
from benchmarks.mnist_peers import MODES, Verdict, default, versus_peer
from measurement import blas
from measurement.errors import InputError
from models.transformer_lm.config import BETAS, EPSILON, VOCABULARY

WORKLOAD = "transformer_lm"
CHECKED_STEPS = 4
TOLERANCE = 1e-4  # relative, of losses and of logits
Step = Callable[[Any], float]  # row numbers -> loss
Forward = Callable[[Any], Any]  # inputs -> likeliest words
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
        "attention.query": "attention.query_proj",
        "attention.key": "attention.key_proj",
        "attention.value": "attention.value_proj",
        "attention.output": "attention.out_proj",
    }
    values = {"head.": "out_proj.", "norm.": "transformer.ln."}
    start = {}
    for name, value in session.initial.items():
        for ours, theirs in values.items():
            name = theirs + name[len(ours) :] if name.startswith(ours) else name
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        start[name] = value
    session.framework.write_parameters(model, start)
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
        three = [ours[f"{block}.{name}.weight"] for name in ("query", "key", "value")]
        start[f"{layer}.in_proj_weight"] = np.concatenate(three)
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
    # Called with targets, as in training: without them it computes the last position only.
    return _torch_steps(session, model, lambda x: model(x, x)[0])


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
        found = logits(inputs[rows]).flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(found, labels[rows].flatten())
        loss.backward()
        optimizer.step()
        return float(loss.item())

    def forward(x: Any) -> Any:
        with torch.inference_mode():
            words = torch.argmax(logits(x.long()), dim=2)
        session.framework.wait()
        return words

    return step, forward


# --- measuring


def ours(session: Any) -> Step:
    def step(rows: Any) -> float:
        value = session.step(rows)
        session.framework.wait(value, session.state)
        return float(session.framework.read(value))

    return step


def check_equal_work(session: Any, name: str, theirs: Step) -> str:
    """The losses of the first steps, from the same weights on the same batches; InputError when
    they differ."""
    session.reset()
    batches = [rows for rows, _ in session.batches(0)][:CHECKED_STEPS]
    mine = ours(session)
    pairs = [(mine(rows), theirs(rows)) for rows in batches]
    worst = max(abs(a - b) / abs(a) for a, b in pairs)
    if not worst <= TOLERANCE:
        raise InputError(
            f"{name}: the losses of the first steps differ by {worst:.2g} of ours, more than"
            f" {TOLERANCE:g}: other work"
        )
    return (
        f"equal work, {name}: losses of {len(batches)} steps on the same batches within {worst:.1g}"
    )


def _arms(
    name: str, step: Step, forward: Callable[[], Any], rows: list[Any]
) -> dict[str, common.Arm]:
    """One step, on the next batch each time, and one forward pass."""
    batches = itertools.cycle(rows)

    def timed(series: str, call: Callable[[], Any]) -> dict[str, float]:
        start = perf_counter()
        call()
        return {series: perf_counter() - start}

    return {
        name: partial(timed, name, lambda: step(next(batches))),
        f"{name}, forward": partial(timed, f"{name}, forward", forward),
    }


def _waited(session: Any, call: Callable[[Any], Any], inputs: Any) -> None:
    session.framework.wait(call(inputs))


def measure(framework: str, options: argparse.Namespace) -> common.Measured:
    """Runs in a process of its own."""
    blas.load(options.blas)
    session = common.session(framework, options, workload=WORKLOAD)
    reason = session.framework.can_compile()
    common.say(f"{framework}: compiling and warming up")
    paths = [imported(path) for path in scripts(framework, options)]
    if framework == "mlx":
        peers = {"mlx-examples": mlx_examples(session, paths[0])}
        equal = ["mlx-examples"]
    else:
        peers = {
            "mlx-benchmarks completed": mlx_benchmarks(session, paths[0], completed=True),
            "mlx-benchmarks as published (less work)": mlx_benchmarks(session, paths[0], False),
            "nanoGPT (other work)": nanogpt(session, paths[1]),
        }
        equal = ["mlx-benchmarks completed"]
    notes = [check_equal_work(session, name, peers[name][0]) for name in equal]
    rows = [batch for batch, items in session.batches(0) if items == session.config.batch_size]
    words = session.test[0][0]
    arms: dict[str, common.Arm] = {}
    for name, (step, forward) in peers.items():
        arms |= _arms(name, step, partial(forward, words), rows)
    for mode in ("off",) if reason else ("on", "off"):
        same = mode == ("on" if session.compiled else "off")
        found = session if same else common.session(framework, options, mode, WORKLOAD)
        predict = found.framework.compile_predict(found.twin.predict, found.model, mode == "on")
        arms |= _arms(MODES[mode], ours(found), partial(_waited, found, predict, words), rows)
    for warm in arms.values():
        warm()
    samples = common.interleave(arms, options.pairs, options.seed, framework)
    if reason:
        notes.append(f"compiled modes not measured: {reason}")
    table = _rows(framework, session, samples, list(peers))
    return common.Measured(framework, session.conditions(), samples, table, notes)


def _rows(framework: str, session: Any, samples: Samples, peers: list[str]) -> list[common.Row]:
    mode = {True: "compiled", False: "eager"}
    training, inference = mode[session.compiled], mode[session.compiled_inference]
    found: list[tuple[str, str, str, Verdict]] = []
    for name in peers:
        found.append((training, name, f"step: ours ({training}) / {name}", versus_peer))
    for name in peers:
        first, second = f"{inference}, forward", f"{name}, forward"
        found.append((first, second, f"forward: ours ({inference}) / {name}", versus_peer))
    if "compiled" in samples:
        faster = default(session.compiled), default(session.compiled_inference)
        found += [
            ("compiled", "eager", "step: compiled / eager", faster[0]),
            ("compiled, forward", "eager, forward", "forward: compiled / eager", faster[1]),
        ]
    return [common.compare(framework, samples, *entry) for entry in found]


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
