"""Class M: another function, other numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from entrypoints.faults.fault import Fault, Patch, Spec, on_adapter, on_session, on_text

_WHERE = ("counted work", "evidence differs", "receipts differ in initial")


def _text(name: str, what: str, changes: dict[str, tuple[str, str]], workload: str) -> Fault:
    """A mistake in the twin's source, by framework: (text, what stands in its place)."""

    def break_it(patch: Patch, spec: Spec) -> None:
        on_text(patch, spec, *changes[spec["framework"]])

    return Fault(name, "M", what, _WHERE, workload, tuple(changes), worker=break_it)


def _both(old: str, new: str) -> dict[str, tuple[str, str]]:
    return {"mlx": (old, new), "pytorch": (old, new)}


def _other_seed(patch: Patch, spec: Spec) -> None:
    """Weights from another seed; the evidence, which has its own, is right all the same."""
    from models.parameters import draw

    def change(session: Any) -> None:
        session.initial = draw(session.config.parameters(), spec["seed"] + 1)
        session.reset()

    on_session(patch, change)


def _rounded(bits: int, array: np.ndarray) -> np.ndarray:
    """float32 with so many of its 23 stored bits."""
    whole = np.ascontiguousarray(array, np.float32).view(np.uint32)
    mask = np.uint32(0xFFFFFFFF << (23 - bits) & 0xFFFFFFFF)
    return (whole & mask).view(np.float32)


def _cast_weight(patch: Patch, spec: Spec) -> None:
    """One weight goes through bfloat16 on its way."""

    def change(adapter: Any) -> None:
        write = adapter.write_parameters

        def cast(model: Any, values: Any) -> None:
            last = list(values)[-2]
            write(model, {**values, last: _rounded(7, values[last])})

        adapter.write_parameters = cast

    on_adapter(patch, change)


def _data_in_tf32(patch: Patch, spec: Spec) -> None:
    """The operands of the products with TF32's ten bits."""

    def change(adapter: Any) -> None:
        put = adapter.put

        def rounded(array: np.ndarray) -> Any:
            floats = np.issubdtype(array.dtype, np.floating)
            return put(_rounded(10, array) if floats else array)

        adapter.put = rounded

    on_adapter(patch, change)


def _says_tf32(patch: Patch, spec: Spec) -> None:
    def change(adapter: Any) -> None:
        numerics = adapter.numerics
        adapter.numerics = lambda: numerics() | {"tf32": "on"}

    on_adapter(patch, change)


def _other_tokens(patch: Patch, spec: Spec) -> None:
    """Another tokenizer: the same prompt, other numbers, all of them one further."""
    import models

    load = models.load

    def loaded(workload: str, part: str) -> Any:
        module = load(workload, part)
        if part != "data":
            return module
        return _Shifted(module)

    patch(models, "load", loaded)


class _Shifted:
    """A data module whose tokens are one further, with the digest that such data has."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def load(self, config: Any, *where: Any) -> Any:
        from dataclasses import replace

        data = self._module.load(config, *where)
        test = {
            k: (v + 1) % config.vocabulary if k == "inputs" else v for k, v in data.test.items()
        }
        return replace(data, test=test)


def _fewer_tokens(patch: Patch, spec: Spec) -> None:
    """Stops at a token that the other arm does not stop at."""
    from dataclasses import replace

    from entrypoints.faults.fault import on_work

    on_work(patch, lambda session, work: replace(work, decode_tokens=work.decode_tokens - 2))


FAULTS = (
    Fault("other_initial_values", "M", "weights from another seed", _WHERE, worker=_other_seed),
    Fault("cast_weight", "M", "a weight silently goes through bfloat16", _WHERE, worker=_cast_weight),
    Fault("tf32_operands", "M", "products of operands with ten bits", _WHERE, worker=_data_in_tf32),
    Fault(
        "tf32_allowed",
        "M",
        "one arm may round float32 products to TF32",
        ("tf32 is", "TF32"),
        worker=_says_tf32,
    ),
    Fault(
        "bfloat16",
        "M",
        "one arm computes in bfloat16, the other in float32",
        ("evidence differs in dtype", "dtype is"),
        arm="{sound} dtype=bfloat16",
    ),
    _text(
        "other_epsilon_of_norm", "the norms divide with another epsilon",
        _both("NORM_EPSILON)", "1e-6)"), "transformer_lm",
    ),
    _text(
        "other_epsilon_of_adamw", "AdamW divides with another epsilon",
        _both("epsilon=EPSILON", "epsilon=1e-6"), "transformer_lm",
    ),
    _text(
        "no_bias_correction", "AdamW without bias correction",
        {
            "mlx": ("bias_correction=True", "bias_correction=False"),
            "pytorch": ("[steps] * len", "[steps + 1e6] * len"),
        },
        "transformer_lm",
    ),
    _text("no_mask", "attention sees what comes later", _both('"causal")', "None)"), "transformer_lm"),
    _text(
        "operand_order", "the third product the other way round",
        _both("normalised(c, a)", "normalised(a, c)"), "device_switch",
    ),
    Fault(
        "other_tokenizer",
        "M",
        "the same prompt as other tokens",
        _WHERE,
        "tinyllama",
        worker=_other_tokens,
    ),
    Fault(
        "other_stopping_rule",
        "W",
        "one arm stops two tokens before the other",
        ("receipts differ in tokens", "counted work", "the worker ended"),
        "tinyllama",
        worker=_fewer_tokens,
    ),
)  # fmt: skip
