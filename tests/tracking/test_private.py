"""What a run must not tell, taken out of text, of files, and of the run that `mlflow run` opened."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import mlflow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.tracking import MlflowClient

from tracking import adopted, private

USER, HOST, SECRET = "zorblaxuser", "zorbhost77", "supersecretvalue42"
HOME = f"/home/{USER}"
PRIVATE = (USER, HOST, SECRET, "ghs_tokenInGitRemote99")


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert USER not in str(tmp_path)  # pytest names it after the user, so it comes first
    for name, value in {
        "HOME": HOME, "USER": USER, "LOGNAME": USER, "HOSTNAME": HOST, "SOME_API_TOKEN": SECRET,
        "TOKENIZERS_PARALLELISM": "false", "SSH_AUTH_SOCK": "/tmp/agent", "MY_PASSWORD": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(platform, "node", lambda: f"{HOST}.example.org")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"its log is {HOME}/study/mlruns/worker.log", "its log is ~/study/mlruns/worker.log"),
        (f"/data/{USER}/x, {USER}_2 and pre{USER}ed", f"/data/[user]/x, [user]_2 and pre{USER}ed"),
        ("/home/somebody/x /Users/Else/y /Users/Shared/z", "/home/[user]/x /Users/[user]/y /Users/Shared/z"),
        (f"on {HOST} and {HOST.upper()}.example.org:5000", "on [host] and [host]:5000"),
        (f"key {SECRET}.", "key [secret]."),
        ("https://me:p@ss@example.org/a?x=1&token=abc", "https://example.org/a?x=1&token=[secret]"),
        ("postgresql://u:pw@h/db?sslmode=require&password=pw", "postgresql://h/db?sslmode=require&password=[secret]"),
        ("Authorization: Bearer abc123def456ghi", "Authorization: Bearer [secret]"),
        ("see ghp_" + "a1" * 12, "see [secret]"),
        (json.dumps({"path": f"{HOME}/x"}), json.dumps({"path": "~/x"})),
        # What is nobody's name stays.
        ("the root user of Ubuntu, Basic authentication, false", "the root user of Ubuntu, Basic authentication, false"),
        ("mlx 0.32.4 on cpu, float32, 1 thread", "mlx 0.32.4 on cpu, float32, 1 thread"),
        ("train/epoch_seconds models/mnist/mlx.py", "train/epoch_seconds models/mnist/mlx.py"),
        ("/srv/home2 and /home alone", "/srv/home2 and /home alone"),
    ],
)  # fmt: skip
def test_text_loses_what_is_private_and_nothing_else(text: str, expected: str) -> None:
    assert private.clean(text) == expected


@pytest.mark.parametrize("name", ["root", "me", "max", "ubuntu", "mnist", "runner", "cpu"])
def test_a_name_that_is_a_word_goes_only_where_it_is_a_name(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("USER", "LOGNAME"):
        monkeypatch.setenv(variable, name)
    monkeypatch.setenv("HOSTNAME", "vm")
    text = f"the {name} of it: models/{name}.py, {name}imum, {name}=1"
    assert private.clean(text) == text
    assert name not in private.clean(f"/home/{name}/x").split("/")
    assert private.clean(f"ssh {name}@{HOST}") == "ssh [user]"


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    st.lists(
        st.one_of(
            st.text(max_size=20),
            st.sampled_from([HOME, USER, HOST, SECRET, "://a:b@", "/home/", "?token=", "Bearer "]),
        )
    )
)
def test_cleaning_twice_is_cleaning_once(parts: list[str]) -> None:
    # A record is signed with what was cleaned, and cleaned again before it is sent.
    once = private.clean("".join(parts))
    assert private.clean(once) == once and SECRET not in once


def test_names_stay_where_they_are_asked_for_and_credentials_never(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(private.KEEP_NAMES, "true")
    assert private.clean(f"{HOME}/x {SECRET} https://a:b@h/") == f"{HOME}/x [secret] https://h/"


def test_a_folder_is_sent_without_what_is_private(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "artifacts"
    (folder / "figures").mkdir(parents=True)
    (folder / "trial.json").write_text(json.dumps({"log": f"{HOME}/a", "user": USER}))
    (folder / "MLmodel").write_text(f"artifact_path: {HOME}/mlruns/m")
    (folder / "figures" / "a.png").write_bytes(b"\x89PNG\x00\xff" * 100)
    (folder / "spoilt.bin").write_bytes(b"\xff\x00" + HOME.encode() + b"\xff")
    (folder / "link.txt").symlink_to("/etc/passwd")
    with private.publishable(folder) as clean:
        found = {
            p.relative_to(clean).as_posix(): p.read_bytes() for p in clean.rglob("*") if p.is_file()
        }
    assert set(found) == {"trial.json", "MLmodel", "figures/a.png"}
    assert not any(word.encode() in content for word in PRIVATE for content in found.values())
    assert "spoilt.bin is not sent" in capsys.readouterr().err
    assert USER in (folder / "trial.json").read_text()  # what is here stays as it was


def opened(client: MlflowClient, experiment: str) -> str:
    """A run as `mlflow run` opens it, of MLflow 3.17: projects/utils.py, _create_run."""
    remote = f"https://{USER}:ghs_tokenInGitRemote99@git.example.org/{USER}/study.git"
    tags = {
        "mlflow.user": USER, "mlflow.source.name": f"{HOME}/study", "mlflow.source.type": "PROJECT",
        "mlflow.project.entryPoint": "mnist_mlx", "mlflow.source.git.repoURL": remote,
        "mlflow.gitRepoURL": remote, "mlflow.source.git.commit": "0" * 40,
    }  # fmt: skip
    run_id = client.create_run(experiment, tags=tags).info.run_id
    client.log_param(run_id, "data_dir", f"{HOME}/data")
    client.log_param(run_id, "device", "cpu")
    return str(run_id)


def test_the_run_that_mlflow_opened_loses_its_users_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(None)
    client = MlflowClient(uri)
    run_id = opened(client, client.create_experiment("e", str(tmp_path / "artifacts")))
    assert USER.encode() in (tmp_path / "mlflow.db").read_bytes()
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    capsys.readouterr()
    adopted.tidy()
    run = client.get_run(run_id)
    assert run.info.user_id == run.data.tags["mlflow.user"] == adopted.UNKNOWN
    assert run.data.tags["mlflow.source.name"] == "study"
    assert run.data.tags["mlflow.source.git.repoURL"] == "https://git.example.org/[user]/study.git"
    assert run.data.tags["mlflow.source.git.commit"] == "0" * 40
    assert run.data.params == {"data_dir": "~/data", "device": "cpu"}
    content = (tmp_path / "mlflow.db").read_bytes()
    # The address of the experiment "Default" is MLflow's, in the folder of the process.
    assert [word for word in PRIVATE if word.encode() in content] == []
    assert capsys.readouterr().err == ""
    adopted.tidy()  # nothing left to do


def test_names_that_are_asked_for_stay_in_the_run_and_its_remotes_token_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv(private.KEEP_NAMES, "true")
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(None)
    client = MlflowClient(uri)
    run_id = opened(client, client.create_experiment("e", str(tmp_path / "artifacts")))
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    adopted.tidy()
    run = client.get_run(run_id)
    assert run.info.user_id == run.data.tags["mlflow.user"] == USER
    assert run.data.tags["mlflow.source.name"] == f"{HOME}/study"
    assert b"ghs_tokenInGitRemote99" not in (tmp_path / "mlflow.db").read_bytes()
