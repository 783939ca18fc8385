"""One record becomes one run, however often and wherever its delivery is cut off.

The tag `record` names a record in the store, so that the next delivery finds the run instead of making
a second one; every further call either repeats harmlessly or first looks at what is there. The tag
`delivered` comes last but for the final status: a run without it is no finished trial, whatever else
closed it (`mlflow run` closes the run that it opened).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.tracking import MlflowClient

from tracking import bulk, names, private, views
from tracking.outbox import ARTIFACTS, Kept
from tracking.store import StoreAway, address, once, prepare, reachable

_TRAINED = ("train", "stream")  # modes in which data is learned from; others only compute with it


def find(record_id: str) -> str:
    """The run of a record in this store, "" where there is none."""
    found = bulk.runs({names.RECORD: record_id})
    return found[0].run_id if found else ""


def status(record_id: str) -> str:
    """FINISHED, FAILED or KILLED of a run that holds all of its record, "" of another one. It can be
    there although the record is not on disk, which was full."""
    found = bulk.runs({names.RECORD: record_id})
    return found[0].tags.get(names.DELIVERED, "") if found else ""


def taken(kept: Kept) -> bool:
    """Whether the store has another finished trial of the same slot of the study: then this one was
    measured where that was not known, and must not stand in for it."""
    tags = kept.record.tags
    slot = {key: tags[key] for key in ("study", "pair", "machine") if key in tags}
    if len(slot) < 3 or kept.record.kind != "trial" or kept.record.status != "FINISHED":
        return False
    found = bulk.runs({names.KIND: "trial", **slot}, "FINISHED")
    return any(
        run.tags.get("arm") == tags.get("arm")
        and run.tags.get(names.RECORD) != kept.id
        and (names.RECORD not in run.tags or names.DELIVERED in run.tags)
        for run in found
    )


def open_run(kept: Kept, parent_run: str) -> tuple[str, bool]:
    """(the record's run, whether it is all there). Made where there is none; the run that
    `mlflow run` opened is used where there is one. Raises InputError."""
    if found := bulk.runs({names.RECORD: kept.id}):
        done = found[0].tags.get(names.DELIVERED) == kept.record.status == found[0].status
        _remove(run.run_id for run in found[1:])
        return found[0].run_id, done
    tags = {names.KIND: kept.record.kind, names.RECORD: kept.id, **kept.record.tags}
    if parent_run:
        tags[views.PARENT] = parent_run
    if kept.run_id and bulk.runs(run_ids=[kept.run_id]):
        with reachable():
            MlflowClient().log_batch(kept.run_id, tags=_tags(tags))
        return kept.run_id, False
    experiment = _experiment(kept)
    for last in (False, True):
        try:
            with reachable(), once():
                MlflowClient().create_run(
                    experiment,
                    start_time=int(kept.started_seconds * 1000),
                    tags={tag.key: tag.value for tag in _tags(tags)},
                    run_name=kept.record.name,
                )
        except StoreAway:
            # The answer may be lost and the run there.
            if not bulk.runs({names.RECORD: kept.id}) and last:
                raise
            continue
        break
    # Each deliverer writes before it reads, so of two at least one sees the other's run.
    found = bulk.runs({names.RECORD: kept.id})
    if not found:
        raise StoreAway(f"the tracking store {address()} does not show a run that it has just made")
    _remove(run.run_id for run in found[1:])
    return found[0].run_id, False


def fill(run_id: str, kept: Kept) -> None:
    """Parameters, metrics, tags, data set and artifacts, whatever of them is missing. Raises
    InputError."""
    record = kept.record
    with reachable():
        client = MlflowClient()
        run = client.get_run(run_id)
        params = [Param(k, str(v)) for k, v in record.params.items() if k not in run.data.params]
        tags = {names.KIND: record.kind, **record.tags, views.NOTE: record.note}
        tags |= views.of_run(record.tags, run.data.tags, record.kind)
        metrics = _missing(run, kept)
        client.log_batch(run_id, metrics=metrics, params=params, tags=_tags(tags))
        if record.dataset and not (run.inputs and run.inputs.dataset_inputs):
            client.log_inputs(run_id, [_dataset(record.dataset, record.tags.get("mode", "train"))])
        if record.files and (kept.folder / ARTIFACTS).is_dir():
            with private.publishable(kept.folder / ARTIFACTS) as clean:
                client.log_artifacts(run_id, str(clean))
        if run.info.run_name != record.name:
            client.update_run(run_id, name=record.name)
        if not kept.parent:  # once for a study, not for each of its trials
            design = json.loads(record.tags.get("design", "{}"))
            study = record.tags.get("study", "") if design else ""
            views.publish(client, run.info.experiment_id, study, design)


def close(run_id: str, kept: Kept) -> None:
    """The last calls: from here on the run counts. A record that goes on leaves its run open. Raises
    InputError."""
    with reachable():
        client = MlflowClient()
        if kept.running:
            client.update_run(run_id, status="RUNNING")
            return
        client.log_batch(run_id, tags=[RunTag(names.DELIVERED, kept.record.status)])
        client.set_terminated(run_id, kept.record.status, int(kept.ended_seconds * 1000))


def take_back(run_id: str) -> None:
    """A run that should not have been made: no study any more, and nobody's record. Raises
    InputError."""
    with reachable():
        client = MlflowClient()
        client.set_tag(run_id, names.KIND, "study refused")
        client.delete_tag(run_id, names.RECORD)
        client.set_terminated(run_id, "FAILED")


def _missing(run: Run, kept: Kept) -> list[Metric]:
    """The points that the run does not have. Databases drop a point that is there already, but not
    every store is one."""
    points = kept.points()
    there: set[tuple[str, int, int]] = set()
    if run.data.metrics:
        keys = sorted({point.name for point in points} & set(run.data.metrics))
        found = bulk.histories([run.info.run_id], keys)
        there = {
            (found.metrics[metric], step, time)
            for metric, step, time in zip(
                found.metric.tolist(), found.step.tolist(), found.timestamp_milliseconds.tolist(),
                strict=True,
            )
        }  # fmt: skip
    metrics = [Metric(p.name, p.value, int(p.seconds * 1000), p.step) for p in points]
    return [m for m in metrics if (m.key, m.step, m.timestamp) not in there]


def _dataset(dataset: Mapping[str, str], mode: str) -> DatasetInput:
    """Data that came from an address opens by it in MLflow's pages; other data says in words whence."""
    source = dataset["source"]
    address = source.split(", ")[0]  # of several files the first: MLflow has one
    web = address.startswith("https://")
    entity = Dataset(
        name=dataset["name"],
        digest=dataset["sha256"][:12],  # all of it is a tag; pages show this one in full
        source_type="http" if web else "code",
        source=json.dumps({"url": address} if web else {"tags": {"source": source}}),
        profile=json.dumps({k: v for k, v in dataset.items() if k.endswith("items")}),
    )
    context = "train" if mode in _TRAINED else "eval"
    return DatasetInput(entity, [InputTag("mlflow.data.context", context)])


def _tags(tags: Mapping[str, str]) -> list[RunTag]:
    return [RunTag(key, str(value)) for key, value in tags.items() if value != ""]


def _experiment(kept: Kept) -> str:
    """The one that the record was made for, where this store has it, else the one in use now."""
    if kept.experiment_id and kept.address == address():
        with reachable():
            MlflowClient().get_experiment(kept.experiment_id)
        return kept.experiment_id
    return prepare(kept.experiment_name)


def _remove(run_ids: Iterator[str]) -> None:
    """Empty doubles of a run; their kind says so, because a deleted trial is one that is missed."""
    for run_id in run_ids:
        with reachable():
            MlflowClient().set_tag(run_id, names.KIND, "double")
            MlflowClient().delete_run(run_id)
