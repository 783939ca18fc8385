"""A tracking server read over HTTP: large answers to few requests, several at a time.

`runs/search` is MLflow's public REST call. `metrics/get-history-bulk` is the call of its own web
pages: at most 100 runs and 25,000 points at a time, cut off without a word beyond that, which is
noticed here. Credentials, certificates, retries and timeouts are those of MLflow's client.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request, verify_rest_response
from requests import Response

from measurement import untrusted
from measurement.errors import InputError
from tracking.bulk import client
from tracking.bulk.columns import Found, Part, Points, Wanted, chunks, places

_log = logging.getLogger(__name__)
_SEARCH = "/api/2.0/mlflow/runs/search"
_HISTORY = "/ajax-api/2.0/mlflow/metrics/get-history-bulk"
_PAGE = 250  # runs: an answer must come well within MLFLOW_HTTP_REQUEST_TIMEOUT
_RUNS, _ROWS = 100, 25_000  # MLflow's limits of one history request
_REQUESTS = 4  # at a time: as many workers as `mlflow server` has by default
_WINDOWS = 16
_MOST_BYTES = 512 << 20  # of one answer: 250 runs with all the text that MLflow lets them have
_NEWEST, _OLDEST = "attributes.start_time DESC", "attributes.start_time ASC"


def runs(uri: str, wanted: Wanted) -> list[Found]:
    """One page if it holds all; else the time before it in windows, read in parallel."""
    where = {
        "experiment_ids": client.experiment_ids(uri, wanted.deleted),
        "run_view_type": "ALL" if wanted.deleted else "ACTIVE_ONLY",
    }
    shared: dict[str, str] = {}
    with ThreadPoolExecutor(_REQUESTS) as pool:
        if wanted.run_ids is not None:
            searches = client.conditions(wanted)
            newest: list[Found] = []
        else:
            newest, token = _page(uri, where, wanted.condition(), shared)
            if not token:
                return newest
            oldest, _ = _page(uri, where, wanted.condition(), shared, 1, order=_OLDEST)
            searches = [
                " and ".join(filter(None, [wanted.condition(), window]))
                for window in windows(
                    oldest[0].start_milliseconds, newest[-1].start_milliseconds + 1
                )
            ]
        older = pool.map(lambda search: _pages(uri, where, search, shared), searches)
        found = {run.run_id: run for page in older for run in page}
    # Runs of the same millisecond are in both; the first page came first, so the later one holds.
    return [*found.values(), *(run for run in newest if run.run_id not in found)]


def windows(first: int, end: int) -> list[str]:
    """Filters that split all time before `end` (milliseconds) in parts of equal width, from
    `first` on; the earliest part is open, so that none is missed."""
    count = max(1, min(_WINDOWS, end - first))
    edges = [first + (end - first) * k // count for k in range(count + 1)]
    open_start = f"attributes.start_time < {edges[1]}"
    return [open_start] + [
        f"attributes.start_time >= {low} and attributes.start_time < {high}"
        for low, high in pairwise(edges[1:])
    ]


def points(uri: str, run_ids: Sequence[str], metrics: Sequence[str]) -> Points:
    """One request per metric and 100 runs."""
    run_places = places(run_ids)
    wanted = [
        (place, metric, ids)
        for ids in chunks(run_ids, _RUNS)
        for place, metric in enumerate(metrics)
    ]
    place, metric, ids = wanted[0]
    first = _history(uri, metric, ids, run_places, place)
    if first is None:
        _log.warning(
            "this server has no call for many histories: reading run by run through MLflow, slower"
        )
        yield from client.points(uri, run_ids, metrics)
        return
    yield from first
    with ThreadPoolExecutor(_REQUESTS) as pool:
        for parts in pool.map(
            lambda task: _history(uri, task[1], task[2], run_places, task[0]), wanted[1:]
        ):
            assert parts is not None  # the first request was answered
            yield from parts


def _history(
    uri: str, metric: str, ids: Sequence[str], run_places: dict[str, int], metric_place: int
) -> list[Part] | None:
    """All points of one metric of up to 100 runs; None when the server does not know the call."""
    parts: list[Part] = []
    left = sorted(ids)
    while left:
        query = {"run_id": left, "metric_key": metric, "max_results": _ROWS}
        try:
            rows = _request(uri, _HISTORY, "GET", params=query)["metrics"]
        except MlflowException as error:
            if error.error_code != "ENDPOINT_NOT_FOUND":
                raise
            return None
        full = len(rows) == _ROWS
        if full:  # perhaps cut off: rows are sorted by run, so all runs but the last are whole
            last = rows[-1]["run_id"]
            rows = [row for row in rows if row["run_id"] != last]
            if not rows:
                parts.append(client.of_one(uri, last, run_places[last], metric, metric_place))
            more = [run_id for run_id in left if run_id >= last][0 if rows else 1 :]
            if len(more) >= len(left):  # it would be asked for ever
                raise ValueError("histories are not sorted by run")
            left = more
        parts.append(
            Part.of(
                [run_places[row["run_id"]] for row in rows],
                [metric_place] * len(rows),
                [row["step"] for row in rows],
                [float(row["value"]) for row in rows],
                [row["timestamp"] for row in rows],
            )
        )
        if not full:
            break
    return parts


def _pages(uri: str, where: dict[str, Any], search: str, shared: dict[str, str]) -> list[Found]:
    return [run for page in _each(uri, where, search, shared) for run in page]


def _each(
    uri: str, where: dict[str, Any], search: str, shared: dict[str, str]
) -> Iterator[list[Found]]:
    token: str | None = None
    while True:
        before = token
        found, token = _page(uri, where, search, shared, token=token)
        yield found
        if not token:
            return
        if token == before or not found:
            raise ValueError("pages go on without end")


def _page(
    uri: str,
    where: dict[str, Any],
    search: str,
    shared: dict[str, str],
    size: int = _PAGE,
    token: str | None = None,
    order: str = _NEWEST,
) -> tuple[list[Found], str | None]:
    body = {
        **where,
        "filter": search,
        "max_results": size,
        "order_by": [order],
    }
    answer = _request(uri, _SEARCH, "POST", json=body | ({"page_token": token} if token else {}))
    found = [_found(run, shared) for run in answer.get("runs", ())]
    return found, answer.get("next_page_token")


def _found(run: dict[str, Any], shared: dict[str, str]) -> Found:
    info, data = run["info"], run.get("data", {})

    def texts(items: Sequence[dict[str, str]]) -> dict[str, str]:
        # Most values are the same in many runs: kept once.
        return {
            sys.intern(item["key"]): shared.setdefault(item["value"], item["value"])
            for item in items
        }

    return Found(
        run_id=info["run_id"],
        name=info.get("run_name", ""),
        status=info["status"],
        start_milliseconds=info["start_time"],
        params=texts(data.get("params", ())),
        tags=texts(data.get("tags", ())),
        metrics={
            sys.intern(item["key"]): float(item["value"]) for item in data.get("metrics", ())
        },  # NaN comes as a word
        deleted=info.get("lifecycle_stage") == "deleted",
    )


def _request(uri: str, path: str, method: str, **content: Any) -> dict[str, Any]:
    """The answer; raises MLflow's own errors.

    Each request has a connection of its own: kept ones were all taken by one worker of
    `mlflow server`, and the others idled.
    """
    with http_request(
        get_default_host_creds(uri),
        path,
        method,
        extra_headers={"Connection": "close"},
        stream=True,  # or all of it would be in memory before its size is known
        **content,
    ) as response:
        if response.status_code != 200:
            verify_rest_response(response, path)
        answer: dict[str, Any] = untrusted.parse_json(_body(response), f"the answer to {path}")
    return answer


def _body(response: Response) -> bytes:
    """All of an answer, unpacked. Raises InputError for one that does not end."""
    found = bytearray()
    for chunk in response.iter_content(1 << 16):
        found += chunk
        if len(found) > _MOST_BYTES:
            raise InputError(
                f"the tracking server answers with more than {_MOST_BYTES >> 20} MiB; expected an"
                " MLflow server: set MLFLOW_TRACKING_URI"
            )
    return bytes(found)
