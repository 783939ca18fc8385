"""Our vision transformer's step and forward pass against the best public implementations.

    pip install --no-deps timm mlx-image
    python -m benchmarks.deit_small_peers

TensorFlow's, in an environment with requirements-tensorflow.txt, scipy, keras-hub, regex, tokenizers:

    python -m benchmarks.deit_small_peers --framework tensorflow --blas shipped

Peers: timm's VisionTransformer (PyTorch), which deit_small_patch16_224 is, mlx-image's (MLX), and
keras-hub's ViT (TensorFlow; its DeiT has a distillation token), all imported unmodified, eager and
compiled; of TensorFlow compiled is XLA, and graphs without stand beside, and ours with XLA where we go
without and the other way round. Of MLX's vision transformers it is the one that is published as a
package with the sizes of DeiT; gau-nernst/mlx-models computes attention the same way.

Equal work. Both get our weights, and an AdamW with bias correction that decays all parameters; timm's is
the fused one, the fastest. Images are bytes on the device, for each peer in the layout it takes, and
are standardised in the step, as timm's own loader does. Each peer must reach our losses over the first
steps from the same weights on the same batches before anything is timed.

Same process, BLAS, threads and order of batches. A sample is one step, from the row numbers of a batch to
its loss as a number, or one forward pass over a batch to its answers.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import sys
from functools import partial
from typing import Any

import numpy as np

from benchmarks import common, training
from benchmarks.common import MODES
from benchmarks.training import Forward, Peers, Step
from measurement.errors import InputError
from models.deit_small.config import (
    BETAS,
    CHANNELS,
    EPSILON,
    MEAN,
    MLP_RATIO,
    NORM_EPSILON,
    STD,
    Config,
)

WORKLOAD = "deit_small"
PACKAGES = {  # module, package
    "pytorch": ("timm", "timm"),
    "mlx": ("mlxim", "mlx-image"),
    "tensorflow": ("keras_hub", "keras-hub"),
}


def check(framework: str, options: argparse.Namespace) -> None:
    """InputError when a peer is missing."""
    module, package = PACKAGES[framework]
    if importlib.util.find_spec(module) is None:
        raise InputError(
            f"{package} is missing; expected it beside {framework}: pip install --no-deps {package}"
        )


# --- our weights under the peers' names

TIMM = {  # our name of a block's part -> timm's
    "attention_norm": "norm1",
    "attention.qkv": "attn.qkv",
    "attention.output": "attn.proj",
    "feed_forward_norm": "norm2",
    "feed_forward.inner": "mlp.fc1",
    "feed_forward.outer": "mlp.fc2",
}
MLX_IMAGE = {  # mlx-image's; qkv it has apart
    "attention_norm": "ln_1",
    "attention.output": "self_attention.out_proj",
    "feed_forward_norm": "ln_2",
    "feed_forward.inner": "mlp.linear_1",
    "feed_forward.outer": "mlp.linear_2",
}


KERAS = {  # keras-hub's; qkv it has apart
    "attention_norm": "ln_1",
    "attention.output": "mha/attention_output",
    "feed_forward_norm": "ln_2",
    "feed_forward.inner": "mlp/dense_1",
    "feed_forward.outer": "mlp/dense_2",
}


def _filters(weight: np.ndarray) -> np.ndarray:
    """(width, patch_values) -> a convolution's (width, rows, columns, channels)."""
    side = math.isqrt(weight.shape[1] // CHANNELS)
    return weight.reshape(-1, side, side, CHANNELS)


def timm_weights(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """timm's state dictionary of our parameters."""
    found: dict[str, np.ndarray] = {}
    for name, value in values.items():
        if name == "class_token":
            found["cls_token"] = value[None, None]
        elif name == "positions":
            found["pos_embed"] = value[None]
        elif name == "patches.weight":
            found["patch_embed.proj.weight"] = _filters(value).transpose(0, 3, 1, 2)
        elif name == "patches.bias":
            found["patch_embed.proj.bias"] = value
        elif name.startswith("blocks."):
            _, block, rest = name.split(".", 2)
            part, kind = rest.rsplit(".", 1)
            found[f"blocks.{block}.{TIMM[part]}.{kind}"] = value
        else:
            found[name] = value
    return {name: np.ascontiguousarray(value) for name, value in found.items()}


def mlx_image_weights(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """mlx-image's parameters of ours."""
    found: dict[str, np.ndarray] = {}
    for name, value in values.items():
        if name == "class_token":
            found["class_token"] = value[None, None]
        elif name == "positions":
            found["encoder.pos_embedding"] = value[None]
        elif name == "patches.weight":
            found["conv_proj.weight"] = _filters(value)
        elif name == "patches.bias":
            found["conv_proj.bias"] = value
        elif name.startswith("blocks."):
            _, block, rest = name.split(".", 2)
            part, kind = rest.rsplit(".", 1)
            layer = f"encoder.layers.{block}"
            if part == "attention.qkv":
                names = (
                    f"{layer}.self_attention.{n}_proj.{kind}" for n in ("query", "key", "value")
                )
                found |= zip(names, np.split(value, 3), strict=True)
            else:
                found[f"{layer}.{MLX_IMAGE[part]}.{kind}"] = value
        else:
            found[name.replace("norm.", "encoder.ln.").replace("head.", "heads.layers.0.")] = value
    return found


def keras_hub_weights(values: dict[str, np.ndarray], heads: int) -> dict[str, np.ndarray]:
    """keras-hub's variables of our parameters: its products are x W, an attention's cut by head."""
    found: dict[str, np.ndarray] = {}
    first = "vit_patching_and_embedding"
    found[f"{first}/class_token"] = values["class_token"][None, None]
    found[f"{first}/position_embedding/embeddings"] = values["positions"]
    found[f"{first}/patch_embedding/kernel"] = _filters(values["patches.weight"]).transpose(
        1, 2, 3, 0
    )
    found[f"{first}/patch_embedding/bias"] = values["patches.bias"]
    found["predictions/kernel"], found["predictions/bias"] = (
        values["head.weight"].T,
        values["head.bias"],
    )
    found["vit_encoder/ln/gamma"], found["vit_encoder/ln/beta"] = (
        values["norm.weight"],
        values["norm.bias"],
    )
    for name in [name for name in values if name.startswith("blocks.")]:
        _, block, rest = name.split(".", 2)
        part, kind = rest.rsplit(".", 1)
        layer, value = f"vit_encoder/transformer_block_{int(block) + 1}", values[name]
        if part.endswith("norm"):
            found[f"{layer}/{KERAS[part]}/{'gamma' if kind == 'weight' else 'beta'}"] = value
            continue
        ending = "kernel" if kind == "weight" else "bias"
        if part == "attention.qkv":
            for which, third in zip(("query", "key", "value"), np.split(value, 3), strict=True):
                cut = third.T.reshape(*third.T.shape[:-1], heads, -1)
                found[f"{layer}/mha/{which}/{ending}"] = cut
        elif part == "attention.output" and kind == "weight":
            found[f"{layer}/{KERAS[part]}/kernel"] = value.T.reshape(heads, -1, value.shape[0])
        else:
            found[f"{layer}/{KERAS[part]}/{ending}"] = value.T
    return found


# --- the peers: model with our weights -> a step and a forward pass


def _pixels() -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of a channel's bytes."""
    mean, std = (np.array(values, np.float32) * 255 for values in (MEAN, STD))
    return mean, std


def timm_transformer(config: Config) -> Any:
    """timm's DeiT of any size; deit_small_patch16_224 of the study's."""
    from tests.torchvision_shim import load_torchvision

    load_torchvision()  # timm imports it, and a CUDA build of it fails beside a CPU torch
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=config.image_size,
        patch_size=config.patch_size,
        num_classes=config.classes,
        embed_dim=config.dimension,
        depth=config.depth,
        num_heads=config.heads,
        mlp_ratio=MLP_RATIO,
    )


def timm_peer(session: Any, compiled: bool) -> tuple[Step, Forward]:
    import torch

    config = session.config
    model = timm_transformer(config)
    session.framework.write_parameters(model, timm_weights(session.initial))
    images, labels = session.train
    images = images.permute(0, 3, 1, 2).contiguous()
    mean, std = (session.framework.put(v.reshape(1, CHANNELS, 1, 1)) for v in _pixels())
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=config.learning_rate,
        betas=BETAS,
        eps=EPSILON,
        weight_decay=config.weight_decay,
        fused=True,
    )
    logits = torch.compile(model, dynamic=False) if compiled else model

    def step(rows: Any) -> float:
        optimizer.zero_grad()
        pixels = images[rows].to(mean.dtype).sub_(mean).div_(std)
        loss = torch.nn.functional.cross_entropy(logits(pixels).float(), labels[rows])
        loss.backward()
        optimizer.step()
        return float(loss.item())

    def forward(pictures: Any) -> Any:
        with torch.inference_mode():
            pixels = pictures.permute(0, 3, 1, 2).to(mean.dtype).sub_(mean).div_(std)
            return torch.argmax(logits(pixels), dim=1)

    return step, forward


def mlx_image_peer(session: Any, compiled: bool) -> tuple[Step, Forward]:
    import mlx.core as mx
    from mlx import nn, optimizers
    from mlxim.model.vit.vit import VisionTransformer

    config = session.config
    model = VisionTransformer(
        image_size=config.image_size,
        patch_size=config.patch_size,
        num_layers=config.depth,
        num_heads=config.heads,
        hidden_dim=config.dimension,
        mlp_dim=MLP_RATIO * config.dimension,
        num_classes=config.classes,
        norm_layer=partial(nn.LayerNorm, eps=NORM_EPSILON),
        attn_bias=True,
    )
    session.framework.write_parameters(model, mlx_image_weights(session.initial))
    images, labels = session.train
    side = config.image_size
    # Of a whole row of pixels: MLX broadcasts three numbers slowly.
    mean, std = (session.framework.put(np.tile(values, side)) for values in _pixels())

    def standardised(pictures: Any) -> Any:
        rows = pictures.reshape(-1, side, side * CHANNELS).astype(mean.dtype)
        return ((rows - mean) / std).reshape(-1, side, side, CHANNELS)

    def loss_fn(model: Any, pictures: Any, targets: Any) -> Any:
        return nn.losses.cross_entropy(model(standardised(pictures)), targets, reduction="mean")

    optimizer = optimizers.AdamW(
        learning_rate=config.learning_rate,
        betas=list(BETAS),
        eps=EPSILON,
        weight_decay=config.weight_decay,
        bias_correction=True,
    )
    optimizer.init(model.trainable_parameters())
    state = [model.state, optimizer.state]

    def update(pictures: Any, targets: Any) -> Any:
        loss, gradients = nn.value_and_grad(model, loss_fn)(model, pictures, targets)
        optimizer.update(model, gradients)
        return loss

    def answers(pictures: Any) -> Any:
        return mx.argmax(model(standardised(pictures)), axis=1)

    submit = mx.compile(update, inputs=state, outputs=state) if compiled else update
    forward = mx.compile(answers, inputs=[model.state]) if compiled else answers

    def step(rows: Any) -> float:
        loss = submit(images[rows], labels[rows])
        mx.eval(loss, state)
        return float(loss.item())

    def evaluated(pictures: Any) -> Any:
        found = forward(pictures)
        mx.eval(found)
        return found

    return step, evaluated


def keras_hub_peer(session: Any, compiled: bool, xla: bool = True) -> tuple[Step, Forward]:
    import keras
    import keras_hub
    import tensorflow as tf

    config = session.config
    backbone = keras_hub.models.ViTBackbone(
        image_shape=(config.image_size, config.image_size, CHANNELS),
        patch_size=config.patch_size,
        num_layers=config.depth,
        num_heads=config.heads,
        hidden_dim=config.dimension,
        mlp_dim=MLP_RATIO * config.dimension,
        layer_norm_epsilon=NORM_EPSILON,
    )
    model = keras_hub.models.ViTImageClassifier(backbone, config.classes, pooling="token")
    values = keras_hub_weights(session.initial, config.heads)
    for variable in model.trainable_variables:
        variable.assign(values.pop(variable.path))
    assert not values, "a weight has no place in the peer"
    images, labels = session.train
    mean, std = (session.framework.put(v) for v in _pixels())
    optimizer = keras.optimizers.AdamW(
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        beta_1=BETAS[0],
        beta_2=BETAS[1],
        epsilon=EPSILON,
    )
    optimizer.build(model.trainable_variables)

    def standardised(pictures: Any) -> Any:
        return (tf.cast(pictures, tf.float32) - mean) / std

    def update(rows: Any) -> Any:
        with tf.GradientTape() as tape:
            logits = model(standardised(tf.gather(images, rows)), training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.gather(labels, rows), logits)
            loss = tf.reduce_mean(losses)
        optimizer.apply(tape.gradient(loss, model.trainable_variables))
        return loss

    def answers(pictures: Any) -> Any:
        return tf.argmax(model(standardised(pictures), training=False), axis=1)

    if compiled:
        update, answers = (tf.function(f, jit_compile=xla) for f in (update, answers))
    return lambda rows: float(update(rows)), answers


def other_way(session: Any) -> tuple[Step, Forward]:
    """Our own twin of TensorFlow with XLA where the adapter goes without, and the other way round."""
    framework, twin, model = session.framework, session.twin, session.twin.Model(session.config)
    framework.write_parameters(model, session.initial)
    update, state, restart = twin.training(model, session.config, framework.differentiate)
    restart()
    framework.xla_step, framework.xla_predict = not framework.xla_step, not framework.xla_predict
    submit = framework.compile_step(update, state, True)
    forward = framework.compile_predict(twin.predict, model, True)
    framework.xla_step, framework.xla_predict = not framework.xla_step, not framework.xla_predict
    return lambda rows: float(framework.read(submit(*session.train, rows))), forward


PEERS = {"pytorch": timm_peer, "mlx": mlx_image_peer, "tensorflow": keras_hub_peer}


def peers(framework: str, session: Any) -> tuple[Peers, list[str]]:
    """(every peer, the names of those that do our work: all)."""
    _, package = PACKAGES[framework]
    modes = (False,) if session.framework.can_compile() else (False, True)
    found = {
        f"{package}, {MODES['on' if compiled else 'off']}": PEERS[framework](session, compiled)
        for compiled in modes
    }
    if framework == "tensorflow":
        found[f"{package}, graph"] = keras_hub_peer(session, compiled=True, xla=False)
        found["ours, XLA where we do not"] = other_way(session)
    return found, list(found)


def measure(framework: str, options: argparse.Namespace) -> common.Measured:
    """Runs in a process of its own."""
    return training.measure(framework, options, WORKLOAD, partial(peers, framework))


def main() -> int:
    parser = common.parser(str(__doc__).splitlines()[0], 10, "synthetic", preset="cpu")
    return common.main(
        parser.parse_args(),
        "DeiT-small: our twins and the best public implementations",
        measure,
        check,
        WORKLOAD,
    )


if __name__ == "__main__":
    sys.exit(main())
