"""Evidence of TensorFlow's twins, many cases in one process of its environment, because it takes
seconds to import: the cases of a JSON file, each to a file of its own.

    python tests/models/tensorflow_cases.py CASES.json FOLDER
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from twins import config_of, evidence, session, source

from measurement.evidence import Evidence
from measurement.operations import Counted, Operations
from models.parameters import draw

KINDS = ("outputs", "gradients", "updates")


def broken(workload: str, change: list[str] | None) -> ModuleType | None:
    """The twin with its text changed: [old, new]."""
    if change is None:
        return None
    text, (old, new) = source(workload, "tensorflow"), change
    assert old in text, f"the twin changed, renew the mistake: {old}"
    module = ModuleType("broken_tensorflow")
    exec(compile(text.replace(old, new), module.__name__, "exec"), module.__dict__)
    return module


def initial(config: Any, seed: int, enlarged: str) -> dict[str, np.ndarray]:
    """Drawn values; those with `enlarged` in their name ten times as large."""
    values = draw(config.parameters(), seed)
    return {k: 10 * v if enlarged and enlarged in k else v for k, v in values.items()}


def evidence_of(case: dict[str, Any], folder: Path) -> dict[str, Any]:
    config = config_of(case["workload"], **case["sizes"])
    found = evidence(
        case["workload"],
        "tensorflow",
        config,
        broken(case["workload"], case["change"]),
        case["dtype"],
        case["compiled"],
        initial(config, case["seed"], case["enlarged"]),
        case["repeat"],
    )
    for kind in KINDS:
        # Numbers as names: a file has no empty one, and keeps no order.
        np.savez(
            folder / f"{kind}.npz",
            **{f"{i}": v for i, v in enumerate(getattr(found, kind).values())},
        )
    names = {kind: list(getattr(found, kind)) for kind in KINDS}
    rest = {k: v for k, v in asdict(found).items() if k not in KINDS}
    return {"names": names, "rest": rest}


def work_of(case: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Answers, quality, and the losses of six steps, twice from the start."""
    opened = session(
        case["workload"],
        "tensorflow",
        config_of(case["workload"], **case["sizes"]),
        dtype=case["dtype"],
        compiled=case["compiled"],
    )
    read = opened.framework.read
    answers = [read(opened.predict(inputs)).tolist() for inputs, _ in opened.test]
    quality = opened.evaluate()
    rows = [batch for batch, _ in opened.batches(0)][:6]
    losses = []
    for _ in range(2):
        opened.reset()
        losses.append([float(read(opened.step(batch))) for batch in rows])
    opened.reset()
    before = opened.framework.read_parameters(opened.model)
    for epoch in range(case["epochs"]):
        for batch, _ in opened.batches(epoch):
            opened.step(batch)
    after = opened.framework.read_parameters(opened.model)
    np.savez(folder / "moved.npz", **{name: after[name] - before[name] for name in before})
    dtype = str(opened.test[0][0].dtype.name)
    shapes = {name: list(value.shape) for name, value in before.items()}
    return {
        "answers": answers,
        "quality": quality,
        "losses": losses,
        "dtype": dtype,
        "shapes": shapes,
    }


def rates_of(case: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Of AdamW, before each of these steps."""
    import tensorflow as tf

    from models.layers import tensorflow as layers

    optimiser = layers.AdamW(
        layers.Linear(2, 2, bias=True),
        weight_decay=0.0,
        betas=(0.9, 0.999),
        epsilon=1e-8,
        **case["schedule"],
    )
    return {"rates": [float(optimiser.rate(tf.constant(float(step)))) for step in case["steps"]]}


def attention_of(case: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Attention with a mask, and without one where it lets every query see all."""
    import tensorflow as tf

    from models.layers import tensorflow as layers

    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((2, 3, 5, 4)).astype(np.float32) for _ in range(3)]
    mask = rng.random((2, 1, 5, 5)) < 0.7
    mask[..., 0] = True
    for name, given in (("masked", mask), ("all", np.ones_like(mask)), ("none", None)):
        given = None if given is None else tf.constant(given)
        np.save(folder / f"{name}.npy", layers.attend(*map(tf.constant, arrays), given).numpy())
    return {}


ACTIONS = {"evidence": evidence_of, "work": work_of, "rates": rates_of, "attention": attention_of}
DEFAULTS = {"workload": "deit_small", "sizes": {}, "dtype": "float32", "compiled": False}
DEFAULTS |= {"change": None, "seed": 0, "enlarged": "", "repeat": 1, "epochs": 0}


def read_evidence(folder: Path) -> Evidence:
    """What `evidence_of` wrote."""
    found = json.loads((folder / "case.json").read_text())
    arrays: dict[str, Any] = {}
    for kind in KINDS:
        with np.load(folder / f"{kind}.npz") as stored:
            arrays[kind] = {name: stored[f"{i}"] for i, name in enumerate(found["names"][kind])}
    rest = found["rest"]
    if counted := rest.get("counted"):
        calls = {name: Operations(**call) for name, call in counted["calls"].items()}
        rest = {**rest, "counted": Counted(calls, counted["stored"])}
    return Evidence(**arrays, **rest)


def main() -> None:
    cases = json.loads(Path(sys.argv[1]).read_text())
    for name, case in cases.items():
        folder = Path(sys.argv[2], name)
        folder.mkdir()
        try:
            found = ACTIONS[case["action"]](DEFAULTS | case, folder)
        except ValueError as error:  # a twin that has no evidence
            found = {"error": str(error)}
        (folder / "case.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
