"""Any store through MLflow's own client: a request per run and metric, so slow, but always right."""

from __future__ import annotations

from collections.abc import Sequence

from mlflow.entities import ViewType
from mlflow.tracking import MlflowClient

from tracking.bulk.columns import Found, Part, Points, Wanted, chunks

_PAGE = 250
_IDS = 100  # of runs in one filter


def experiment_ids(uri: str, deleted: bool = False) -> list[str]:
    """Of every active experiment, or of every one."""
    mlflow_client, found, token = MlflowClient(uri), [], None
    view = ViewType.ALL if deleted else ViewType.ACTIVE_ONLY
    while True:
        page = mlflow_client.search_experiments(view_type=view, page_token=token)
        found += [str(experiment.experiment_id) for experiment in page]
        token = page.token
        if not token:
            return found


def runs(uri: str, wanted: Wanted) -> list[Found]:
    """Page after page of MLflow's search."""
    mlflow_client, experiments = MlflowClient(uri), experiment_ids(uri, wanted.deleted)
    view = ViewType.ALL if wanted.deleted else ViewType.ACTIVE_ONLY
    found = []
    for condition in conditions(wanted):
        token = None
        while True:
            page = mlflow_client.search_runs(
                experiments, condition, view, max_results=_PAGE, page_token=token
            )
            found += [
                Found(
                    run_id=run.info.run_id,
                    name=run.info.run_name,
                    status=run.info.status,
                    start_milliseconds=run.info.start_time,
                    params=run.data.params,
                    tags=run.data.tags,
                    metrics=run.data.metrics,
                    deleted=run.info.lifecycle_stage == "deleted",
                )
                for run in page
            ]
            token = page.token
            if not token:
                break
    return found


def conditions(wanted: Wanted) -> list[str]:
    """MLflow's filters that together find the runs, each with a bounded number of run ids."""
    condition = wanted.condition()
    if wanted.run_ids is None:
        return [condition]
    named = [
        "attributes.run_id IN (" + ", ".join(f"'{run_id}'" for run_id in ids) + ")"
        for ids in chunks(wanted.run_ids, _IDS)
    ]
    return [f"{condition} and {some}" if condition else some for some in named]


def points(uri: str, run_ids: Sequence[str], metrics: Sequence[str]) -> Points:
    """One request per run and metric."""
    for run_place, run_id in enumerate(run_ids):
        for metric_place, metric in enumerate(metrics):
            yield of_one(uri, run_id, run_place, metric, metric_place)


def of_one(uri: str, run_id: str, run_place: int, metric: str, metric_place: int) -> Part:
    """The whole history of one metric of one run."""
    history = MlflowClient(uri).get_metric_history(run_id, metric)
    return Part.of(
        [run_place] * len(history),
        [metric_place] * len(history),
        [point.step for point in history],
        [point.value for point in history],
        [point.timestamp for point in history],
    )
