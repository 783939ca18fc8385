"""What a trial and its repetition left in the store, as analysis.reproduction compares them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

import frameworks
import models
from analysis import reproduction
from analysis.reproduction import Ran, Resolution
from entrypoints import installed, recipe
from entrypoints.supervisor import TrialSpec
from measurement import untrusted
from measurement.digest import digest
from measurement.errors import InputError
from models.parameters import draw
from serving import trained, weights
from tracking import artifacts, names
from tracking import read as rows
from tracking.bulk import Found
from tracking.read import Row
from tracking.registry import DOUBTFUL_TIMES

_LISTED = 8
# Of a cell: what an A/A pair may have otherwise and still tell how far runs of this size scatter.
_ARMS_OWN = frozenset({
    "framework", "compile", "compile_inference", "blas", "blas_loaded", "blas_threads", "backend", "tf32",
    "checkpoint", "target", "version_framework", "version_python",
})  # fmt: skip
_BLAS = ("blas_name", "blas_version", "blas_core")


def trial(run_id: str) -> Found:
    """A finished trial. Raises InputError that names trials there are."""
    run = artifacts.found(run_id)
    if run is None:
        raise InputError(
            f"no run '{untrusted.shown(run_id)}' in this store; expected the id of a trial, such as {_some(None)}"
        )
    kind = run.tags.get(names.KIND, "none")
    if kind != "trial":
        study = run.tags.get("study") if kind == "study" else None
        raise InputError(
            f"run {run_id} is no trial (kind {kind}); expected the id of one, such as {_some(study)}"
        )
    if run.status != "FINISHED":
        raise InputError(
            f"run {run_id} is {run.status}: there is no result to compare with; expected a finished "
            f"trial, such as {_some(run.tags.get('study'))}"
        )
    return run


def _some(study: str | None) -> str:
    found = rows.trials(study)[-_LISTED:]
    return ", ".join(f"{row.run_id} ({row.name})" for row in reversed(found)) or "none yet"


def shapes(spec: TrialSpec) -> dict[str, tuple[int, ...]]:
    """Of every parameter of a workload that learns; {} of others."""
    config = models.load(spec.workload, "config")
    if config.KIND != "train":
        return {}
    return {name: shape for name, (shape, _) in config.Config(**spec.sizes).parameters().items()}


def initial(spec: TrialSpec) -> dict[str, np.ndarray] | None:
    """The weights that a trial which learns starts from."""
    if spec.mode not in ("train", "stream"):
        return None
    config = models.load(spec.workload, "config").Config(**spec.sizes)
    return draw(config.parameters(), spec.seed)


def read_id(run_id: str, shapes: Mapping[str, tuple[int, ...]]) -> Ran:
    """A repetition that has just been written. Raises InputError where it has not arrived."""
    run = artifacts.found(run_id)
    if run is None or run.status != "FINISHED":
        raise InputError(
            f"the repetition's run {run_id} is {run.status if run else 'not'} in the store; expected it "
            "finished: what was measured is on disk, deliver it and compare again"
        )
    return read(run, shapes)


def read(run: Found, shapes: Mapping[str, tuple[int, ...]]) -> Ran:
    """Everything that is compared. Raises InputError."""
    (row,) = rows.trials(run_ids=[run.run_id])
    mode = row.cell["mode"]
    found = Ran(
        run_id=run.run_id,
        mode=mode,
        machine=row.machine,
        commit=run.tags.get("mlflow.source.git.commit", ""),
        versions=versions(run),
        condition={**row.cell, **{name: run.tags.get(name, "") for name in _BLAS}},
        flags=row.flags,
        parity=row.parity,
        receipt=row.receipt,
        losses=_losses(row),
        seconds=_seconds(row),
        weights_sha256=run.tags.get(recipe.TRAINED),
        altered=row.altered or (),
        start_sha256=_known(run.tags.get("weights_sha256")),
    )
    if not found.learns:
        return found
    with artifacts.model(run.run_id, trained.ARTIFACT) as folder:
        kept = weights.read(folder, shapes) if folder else None
    if kept is None:
        return found
    return replace(
        found,
        weights=kept,
        kept_sha256=digest(kept),
        weights_sha256=found.weights_sha256 or digest(kept),
    )


def _known(digest: str | None) -> str | None:
    return None if digest in ("none", "") else digest


def _losses(row: Row) -> np.ndarray:
    """By epoch or update; of a mode that learns nothing those of the evidence."""
    series = {"train": "epoch_loss", "stream": "losses"}.get(row.cell["mode"])
    if series is None:
        return np.asarray((row.parity or {}).get("losses", []), np.float64)
    return rows.samples(row.run_id).get(series, np.zeros(0))


def _seconds(row: Row) -> float:
    """Of the timed work, whatever its mode states."""
    metric = names.PRIMARY[row.cell["mode"]]
    value = row.metrics.get(metric, math.nan)
    return value if names.METRICS[metric].unit == "s" else 1 / value


def versions(run: Found) -> dict[str, Any]:
    """A run's environment as it recorded it; of an older run the versions of framework and Python."""
    text = artifacts.text(run.run_id, recipe.ENVIRONMENT)
    found = untrusted.parse_json(text, f"run {run.run_id}: {recipe.ENVIRONMENT}") if text else None
    return found if isinstance(found, dict) else {"python": run.tags.get("version_python", "")}


def versions_apart(run: Found, here: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """(of what computes, of the rest) what a run had otherwise than `here`; of an older run only what
    it recorded."""
    recorded, framework = versions(run), run.tags.get("framework", "")
    package = frameworks.package(framework)
    if "packages" not in recorded:
        old = {"python": recorded["python"], "packages": {package: run.tags["version_framework"]}}
        kept = {package: here["packages"].get(package)}
        here, recorded = {"python": here["python"], "packages": kept}, old
    return installed.differences(recorded, here, framework)


def around(a: Ran, b: Ran) -> list[str]:
    """What else differs, and what the original does not say; the machine before the condition."""
    found = [
        f"record: {', '.join(run.altered)} of run {run.run_id} is not what the trial recorded"
        for run in (a, b)
        if run.altered
    ]
    if a.machine != b.machine:
        found.append(f"machine: {a.machine or 'unknown'} against {b.machine}")
    apart = [
        f"{name} {a.condition[name]} against {b.condition.get(name, '')}"
        for name in sorted(a.condition)
        if a.condition[name] != b.condition.get(name) and not name.startswith("version_")
    ]
    if apart:
        found.append(f"condition: {', '.join(apart)}")
    if "packages" not in a.versions:
        found.append(
            "not recorded: the run is older than this comparison, so of its versions only Python's and the "
            "framework's are compared"
        )
    return found


def untimed(a: Ran, repeats: Sequence[Ran], around: Sequence[str]) -> str | None:
    """Why times must not be compared; None where they may."""
    for start in ("machine", "versions", "condition"):
        if said := [line for line in around if line.startswith(f"{start}:")]:
            return f"another {said[0]}"
    for run in (a, *repeats):
        if flagged := sorted(DOUBTFUL_TIMES.intersection(run.flags)):
            return f"run {run.run_id} carries {' '.join(flagged)}"
    if not all(math.isfinite(run.seconds) and run.seconds > 0 for run in (a, *repeats)):
        return "a run has no time of its work"
    return None


def resolution(run_id: str) -> Resolution | None:
    """From A/A pairs of the store's studies: same machine, workload and sizes, not disturbed; those of
    the run's own framework, or else of another one."""
    (own,) = rows.trials(run_ids=[run_id])
    pairs: dict[str, list[float]] = {}
    for study in rows.studies():
        roles = [p for p in study.comparisons if p.role == "resolution"]
        if study.machine != own.machine or not roles:
            continue
        if study.design.get("workload") != own.cell["workload"]:
            continue
        found = {(row.pair, row.arm): row for row in rows.trials_of(study, finished=True)}
        for pairing in roles:
            for (pair, arm), row in found.items():
                other = found.get((pair, pairing.denominator))
                if arm != pairing.numerator or other is None:
                    continue
                if _alike(row, own) and _alike(other, own):
                    ratio = _seconds(row) / _seconds(other)
                    pairs.setdefault(row.cell["framework"], []).append(ratio)
    for framework in sorted(pairs, key=lambda name: (name != own.cell["framework"], name)):
        good = [ratio for ratio in pairs[framework] if math.isfinite(ratio) and ratio > 0]
        if share := reproduction.from_pairs(good, f"{framework}'s pairs of one arm with itself"):
            return share
    return None


def _alike(row: Row, own: Row) -> bool:
    keys = (row.cell.keys() | own.cell.keys()) - _ARMS_OWN
    same = all(row.cell.get(key) == own.cell.get(key) for key in keys)
    return same and not DOUBTFUL_TIMES.intersection(row.flags)
