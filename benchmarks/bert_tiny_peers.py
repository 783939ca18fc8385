"""Our sentence-pair classifier's step and forward pass against the best public implementations.

    pip install transformers
    git clone https://github.com/LucasSte/MLX-vs-Pytorch
    python -m benchmarks.bert_tiny_peers --mlx_vs_pytorch MLX-vs-Pytorch

Peers: MLX-vs-Pytorch `mlx_models/tiny_bert.py` (MLX) and transformers' BertModel with fused attention
(PyTorch), both imported unmodified. The classifier on top (mean over the real pieces, u, v, |u - v|,
u * v, a linear layer, cross-entropy) is written around them here, in the few calls it takes.

Equal work. The published MLX script lacks three things, and is measured with them put right: its norms
start at 0 (both peers get our weights), its AdamW gets bias_correction=True, and its dropout is off. Its
pooling of the first token, which our mean replaces, is taken out. transformers' model gets no pooling
layer, no dropout and the fused AdamW, the fastest. Each peer must reach our losses over the first
steps from the same weights on the same batches before anything is timed.

Same process, BLAS, threads, arrays in memory and order of batches. A sample is one step, from the row
numbers of a batch to its loss as a number, or one forward pass over a batch of 64 pairs to its answers.
Tokenising is outside every clock; the published scripts have it inside.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks import common, training
from benchmarks.common import MODES
from benchmarks.training import Forward, Peers, Step
from measurement.errors import InputError
from models.bert_tiny.config import BETAS, CLASSES, EPSILON, PAD, VOCABULARY

WORKLOAD = "bert_tiny"
SCRIPT = "mlx_models/tiny_bert.py"


def check(framework: str, options: argparse.Namespace) -> Path | None:
    """The script in the user's checkout; InputError when a peer is missing."""
    if framework == "pytorch":
        if importlib.util.find_spec("transformers") is None:
            raise InputError("transformers is missing; expected it: pip install transformers")
        return None
    given = options.mlx_vs_pytorch
    path = Path(given or ".") / SCRIPT
    if not given or not path.is_file():
        raise InputError(
            f"--mlx_vs_pytorch {given or 'is missing'}: expected a checkout that holds {SCRIPT};"
            " git clone https://github.com/LucasSte/MLX-vs-Pytorch"
        )
    return path.resolve()


# --- the peers: model with our weights -> a step and a forward pass

BLOCK = {  # our name of a block's part -> transformers', the MLX script's
    "attention.query": ("attention.self.query", "query"),
    "attention.key": ("attention.self.key", "key"),
    "attention.value": ("attention.self.value", "value"),
    "attention.output": ("attention.output.dense", "attn_out"),
    "attention_norm": ("attention.output.LayerNorm", "ln1"),
    "feed_forward.inner": ("intermediate.dense", "mlp.expansion"),
    "feed_forward.outer": ("output.dense", "mlp.contraction"),
    "feed_forward_norm": ("output.LayerNorm", "ln2"),
}
EMBEDDINGS = {
    "words": ("word_embeddings", "token_embedding"),
    "positions": ("position_embeddings", "position_embedding"),
    "segments": ("token_type_embeddings", "token_type_embedding"),
    "norm": ("LayerNorm", "ln"),
}


def _renamed(name: str, peer: int) -> tuple[str, str]:
    """(path with the peer's own parts, part) of one of our names."""
    path, part = name.rsplit(".", 1)
    if path.startswith("embeddings."):
        return EMBEDDINGS[path.split(".")[1]][peer], part
    _, block, rest = path.split(".", 2)
    return f"{block}.{BLOCK[rest][peer]}", part


def transformers_name(name: str) -> str:
    """Our name of an encoder's parameter -> that of transformers' BertModel."""
    path, part = _renamed(name, 0)
    return f"{'embeddings' if name.startswith('embeddings') else 'encoder.layer'}.{path}.{part}"


def _script_name(name: str) -> str:
    """Our name of any parameter -> that of the MLX script's classifier."""
    if name.startswith("head."):
        return name.replace("head.", "linear1.")
    path, part = _renamed(name, 1)
    if "norm" in name:
        part = {"weight": "gamma", "bias": "beta"}[part]
    return f"bert.{'' if name.startswith('embeddings') else 'layers.'}{path}.{part}"


def _script(path: Path) -> dict[str, Any]:
    """The MLX script's names. It imports PyTorch's half for a class of sizes, torch's DataLoader and
    transformers' tokenizer: the classes it needs stand in for them, so that one framework is in the
    process."""

    class Config:
        @classmethod
        def from_dict(cls, values: dict[str, Any]) -> Config:
            found = cls()
            found.__dict__.update(values)
            return found

    stand_ins: dict[str, dict[str, Any]] = {
        "transformers": {"AutoTokenizer": None},
        "torch": {},
        "torch.utils": {},
        "torch.utils.data": {"DataLoader": None},
        "pytorch_models": {},
        "pytorch_models.tiny_bert": {"Config": Config},
    }
    for name, values in stand_ins.items():
        module = ModuleType(name)
        module.__dict__.update(values)
        sys.modules[name] = module
    try:
        spec = importlib.util.spec_from_file_location("peer_tiny_bert", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return vars(module)
    finally:
        for name in stand_ins:
            del sys.modules[name]


def mlx_vs_pytorch(session: Any, script: dict[str, Any], compiled: bool) -> tuple[Step, Forward]:
    import mlx.core as mx
    from mlx import nn, optimizers

    config = session.config
    model = script["BertFineTuneTask"](
        CLASSES,
        {
            "vocab_size": VOCABULARY,
            "hidden_size": config.hidden_size,
            "num_hidden_layers": config.layers,
            "num_attention_heads": config.heads,
            "intermediate_size": config.intermediate_size,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "max_position_embeddings": 512,
            "type_vocab_size": 2,
        },
    )
    model.bert.pop(
        "pooler"
    )  # its output is not used; a gradient of 0 would be decayed all the same
    model.bert.pooler = lambda first: first
    start = {_script_name(name): value for name, value in session.initial.items()}
    session.framework.write_parameters(model, start)
    inputs, labels = session.train

    def logits(model: Any, pairs: Any) -> Any:
        pieces = pairs.reshape(-1, config.length)
        mask = (pieces != PAD).astype(mx.int32)
        hidden, _ = model.bert(input_ids=pieces, attention_mask=mask)
        mean = mx.sum(hidden * mask[..., None], axis=1) / mx.sum(mask, axis=1, keepdims=True)
        u, v = mean[0::2], mean[1::2]
        return model.linear1(mx.concatenate([u, v, mx.abs(u - v), u * v], axis=-1))

    def loss_fn(model: Any, pairs: Any, targets: Any) -> Any:
        return nn.losses.cross_entropy(logits(model, pairs), targets, reduction="mean")

    optimizer = optimizers.AdamW(
        learning_rate=config.learning_rate,
        betas=list(BETAS),
        eps=EPSILON,
        weight_decay=config.weight_decay,
        bias_correction=True,
    )
    optimizer.init(model.trainable_parameters())
    state = [model.state, optimizer.state]

    def update(pairs: Any, targets: Any) -> Any:
        loss, gradients = nn.value_and_grad(model, loss_fn)(model, pairs, targets)
        optimizer.update(model, gradients)
        return loss

    def answers(pairs: Any) -> Any:
        return mx.argmax(logits(model, pairs), axis=1)

    submit = mx.compile(update, inputs=state, outputs=state) if compiled else update
    forward = mx.compile(answers, inputs=[model.state]) if compiled else answers

    def step(rows: Any) -> float:
        loss = submit(inputs[rows], labels[rows])
        mx.eval(loss, state)
        return float(loss.item())

    return step, lambda pairs: mx.eval(forward(pairs))


def transformers_bert(session: Any) -> tuple[Step, Forward]:
    from tests.torchvision_shim import load_torchvision

    load_torchvision()  # transformers imports it, and a CUDA build of it fails beside a CPU torch
    import torch
    import transformers

    config = session.config
    sizes = transformers.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=config.hidden_size,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        intermediate_size=config.intermediate_size,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        attn_implementation="sdpa",
    )
    bert = transformers.BertModel(sizes, add_pooling_layer=False)
    head = torch.nn.Linear(4 * config.hidden_size, CLASSES)
    values = {name: value for name, value in session.initial.items() if "head" not in name}
    session.framework.write_parameters(
        bert, {transformers_name(name): value for name, value in values.items()}
    )
    session.framework.write_parameters(
        head, {part: session.initial[f"head.{part}"] for part in ("weight", "bias")}
    )
    inputs, labels = session.train
    optimizer = torch.optim.AdamW(
        [*bert.parameters(), *head.parameters()],
        lr=config.learning_rate,
        betas=BETAS,
        eps=EPSILON,
        weight_decay=config.weight_decay,
        fused=True,
    )

    def logits(pairs: Any) -> Any:
        pieces = pairs.reshape(-1, config.length)
        mask = (pieces != PAD).long()
        hidden = bert(input_ids=pieces, attention_mask=mask).last_hidden_state
        mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        u, v = mean[0::2], mean[1::2]
        return head(torch.cat((u, v, torch.abs(u - v), u * v), dim=-1))

    def step(rows: Any) -> float:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(logits(inputs[rows]), labels[rows])
        loss.backward()
        optimizer.step()
        return float(loss.item())

    def forward(pairs: Any) -> Any:
        with torch.inference_mode():
            answers = torch.argmax(logits(pairs), dim=1)
        session.framework.wait()
        return answers

    return step, forward


def peers(framework: str, options: argparse.Namespace, session: Any) -> tuple[Peers, list[str]]:
    """(every peer, the names of those that do our work: all)."""
    path = check(framework, options)
    if path is None:
        return {"transformers": transformers_bert(session)}, ["transformers"]
    script = _script(path)
    modes = (False,) if session.framework.can_compile() else (False, True)
    found = {
        f"MLX-vs-Pytorch, {MODES['on' if compiled else 'off']}": mlx_vs_pytorch(
            session, script, compiled
        )
        for compiled in modes
    }
    return found, list(found)


def measure(framework: str, options: argparse.Namespace) -> common.Measured:
    """Runs in a process of its own."""
    return training.measure(framework, options, WORKLOAD, partial(peers, framework, options))


def main() -> int:
    parser = common.parser(str(__doc__).splitlines()[0], pairs=10, dataset="snli_dev", preset="cpu")
    parser.add_argument("--mlx_vs_pytorch", help=f"checkout of LucasSte's, for its {SCRIPT}")
    return common.main(
        parser.parse_args(),
        "BERT-tiny: our twins and the best public implementations",
        measure,
        check,
        WORKLOAD,
    )


if __name__ == "__main__":
    sys.exit(main())
