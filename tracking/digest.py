"""What a trial's run recorded as a digest in the run itself, so that what is read later is what was
measured.

Covered are the tags and metrics that the trial itself recorded, whatever is added to the run
afterwards (a note, a tag of a reader). Parameters are not: where `mlflow run` logged one as it was
asked for (`device=auto`), its value stands, and the condition as it ran is in the tags. Nobody who may
rewrite a store is kept from computing a digest anew: it shows what was edited, not who is honest.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Iterable, Mapping
from typing import Protocol

import numpy as np

from measurement import untrusted

TAG = "record_sha256"
PARTS = "recorded"
"""Tag with a short digest of every value, which says what is covered and what was altered."""
SAMPLES = "samples_sha256"
NOT_COVERED = ("system/",)  # many points, which no comparison reads


class Value(Protocol):
    """A point of a metric, as tracking.write.Point."""

    @property
    def name(self) -> str: ...
    @property
    def value(self) -> float: ...
    @property
    def step(self) -> int: ...
    @property
    def seconds(self) -> float: ...


def sign(tags: Mapping[str, str], points: Iterable[Value]) -> dict[str, str]:
    """The two tags that a record carries: `TAG` and `PARTS`."""
    covered = [p for p in points if not p.name.startswith(NOT_COVERED)]
    metrics = last_values(covered)
    own = {key: str(value) for key, value in tags.items()}
    parts = {
        "tags": {key: _short(value) for key, value in own.items()},
        "metrics": {key: _short(_text(value)) for key, value in metrics.items()},
    }
    return {TAG: _digest(own, metrics), PARTS: json.dumps(parts, separators=(",", ":"))}


def last_values(points: Iterable[Value]) -> dict[str, float]:
    """Of each metric the value that a store shows for it: of the largest step, then time, then value."""
    found: dict[str, tuple[int, int, float]] = {}
    for point in points:
        key = (point.step, int(point.seconds * 1000), point.value)
        if point.name not in found or key > found[point.name]:
            found[point.name] = key
    return {name: key[2] for name, key in found.items()}


def altered(tags: Mapping[str, str], metrics: Mapping[str, float]) -> tuple[str, ...]:
    """Names of what is not as it was recorded, in order; () where all is. Of a run that carries the
    digest."""
    try:
        parts = untrusted.parse_json(tags.get(PARTS, ""), PARTS)
        known, measured = dict(parts["tags"]), dict(parts["metrics"])
    except (ValueError, KeyError, TypeError):
        return (PARTS,)
    own = {key: tags.get(key, "") for key in known}
    kept = {key: metrics[key] for key in measured if key in metrics}
    if len(kept) == len(measured) and _digest(own, kept) == tags.get(TAG):
        return ()
    wrong = [key for key, short in known.items() if _short(own[key]) != short]
    wrong += [
        key
        for key, short in measured.items()
        if key not in kept or _short(_text(kept[key])) != short
    ]
    return tuple(wrong) or (TAG,)


def of_samples(series: Mapping[str, Iterable[float]]) -> str:
    """Of every sample of a trial: names, order and the bits of the values."""
    whole = hashlib.sha256()
    for name in sorted(series):
        values = np.asarray(list(series[name]), np.float64)
        if len(values):  # a table of rows cannot hold a series without any
            whole.update(f"{name} {len(values)}\n".encode() + values.tobytes())
    return whole.hexdigest()


# Of a design, what decides which verdict there is; a later version may add more.
_DECISIVE = (
    "pairs", "margin", "metric", "family", "arms", "comparisons", "order", "seed", "epochs", "target",
)  # fmt: skip


def of_design(design: Mapping[str, object]) -> str:
    """Of what was fixed before the first trial and decides the verdict."""
    fixed = {key: design.get(key) for key in _DECISIVE}
    fixed["stopping"] = design.get("stopping", "fixed")
    text = json.dumps(fixed, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _digest(tags: Mapping[str, str], metrics: Mapping[str, float]) -> str:
    content = {"tags": tags, "metrics": {key: _text(value) for key, value in metrics.items()}}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def _text(value: float) -> str:
    """The digits that read back to the same double. A database holds infinity as the largest one."""
    value = float(value)
    if math.isinf(value):
        value = math.copysign(sys.float_info.max, value)
    return repr(value + 0.0)
