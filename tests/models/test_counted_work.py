"""Sound twins count alike, as the formulas of their sizes say; work that changes no result is refused
by name."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from twins import GENERATING, TRAINED, broken_twin, config_of, here, needs_all, session

import models
from measurement.operations import counted_difference


def said(a: dict[str, Any], b: dict[str, Any]) -> str:
    return counted_difference(a, b) or ""


@cache
def counted(workload: str, framework: str, dtype: str = "float32") -> dict[str, Any]:
    """Of a sound twin."""
    opened = session(workload, framework, config_of(workload), dtype=dtype)
    found = opened.evidence().counted if workload == "device_switch" else opened.counted()
    return {"counted": found.summary()}


def flops(found: dict[str, Any], call: str) -> int:
    return sum(found["counted"]["products"][call].values())


@needs_all
@pytest.mark.parametrize("workload", models.names())
def test_sound_twins_count_alike(workload):
    first, *others = (counted(workload, f) for f in here(workload))
    for other in others:
        assert said(first, other) == ""
        assert other["counted"]["stored"] == first["counted"]["stored"]
        if workload != "eis_predictor":  # MLX leaves out the head that no answer needs
            assert other["counted"]["products"] == first["counted"]["products"]


@needs_all
@pytest.mark.parametrize("workload", ["bert_tiny", "transformer_lm", "tinyllama", "deit_small"])
def test_sound_twins_count_alike_in_16_bits(workload):
    first, other = (counted(workload, f, "bfloat16") for f in here(workload))
    assert said(first, other) == ""
    assert all(set(calls) == {"bfloat16"} for calls in first["counted"]["products"].values())
    assert "float32" in first["counted"]["stored"] or workload == "tinyllama"


@needs_all
@pytest.mark.parametrize("framework", ["mlx", "pytorch"])
@pytest.mark.parametrize("workload", TRAINED)
def test_the_formulas_of_a_training_are_what_is_counted(workload, framework):
    config, found = config_of(workload), counted(workload, framework)
    assert flops(found, "step") == config.batch_size * config.train_flops_per_item()
    assert flops(found, "answer") == pytest.approx(config.infer_flops_per_item(), rel=0.003)


@needs_all
@pytest.mark.parametrize("workload", GENERATING)
def test_the_formulas_of_a_generation_leave_out_what_nobody_reads(workload):
    """Formula: the work that is of use; counted: what is multiplied, behind masks too."""
    config, found = config_of(workload), counted(workload, "pytorch")
    whole = flops(found, "prompt") + (config.decode_tokens - 1) * flops(found, "token")
    tokens = config.prompt_tokens + config.decode_tokens - 1
    if workload == "tinyllama":
        layers, width = config.layers, config.dimension
        # In the last layer of the prompt only the last query looks.
        prompt = (layers - 1) * config.prompt_tokens**2 + config.prompt_tokens
        useful = layers * tokens * (tokens + 1) // 2 - (
            (config.prompt_tokens - 1) * config.prompt_tokens // 2
        )
    else:
        layers, width = config.text_layers, config.width
        prompt = layers * config.prompt_tokens**2
        useful = layers * tokens * (tokens + 1) // 2
        whole -= found["counted"]["products"]["prompt"]["float64"]  # the Fourier transform
        whole -= 2 * (config.prompt_tokens - 1) * width * config.vocabulary_size  # unread logits
    looked = prompt + layers * (config.decode_tokens - 1) * config.capacity()
    hidden = 2 * 2 * width * (looked - useful)
    assert whole - hidden == config.flops_per_item()


# --- work that changes no result

LOSS = "value, gradients = loss_and_gradients(model, *batch)"
TAKEN = {
    "mlx": "mx.take(inputs, rows, axis=0), mx.take(labels, rows, axis=0)",
    "pytorch": "inputs.index_select(0, rows), labels.index_select(0, rows)",
}
ATTEND = "return self.output(attend(query, key, value, mask))"
HALF = """seen = attend(query, key, value, mask)
        half = self.heads // 2
        again = attend(query[:, :half], key[:, :half], value[:, :half], mask)
        return self.output(seen + 0 * again.mean())"""
# name -> (workload, framework -> (text of the twin, its mistake), what is said)
BROKEN: dict[str, tuple[str, dict[str, tuple[str, str]], str]] = {
    "forward computed twice": (
        "bert_tiny",
        {
            "mlx": (LOSS, LOSS + "\n        value = value + 0 * loss(model, *batch)"),
            "pytorch": (LOSS, LOSS + "\n        loss(model, *batch)"),
        },
        "one step differs: products of",
    ),
    "the same forward twice in one loss": (  # MLX merges the two in what it exports
        "bert_tiny",
        dict.fromkeys(
            TAKEN,
            (
                LOSS,
                "value, gradients = differentiate(\n            model, lambda m, *b: loss(m, *b)"
                " + 0 * loss(m, *b)\n        )(model, *batch)",
            ),
        ),
        "one step differs: products of",
    ),
    "evaluation inside the step": (
        "bert_tiny",
        dict.fromkeys(
            TAKEN, (LOSS, LOSS + "\n        value = value + 0 * score(model, inputs, labels).max()")
        ),
        "one step differs: products of",
    ),
    "a layer computed again for its gradient": (
        "transformer_lm",
        {
            "mlx": ("x = block(x)", "x = nn.utils.checkpoint(block)(x)"),
            "pytorch": (
                "x = block(x)",
                "import torch.utils.checkpoint as c\n"
                "            x = c.checkpoint(block, x, use_reentrant=False)",
            ),
        },
        "step",
    ),
    "half of the heads twice": (
        "bert_tiny",
        dict.fromkeys(TAKEN, (ATTEND, HALF)),
        "one step differs: products of",
    ),
    "padded batch": (
        "bert_tiny",
        {
            "mlx": (TAKEN["mlx"], TAKEN["mlx"].replace("rows", "mx.concatenate([rows, rows])")),
            "pytorch": (TAKEN["pytorch"], TAKEN["pytorch"].replace("rows", "rows.repeat(2)")),
        },
        "one step differs: products of",
    ),
    "products in 16 bits": (
        "bert_tiny",
        {
            "mlx": (
                "return self.outer(gelu(self.inner(x)))",
                "w = self.outer.weight.astype(mx.bfloat16)\n"
                "        y = gelu(self.inner(x)).astype(mx.bfloat16) @ w.T\n"
                "        return y.astype(mx.float32) + self.outer.bias",
            ),
            "pytorch": (
                "return self.outer(gelu(self.inner(x)))",
                "with torch.autocast('cpu', torch.bfloat16):\n"
                "            y = self.outer(gelu(self.inner(x)))\n        return y.float()",
            ),
        },
        "FLOP in bfloat16",
    ),
    "a value read inside the step": (
        "bert_tiny",
        {"mlx": (LOSS, LOSS + "\n        assert value.item() > 0")},
        "it reads a value",
    ),
    "gradients thrown away": (
        "bert_tiny",
        {"pytorch": (LOSS, LOSS + "\n        loss_and_gradients(model, *batch)")},
        "one step differs: products of",
    ),
    "a forward pass thrown away in every answer": (
        "bert_tiny",
        {
            "pytorch": (
                "return torch.argmax(model(inputs), dim=1)",
                "model(inputs)\n    return torch.argmax(model(inputs), dim=1)",
            )
        },
        "one answer differs",
    ),
    "a cache of twice the length": (
        "tinyllama",
        {
            "mlx": ("capacity - inputs.shape[1]", "2 * capacity - inputs.shape[1]"),
            "pytorch": ("capacity - inputs.shape[1]", "2 * capacity - inputs.shape[1]"),
        },
        "differs",  # in PyTorch its products, in MLX, which cuts it off, what is stored
    ),
}


@needs_all
@pytest.mark.parametrize(
    ("name", "framework"), [(name, f) for name, case in BROKEN.items() for f in case[1]]
)
def test_work_that_changes_no_result_is_refused(name, framework):
    workload, changes, word = BROKEN[name]
    twin = broken_twin(workload, framework, changes[framework])
    found = session(workload, framework, config_of(workload), twin).counted().summary()
    for other in here(workload):
        assert word in said(counted(workload, other), {"counted": found})


@needs_all
def test_gradients_recorded_in_an_answer_are_refused():
    opened = session("mnist", "pytorch", config_of("mnist"))
    opened.predict = lambda *inputs: opened.twin.predict(opened.model, *inputs)
    found = {"counted": opened.counted().summary()}
    assert "recorded for a gradient" in said(counted("mnist", "mlx"), found)


@needs_all
@pytest.mark.parametrize("framework", ["mlx", "pytorch"])
def test_a_state_or_weight_in_16_bits_is_refused(framework):
    opened = session("bert_tiny", framework, config_of("bert_tiny"))
    short = opened.framework.put  # of an adapter of 16 bits
    state = opened.framework.stored(opened.model, opened.state)
    assert state == counted("bert_tiny", framework)["counted"]["stored"]
    adapter = session("mnist", framework, config_of("mnist"), dtype="bfloat16").framework
    short = adapter.put(opened.framework.read(next(iter(_leaves(opened.state)))))
    state = opened.framework.stored(opened.model, [opened.state, [short]])
    found = {"counted": {**counted("bert_tiny", framework)["counted"], "stored": state}}
    assert "elements in bfloat16" in said(counted("bert_tiny", framework), found)
    opened.framework.write_parameters, whole = None, opened.initial
    adapter.write_parameters(opened.model, whole)  # casts them all
    assert "bfloat16" in opened.framework.stored(opened.model, opened.state)


def _leaves(tree: Any) -> Any:
    """Arrays of two dimensions or more in nested lists and dictionaries."""
    for value in tree.values() if isinstance(tree, dict) else tree:
        if isinstance(value, dict | list):
            yield from _leaves(value)
        elif getattr(value, "ndim", 0) > 1:
            yield value


@needs_all
@pytest.mark.parametrize("framework", ["mlx", "pytorch"])
def test_a_compiled_step_counts_as_it_is_written(framework):
    config = config_of("mnist")
    adapter = session("mnist", framework, config).framework
    if reason := adapter.can_compile():
        pytest.skip(reason)
    opened = session("mnist", framework, config, compiled=True)
    assert {"counted": opened.counted().summary()} == counted("mnist", framework)


@needs_all
@pytest.mark.parametrize("framework", ["mlx", "pytorch"])
def test_a_causal_mask_counts_in_full_where_its_strips_leave_half_out(framework):
    """96 words: MLX on an x86 CPU computes such attention in strips, as of 1,024."""
    config = config_of("transformer_lm", context=96, batch_size=2, heads=2)
    found = session("transformer_lm", framework, config).counted().summary()
    expected = config.batch_size * config.train_flops_per_item()
    assert found["products"]["step"] == {"float32": expected}


@needs_all
def test_strips_of_a_mask_count_as_the_whole(monkeypatch):
    layers = pytest.importorskip("models.layers.mlx")
    monkeypatch.setattr(layers, "STRIP", 8 * 2 * 2 * 96)  # eight queries at a time
    config = config_of("transformer_lm", context=96, batch_size=2, heads=2)
    found = session("transformer_lm", "mlx", config).counted().summary()
    expected = config.batch_size * config.train_flops_per_item()
    assert found["products"]["step"]["float32"] == pytest.approx(expected, rel=1e-6)


def test_a_transform_is_multiplied_on_no_matrix_unit(monkeypatch):
    """TF32 is what matrix units make of float32. MLX knows the same (frameworks/counting)."""
    torch = pytest.importorskip("torch")
    counting = pytest.importorskip("frameworks.counting.pytorch")
    x = torch.ones(4, 4)
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    assert counting.count(lambda: x @ x).products == {"tf32": 2 * 4**3}
    assert counting.count(lambda: torch.fft.rfft(x)).products == {"float32": 4 * 4 * 3 * 4}
