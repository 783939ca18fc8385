"""Every deliberately broken Llama twin is refused, with what differs by name.

Layers see the whole prompt at once; the log-likelihoods go through the cache. Both must notice what
is theirs: a mistake of the cache leaves every layer's output as it is.
"""

from __future__ import annotations

import pytest
from twins import broken_twin, config_of, evidence, needs_all

from measurement.audit import parity_difference
from measurement.comparison import TOLERANCES, first_difference

CACHE = "the loss of step"
ATTENTION = "model.layers.0.self_attn.o_proj "
NORM = "model.layers.0.input_layernorm "
ORDERED = "attend(queries, keys, values, mask)"
DOWN = "model.layers.0.mlp.down_proj "

# framework -> (name, text, what replaces it, the first layer that differs or CACHE)
BROKEN = {
    "mlx": [
        ("mask removed", 'mask: str | None = "causal"', "mask = None", ATTENTION),
        ("the whole cache seen", "part[:, :, : position + 1]", "part", CACHE),
        ("itself not seen", ": position + 1]", ": position]", CACHE),
        ("epsilon", "eps=config.norm_eps", "eps=1e-6", NORM),
        ("theta", "mx.array(config.periods())", "mx.array(config.periods()) ** 1.1", ATTENTION),
        ("pairs of neighbours", "traditional=False", "traditional=True", ATTENTION),
        ("keys not turned", "rotate(split(self.k_proj(x), self.key_heads), turn)",
         "split(self.k_proj(x), self.key_heads)", ATTENTION),
        ("position off by one", "(layers, position + tokens.shape[1])",
         "(layers, position + tokens.shape[1] - int(cache is None))", CACHE),
        ("position not counted", "(layers, position + tokens.shape[1])",
         "(layers, position + (0 if cache else tokens.shape[1]))", CACHE),
        ("cache not updated", "layer = store(cache[0], keys, position), "
         "store(cache[1], values, position)", "layer = cache", CACHE),
        ("groups in another order", ORDERED,
         "attend(queries, mx.tile(keys, (1, self.heads // self.key_heads, 1, 1)), "
         "mx.tile(values, (1, self.heads // self.key_heads, 1, 1)), mask)", ATTENTION),
        ("keys and values exchanged", ORDERED, "attend(queries, values, keys, mask)", ATTENTION),
        ("gate and up exchanged", "nn.silu(self.gate_proj(x)) * self.up_proj(x)",
         "nn.silu(self.up_proj(x)) * self.gate_proj(x)", DOWN),
        ("gelu for silu", "nn.silu(", "nn.gelu(", DOWN),
        ("dropout on", "return self.down_proj(nn.silu(self.gate_proj(x)) * self.up_proj(x))",
         "return nn.Dropout(0.1)(self.down_proj(nn.silu(self.gate_proj(x)) * self.up_proj(x)))",
         "model.layers.0.mlp "),
        ("no residual", "x = x[:, -y.shape[1] :] + y", "x = y", "model.layers.0.post"),
        ("first token for last", "model.head(x[:, -1])", "model.head(x[:, 0] * 1.001)", CACHE),
    ],
    "pytorch": [
        ("mask removed", 'mask: torch.Tensor | str | None = "causal"', "mask = None", ATTENTION),
        ("mask of the cache removed",
         "torch.arange(capacity, device=tokens.device)[None] <= position", "None", CACHE),
        ("mask one short", "[None] <= position", "[None] < position", CACHE),
        ("epsilon", "eps=config.norm_eps", "eps=1e-6", NORM),
        ("epsilon by default", ", eps=config.norm_eps", "", NORM),
        ("theta", "config.periods().view", "(config.periods() ** 1.1).astype('f4').view", ATTENTION),
        ("keys not turned", "rotate(split(self.k_proj(x), self.key_heads), turn)",
         "split(self.k_proj(x), self.key_heads)", ATTENTION),
        ("turned the other way", "torch.cat((-high, low), dim=-1)",
         "torch.cat((high, low), dim=-1)", ATTENTION),
        ("position off by one", "(layers, position + tokens.shape[1])",
         "(layers, position + tokens.shape[1] - int(cache is None))", CACHE),
        ("position not counted", "(layers, position + tokens.shape[1])",
         "(layers, position + (0 if cache else tokens.shape[1]))", CACHE),
        ("cache not updated", "keys, values = store(cache[0], keys, position), "
         "store(cache[1], values, position)", "keys, values = cache", CACHE),
        ("groups in another order", ORDERED,
         "attend(queries, keys.repeat(1, self.heads // self.key_heads, 1, 1), "
         "values.repeat(1, self.heads // self.key_heads, 1, 1), mask)", ATTENTION),
        ("keys and values exchanged", ORDERED, "attend(queries, values, keys, mask)", ATTENTION),
        ("gate and up exchanged", "nn.functional.silu(self.gate_proj(x)) * self.up_proj(x)",
         "nn.functional.silu(self.up_proj(x)) * self.gate_proj(x)", DOWN),
        ("gelu for silu", "nn.functional.silu(", "nn.functional.gelu(", DOWN),
        ("dropout on", "return self.down_proj(nn.functional.silu(self.gate_proj(x)) * "
         "self.up_proj(x))", "return nn.functional.dropout(self.down_proj(nn.functional.silu("
         "self.gate_proj(x)) * self.up_proj(x)), 0.1, True)", "model.layers.0.mlp "),
        ("no residual", "x = x[:, -y.shape[1] :] + y", "x = y", "model.layers.0.post"),
        ("first token for last", "model.head(x[:, -1])", "model.head(x[:, 0] * 1.001)", CACHE),
    ],
}  # fmt: skip
CASES = [(name, *case) for name, cases in BROKEN.items() for case in cases]


@needs_all
@pytest.mark.parametrize(
    ("name", "mistake", "old", "new", "said"), CASES, ids=[f"{c[0]}: {c[1]}" for c in CASES]
)
def test_a_broken_twin_is_refused_with_what_differs(name, mistake, old, new, said):
    config = config_of("tinyllama")
    reference = evidence("tinyllama", "mlx" if name == "pytorch" else "pytorch", config)
    broken = evidence("tinyllama", name, config, twin=broken_twin("tinyllama", name, (old, new)))
    difference = parity_difference(reference.summary(), broken.summary()) or ""
    layer = first_difference(reference.outputs, broken.outputs, TOLERANCES["float32"][0])
    if said == CACHE:
        assert layer is None  # the whole prompt at once is as it should be
        assert said in difference
    else:
        assert "the evidence differs in output" in difference
        assert (layer or "").startswith(said)


@needs_all
@pytest.mark.parametrize("name", ["mlx", "pytorch"])
def test_a_twin_with_a_bias_has_no_evidence(name):
    twin = broken_twin("tinyllama", name, ("width, width, bias=False", "width, width, bias=True"))
    with pytest.raises(ValueError, match=r"q_proj\.bias"):
        evidence("tinyllama", name, config_of("tinyllama"), twin=twin)


@needs_all
@pytest.mark.parametrize("name", ["mlx", "pytorch"])
@pytest.mark.parametrize("changes", [{"norm_eps": 1.1e-5}, {"rope_theta": 10_001.0}])
def test_other_sizes_are_other_work(name, changes):
    a = evidence("tinyllama", name, config_of("tinyllama"))
    b = evidence("tinyllama", name, config_of("tinyllama", **changes))
    assert "work" in (parity_difference(a.summary(), b.summary()) or "")
