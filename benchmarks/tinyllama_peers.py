"""Our Llama's prompt and decoding steps against the best public implementations.

    pip install transformers mlx-lm
    python -m benchmarks.tinyllama_peers

Peers, imported unmodified: transformers' LlamaForCausalLM with fused attention (PyTorch), by its own
`generate` and by a plain loop over its DynamicCache; mlx-lm's llama (MLX), by its own
`generate_step` and by a plain loop. Both loops ask for the head of the last position only: called
without that, either computes the logits of the whole prompt, which nobody reads.

Same process, BLAS, threads, weights, prompts and counts of tokens, greedy, no end token, float32.
Before timing every peer must make our tokens for every prompt. A sample is one prompt: seconds to
its first token, and from there to its last. `generate` does not tell the two apart, so it is
compared as a whole. `generate_step` has the next step under way when it hands a token out; what is
left of it when the clock stops is waited for outside.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks import common
from benchmarks.common import Samples
from benchmarks.mnist_peers import MODES, Verdict, default, versus_peer
from measurement import blas
from measurement.errors import InputError

WORKLOAD = "tinyllama"
PACKAGES = {"mlx": "mlx_lm", "pytorch": "transformers"}
Generate = Callable[[int], Iterator[Any]]  # number of a prompt -> its tokens, each when it is there


def ours(session: Any, compiled: bool) -> Generate:
    framework, twin, config = session.framework, session.twin, session.config
    begin = framework.compile_predict(
        lambda model, inputs: twin.begin(model, inputs, config.capacity()), session.model, compiled
    )
    advance = framework.compile_predict(twin.advance, session.model, compiled)

    def generate(item: int) -> Iterator[Any]:
        token, _, cache = begin(session.inputs[item])
        framework.wait(token, cache)
        yield token
        for _ in range(config.decode_tokens - 1):
            token, _, cache = advance(token, cache)
            yield token
        framework.wait(token, cache)

    return generate


def transformers_llama(session: Any) -> dict[str, Generate]:
    """The plain loop, and `generate` as a whole: it yields all its tokens at once."""
    from tests.torchvision_shim import load_torchvision

    load_torchvision()  # transformers imports it, and a CUDA build of it fails beside a CPU torch
    import torch
    from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

    size, count = session.config, session.config.decode_tokens
    config = LlamaConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.dimension,
        intermediate_size=size.feed_forward,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.key_value_heads,
        max_position_embeddings=size.context,
        rms_norm_eps=size.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": size.rope_theta},
        tie_word_embeddings=False,
    )
    config._attn_implementation = "sdpa"
    model = LlamaForCausalLM(config).to(session.inputs[0].device).eval()
    model.load_state_dict(session.model.state_dict(), assign=True)

    def loop(item: int) -> Iterator[Any]:
        with torch.inference_mode():
            cache, tokens = DynamicCache(config=config), session.inputs[item].long()
            for _ in range(count):
                output = model(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
                tokens = output.logits[:, -1].argmax(dim=-1, keepdim=True)
                yield tokens
            session.framework.wait(tokens)

    def whole(item: int) -> Iterator[Any]:
        inputs = session.inputs[item].long()
        output = model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=count,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        session.framework.wait(output)
        yield from output[0, inputs.shape[1] :]

    return {"transformers loop": loop, "transformers generate": whole}


def mlx_lm_llama(session: Any) -> dict[str, Generate]:
    import mlx.core as mx
    from mlx_lm.generate import generate_step
    from mlx_lm.models.cache import make_prompt_cache
    from mlx_lm.models.llama import Model, ModelArgs

    size, count = session.config, session.config.decode_tokens
    model = Model(
        ModelArgs(
            model_type="llama",
            hidden_size=size.dimension,
            num_hidden_layers=size.layers,
            intermediate_size=size.feed_forward,
            num_attention_heads=size.heads,
            num_key_value_heads=size.key_value_heads,
            rms_norm_eps=size.norm_eps,
            vocab_size=size.vocabulary,
            max_position_embeddings=size.context,
            rope_theta=size.rope_theta,
            tie_word_embeddings=False,
        )
    )
    model.update(session.model.parameters())

    def loop(item: int) -> Iterator[Any]:
        cache, tokens = make_prompt_cache(model), session.inputs[item]
        for _ in range(count):
            logits = model.lm_head(model.model(tokens, cache)[:, -1])
            tokens = mx.argmax(logits, axis=-1, keepdims=True)
            mx.eval(tokens)
            yield tokens

    def step(item: int) -> Iterator[Any]:
        for token, _ in generate_step(session.inputs[item][0], model, max_tokens=count):
            yield token

    return {"mlx_lm loop": loop, "mlx_lm generate_step": step}


def tokens_of(session: Any, generate: Generate, item: int) -> list[int]:
    read = session.framework.read
    return [
        token if isinstance(token, int) else int(np.reshape(read(token), -1)[0])
        for token in generate(item)
    ]


def check_equal_work(session: Any, arms: dict[str, Generate]) -> str:
    """Every arm's tokens for every prompt; InputError when one differs."""
    first, *others = arms
    for item in range(len(session.inputs)):
        expected = tokens_of(session, arms[first], item)
        for name in others:
            found = tokens_of(session, arms[name], item)
            if found != expected:
                at = next((i for i, pair in enumerate(zip(found, expected, strict=False))
                           if pair[0] != pair[1]), min(len(found), len(expected)))  # fmt: skip
                raise InputError(
                    f"{name} makes other tokens than {first} from token {at} of prompt {item} on:"
                    " other work"
                )
    count = len(session.inputs) * session.config.decode_tokens
    return (
        f"equal work: all {count} tokens of {len(session.inputs)} prompts are the same in every arm"
    )


def arm(session: Any, name: str, generate: Generate) -> common.Arm:
    """A sample: one prompt, the next one each time."""
    turn = [0]

    def sample() -> dict[str, float]:
        item, turn[0] = turn[0] % len(session.inputs), turn[0] + 1
        start = perf_counter()
        tokens = generate(item)
        next(tokens)
        first = perf_counter()
        for _ in tokens:
            pass
        end = perf_counter()
        session.framework.wait()
        return {
            f"{name}, prompt": first - start,
            f"{name}, decoding": end - first,
            f"{name}, whole": end - start,
        }

    return sample


def measure(framework: str, options: argparse.Namespace) -> common.Measured:
    """Runs in a process of its own."""
    blas.load(options.blas)
    session = common.session(framework, options, workload=WORKLOAD)
    reason = session.framework.can_compile()
    common.say(f"{framework}: compiling and comparing tokens")
    make = {"mlx": mlx_lm_llama, "pytorch": transformers_llama}[framework]
    modes = {MODES[mode]: ours(session, mode == "on") for mode in (("off",) if reason else MODES)}
    peers = make(session)
    notes = [check_equal_work(session, {**modes, **peers})]
    arms = {name: arm(session, name, generate) for name, generate in {**modes, **peers}.items()}
    samples = common.interleave(arms, options.pairs, options.seed, framework)
    if reason:
        notes.append(f"compiled modes not measured: {reason}")
    table = _rows(framework, session, samples, list(peers))
    return common.Measured(framework, session.conditions(), samples, table, notes)


def _rows(framework: str, session: Any, samples: Samples, peers: list[str]) -> list[common.Row]:
    mode = {True: "compiled", False: "eager"}
    parts = {"prompt": session.compiled, "decoding": session.compiled_inference}
    found: list[tuple[str, str, str, Verdict]] = []
    for name in peers:
        if name.endswith(" generate"):
            same = mode[session.compiled] if len(set(parts.values())) == 1 else None
            if same:
                found.append(
                    (
                        f"{same}, whole",
                        f"{name}, whole",
                        f"whole: ours ({same}) / {name}",
                        versus_peer,
                    )
                )
            continue
        for part, compiled in parts.items():
            found.append(
                (
                    f"{mode[compiled]}, {part}",
                    f"{name}, {part}",
                    f"{part}: ours ({mode[compiled]}) / {name}",
                    versus_peer,
                )
            )
    if "compiled, prompt" in samples:
        for part, compiled in parts.items():
            found.append(
                (
                    f"compiled, {part}",
                    f"eager, {part}",
                    f"{part}: compiled / eager",
                    default(compiled),
                )
            )
    return [common.compare(framework, samples, *entry) for entry in found]


def installed(framework: str, options: argparse.Namespace) -> None:
    """InputError when the peer's package is missing."""
    if importlib.util.find_spec(PACKAGES[framework]) is None:
        package = PACKAGES[framework].replace("_", "-")
        raise InputError(f"the peer of {framework} is missing; pip install {package}")


def main() -> int:
    parser = common.parser(str(__doc__).splitlines()[0], 12, "synthetic", "cpu")
    title = "Llama: our twins and the best public implementations"
    return common.main(parser.parse_args(), title, measure, installed, WORKLOAD)


if __name__ == "__main__":
    sys.exit(main())
