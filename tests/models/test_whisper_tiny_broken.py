"""Every deliberately broken Whisper twin is refused, with what differs by name.

Layers see the start tokens at once; the log-likelihoods go through the cache, step by step.
"""

from __future__ import annotations

import pytest
from twins import broken_twin, config_of, evidence, needs_all

from measurement.audit import parity_difference
from measurement.comparison import TOLERANCES, first_difference

CACHE = "the loss of step"
CONV = "encoder.conv1 "
NORM = "encoder.blocks.0.attn_ln "
CROSS = "decoder.blocks.0.cross_attn"
STORED = "map(layers.store, cache, (keys, values), (position, position))"
PLACES = "self.positional_embedding[places]"

# (name, text, what replaces it, the first layer that differs or CACHE), the same in both twins
BOTH = [
    ("mask removed", '"causal", heard', "None, heard", "decoder.blocks.0.attn"),
    ("mask of the cache removed", "decoder(token[:, None], mask,", "decoder(token[:, None], None,",
     CACHE),
    ("mask one short", "[None] <= position", "[None] < position", CACHE),
    ("cache not updated", f"keys, values = {STORED}", "keys, values = cache", CACHE),
    ("cache stored one too early", "(position, position))", "(position - 1, position - 1))", CACHE),
    ("position not counted", "(position + 1, heard, caches)", "(position, heard, caches)", CACHE),
    ("position off by one", PLACES, "self.positional_embedding[places + 1]", "decoder.blocks.0."),
    ("cross-attention's keys and values exchanged", "heard[0], heard[1], None)",
     "heard[1], heard[0], None)",
     CROSS),
    ("keys and values exchanged", "self.attn(y, keys, values, mask)",
     "self.attn(y, values, keys, mask)", "encoder.blocks.0.attn"),
    ("epsilon of the norms", "sizes.EPSILON", "1e-6", NORM),
    ("norm after instead of before", "self.mlp_ln(x)", "x",
     "encoder.blocks.0.mlp_ln is missing"),
    ("order of the convolutions", "layers.gelu(self.conv2(layers.gelu(self.conv1(x))))",
     "layers.gelu(self.conv2(self.conv1(x)))", "encoder.conv2 "),
    ("heads in another order", "self.out(layers.attend(queries, keys, values, mask))",
     "self.out(layers.attend(queries, keys[:, [1, 0, 2, 3]], values[:, [1, 0, 2, 3]], mask))",
     "encoder.blocks.0.attn"),
    ("queries for keys", "layers.split(self.key(x), self._heads)",
     "layers.split(self.query(x), self._heads)", "encoder.blocks.0.attn"),
    ("positions of the audio left out", "+ self.positional_embedding\n", "\n", NORM),
    ("mel filters", "sizes.mel_filters()", "sizes.mel_filters()[::-1].copy()", CONV),
    ("floor of the log", "1e-10", "1e-3", CONV),
    ("80 dB", "- 8.0", "- 2.0", CONV),
    ("scale of the log", "(x / 4.0)", "(x / 4.001)", CONV),
    ("cross-attention of another block", ' heard, [None] * len(heard), 0), heard',
     " heard[::-1], [None] * len(heard), 0), heard[::-1]", CROSS),
    ("first token's logits for the last's", "return token, logits[:, -1], (position",
     "return token, logits[:, -1] * 1.001, (position", CACHE),
]  # fmt: skip
BROKEN = {
    "mlx": [
        ("tanh GELU", "layers.gelu(self.mlp[0](self.mlp_ln(x)))",
         "nn.gelu_approx(self.mlp[0](self.mlp_ln(x)))", "encoder.blocks.0.mlp.2 "),
        ("no window", "sizes.fourier()",
         "sizes.fourier() / (sizes.hann_window()[:, None] + 0.01)", CONV),
        ("dropout after attention", "x = x + self.attn(y, keys, values, mask)",
         "x = x + nn.Dropout(0.1)(self.attn(y, keys, values, mask))", "encoder.blocks.0.mlp_ln "),
    ],
    "pytorch": [
        ("tanh GELU", "layers.gelu(self.mlp[0](self.mlp_ln(x)))",
         'nn.functional.gelu(self.mlp[0](self.mlp_ln(x)), approximate="tanh")',
         "encoder.blocks.0.mlp.2 "),
        ("no window", "frames * window", "frames", CONV),
        ("magnitude for power", ".abs().square()", ".abs()", CONV),
        ("dropout after attention", "x = x + self.attn(y, keys, values, mask)",
         "x = x + nn.functional.dropout(self.attn(y, keys, values, mask), 0.1, True)",
         "encoder.blocks.0.mlp_ln "),
    ],
}  # fmt: skip
CASES = [(name, *case) for name, cases in BROKEN.items() for case in [*BOTH, *cases]]


@pytest.fixture(scope="module")
def reference():
    """framework -> the evidence of the other, sound twin."""
    config = config_of("whisper_tiny")
    return {
        name: evidence("whisper_tiny", other, config)
        for name, other in (("mlx", "pytorch"), ("pytorch", "mlx"))
    }


@needs_all
@pytest.mark.parametrize(
    ("name", "mistake", "old", "new", "said"), CASES, ids=[f"{c[0]}: {c[1]}" for c in CASES]
)
def test_a_broken_twin_is_refused_with_what_differs(reference, name, mistake, old, new, said):
    config = config_of("whisper_tiny")
    broken = evidence(
        "whisper_tiny", name, config, twin=broken_twin("whisper_tiny", name, (old, new))
    )
    difference = parity_difference(reference[name].summary(), broken.summary()) or ""
    layer = first_difference(reference[name].outputs, broken.outputs, TOLERANCES["float32"][0])
    if said == CACHE:
        assert layer is None  # the start tokens at once are as they should be
        assert said in difference
    else:
        assert "the evidence differs in output" in difference
        assert (layer or "").startswith(said)


@needs_all
@pytest.mark.parametrize("name", ["mlx", "pytorch"])
def test_a_key_with_a_bias_has_no_evidence(name):
    twin = broken_twin(
        "whisper_tiny", name, ("width, width, bias=False", "width, width, bias=True")
    )
    with pytest.raises(ValueError, match=r"attn\.key\.bias"):
        evidence("whisper_tiny", name, config_of("whisper_tiny"), twin=twin)
