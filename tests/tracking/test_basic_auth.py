"""A tracking server that asks for a password: MLflow's own variables are enough, for every way in which
this project talks to it, and what is in them is seen by nobody else."""

from __future__ import annotations

import io
import runpy
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import redirect_stdout
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import mlflow
import pytest
from mlflow.tracking import MlflowClient

from benchmarks import stores
from measurement.errors import InputError
from tracking import bulk, read, store, write
from tracking.contents import Store
from tracking.transfer import NEW, THERE, Transfer

KEEPER, PASSWORD, SECRET = "keeperofruns", "open-sesame-42", "cookie"
NEEDED = pytest.importorskip("flask_wtf", reason="mlflow[auth] is not installed")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("auth")
    (folder / "auth.ini").write_text(
        "[mlflow]\ndefault_permission = READ\n"
        f"database_uri = sqlite:///{folder / 'users.db'}\n"
        f"admin_username = {KEEPER}\nadmin_password = {PASSWORD}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        "auth_cache_ttl_seconds = 60\n"  # checking a password takes longer than most answers
    )
    given = {
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": SECRET,
    }
    uri = f"sqlite:///{folder / 'runs.db'}"
    with stores.server(uri, folder, more=("--app-name", "basic-auth"), variables=given) as address:
        yield address


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """No credentials of this machine, one try, here."""
    for name in ("USERNAME", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(None)
    return monkeypatch


def test_everything_goes_through_with_the_standard_variables(
    server: str, client: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    client.setenv("MLFLOW_TRACKING_URI", server)
    client.setenv("MLFLOW_TRACKING_USERNAME", KEEPER)
    client.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    assert store.prepare() == "0"
    run_id = write.begin("trial", "a trial", {"seed": "1", "arm": "mlx", "study": "s"})
    write.log_params(run_id, {"workload": "mnist"})
    for step in range(3):
        MlflowClient().log_metric(run_id, "train/loss", 0.5, step=step)
    (tmp_path / "out").mkdir()
    write.write_samples(tmp_path / "out" / "samples.parquet", {"epoch_seconds": [1.0, 2.0]})
    write.attach(run_id, tmp_path / "out", "")
    write.finish(run_id)
    assert [row.run_id for row in read.trials("s")] == [run_id]
    steps, values = bulk.histories([run_id], ["train/loss"]).series(run_id, "train/loss")
    assert steps.tolist() == [0, 1, 2] and values.tolist() == [0.5] * 3
    assert read.samples(run_id)["epoch_seconds"].tolist() == [1.0, 2.0]
    assert read.studies() == []


def test_a_history_is_published_by_a_user_of_ones_own(
    server: str, client: pytest.MonkeyPatch, tmp_path: Path, project: Path
) -> None:
    """Over HTTP with files, a data set and a parent, by an account that deploy/lab/users.py has made."""
    source = f"sqlite:///{tmp_path / 'laptop.db'}"
    client.setenv("MLFLOW_TRACKING_URI", source)
    above = write.begin("study", "a study", {"study": "published"})
    below = write.begin("trial", "a trial", {"study": "published"}, parent=above)
    write.log_metrics(below, {"train/loss": float("nan")})
    write.attach_text(below, "hello", "notes/hello.txt")
    for run_id in (below, above):
        write.finish(run_id)
    client.setenv("MLFLOW_TRACKING_URI", server)
    client.setenv("MLFLOW_TRACKING_USERNAME", KEEPER)
    client.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    users = runpy.run_path(str(project / "deploy" / "lab" / "users.py"))["main"]
    with redirect_stdout(io.StringIO()) as said:
        assert users(["add", "alice", "--generate"]) == 0
    client.setenv("MLFLOW_TRACKING_USERNAME", "alice")
    client.setenv("MLFLOW_TRACKING_PASSWORD", said.getvalue().strip().rpartition(": ")[2])
    with pytest.raises(
        InputError, match="403, not allowed"
    ):  # the default experiment is the keeper's
        [*Transfer(Store(source)).move(lambda step: None)]
    for state in (NEW, THERE):
        moved = [*Transfer(Store(source), "of alice").move(lambda step: None)]
        assert [one.state for one in moved] == [state] * 2
    found = {run.name: run for run in bulk.runs({"study": "published"})}
    assert found["a trial"].tags["mlflow.parentRunId"] == found["a study"].run_id
    assert found["a trial"].tags["origin_run_id"] == below
    assert (
        Path(
            MlflowClient().download_artifacts(found["a trial"].run_id, "notes/hello.txt")
        ).read_text()
        == "hello"
    )


@pytest.mark.parametrize("given", [{}, {"USERNAME": KEEPER, "PASSWORD": "expired-yesterday"},
                                   {"TOKEN": "no-token-of-this-server"}])  # fmt: skip
def test_credentials_that_are_none_are_one_line_that_does_not_tell_them(
    given: dict[str, str], server: str, client: pytest.MonkeyPatch
) -> None:
    client.setenv("MLFLOW_TRACKING_URI", server.replace("//", "//someone:in-the-address@"))
    for name, value in given.items():
        client.setenv(f"MLFLOW_TRACKING_{name}", value)
    for attempt in (store.prepare, read.trials, lambda: write.begin("trial", "t", {})):
        with pytest.raises(InputError, match="refuses the credentials") as error:
            attempt()
        said = str(error.value)
        assert "\n" not in said and "MLFLOW_TRACKING_PASSWORD" in said
        assert not any(word in said for word in (*given.values(), "in-the-address"))


class Seen(BaseHTTPRequestHandler):
    """Writes down what was asked with which credentials; sends the first port's callers to the other."""

    asked: list[tuple[int, str | None]] = []
    elsewhere = ""

    def do_POST(self) -> None:
        port = self.server.server_address[1]
        self.asked.append((int(port), self.headers.get("Authorization")))
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(307 if self.elsewhere and str(port) not in self.elsewhere else 200)
        self.send_header("Location", self.elsewhere + self.path)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    do_GET = do_POST

    def log_message(self, *_: object) -> None: ...


@pytest.mark.parametrize(
    ("given", "header"),
    [
        (
            {"USERNAME": KEEPER, "PASSWORD": PASSWORD},
            "Basic " + b64encode(f"{KEEPER}:{PASSWORD}".encode()).decode(),
        ),
        ({"TOKEN": "a-token-of-somebody"}, "Bearer a-token-of-somebody"),
    ],
)
def test_credentials_are_sent_to_the_server_and_follow_to_no_other_host(
    given: dict[str, str], header: str, client: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    servers = [HTTPServer(("127.0.0.1", 0), Seen) for _ in range(2)]
    for one in servers:
        threading.Thread(target=one.serve_forever, daemon=True).start()
    first, second = (int(one.server_address[1]) for one in servers)
    client.setattr(Seen, "asked", [])
    client.setattr(Seen, "elsewhere", f"http://localhost:{second}")
    for name, value in given.items():
        client.setenv(f"MLFLOW_TRACKING_{name}", value)
    try:
        with caplog.at_level("DEBUG"):
            bulk.server._request(f"http://127.0.0.1:{first}", "/api", "POST", json={})
    finally:
        for one in servers:
            one.shutdown()
            one.server_close()
    assert Seen.asked[0] == (first, header)
    assert [sent for port, sent in Seen.asked if port == second] == [None]
    assert not any(value in caplog.text for value in (*given.values(), header.split()[1]))
