"""Environments of their own: made once, complete or not at all, by whoever asks for a trial first."""

from __future__ import annotations

import fcntl
import io
import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import frameworks
import models
from entrypoints import doctor, environment, probe, processes, study_plan, supervisor, verify
from measurement.errors import InputError
from measurement.schedule import Condition

NAME = "tensorflow"


class Fake:
    """Commands as they are given; `fails`: what a command prints, by a word in it, before it ends with
    exit code 1."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.fails: dict[str, str] = {}

    def __call__(self, command: list[str], **options: Any) -> Any:
        self.commands.append(command)
        text = next((said for word, said in self.fails.items() if word in command), None)
        if text is None and "venv" in command:
            folder = Path(command[-1], "bin")
            folder.mkdir(parents=True)
            (folder / "python").write_text("")
        return _Process(
            text or "Collecting x\n  Downloading x-1.whl (9 MB)\n", int(text is not None)
        )


class _Process:
    def __init__(self, said: str, code: int) -> None:
        self.stdout, self.returncode = io.StringIO(said), code

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """No framework here, an empty cache, and commands that do nothing."""
    found = Fake()
    real = frameworks.available
    monkeypatch.setattr(frameworks, "available", lambda name: name != NAME and real(name))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(environment, "directory", lambda _: tmp_path / "framework-study")
    monkeypatch.setattr(environment.subprocess, "Popen", found)
    monkeypatch.setattr(environment, "has_cuda", lambda: False)
    return found


def one_line(raised: pytest.ExceptionInfo[InputError]) -> str:
    text = str(raised.value)
    assert "\n" not in text
    return text


def test_a_framework_that_is_here_needs_no_environment(fake: Fake) -> None:
    if not frameworks.available("pytorch"):
        pytest.skip("PyTorch is not installed")
    assert environment.python("pytorch") == environment.ready("pytorch") == Path(sys.executable)
    assert fake.commands == []


def test_a_framework_that_is_not_here_and_has_none_is_told(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frameworks, "available", lambda name: False)
    with pytest.raises(
        InputError, match="'mlx' is not installed; run 'pip install -r requirements"
    ):
        environment.python("mlx")
    assert environment.ready("mlx") is None
    assert fake.commands == []


def test_it_is_made_once_with_pins_and_progress(
    fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    assert environment.ready(NAME) is None
    python = environment.python(NAME)
    assert python.parent.parent == environment.folder(NAME) and python.exists()
    assert environment.ready(NAME) == environment.python(NAME) == python
    venv, pip, tried = fake.commands  # and nothing for the second call
    assert venv[1:3] == ["-m", "venv"] and pip[0] == str(python)
    assert pip[pip.index("-c") + 1] == str(environment.ROOT / "constraints.txt")
    assert {"tensorflow", "numpy", "safetensors"} <= set(pip)
    assert tried == [str(python), "-c", "import tensorflow"]
    out, err = capsys.readouterr()
    assert out == "" and "this takes minutes" in err and "Downloading x-1.whl (9 MB)" in err


def test_with_an_nvidia_driver_cuda_comes_too(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    without = environment.folder(NAME)
    monkeypatch.setattr(environment, "has_cuda", lambda: True)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, 1 << 40))  # type: ignore[attr-defined]
    assert environment.folder(NAME) != without
    environment.python(NAME)
    assert "tensorflow[and-cuda]" in fake.commands[1] and "tensorflow" not in fake.commands[1]


@pytest.mark.parametrize("there", [True, False])
def test_the_driver_is_known_by_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    if there:
        (tmp_path / "nvidia-smi").write_text("#!/bin/sh\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment.has_cuda() == (there and sys.platform == "linux")


@pytest.mark.parametrize("changed", ["pin", "requirements", "python", "another pin"])
def test_other_packages_are_another_environment(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    for name in ("constraints.txt", "requirements-tensorflow.txt"):
        shutil.copy(environment.ROOT / name, project)
    before = environment.folder(NAME)
    monkeypatch.setattr(environment, "ROOT", project)
    assert environment.folder(NAME) == before
    pins = project / "constraints.txt"
    if changed == "python":
        monkeypatch.setattr(environment.platform, "python_version", lambda: "3.11.99")
    elif changed == "pin":
        pins.write_text(pins.read_text().replace("numpy==", "numpy==9"))
    elif changed == "another pin":
        pins.write_text(pins.read_text().replace("torch==", "torch==9"))
    else:
        with (project / "requirements-tensorflow.txt").open("a") as file:
            file.write("more\n")
    assert (environment.folder(NAME) == before) == (changed == "another pin")


@pytest.mark.parametrize(
    ("fails", "said"),
    [
        (
            {"pip": "noise\nERROR: No matching distribution found for x\n"},
            "No matching distribution",
        ),
        (
            {"pip": "WARNING: Retrying: NewConnectionError(...)\nERROR: No matching x\n"},
            "the package index cannot be reached",
        ),
        ({"venv": "Error: ensurepip is not available.\n"}, "ensurepip is not available"),
        ({"-c": "ImportError: libcuda.so.1: cannot open\n"}, "ImportError"),
        ({"venv": "\n"}, "no message"),
    ],
)
def test_a_failure_is_one_line_and_leaves_nothing(
    fake: Fake, fails: dict[str, str], said: str
) -> None:
    fake.fails = fails
    if "-c" in fails:
        fake.fails = {"import tensorflow": fails["-c"]}
    with pytest.raises(InputError) as raised:
        environment.python(NAME)
    text = one_line(raised)
    assert said in text and "run again" in text and "requirements-tensorflow.txt" in text
    assert environment.ready(NAME) is None and not environment.folder(NAME).exists()
    fake.fails = {}
    assert environment.python(NAME).exists()


def test_a_half_made_one_is_made_anew(fake: Fake) -> None:
    """As after a power cut: the marker comes last."""
    place = environment.folder(NAME)
    (place / "bin").mkdir(parents=True)
    (place / "bin" / "python").write_text("old")
    (place / "rest").write_text("old")
    assert environment.ready(NAME) is None
    assert environment.python(NAME).read_text() == ""
    assert not (place / "rest").exists()


def test_ctrl_c_leaves_nothing_that_counts(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(command: list[str], **options: Any) -> Any:
        if "pip" in command:
            raise KeyboardInterrupt
        return fake(command, **options)

    monkeypatch.setattr(environment.subprocess, "Popen", stop)
    with pytest.raises(KeyboardInterrupt):
        environment.python(NAME)
    assert environment.ready(NAME) is None and not environment.folder(NAME).exists()


def test_a_full_disk_is_told_before_anything_is_fetched(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, 1 << 30))  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=r"1\.0 GiB are free there, 4 GiB needed") as raised:
        environment.python(NAME)
    one_line(raised)
    assert fake.commands == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_may_not_be_written_is_one_line(fake: Fake, tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        with pytest.raises(InputError, match="cannot be made in"):
            environment.python(NAME)
    finally:
        tmp_path.chmod(stat.S_IRWXU)


def test_a_cache_that_is_a_file_is_one_line(fake: Fake, tmp_path: Path) -> None:
    (tmp_path / "framework-study").write_text("")
    with pytest.raises(InputError, match="cannot be made in") as raised:
        environment.python(NAME)
    one_line(raised)


def test_another_process_that_makes_it_is_waited_for(
    fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    place = environment.folder(NAME)
    place.parent.mkdir(parents=True)
    with (place.parent / f"{place.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found: list[Path] = []
        thread = threading.Thread(target=lambda: found.append(environment.python(NAME)))
        thread.start()
        thread.join(0.3)
        assert thread.is_alive() and not found
        (place / "bin").mkdir(parents=True)
        (place / environment.COMPLETE).write_text("")
        fcntl.flock(lock, fcntl.LOCK_UN)
    thread.join(10)
    assert found == [place / "bin" / "python"]
    assert fake.commands == []  # the other one did it
    assert "waiting for it" in capsys.readouterr().err


# --- who makes one, and who does not


@pytest.fixture
def workload(monkeypatch: pytest.MonkeyPatch) -> str:
    """A workload with a twin in the framework."""
    real = models.frameworks
    monkeypatch.setattr(
        models, "frameworks", lambda w: sorted({*real(w), NAME}) if w == "mnist" else real(w)
    )
    return "mnist"


def resolved(workload: str, preset: str = "smoke", **changes: Any) -> dict[str, Any]:
    condition = Condition(NAME, **{"device": "cpu", **changes})
    return supervisor.resolve(workload, preset, {}, "synthetic", condition)


def test_a_trial_makes_it_before_it_starts(fake: Fake, workload: str) -> None:
    resolved(workload)
    assert environment.ready(NAME) is not None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"blas": "mkl"}, "blas=mkl: tensorflow multiplies with oneDNN and Eigen of its own"),
        ({"version": "2.20"}, "expected a version number of mlx or pytorch"),
        ({"compile": "maybe"}, "unknown compile 'maybe'"),
        ({"dtype": "int8"}, "unknown dtype 'int8'"),
        ({"device": "tpu"}, "unknown device 'tpu'"),
        ({"threads": -1}, "threads=-1"),
        ({"preset": "huge"}, "unknown preset 'huge'"),
    ],
)
def test_a_mistake_makes_nothing(
    fake: Fake, workload: str, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said) as raised:
        resolved(workload, **changes)
    one_line(raised)
    assert fake.commands == []


def test_doctor_makes_nothing_and_says_how_it_comes(
    fake: Fake, workload: str, monkeypatch: pytest.MonkeyPatch, store: Path
) -> None:
    monkeypatch.setattr(frameworks, "names", lambda: [NAME])
    lines = [line for line in doctor.lines() if line.startswith(NAME)]
    assert len(lines) == 1
    assert "not installed; its own environment is made by the first" in lines[0]
    assert "mnist_tensorflow" in lines[0]
    with pytest.raises(InputError, match="not installed; its own environment"):
        probe.probe(NAME)
    assert fake.commands == []


def test_verify_leaves_out_what_is_not_here_and_makes_what_is_asked_for(
    fake: Fake, workload: str
) -> None:
    here = [name for name in models.frameworks(workload) if frameworks.available(name)]
    assert verify.twins_of(workload, None)[0] == here and NAME in verify.twins_of(workload, None)[1]
    assert verify.twins_of(workload, [NAME]) == (["pytorch", NAME], [])
    assert set(verify.twins_of(workload, None, "tf32")[0]) == {"mlx", "pytorch"} & set(here)
    assert verify.asked_for("auto") is None
    assert verify.asked_for("tensorflow, mlx") == ["tensorflow", "mlx"]
    with pytest.raises(
        InputError, match="unknown framework 'theano'; choose one or more of: .*mlx"
    ):
        verify.asked_for("mlx,theano")
    assert fake.commands == []
    environment.python(NAME)
    assert NAME in verify.twins_of(workload, None)[0]


def test_a_study_looks_for_a_device_in_every_framework_of_its_arms(
    fake: Fake, workload: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    probed: list[str] = []

    def devices(name: str) -> dict[str, Any]:
        probed.append(name)
        return {"devices": [{}, {"missing": "none"} if name == NAME else {}]}

    monkeypatch.setattr(study_plan, "probe", devices)
    assert study_plan.common_device("auto") == "gpu" and probed == ["mlx", "pytorch"]
    assert study_plan._further("mlx blas=mkl, tensorflow", workload) == [NAME]
    assert (
        study_plan._further("mlx, tensorflow", "bert_tiny")
        == study_plan._further("auto", workload)
        == []
    )
    assert fake.commands == []
    assert study_plan.common_device("auto", [NAME]) == "cpu"
    assert environment.ready(NAME) is not None
    assert study_plan.common_device("gpu", [NAME]) == "gpu"


def test_three_frameworks_are_compared_like_with_like() -> None:
    sizes = models.options("mnist")
    base = Condition("pytorch", "cpu")
    _, comparisons = study_plan.given_arms(
        "mlx blas=mkl, pytorch blas=mkl, tensorflow", base, sizes
    )
    assert [c["role"] for c in comparisons] == ["headline", "headline", "resolution"]


def test_the_worker_runs_with_the_frameworks_own_python(
    fake: Fake, workload: str, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = supervisor.TrialSpec(
        workload,
        Condition(NAME, "cpu"),
        "smoke",
        resolved(workload),
        0,
        1,
        "synthetic",
        "auto",
        0.9,
    )
    given = supervisor.worker_spec(spec, "measure")
    assert given["python"] == str(environment.ready(NAME))
    monkeypatch.undo()
    started: list[list[str]] = []

    def start(command: list[str], **options: Any) -> Any:
        started.append(command)
        raise FileNotFoundError(command[0])

    monkeypatch.setattr(processes.subprocess, "Popen", start)
    with pytest.raises(FileNotFoundError):
        processes.run_worker(given, store.parent)
    assert started[0][:3] == [given["python"], "-m", "entrypoints.worker"]


def test_a_real_environment_is_one_that_python_can_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real venv, nothing to install."""
    monkeypatch.setattr(environment, "directory", lambda _: tmp_path)
    monkeypatch.setattr(environment, "wanted", lambda _: ["pip"])
    monkeypatch.setattr(frameworks, "available", lambda _: False)
    monkeypatch.setattr(frameworks, "package", lambda _: "json")
    python = environment.python(NAME)
    done = subprocess.run([python, "-c", "import sys; print(sys.prefix)"], capture_output=True)
    assert done.stdout.decode().strip() == str(environment.folder(NAME))


def test_register_refuses_a_framework_that_nothing_serves(
    run: Callable[..., tuple[int, str, str]], store: Path
) -> None:
    code, _, error = run("register", "--framework", NAME)
    assert code == 2
    assert "tensorflow runs hold no MLflow model" in error and "mlx, pytorch" in error
    assert "Traceback" not in error and error.count("\n") == 1
