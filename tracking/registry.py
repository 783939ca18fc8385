"""The best trial by a named metric becomes a registered model version, alias `champion`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import mlflow
from mlflow.entities import LoggedModelStatus
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from measurement.doubts import UNTRUSTED
from measurement.errors import InputError
from tracking import names, read
from tracking.read import Row
from tracking.store import reachable

ALIAS = "champion"

# Never a champion: no finished work, or not the real data.
DISQUALIFYING = frozenset({"CRASHED", "DIVERGED", "SYNTHETIC"})
# These make a time, a rate or an energy doubtful; accuracy, loss and memory stay true.
DOUBTFUL_TIMES = frozenset(
    {*UNTRUSTED, "LOAD", "STOLEN-CPU", "BATTERY", "LOW-POWER", "THERMAL", "SWAP", "ROSETTA"}
)
_TIMED_UNITS = frozenset({"s", "items/s", "J", "W", "USD", "FLOP/s"})
_BEYOND = 1e300  # a database stores infinity as the largest double


@dataclass(frozen=True)
class Registered:
    """What was registered, and what was passed over. `left_out`: reason -> number of runs."""

    name: str
    version: str
    uri: str
    new: bool  # False: this very model was a version already; only the alias was set
    run_id: str
    run_name: str
    framework: str
    metric: str
    value: float
    considered: int
    left_out: dict[str, int]
    tags: dict[str, str]


def register_best(
    metric: str,
    workload: str,
    framework: str | None = None,
    study: str | None = None,
    run_id: str | None = None,
    refusal: Callable[[str], str | None] = lambda model_uri: None,
) -> Registered:
    """Register the best finished trial of `workload` by `metric` under the workload's name.

    framework, study, run_id: None = any; with a run_id that very trial, if it qualifies. A tie goes
    to the earliest trial. refusal: says why a model, by its URI, is not to be served. Raises InputError: unknown metric, one without a better direction, unknown
    study, a run that is no trial, or nothing that qualifies (with the reasons and how many runs).
    """
    higher = _direction(metric) == "higher"
    if study is not None:
        study = read.machines_of(study)[0].name  # on whatever machine it ran
    rows = read.trials(study, [run_id] if run_id else None, finished=False)
    if run_id is None:
        rows = [row for row in rows if row.cell.get("workload") == workload]
    reasons: Counter[str] = Counter()
    qualified: list[Row] = []
    for row in rows:
        if reason := _unfit(row, metric, workload, framework):
            reasons[reason] += 1
        else:
            qualified.append(row)
    sign = -1.0 if higher else 1.0
    qualified.sort(key=lambda row: (sign * row.metrics[metric], row.start_seconds))
    for row in qualified:
        with reachable():
            model_uri = _model(row.run_id)
            said = refusal(model_uri) if model_uri else "no loadable model with a signature"
            if model_uri and said is None:
                return _register(row, model_uri, metric, workload, len(rows), dict(reasons))
        reasons[str(said)] += 1
    raise InputError(_nothing(metric, workload, framework, study, run_id, len(rows), reasons))


def _direction(metric: str) -> str:
    if metric not in names.METRICS:
        known = ", ".join(name for name, m in names.METRICS.items() if m.better)
        raise InputError(f"unknown metric '{metric}'; choose one of: {known}")
    better = names.METRICS[metric].better
    if better is None:
        raise InputError(
            f"metric '{metric}' has no better direction, so nothing is best by it; "
            "choose another, for example eval/accuracy"
        )
    return better


def _unfit(row: Row, metric: str, workload: str, framework: str | None) -> str | None:
    """Why a trial cannot be champion, as a class to count; None when it can."""
    if row.cell.get("workload") != workload:
        return f"its workload is '{row.cell.get('workload')}'"
    if framework is not None and row.cell.get("framework") != framework:
        return "other framework"
    if row.status != "FINISHED":
        return "not finished"
    if row.parity is None:
        return "no evidence of equal work"
    if row.receipt is None:
        return "no work receipt"
    bad = DISQUALIFYING
    timed = names.METRICS[metric].unit in _TIMED_UNITS or metric.startswith("hardware/")
    if timed:
        bad = bad | DOUBTFUL_TIMES
    if found := sorted(bad.intersection(row.flags)):
        return "flag " + " ".join(found)
    value = row.metrics.get(metric)
    if value is None or not math.isfinite(value) or abs(value) > _BEYOND:
        return f"{metric} not measured"
    return None


def _nothing(
    metric: str,
    workload: str,
    framework: str | None,
    study: str | None,
    run_id: str | None,
    considered: int,
    reasons: Counter[str],
) -> str:
    """One line: what was sought, how many were looked at, why each class fell out, what to do."""
    trial = f"{framework} trial" if framework else "trial"
    sought = f"{trial} of '{workload}'" + (f" in study '{study}'" if study else "")
    listed = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    if not considered:
        found = "the store holds no such run"
    elif run_id:
        found = f"run {run_id} is left out ({', '.join(reasons)})"
    else:
        found = f"looked at {considered} runs, left out: {listed}"
    again = f"mlflow run . -e {workload}_{framework or 'mlx'}"
    return f"no {sought} qualifies by {metric}: {found}; measure again with '{again}'"


def _model(run_id: str) -> str | None:
    """URI of the newest ready model of a run that has a signature, or None."""
    client = MlflowClient()
    outputs = client.get_run(run_id).outputs
    for output in reversed(outputs.model_outputs if outputs else []):
        if client.get_logged_model(output.model_id).status != LoggedModelStatus.READY:
            continue
        uri = f"models:/{output.model_id}"
        try:
            signature = mlflow.models.get_model_info(uri).signature
        except (MlflowException, OSError):  # its files are gone: no champion
            continue
        if signature is not None:
            return uri
    return None


def _register(
    row: Row, model_uri: str, metric: str, workload: str, considered: int, left_out: dict[str, int]
) -> Registered:
    client = MlflowClient()
    run_tags = client.get_run(row.run_id).data.tags
    tags = {
        "run_id": row.run_id,
        "run_name": row.name,
        "framework": row.cell["framework"],
        "device": row.cell.get("device", ""),
        "dataset": row.cell.get("dataset", ""),
        "data_sha256": run_tags.get("data_sha256", "unknown"),
        "git_commit": run_tags.get("mlflow.source.git.commit", "unknown"),
        "metric": metric,
        "metric_value": repr(row.metrics[metric]),
        "study": row.study or "none",
        "flags": ",".join(row.flags) or "none",
    }
    version = _existing(workload, model_uri)
    new = version is None
    if version is None:
        version = mlflow.register_model(model_uri, workload, tags=tags)
    else:
        for key, value in tags.items():
            client.set_model_version_tag(workload, version.version, key, value)
    client.set_registered_model_alias(workload, ALIAS, version.version)
    return Registered(
        name=workload,
        version=str(version.version),
        uri=f"models:/{workload}@{ALIAS}",
        new=new,
        run_id=row.run_id,
        run_name=row.name,
        framework=row.cell["framework"],
        metric=metric,
        value=row.metrics[metric],
        considered=considered,
        left_out=left_out,
        tags=tags,
    )


def _existing(name: str, model_uri: str) -> ModelVersion | None:
    """The version that is this very model already, so that asking twice adds none."""
    versions = MlflowClient().search_model_versions(f"name = '{name}'")
    return next((version for version in versions if version.source == model_uri), None)
