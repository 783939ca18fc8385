"""TensorFlow's DeiT, run in its own environment, against PyTorch's: equal numbers, and every broken
twin refused by the name of what differs."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from own_cases import initial, read_evidence
from test_adamw_rate import RATE, closed_form
from test_deit_small_broken import BROKEN, GRADIENT, LOSS, OUTPUT, UPDATE
from twins import assert_equal, config_of, evidence, needs_all, session

from measurement.audit import parity_difference
from measurement.comparison import (
    GRADIENT_FLOOR,
    TOLERANCES,
    UPDATE_TOLERANCES,
    first_difference,
    first_distance,
)

pytestmark = needs_all
WORKLOAD = "deit_small"
ONE_STEP = "optimiser.update(gradients)"
# The mistakes of test_deit_small_broken.py as TensorFlow spells them: text, and its mistake.
MISTAKES = {
    "pixels not scaled": (" * tf.cast(self._scale, dtype)", " / 255"),
    "mean of the pixels": ("tf.constant(mean)", "tf.constant(0 * mean + 127.5)"),
    "deviation of the pixels": ("tf.constant(scale)", "tf.constant(0 * scale + 1 / 63.75)"),
    "blue, green, red": ("self.cut(images)", "self.cut(images[..., ::-1])"),
    "columns before rows": ("self.cut(images)", "self.cut(tf.transpose(images, (0, 2, 1, 3)))"),
    "channels before pixels": (
        "patches = self.patches(self.cut(images))",
        "cut = self.cut(images)\n        n, t, size = cut.shape\n"
        "        cut = tf.transpose(tf.reshape(cut, (n, t, size // 3, 3)), (0, 1, 3, 2))\n"
        "        patches = self.patches(tf.reshape(cut, (n, t, size)))"),
    "no class token": ("broadcast_to(self.class_token", "broadcast_to(0 * self.class_token"),
    "class token at the end": ("[first, patches]", "[patches, first]"),
    "mean over the tokens": ("x[:, 0]", "tf.reduce_mean(x, axis=1)"),
    "positions off by one": ("+ self.positions", "+ tf.roll(self.positions, 1, axis=0)"),
    "epsilon of the norms": ("NORM_EPSILON)", "1e-5)"),
    "query and key exchanged": ("attend(query, key, value", "attend(key, query, value"),
    "query and value exchanged": ("query, key, value = (", "value, key, query = ("),
    "scale of attention": ("attend(query, key", "attend(query * self.heads**-0.5, key"),
    "heads cut another way": ("split(part, self.heads)", "split(part, 1)"),
    "no residual": ("x = x + self.attention(", "x = self.attention("),
    "residual before the norm alone": (
        "x = x + self.attention(self.attention_norm(x))\n        return x + self.feed_forward(self.feed_forward_norm(x))",
        "y = x + self.attention(self.attention_norm(x))\n        return x + self.feed_forward(self.feed_forward_norm(y))"),
    "norm after instead of before": (
        "self.attention(self.attention_norm(x))", "self.attention_norm(self.attention(x))"),
    "blocks in another order": ("in self.blocks:", "in self.blocks[::-1]:"),
    "no last norm": ("self.norm(x[:, 0])", "0 * self.norm(x[:, 0]) + x[:, 0]"),
    "dropout left on": (
        "x + self.feed_forward(self.feed_forward_norm(x))",
        "x + tf.nn.dropout(self.feed_forward(self.feed_forward_norm(x)), 0.1)"),
    "sum of losses": ("tf.reduce_mean(tf.nn.sparse", "tf.reduce_sum(tf.nn.sparse"),
    "labels smoothed": (
        "tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)",
        "tf.nn.softmax_cross_entropy_with_logits("
        "0.9 * tf.one_hot(labels, logits.shape[1]) + 0.1 / logits.shape[1], logits)"),
    "an image dropped": (
        "tf.gather(images, rows), tf.gather(labels, rows)",
        "tf.gather(images, rows[1:]), tf.gather(labels, rows[1:])"),
    "epsilon of Adam": ("epsilon=EPSILON", "epsilon=1e-5"),
    "no bias correction": (ONE_STEP, f"optimiser.steps.assign(1e6)\n        {ONE_STEP}"),
    "betas": ("betas=BETAS", "betas=(0.9, 0.98)"),
    "rate": ("learning_rate=config.", "learning_rate=1.05 * config."),
    "warm-up": ("warmup_steps=0", "warmup_steps=3"),
    "weight decay": ("weight_decay=config.weight_decay", "weight_decay=0.0"),
    "no step": (ONE_STEP, "pass"),
}  # fmt: skip
# Of TensorFlow alone.
OWN_MISTAKES = {
    "attention in sixteen bits": (
        OUTPUT, "blocks.0.attention.output ",
        "attend(query, key, value, None)",
        "tf.cast(attend(*(tf.cast(v, tf.bfloat16) for v in (query, key, value)), None), x.dtype)"),
    "most gradients dropped": (
        UPDATE, "class_token", ONE_STEP,
        "optimiser.update([g * (i < 8) for i, g in enumerate(gradients)])"),
}  # fmt: skip
GELU = ("gelu(self.inner(x))", "tf.nn.gelu(self.inner(x), approximate=True)")
SIZES = {  # name -> sizes, dtype, compiled, seed of the initial values
    "smoke": ({}, "float32", False, 0),
    "smoke compiled": ({}, "float32", True, 0),
    "bfloat16": ({}, "bfloat16", False, 0),
    "bfloat16 other values": ({}, "bfloat16", False, 1),
    "bfloat16 compiled": ({}, "bfloat16", True, 0),
    "a short last batch": ({"batch_size": 11}, "float32", False, 2),
    "a short last batch, compiled": ({"batch_size": 11}, "float32", True, 2),
    "one head, one block": ({"heads": 1, "depth": 1, "dimension": 24}, "float32", False, 3),
    "one patch": ({"patch_size": 32, "batch_size": 1}, "float32", False, 4),
}
BF16_RATE = {"learning_rate": 2e-5}  # below half a unit in the last place of most weights
SCHEDULES = [(0, 0), (5, 0), (0, 40), (5, 40)]  # warm-up and decay
STEPS = [0, 1, 4, 5, 6, 20, 39, 40, 1000]


def cases() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name, (sizes, dtype, compiled, seed) in SIZES.items():
        found[name] = {"action": "evidence", "sizes": sizes, "dtype": dtype, "seed": seed}
        found[name]["compiled"] = compiled
    for name, change in MISTAKES.items():
        found[f"broken {name}"] = {"action": "evidence", "change": change}
    for name, (_, _, *change) in OWN_MISTAKES.items():
        found[f"broken {name}"] = {"action": "evidence", "change": change}
    enlarged = {"action": "evidence", "enlarged": "feed_forward.inner"}
    found["enlarged"] = enlarged
    found["broken gelu"] = enlarged | {"change": GELU}
    found["two steps"] = {"action": "evidence", "repeat": 2}
    for name, change in {
        "no bias": ("config.classes, bias=True", "config.classes, bias=False"),
        "another bias": ("3 * config.dimension, bias=True", "3 * config.dimension, bias=False"),
    }.items():
        found[name] = {"action": "evidence", "change": change}
    for compiled in (False, True):
        found[f"work {compiled}"] = {"action": "work", "compiled": compiled}
    for dtype in ("float32", "bfloat16"):
        found[f"moved {dtype}"] = {
            "action": "work",
            "sizes": BF16_RATE,
            "dtype": dtype,
            "epochs": 2,
        }
    for number, (warmup, decay) in enumerate(SCHEDULES):
        schedule = {"learning_rate": RATE, "warmup_steps": warmup, "decay_steps": decay}
        found[f"rates {number}"] = {"action": "rates", "schedule": schedule, "steps": STEPS}
    found["attention"] = {"action": "attention"}
    return found


@pytest.fixture(scope="module")
def done(
    in_tensorflow: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The folder with one folder per case."""
    place = tmp_path_factory.mktemp("cases")
    asked = {n: {"workload": WORKLOAD, "framework": "tensorflow", **c} for n, c in cases().items()}
    (place / "cases.json").write_text(json.dumps(asked))
    script = Path(__file__).with_name("tensorflow_cases.py")
    run = in_tensorflow(str(script), str(place / "cases.json"), str(place))
    assert run.returncode == 0, run.stdout + run.stderr[-3000:]
    return place


def said(done: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((done / name / "case.json").read_text())
    return found


@cache
def reference(name: str = "smoke", enlarged: str = "") -> Any:
    sizes, dtype, _, seed = SIZES[name]
    config = config_of(WORKLOAD, **sizes)
    values = initial(config, seed, enlarged)
    return evidence(WORKLOAD, "pytorch", config, dtype=dtype, initial=values)


# --- equal numbers


@pytest.mark.parametrize("name", SIZES)
def test_it_computes_what_pytorch_does(done: Path, name: str) -> None:
    ours, theirs = read_evidence(done / name), reference(name)
    assert ours.dtype == SIZES[name][1]
    assert_equal(theirs, ours)
    parameters = config_of(WORKLOAD, **SIZES[name][0]).parameters()
    assert ours.parameters == sum(np.prod(shape) for shape, _ in parameters.values())
    assert all(np.abs(update).max() > 0 for update in ours.updates.values())


def test_bfloat16_is_not_float32(done: Path) -> None:
    ours, exact = read_evidence(done / "bfloat16"), read_evidence(done / "smoke")
    assert first_difference(exact.outputs, ours.outputs, 1e-4) is not None


@pytest.mark.parametrize("compiled", [False, True])
def test_answers_quality_and_a_second_start_are_pytorchs(done: Path, compiled: bool) -> None:
    ours = said(done, f"work {compiled}")
    theirs = session(WORKLOAD, "pytorch", config_of(WORKLOAD))
    read = theirs.framework.read
    assert ours["answers"] == [read(theirs.predict(x)).tolist() for x, _ in theirs.test]
    assert ours["quality"] == pytest.approx(theirs.evaluate())
    assert ours["losses"][0] == pytest.approx(ours["losses"][1], rel=1e-6)
    theirs.reset()
    rows = [batch for batch, _ in theirs.batches(0)][:6]
    assert ours["losses"][0] == pytest.approx([float(read(theirs.step(b))) for b in rows], rel=1e-5)
    assert ours["dtype"] == "uint8"  # images stay bytes on the device
    shapes = {name: list(shape) for name, (shape, _) in config_of(WORKLOAD).parameters().items()}
    assert ours["shapes"] == shapes


def test_small_updates_add_up_in_bfloat16(done: Path) -> None:
    moved = {}
    for dtype in ("float32", "bfloat16"):
        with np.load(done / f"moved {dtype}" / "moved.npz") as stored:
            moved[dtype] = stored["head.weight"]
    overlap = np.sum(moved["float32"] * moved["bfloat16"]) / np.sum(moved["float32"] ** 2)
    assert overlap == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("number", range(len(SCHEDULES)))
def test_the_rate_is_that_of_the_closed_form(done: Path, number: int) -> None:
    expected = [closed_form(step, *SCHEDULES[number]) for step in STEPS]
    np.testing.assert_allclose(said(done, f"rates {number}")["rates"], expected, atol=1e-7)


def test_attention_hides_what_the_mask_hides(done: Path) -> None:
    found = {
        name: np.load(done / "attention" / f"{name}.npy") for name in ("masked", "all", "none")
    }
    np.testing.assert_allclose(found["all"], found["none"], rtol=1e-6)
    rng = np.random.default_rng(0)
    queries, keys, values = (
        rng.standard_normal((2, 3, 5, 4)).astype(np.float32).astype(np.float64) for _ in range(3)
    )
    mask = rng.random((2, 1, 5, 5)) < 0.7
    mask[..., 0] = True
    scores = np.where(mask, np.exp(queries @ keys.swapaxes(2, 3) / 2), 0)
    expected = scores / scores.sum(3, keepdims=True) @ values
    np.testing.assert_allclose(
        found["masked"], expected.transpose(0, 2, 1, 3).reshape(2, 5, 12), rtol=1e-5, atol=1e-6
    )


# --- broken twins


def test_every_mistake_of_the_other_twins_is_made_here_too() -> None:
    assert set(MISTAKES) == set(BROKEN)


@pytest.mark.parametrize("name", [*MISTAKES, *OWN_MISTAKES])
def test_a_broken_twin_is_refused_with_what_differs(done: Path, name: str) -> None:
    parity, array = (BROKEN.get(name) or OWN_MISTAKES[name])[:2]
    theirs, ours = reference(), read_evidence(done / f"broken {name}")
    assert parity in (parity_difference(theirs.summary(), ours.summary()) or "")
    outputs, gradients, _ = TOLERANCES["float32"]
    found = {
        LOSS: "",
        OUTPUT: first_difference(theirs.outputs, ours.outputs, outputs),
        GRADIENT: first_difference(theirs.gradients, ours.gradients, gradients, GRADIENT_FLOOR),
        UPDATE: first_distance(theirs.updates, ours.updates, UPDATE_TOLERANCES["adamw"]["float32"]),
    }
    assert found[parity] is not None and found[parity].startswith(array)


def test_the_other_gelu_is_refused_where_its_inputs_are_large_enough(done: Path) -> None:
    theirs = reference(enlarged="feed_forward.inner")
    assert_equal(theirs, read_evidence(done / "enlarged"))
    ours = read_evidence(done / "broken gelu")
    assert "output" in (parity_difference(theirs.summary(), ours.summary()) or "")
    found = first_difference(theirs.outputs, ours.outputs, TOLERANCES["float32"][0])
    assert (found or "").startswith("blocks.0.feed_forward.outer ")


def test_two_steps_for_one_are_refused(done: Path) -> None:
    ours = read_evidence(done / "two steps")
    assert "update" in (parity_difference(reference().summary(), ours.summary()) or "")


@pytest.mark.parametrize(("name", "bias"), [("no bias", "head.bias"), ("another bias", "qkv.bias")])
def test_a_twin_without_a_bias_has_no_evidence(done: Path, name: str, bias: str) -> None:
    assert bias in said(done, name)["error"] and "parameter" in said(done, name)["error"]
