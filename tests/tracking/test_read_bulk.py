"""Bulk reads give what MLflow's own client gives, by every way and at every limit."""

from __future__ import annotations

import json
import logging
import math
import threading
from base64 import b64encode
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import mlflow
import numpy as np
import pytest
from mlflow.entities import Metric, Param, RunTag
from mlflow.store.db.utils import _get_latest_schema_revision
from mlflow.tracking import MlflowClient

from benchmarks import stores
from measurement.errors import InputError
from tracking import bulk
from tracking.bulk import Found, client, database, server
from tracking.bulk.columns import Histories, Part, Wanted

TRIALS = {"kind": "trial", "study": stores.STUDY}
EPOCHS = 3
ODD = "odd/name with space/p50"


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> str:
    """310 trials, more than one page; then what MLflow's client wrote: a deleted run, a failed
    one, one without anything, runs of another experiment and of a deleted one."""
    uri = stores.fill(tmp_path_factory.mktemp("bulk") / "store.db", 310, EPOCHS)
    writer = MlflowClient(uri)
    tags = [RunTag(key, value) for key, value in TRIALS.items()]

    def run(experiment: str, start: int, status: str = "FINISHED") -> str:
        run_id = writer.create_run(experiment, start_time=start).info.run_id
        metrics = [Metric(ODD, value, start, step) for step, value in enumerate((1.5, math.nan))]
        metrics += [Metric(ODD, -math.inf, start, 7), Metric(ODD, 2.5, start - 1, 7)]
        writer.log_batch(run_id, metrics, [Param("p/q", "naïve ' \" ; -- %")], tags)
        writer.set_terminated(run_id, status)
        return str(run_id)

    same = stores.START_MILLISECONDS  # the very time of the first trial
    other, gone = writer.create_experiment("other"), writer.create_experiment("gone")
    run(other, same)
    run(other, 1)
    run("0", same, status="FAILED")
    writer.create_run(other, start_time=5)
    writer.delete_run(run("0", same))
    run(gone, same)
    writer.delete_experiment(gone)
    return uri


@pytest.fixture(scope="module")
def address(filled: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with stores.server(filled, tmp_path_factory.mktemp("server")) as found:
        yield found


@pytest.fixture(params=["database", pytest.param("server", marks=pytest.mark.slow)])
def uri(request: pytest.FixtureRequest, filled: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The store by both fast ways; it is the current one in the test."""
    chosen = filled if request.param == "database" else request.getfixturevalue("address")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", chosen)
    mlflow.set_tracking_uri(None)
    return str(chosen)


def by_mlflow(uri: str, condition: str) -> dict[str, Found]:
    """MLflow's own search, every experiment, as plain values."""
    reader = MlflowClient(uri)
    experiments = [experiment.experiment_id for experiment in reader.search_experiments()]
    return {
        run.info.run_id: Found(
            run.info.run_id,
            run.info.run_name,
            run.info.status,
            run.info.start_time,
            run.data.params,
            run.data.tags,
            run.data.metrics,
        )
        for run in reader.search_runs(experiments, condition, max_results=1000)
    }


def plain(found: Found) -> str:
    """NaN equals NaN in text."""
    return repr((found.run_id, found.name, found.status, found.start_milliseconds)) + repr(
        [sorted(values.items()) for values in (found.params, found.tags, found.metrics)]
    )


def test_deleted_runs_are_there_when_asked_for_and_say_so(uri: str, filled: str) -> None:
    kept = {run.run_id for run in bulk.runs(TRIALS)}
    every = {run.run_id: run for run in bulk.runs(TRIALS, deleted=True)}
    gone = {run_id for run_id, run in every.items() if run.deleted}
    assert len(gone) == 2 and gone | kept == every.keys() and not gone & kept
    slowly = client.runs(filled, Wanted(TRIALS, None, None, deleted=True))
    assert {run.run_id for run in slowly if run.deleted} == gone


@pytest.mark.parametrize(
    ("tags", "status", "condition"),
    [
        (TRIALS, "FINISHED", "tags.kind = 'trial' and attributes.status = 'FINISHED'"),
        (TRIALS, None, "tags.kind = 'trial'"),
        ({}, None, ""),
        ({"arm": "arm 3"}, None, "tags.arm = 'arm 3'"),
        ({"arm": "ARM 3"}, None, "tags.arm = 'ARM 3'"),
        ({"kind": "study"}, None, "tags.kind = 'study'"),
    ],
)
def test_runs_are_mlflows(
    uri: str, tags: dict[str, str], status: str | None, condition: str
) -> None:
    expected = by_mlflow(uri, condition)
    found = bulk.runs(tags, status)
    assert len(found) == len(expected)
    assert [plain(run) for run in found] == [plain(expected[run.run_id]) for run in found]
    times = [run.start_milliseconds for run in found]
    assert times == sorted(times)


def test_named_runs_are_found_and_others_left_out(uri: str) -> None:
    named = [f"{number:032x}" for number in range(0, 300, 2)]  # more than one filter holds
    found = bulk.runs(run_ids=[*named, "f" * 32, "no id"])
    assert sorted(run.run_id for run in found) == named
    assert bulk.runs(run_ids=[]) == []


def expect_equal(found: Histories, uri: str) -> None:
    """Every series is MLflow's, ordered by step and then time."""
    reader = MlflowClient(uri)
    for run_id in found.run_ids:
        for metric in found.metrics:
            history = reader.get_metric_history(run_id, metric)
            history.sort(key=lambda point: (point.step, point.timestamp))
            steps, values = found.series(run_id, metric)
            np.testing.assert_array_equal(steps, [point.step for point in history])
            np.testing.assert_array_equal(values, [point.value for point in history])


def sample(uri: str) -> list[str]:
    """Runs with NaN and infinity, ordinary ones, MLflow's own."""
    return [run_id for run_id in by_mlflow(uri, "") if not run_id.startswith("0" * 20)] + [
        f"{number:032x}" for number in (0, 7, 100, 309)
    ]


def test_histories_are_mlflows(uri: str) -> None:
    run_ids = sample(uri)
    found = bulk.histories(run_ids, [*stores.METRICS, ODD, "never/logged"])
    expect_equal(found, uri)
    assert len(found) == 4 * 10 * EPOCHS + 4 * (len(run_ids) - 5)
    assert np.isnan(found.series("0" * 32, "train/loss")[1][-1])
    assert found.series("0" * 32, "energy/joules")[1].max() == stores.INFINITE
    times = found.timestamp_milliseconds[found.run == found.run_ids.index(f"{7:032x}")]
    assert times.min() == stores.START_MILLISECONDS + 7 * 60_000


def test_all_points_of_many_runs_at_once(uri: str) -> None:
    run_ids = [f"{number:032x}" for number in range(310)]
    found = bulk.histories(run_ids, stores.METRICS)
    assert len(found) == 310 * 10 * EPOCHS
    assert (np.bincount(found.run) == 10 * EPOCHS).all()
    assert (np.bincount(found.metric) == 310 * EPOCHS).all()
    assert found.run.dtype == np.int32 and found.value.dtype == np.float64


def test_nothing_asked_nothing_given(uri: str) -> None:
    assert len(bulk.histories([], ["train/loss"])) == 0
    assert len(bulk.histories(["0" * 32], [])) == 0
    empty = bulk.histories(["f" * 32], ["train/loss"])
    assert [len(column) for column in empty.series("f" * 32, "train/loss")] == [0, 0]
    with pytest.raises(KeyError):
        empty.series("0" * 32, "train/loss")


@pytest.mark.parametrize("limit", [1, 2, EPOCHS, EPOCHS + 1, 2 * EPOCHS])
@pytest.mark.slow
def test_an_answer_that_was_cut_off_is_completed(
    address: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_ROWS", limit)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    found = bulk.histories(sample(address), ["train/loss", ODD])
    expect_equal(found, address)


@pytest.mark.slow
def test_a_server_without_the_bulk_call_is_read_run_by_run_and_told(
    address: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "_HISTORY", "/ajax-api/2.0/mlflow/metrics/no-such-call")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with caplog.at_level(logging.WARNING):
        expect_equal(bulk.histories(sample(address), ["train/loss"]), address)
    assert "run by run" in caplog.text


def test_the_installed_mlflow_makes_a_schema_that_is_known() -> None:
    assert _get_latest_schema_revision() in database.REVISIONS, (
        "MLflow changed its tables: compare them with tracking/bulk/database.py, then add the revision"
    )


def test_an_unknown_schema_is_read_by_mlflow_and_told(
    filled: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", filled)
    fast = bulk.runs(TRIALS)
    monkeypatch.setattr(database, "REVISIONS", frozenset())
    monkeypatch.setattr(database, "points", None)  # would fail if it were used
    with caplog.at_level(logging.WARNING):
        assert sorted(map(plain, bulk.runs(TRIALS))) == sorted(map(plain, fast))
        expect_equal(bulk.histories(sample(filled)[:3], [ODD]), filled)
    assert "schema" in caplog.text and "slower" in caplog.text


@pytest.mark.parametrize(("first", "end"), [(0, 1), (0, 16), (5, 1_790_000_000_000), (7, 9)])
def test_windows_hold_every_time_once(first: int, end: int) -> None:
    found = server.windows(first, end)
    for moment in {first, first + 1, (first + end) // 2, end - 1, first - 3}:
        if moment < end:
            held = [f for f in found if eval(f.replace("attributes.start_time", str(moment)))]
            assert len(held) == 1


def test_a_server_that_is_gone_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for read in (lambda: bulk.runs(TRIALS), lambda: bulk.histories(["0" * 32], ["train/loss"])):
        with pytest.raises(InputError, match="127.0.0.1:9 cannot be used") as caught:
            read()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("tags", [{"study": "a'b"}, {"a`b": "c"}])
def test_quotes_are_refused(tags: dict[str, str]) -> None:
    with pytest.raises(InputError, match="quote"):
        bulk.runs(tags)
    with pytest.raises(InputError, match="quote"):
        bulk.runs(run_ids=list(tags.values()) + list(tags))


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        (
            {"MLFLOW_TRACKING_USERNAME": "ann", "MLFLOW_TRACKING_PASSWORD": "pa:ss"},
            "Basic " + b64encode(b"ann:pa:ss").decode(),
        ),
        ({"MLFLOW_TRACKING_TOKEN": "t0ken"}, "Bearer t0ken"),
    ],
)
def test_credentials_go_with_every_request(
    variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, str | None]] = []

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append((self.path.partition("?")[0], self.headers["Authorization"]))
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps({"metrics": []}).encode())

        do_GET = do_POST

        def log_message(self, *_: object) -> None:
            pass

    listening = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    try:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{listening.server_port}")
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert bulk.runs(TRIALS) == []
        assert len(bulk.histories(["0" * 32], ["train/loss"])) == 0
    finally:
        listening.shutdown()
        listening.server_close()
    assert {path.rpartition("/")[2] for path, _ in seen} == {"search", "get-history-bulk"}
    assert {header for _, header in seen} == {expected}


def test_columns_are_ordered_whatever_order_they_came_in() -> None:
    parts = [
        Part.of([1, 0], [0, 1], [5, 2], [50.0, 2.0], [9, 9]),
        Part.of([0], [1], [1], [1.0], [8]),
    ]
    found = Histories.of(["a", "b"], ["x", "y"], parts)
    assert [*found.run, *found.metric, *found.step] == [0, 0, 1, 1, 1, 0, 1, 2, 5]
    assert found.series("a", "y")[1].tolist() == [1.0, 2.0]
    assert found.series("a", "x")[1].tolist() == []
    assert found.series("b", "x")[1].tolist() == [50.0]


def test_the_client_alone_gives_the_same(filled: str) -> None:
    parts = client.points(filled, ["0" * 32], ["train/loss"])
    expect_equal(Histories.of(["0" * 32], ["train/loss"], parts), filled)
