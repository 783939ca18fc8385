"""What a trained model answered in the process that trained it, kept in its run: a served model is asked
the same, and must say the same. Safetensors, no pickle; knows no MLflow, because a worker writes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from measurement.errors import InputError
from serving import trained

FILE = "predictions.safetensors"
MOST_ITEMS, _LEAST_ITEMS, _MOST_BYTES = 32, 2, 1 << 19  # of every trial of a study
_MOST_FILE = 64 << 20
SIXTEEN_BITS = 0.25
"""Of the answers of a training in 16 bits, whose classes a model in float32 may turn where two are near."""


@dataclass(frozen=True)
class Predictions:
    """inputs: items as a client sends them (n, ...); answers: to each (n,) or (n, ...), int64."""

    inputs: np.ndarray
    answers: np.ndarray

    def arrays(self) -> dict[str, np.ndarray]:
        return {"inputs": self.inputs, "answers": self.answers}


def choose(items: np.ndarray, example: np.ndarray, public: bool) -> np.ndarray:
    """The items that are asked: the first of the test set, or, of a user's own data, which no run is
    to hold, random ones within the range of the configuration's example."""
    if public and items.dtype == example.dtype and items.shape[1:] == example.shape[1:]:
        found = items[:MOST_ITEMS]
    else:
        random = np.random.default_rng(0)
        shape, low, high = (MOST_ITEMS, *example.shape[1:]), example.min(), example.max()
        if np.issubdtype(example.dtype, np.integer):
            found = random.integers(low, high, shape, example.dtype, endpoint=True)
        else:
            found = (low + (high - low) * random.random(shape)).astype(example.dtype)
    each = max(1, found[:1].nbytes)
    return np.ascontiguousarray(found[: max(_LEAST_ITEMS, _MOST_BYTES // each)])


def save(path: Path, found: Predictions) -> None:
    """Raises OSError, SafetensorError."""
    # In rows: safetensors writes the bytes as they lie, and those of a transposed array lie otherwise.
    save_file({name: np.ascontiguousarray(value) for name, value in found.arrays().items()}, path)


def read(path: Path) -> Predictions:
    """What `save` wrote, or says so. Raises InputError."""
    if not path.is_file() or path.stat().st_size > _MOST_FILE:
        raise InputError(f"{path.name} is no file of at most {_MOST_FILE:,} bytes; train again")
    arrays: Mapping[str, np.ndarray] = trained.arrays(path)
    if set(arrays) != {"inputs", "answers"}:
        raise InputError(f"{path.name} holds {', '.join(sorted(arrays))[:100]}; train again")
    found = Predictions(arrays["inputs"], arrays["answers"])
    if len(found.inputs) != len(found.answers) or not len(found.inputs):
        raise InputError(
            f"{path.name} has {len(found.answers)} answers to {len(found.inputs)} items; train again"
        )
    return found


def difference(recorded: np.ndarray, answers: np.ndarray, dtype: str) -> str | None:
    """None where a model's answers are those of the process that trained it, else what differs. dtype:
    of the training; of one in float32 every answer is the same."""
    if recorded.shape != answers.shape:
        return f"answers of shape {answers.shape}, in training they had {recorded.shape}"
    wrong = recorded != answers
    if wrong.ndim > 1:
        wrong = wrong.any(axis=tuple(range(1, wrong.ndim)))
    count, allowed = int(wrong.sum()), 0 if dtype == "float32" else int(SIXTEEN_BITS * len(wrong))
    if count <= allowed:
        return None
    return f"{count} of {len(wrong)} answers are not those of the process that trained it"
