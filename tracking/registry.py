"""A trial becomes a registered model version; aliases say what it is to its users: `champion` is served,
`challenger` was registered after it, `previous` is the champion before, to which one can go back.

An alias names one version, so there are never two champions. Who changes aliases holds the model's lock,
which the store itself keeps (a registered model of another name, of which it takes one), so that it
holds for commands on several machines; and a promotion is of one champion by one challenger: where
either has changed since they were compared, it is refused.
"""

from __future__ import annotations

import math
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import mlflow
from mlflow.entities import LoggedModelStatus
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from measurement.doubts import UNTRUSTED
from measurement.errors import InputError
from tracking import names, private, read
from tracking.read import Row
from tracking.store import reachable

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
ROLLED_BACK = "rolled_back"
"""Tag of a version that was the champion and was taken back: it is not promoted again unasked."""
_LOCK = "{} (aliases are being changed)"
_LOCK_SECONDS = 60.0  # to wait for another command
_STALE_SECONDS = 30.0  # after which the one that holds it is taken for dead: it takes a few calls
MOST_DESCRIPTION = 4900  # characters; MLflow's column has 5000

# Never a champion: no finished work, or not the real data.
DISQUALIFYING = frozenset({"CRASHED", "DIVERGED", "SYNTHETIC"})
# These make a time, a rate or an energy doubtful; accuracy, loss and memory stay true.
DOUBTFUL_TIMES = frozenset(
    {*UNTRUSTED, "LOAD", "STOLEN-CPU", "BATTERY", "LOW-POWER", "THERMAL", "SWAP", "ROSETTA"}
)
_TIMED_UNITS = frozenset({"s", "items/s", "tokens/s", "updates/s", "J", "W", "USD", "FLOP/s"})
_BEYOND = 1e300  # a database stores infinity as the largest double


@dataclass(frozen=True)
class Registered:
    """What was registered, and what was passed over. `left_out`: reason -> number of runs."""

    name: str
    version: str
    alias: str
    new: bool  # False: this very model was a version already
    run_id: str
    run_name: str
    framework: str
    metric: str
    value: float
    considered: int
    left_out: dict[str, int]
    tags: dict[str, str]

    @property
    def uri(self) -> str:
        return f"models:/{self.name}@{self.alias}"


@dataclass(frozen=True)
class Version:
    """One version of a registered model. run_id: of the trial that trained it."""

    name: str
    version: str
    run_id: str
    model_uri: str
    tags: Mapping[str, str]


Refusal = Callable[[Row, str], str | None]
"""Says why a run's model, by its URI, is not to be registered."""


def register_best(
    metric: str,
    workload: str,
    framework: str | None = None,
    study: str | None = None,
    run_id: str | None = None,
    refusal: Refusal = lambda row, model_uri: None,
) -> Registered:
    """Register the best finished trial of `workload` by `metric` under the workload's name: the first
    one as champion, later ones as challenger.

    framework, study, run_id: None = any; with a run_id that very trial, if it qualifies. A tie goes
    to the earliest trial. Raises InputError: unknown metric, one without a better direction, unknown
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
        if reason := unfit(row, metric, workload, framework):
            reasons[reason] += 1
        else:
            qualified.append(row)
    sign = -1.0 if higher else 1.0
    qualified.sort(key=lambda row: (sign * row.metrics[metric], row.start_seconds))
    for row in qualified:
        with reachable():
            model_uri = _model(row.run_id)
            said = refusal(row, model_uri) if model_uri else "no loadable model with a signature"
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


def unfit(row: Row, metric: str, workload: str, framework: str | None = None) -> str | None:
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
    bad = DISQUALIFYING | DOUBTFUL_TIMES if timed(metric) else DISQUALIFYING
    if found := sorted(bad.intersection(row.flags)):
        return "flag " + " ".join(found)
    value = row.metrics.get(metric)
    if value is None or not math.isfinite(value) or abs(value) > _BEYOND:
        return f"{metric} not measured"
    return None


def timed(metric: str) -> bool:
    """Whether what disturbs a clock makes a metric doubtful."""
    return names.METRICS[metric].unit in _TIMED_UNITS or metric.startswith("hardware/")


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
    with alone(workload):
        version = _existing(workload, model_uri)
        new = version is None
        if version is None:
            version = mlflow.register_model(model_uri, workload, tags=tags)
        else:
            for key, value in tags.items():
                client.set_model_version_tag(workload, version.version, key, value)
        alias = _alias(client, workload, str(version.version))
    return Registered(
        name=workload,
        version=str(version.version),
        alias=alias,
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


def _alias(client: MlflowClient, name: str, version: str) -> str:
    """What a version that has just been registered is called: champion where there is none."""
    champion = _of_alias(client, name, CHAMPION)
    if champion is not None and champion.version == version:
        return CHAMPION
    alias = CHAMPION if champion is None else CHALLENGER
    client.set_registered_model_alias(name, alias, version)
    return alias


def _existing(name: str, model_uri: str) -> ModelVersion | None:
    """The version that is this very model already, so that asking twice adds none."""
    versions = MlflowClient().search_model_versions(f"name = '{name}'")
    return next((version for version in versions if version.source == model_uri), None)


# --- aliases


def version(name: str, alias: str) -> Version | None:
    """The version that has an alias; None where none has."""
    with reachable():
        return _of_alias(MlflowClient(), name, alias)


def _of_alias(client: MlflowClient, name: str, alias: str) -> Version | None:
    try:
        found = client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise
    return Version(
        name, str(found.version), found.run_id or "", found.source or "", dict(found.tags)
    )


@contextmanager
def alone(name: str) -> Iterator[None]:
    """No other command changes the aliases of this model in this store while the block runs, on
    whatever machine it is. Raises InputError where another one does for too long."""
    client, lock, owner = MlflowClient(), _LOCK.format(name), secrets.token_hex(8)
    with reachable():
        _take(client, lock, owner)
    try:
        yield
    finally:
        with reachable():
            if _owner(client, lock) == owner:
                client.delete_registered_model(lock)


def _take(client: MlflowClient, lock: str, owner: str) -> None:
    until, seen, since = time.monotonic() + _LOCK_SECONDS, "", time.monotonic()
    while True:
        try:
            client.create_registered_model(
                lock,
                {"owner": owner},
                "A command holds this while it changes aliases, for seconds; one that was killed "
                "leaves it, and the next one removes it.",
            )
            return
        except MlflowException as error:
            # The other one: MLflow looks for the one that was there, and it has just been given back.
            if error.error_code not in ("RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST"):
                raise
        holder = _owner(client, lock)
        if holder == owner:  # its answer was lost
            return
        if holder != seen:  # by this machine's own clock: those of two machines may differ
            seen, since = holder, time.monotonic()
        if holder and time.monotonic() - since > _STALE_SECONDS:
            with _gone():
                if _owner(client, lock) == holder:
                    client.delete_registered_model(lock)
            continue
        if time.monotonic() > until:
            raise InputError(
                f"another command has been changing the aliases of this model for {_LOCK_SECONDS:g} s; "
                f"expected it to end: if none runs, delete the registered model '{lock}'"
            )
        time.sleep(0.1 + 0.2 * secrets.randbelow(100) / 100)


def _owner(client: MlflowClient, lock: str) -> str:
    with _gone():
        return str(client.get_registered_model(lock).tags.get("owner", ""))
    return ""


@contextmanager
def _gone() -> Iterator[None]:
    """What another command has removed meanwhile is no error."""
    try:
        yield
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise


def promote(challenger: Version, champion: Version, tags: Mapping[str, str]) -> None:
    """The challenger becomes champion, the champion `previous`; tags: of the challenger, on what
    grounds. Cut off anywhere and called again, it ends the same. Raises InputError where another
    version has become champion since the two were compared."""
    client, name = MlflowClient(), challenger.name
    with reachable(), alone(name):
        now = _of_alias(client, name, CHAMPION)
        if now is None or now.version not in (champion.version, challenger.version):
            raise InputError(
                f"version {challenger.version} of {name} was compared with version {champion.version}, "
                f"and the champion is now version {now.version if now else 'none'}; compare it again"
            )
        for key, value in private.cleaned(tags).items():
            client.set_model_version_tag(name, challenger.version, key, value[:5000])
        if now.version != challenger.version:
            client.set_registered_model_alias(name, PREVIOUS, champion.version)
            client.set_registered_model_alias(name, CHAMPION, challenger.version)
        _drop(client, name, CHALLENGER, challenger.version)


def roll_back(name: str) -> tuple[Version, Version]:
    """The previous champion becomes champion again: (it, the one that was taken back). Raises
    InputError where there is none."""
    client = MlflowClient()
    with reachable(), alone(name):
        now, before = _of_alias(client, name, CHAMPION), _of_alias(client, name, PREVIOUS)
        if now is None or before is None or now.version == before.version:
            raise InputError(
                f"{name} has no previous champion to go back to; expected one that a promotion replaced"
            )
        client.set_model_version_tag(name, now.version, ROLLED_BACK, time.strftime("%Y-%m-%d"))
        client.set_registered_model_alias(name, CHAMPION, before.version)
        _drop(client, name, PREVIOUS, before.version)
        return before, now


def _drop(client: MlflowClient, name: str, alias: str, version: str) -> None:
    """Takes an alias from a version that has it."""
    found = _of_alias(client, name, alias)
    if found is not None and found.version == version:
        client.delete_registered_model_alias(name, alias)


def describe(name: str, version: str, text: str) -> None:
    """The description of a version, Markdown, as far as a store keeps it."""
    if len(text) > MOST_DESCRIPTION:
        end = "\n\n(cut; the whole card is an artifact of its run)"
        text = text[: MOST_DESCRIPTION - len(end)] + end
    with reachable():
        MlflowClient().update_model_version(name, version, private.clean(text))
