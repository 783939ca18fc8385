"""Models of runs that go to another store: logged ones with their runs, registered ones when asked."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import yaml
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Metric, Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from tracking import contents
from tracking.contents import MODEL_FILE, Model, Store
from tracking.store import once

ORIGIN_MODEL = "origin_model_id"
_URI = "models:/"


def copy(target: Store, run: Run, model: Model, folder: Path) -> None:
    """One model of a run with its files, completed wherever an earlier attempt was cut off. The ids in
    its MLmodel become those that it has there, by which MLflow finds it when it is loaded."""
    client, run_id = target.client, run.info.run_id
    made = _opened(target, run, model)
    own = {"model_id": made.model_id, "model_uuid": made.model_id, "run_id": run_id}
    own["artifact_path"] = made.artifact_location
    with tempfile.TemporaryDirectory() as scratch:
        files = {path: folder / path for path in model.files}
        for path in files:
            if Path(path).name == MODEL_FILE:
                described = contents.described(files[path], own)
                files[path] = Path(scratch) / path
                files[path].parent.mkdir(parents=True, exist_ok=True)
                files[path].write_text(yaml.safe_dump(described, sort_keys=False), encoding="utf-8")
        target.upload(made.artifact_location, files)
    listed = {one.model_id for one in run.outputs.model_outputs} if run.outputs else set()
    if made.model_id not in listed:
        client.log_outputs(run_id, [LoggedModelOutput(made.model_id, step=model.step)])
    there = contents.model_metrics(made)
    client.log_batch(
        run_id,
        metrics=[
            Metric(key, float(value), time, step, model_id=made.model_id)
            for key, step, time, value in sorted(model.metrics - there)
        ],
    )
    wanted = LoggedModelStatus(model.status)
    if LoggedModelStatus.is_finalized(wanted) and made.status != wanted:
        client.finalize_logged_model(made.model_id, wanted)


def _opened(target: Store, run: Run, model: Model) -> LoggedModel:
    """The model there, made where there is none."""
    experiment, run_id = run.info.experiment_id, run.info.run_id
    origin = model.tags.get(ORIGIN_MODEL, model.model_id)

    def found() -> list[LoggedModel]:
        wanted = f"source_run_id = '{run_id}'"
        listed = target.client.search_logged_models([experiment], wanted)
        mine = [one for one in listed if one.tags.get(ORIGIN_MODEL) == origin]
        return sorted(mine, key=lambda one: str(one.model_id))

    if not found():
        with once():
            target.client.create_logged_model(
                experiment,
                name=model.name,
                source_run_id=run_id,
                tags={ORIGIN_MODEL: origin, **model.tags},
                params=model.params,
                model_type=model.kind or None,
            )
    first, *others = found()
    for other in others:
        target.client.delete_logged_model(other.model_id)
    return first


def registered(source: Store, target: Store, ids: Mapping[str, str]) -> list[str]:
    """Copies every registered version whose model went along, and each alias that the store there has
    not given to another version; returns a line for each name. ids: run there by run in the source."""
    lines, token = [], None
    while True:
        page = source.client.search_registered_models(page_token=token)
        for one in page:
            found = source.client.search_model_versions(f"name = '{one.name}'")
            versions = sorted(found, key=lambda version: int(version.version))
            lines.append(_register(source, target, one.name, versions, ids))
        if not (token := page.token):
            return lines


def _register(
    source: Store, target: Store, name: str, versions: list[ModelVersion], ids: Mapping[str, str]
) -> str:
    client = target.client
    try:
        there = client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        found = source.client.get_registered_model(name)
        there = client.create_registered_model(name, found.tags, found.description)
    present = {v.source: v.version for v in client.search_model_versions(f"name = '{name}'")}
    new, left, numbers = 0, 0, {}
    for version in versions:
        run_id = ids.get(version.run_id or "", "")
        uri = _there(source, target, run_id, (version.source or "").removeprefix(_URI))
        if not uri:
            left += 1
            continue
        if uri not in present:
            tags = {k: ids.get(v, v) if k == "run_id" else v for k, v in version.tags.items()}
            made = client.create_model_version(name, uri, run_id, tags, None, version.description)
            present[uri] = made.version
            new += 1
        numbers[str(version.version)] = present[uri]
    kept = []
    for alias, number in source.client.get_registered_model(name).aliases.items():
        if alias in there.aliases:
            kept.append(alias)
        elif str(number) in numbers:
            client.set_registered_model_alias(name, alias, numbers[str(number)])
    said = f"registered model {name}: {new} versions new, {len(numbers) - new} there already"
    said += f", {left} left out (their models did not come along)" if left else ""
    return said + (f"; the server keeps its own {', '.join(kept)}" if kept else "")


def _there(source: Store, target: Store, run_id: str, model_id: str) -> str:
    """URI that a model of the source has there; "" where there is none."""
    if not run_id or not model_id.startswith("m-"):
        return ""
    origin = source.client.get_logged_model(model_id).tags.get(ORIGIN_MODEL, model_id)
    run = target.client.get_run(run_id)
    for output in run.outputs.model_outputs if run.outputs else []:
        model = target.client.get_logged_model(output.model_id)
        if origin in (model.tags.get(ORIGIN_MODEL), model.model_id):
            return f"{_URI}{model.model_id}"
    return ""
