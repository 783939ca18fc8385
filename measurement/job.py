"""A job: several ranks that trained together, made into one trial. What they must have in common is
checked, and what each did alone stays beside it; a rank's share never stands for the whole."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from measurement.ledger import merged_order, rows_digest

SHARED = "the counter is the host's, read by its first rank"  # why a rank has no energy of its own


class JobError(RuntimeError):
    """The ranks of a job did not do one training's work; the message says what is wrong."""


@dataclass
class Seen:
    """The items that a rank's steps were given in an epoch: how many, and which."""

    items: int = 0
    digest: int = 0

    def add(self, rows: np.ndarray) -> None:
        self.items += len(rows)
        self.digest = (self.digest + rows_digest(rows)) % 2**64

    def as_json(self) -> list[Any]:
        return [self.items, f"{self.digest:016x}"]


def weights_digest(parameters: Mapping[str, np.ndarray]) -> str:
    """sha256 of every parameter's name and bytes."""
    digest = hashlib.sha256()
    for name in sorted(parameters):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(parameters[name]).tobytes())
    return digest.hexdigest()


def common(ranks: Sequence[Mapping[str, Any]]) -> str | None:
    """None when all ranks say the same of what must be the same, else the first difference in a
    sentence. Each says it as a mapping of name to value; `host` says where it is and may differ."""
    first = ranks[0]
    for number, other in enumerate(ranks[1:], 1):
        for name in {**first, **other}:
            if name != "host" and first.get(name) != other.get(name):
                return (
                    f"rank {number}{_at(other)} has {name} '{other.get(name)}', rank 0{_at(first)} has"
                    f" '{first.get(name)}'; expected the same on every rank"
                )
    return None


def _at(rank: Mapping[str, Any]) -> str:
    return f" on {rank['host']}" if rank.get("host") else ""


def merge(ranks: Sequence[dict[str, Any]], train_items: int) -> dict[str, Any]:
    """The trial of the whole job from those of its ranks, in their order, as JSON.

    Each has `trial` (measurement.trial.Trial.as_json), `seen` (of every epoch Seen.as_json, what a
    restart cut off is None) and `weights` (weights_digest after the training). Times are those of the
    slowest rank in each epoch or step; items, FLOPs, memory and processor time are added up.
    Raises JobError when replicas differ, or the parts of an epoch are not the whole, once each.
    """
    trials = [rank["trial"] for rank in ranks]
    for name in ("epoch_loss", "epoch_quality", "resumed_epochs"):
        for number, trial in enumerate(trials):
            if trial[name] != trials[0][name]:
                raise JobError(f"rank {number} has {name} {trial[name]}, rank 0 {trials[0][name]}")
    for number, rank in enumerate(ranks):
        if rank["weights"] != ranks[0]["weights"]:
            raise JobError(f"rank {number} ended with other weights than rank 0")
    _complete(ranks, train_items)
    first = trials[0]
    found = dict(first)
    for name in ("epoch_seconds", "evaluation_seconds", "step_seconds", "reduce_seconds"):
        found[name] = [max(values) for values in zip(*(t[name] for t in trials), strict=True)]
    for name in ("first_step_seconds", "warmup_seconds", "completion_residue"):
        found[name] = max(trial[name] for trial in trials)
    found["epoch_cpu_seconds"] = [
        sum(values) for values in zip(*(t["epoch_cpu_seconds"] for t in trials), strict=True)
    ]
    for name in ("epoch_items", "process_peak_bytes", "ceiling_flops_per_second"):
        found[name] = sum(trial[name] for trial in trials)
    found["energy_window_items"] = sum(trial["energy_window_items"] for trial in trials)
    peaks = [trial["device_peak_bytes"] for trial in trials]
    found["device_peak_bytes"] = None if None in peaks else sum(peaks)
    ratios = [trial["completion_ratio"] for trial in trials]
    found["completion_ratio"] = max(ratios, key=lambda ratio: abs(ratio - 2.0))
    if first["target_epochs"] is not None:
        found["target_seconds"] = sum(found["epoch_seconds"][: first["target_epochs"]])
    receipt = dict(first["receipt"])
    for name in ("items", "flops"):
        receipt[name] = sum(trial["receipt"][name] for trial in trials)
    receipt["order"] = merged_order([trial["receipt"]["order"] for trial in trials])
    found["receipt"] = receipt
    found["flops_per_second"] = receipt["flops"] / sum(found["epoch_seconds"])
    return found


def _complete(ranks: Sequence[dict[str, Any]], train_items: int) -> None:
    """Raises JobError unless in every epoch the ranks' items are the data set's, each once."""
    whole = rows_digest(np.arange(train_items))
    for epoch, parts in enumerate(zip(*(rank["seen"] for rank in ranks), strict=True)):
        if None in parts:  # seen by processes that a restart has ended
            continue
        items = sum(items for items, _ in parts)
        digest = sum(int(digest, 16) for _, digest in parts) % 2**64
        if (items, digest) != (train_items, whole):
            raise JobError(
                f"in epoch {epoch} the ranks saw {items} items, not each of the {train_items} once"
            )


def table(ranks: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What each rank did and took, in a row of its own; seconds, bytes, joules."""
    found = []
    for number, rank in enumerate(ranks):
        trial, energy = rank["trial"], rank["energy"]
        found.append(
            {
                "rank": number,
                "host": rank["host"],
                "pid": rank["pid"],
                "items": trial["receipt"]["items"],
                "steps": trial["receipt"]["steps"],
                "epoch_seconds_p50": float(np.median(trial["epoch_seconds"])),
                "items_per_second": trial["receipt"]["items"] / sum(trial["epoch_seconds"]),
                "process_peak_bytes": trial["process_peak_bytes"],
                "device_peak_bytes": trial["device_peak_bytes"],
                "energy_joules": energy["joules"],
                "energy_seconds": energy["seconds"],
                "energy_source": energy["source"],
                "energy_status": energy["status"],
                "seen": rank["seen"],
                "weights": rank["weights"],
            }
        )
    return found
