"""Evidence of the twins of a framework with an environment of its own, many cases in one process there,
because it takes seconds to import: the cases of a JSON file, each to a folder of its own.

    python tests/models/own_cases.py CASES.json FOLDER
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
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


def broken(workload: str, framework: str, change: list[str] | None) -> ModuleType | None:
    """The twin with its text changed: [old, new]."""
    if change is None:
        return None
    text, (old, new) = source(workload, framework), change
    assert old in text, f"the twin changed, renew the mistake: {old}"
    module = ModuleType(f"broken_{framework}")
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
        case["framework"],
        config,
        broken(case["workload"], case["framework"], case["change"]),
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
        case["framework"],
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


Action = Callable[[dict[str, Any], Path], dict[str, Any]]
ACTIONS: dict[str, Action] = {"evidence": evidence_of, "work": work_of}
DEFAULTS = {
    "action": "evidence",
    "sizes": {},
    "dtype": "float32",
    "compiled": False,
    "change": None,
}
DEFAULTS |= {"seed": 0, "enlarged": "", "repeat": 1, "epochs": 0}


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


def main(actions: dict[str, Action] = ACTIONS) -> None:
    cases = json.loads(Path(sys.argv[1]).read_text())
    for name, case in cases.items():
        folder = Path(sys.argv[2], name)
        folder.mkdir()
        try:
            case = DEFAULTS | case
            found = actions[case["action"]](case, folder)
        except ValueError as error:  # a twin that has no evidence
            found = {"error": str(error)}
        (folder / "case.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
