"""Other people's results become runs marked `source=published`, never twice, never as our trials.

A file or table is one run (kind 'published file' or 'published table'); its rows are runs below it
(kind 'published trial' or 'published row'). Our own studies read kind 'trial' only.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from mlflow.entities import Metric, Run
from mlflow.tracking import MlflowClient

from tracking import names, private
from tracking.groups import Entry, Group
from tracking.store import prepare, reachable

SOURCE = "published"
DIGEST = "content_sha256"
_PARENT = "mlflow.parentRunId"
_NOTE = "mlflow.note.content"
_QUIET = "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"


@dataclass(frozen=True)
class Imported:
    """written: new runs below it; present: those that an earlier import had written already."""

    name: str
    run_id: str
    written: int
    present: int


def write(group: Group, progress: Callable[[int], None]) -> Imported:
    """Writes a group, or what is missing of it; `progress` hears of every run that is done.

    Contents that are there already are recognised by their digest and left as they are. An import
    that was cut off is completed: its unfinished runs are deleted and written again. Raises
    InputError when the store cannot be used.
    """
    experiment = prepare()
    with reachable(), quiet():
        client = MlflowClient()
        parent = _find(client, f"tags.{DIGEST} = '{group.sha256}'")
        if parent and parent[0].info.status == "FINISHED":
            progress(len(group.entries))
            return Imported(parent[0].info.run_name, parent[0].info.run_id, 0, len(group.entries))
        if parent:
            run_id = parent[0].info.run_id
        else:
            tags = _tags(group.kind, {**group.tags, DIGEST: group.sha256, _NOTE: group.note})
            run_id = client.create_run(experiment, tags=tags, run_name=group.name).info.run_id
        done = _done(client, run_id) if parent else set()
        progress(len(done))
        for order, entry in enumerate(group.entries, start=1):
            if str(order) not in done:
                _write_entry(client, experiment, run_id, group.entry_kind, order, entry)
                progress(1)
        for name, text in group.files.items():
            client.log_text(run_id, private.clean(text), name)
        client.set_terminated(run_id, "FINISHED")
        return Imported(group.name, run_id, len(group.entries) - len(done), len(done))


def _write_entry(
    client: MlflowClient, experiment: str, parent: str, kind: str, order: int, entry: Entry
) -> None:
    tags = _tags(kind, {**entry.tags, "order": str(order), _PARENT: parent})
    run_id = client.create_run(experiment, tags=tags, run_name=entry.name).info.run_id
    now = int(time.time() * 1000)
    client.log_batch(
        run_id, metrics=[Metric(name, value, now, step) for name, value, step in entry.metrics]
    )
    client.set_terminated(run_id, "FINISHED")


def _tags(kind: str, tags: Mapping[str, str]) -> dict[str, str]:
    given = {key: value for key, value in tags.items() if value != ""}
    return private.cleaned({names.KIND: kind, "source": SOURCE, **given})


def _done(client: MlflowClient, parent: str) -> set[str]:
    """Order numbers of the runs that an earlier import finished; its half-written ones go."""
    done = set()
    for run in _find(client, f"tags.`{_PARENT}` = '{parent}'"):
        if run.info.status == "FINISHED":
            done.add(run.data.tags["order"])
        else:
            client.delete_run(run.info.run_id)
    return done


def _find(client: MlflowClient, condition: str) -> list[Run]:
    experiments = [found.experiment_id for found in client.search_experiments()]
    query = f"tags.source = '{SOURCE}' and {condition}"
    token: str | None = None
    found: list[Run] = []
    while True:
        page = client.search_runs(experiments, query, max_results=5000, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """A server's client prints two lines for every run that ends; not for a thousand of them."""
    before = os.environ.get(_QUIET)
    os.environ[_QUIET] = "true"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_QUIET]
        else:
            os.environ[_QUIET] = before
