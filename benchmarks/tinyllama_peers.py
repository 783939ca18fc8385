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
import sys
from collections.abc import Iterator
from typing import Any

from benchmarks import common, generating
from benchmarks.generating import Generate

WORKLOAD = "tinyllama"
PACKAGES = {"mlx": "mlx_lm", "pytorch": "transformers"}


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


def measure(framework: str, options: argparse.Namespace) -> common.Measured:
    """Runs in a process of its own."""
    peers = {"mlx": mlx_lm_llama, "pytorch": transformers_llama}[framework]
    labels = {"prompt": "prompt", "decoding": "decoding"}
    return generating.measure(framework, options, WORKLOAD, peers, labels)


def installed(framework: str, options: argparse.Namespace) -> None:
    """InputError when the peer's package is missing."""
    generating.check_installed(framework, PACKAGES[framework])


def main() -> int:
    parser = common.parser(str(__doc__).splitlines()[0], 12, "synthetic", "cpu")
    title = "Llama: our twins and the best public implementations"
    return common.main(parser.parse_args(), title, measure, installed, WORKLOAD)


if __name__ == "__main__":
    sys.exit(main())
