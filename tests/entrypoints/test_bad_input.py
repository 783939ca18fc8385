"""A user's mistake is one line that says what is wrong, what was expected and what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., tuple[int, str, str]]
SYNTHETIC = ("--preset", "smoke", "--dataset", "synthetic")
SMALL = ("--preset", "smoke", "--device", "cpu")
TWO = ("--preset", "smoke", "--device", "cpu-cpu")
MISTAKES = [
    (("verify", "--workload", "mnits"), "unknown workload 'mnits'; choose one of: "),
    (("study", "--workload", "mnits"), "unknown workload 'mnits'"),
    (("study", "--pairs", "-1"), "-1 is not in the range x>=1"),
    (("study", "--name", "a b"), "use letters, digits"),
    (("study", "--arms", "mlx", "--dataset", "synthetic"), "expected two or more different arms"),
    (("study", "--arms", "mlx, theano", "--device", "cpu"), "no twin in 'theano'"),
    (("study", "--arms", "mlx, pytorch blsa=mkl", "--device", "cpu"), "'blsa=mkl' is no setting"),
    (("study", "--arms", "mlx, mlx threads=two", "--device", "cpu"), "must be a whole number"),
    (("study", "--pears", "2"), "No such option"),
    (("trial", "mnist", "mlx", "--epochs", "-3"), "-3 is not in the range x>=1"),
    (("trial", "mnist", "mlx", "--epochs", "three"), "'three' is not a valid integer"),
    (("trial", "mnist", "mlx", "--target", "1.5"), "expected an accuracy of at most 1"),
    (("trial", "mnist", "mlx", "--target", "0"), "0.0 is not in the range"),
    (("trial", "mnist", "mlx", "--preset", "huge"), "unknown preset 'huge'; choose one of: smoke"),
    (("trial", "mnist", "mlx", "--dataset", "cifar"), "unknown dataset 'cifar'; choose one of"),
    (("trial", "mnist", "mlx", "--device", "tpu"), "unknown device 'tpu'; choose one of: auto"),
    (("trial", "mnist", "mlx", "--dtype", "int8"), "unknown dtype 'int8'; choose one of"),
    (("trial", "mnist", "mlx", "--compile", "yes"), "unknown compile 'yes'; choose one of"),
    (("trial", "mnist", "mlx", "--threads", "-1"), "-1 is not in the range"),
    (("trial", "mnist", "mlx", "--hidden_size", "0"), "hidden_size=0: expected a number above 0"),
    (("trial", "mnist", "mlx", "--batch_size", "-4"), "batch_size=-4: expected a number above 0"),
    (("trial", "mnist", "mlx", "--learning_rate", "nan"), "learning_rate=nan"),
    (("trial", "mnist", "mlx", "--price_per_hour", "-1"), "-1.0 is not in the range"),
    (("trial", "mnist", "mlx", "--data_dir", "/no/such/folder"), "/no/such/folder"),
    (("trial", "mnist", "mlx", *SMALL, "--hidden_size", "1" + 11 * "0"), "no room for a record"),
    (("trial", "mnist", "mlx", "--hidden_size", "many"), "'many' is not a valid integer"),
    (("trial", "mnist", "mlx", "--mode", "dream"), "'dream' is not one of 'train', 'infer'"),
    (("trial", "mnist", "mlx", "--checkpoint", "x"), "checkpoint 'x' is no folder"),
    (("trial", "mnist", "mlx", "--mode", "infer", "--checkpoint", "."), "holds no config.json"),
    (("trial", "transformer_lm", "mlx", *SMALL, "--heads", "7"), "heads"),
    (("trial", "transformer_lm", "mlx", *SMALL, "--dataset", "wiki"), "choose one of: ptb"),
    (("trial", "bert_tiny", "mlx", *SMALL, "--length", "1000"), "1000"),
    (("trial", "tinyllama", "mlx", *SMALL, "--prompt_tokens", "9000"), "9000"),
    (("trial", "tinyllama", "mlx", *SMALL, "--checkpoint", "/no/such/folder"), "/no/such/folder"),
    (("trial", "tinyllama", "mlx", *SMALL, "--epochs", "2"), "No such option"),
    (("trial", "tinyllama", "mlx", *SMALL, "--dataset", "no.txt"), "no.txt"),
    (("trial", "whisper_tiny", "mlx", *SMALL, "--dataset", "no.wav"), "no.wav"),
    (("trial", "whisper_tiny", "mlx", *SMALL, "--dataset", "song.mp3"), "or a file *.wav"),
    (("study", "--workload", "tinyllama", "--mode", "train", *SMALL), "has: generate"),
    (("trial", "device_switch", "mlx", "--device", "gpu"), "choose one of: auto, cpu-gpu, cpu-cpu"),
    (("trial", "device_switch", "pytorch", "--device", "cpu"), "unknown device 'cpu'"),
    (("trial", "mnist", "mlx", "--device", "cpu-gpu"), "unknown device 'cpu-gpu'; choose one of"),
    (("trial", "device_switch", "mlx", *TWO, "--size", "1"), "size is 1; expected 2 or more"),
    (("trial", "device_switch", "mlx", *TWO, "--loops", "0"), "loops=0: expected a number above"),
    (("trial", "device_switch", "mlx", *TWO, "--size", "half"), "'half' is not a valid integer"),
    (("trial", "device_switch", "mlx", *TWO, "--dtype", "bfloat16"), "choose one of: float32"),
    (("trial", "device_switch", "mlx", *TWO, "--dataset", "mnist"), "choose one of: uniform"),
    (("trial", "device_switch", "mlx", *TWO, "--checkpoint", "x"), "No such option"),
    (("trial", "device_switch", "mlx", *TWO, "--epochs", "2"), "No such option"),
    (("study", "--workload", "device_switch", "--mode", "train", *TWO), "has: switch"),
    (("study", "--workload", "device_switch", "--checkpoint", "x", *TWO), "has no weights"),
    (("study", "--workload", "device_switch", "--device", "cpu"), "unknown device 'cpu'"),
    (("study", "--workload", "mnist,mnits", *SMALL), "unknown workload 'mnits'"),
    (("study", "--checkpoint", "somewhere", *SMALL), "starts from random weights"),
    (("study", "--target", "1.5", *SMALL), "expected an accuracy of at most 1"),
    (("analyze", "--study", "never-run"), "no study named 'never-run'"),
    (("auto", "--workload", "mnits"), "unknown workload 'mnits'"),
    (("auto", "--framework", "theano"), "no twin in 'theano'; it has: "),
    (("auto", "--device", "tpu"), "unknown device 'tpu'; choose one of: auto, cpu, gpu"),
    (("auto", "--mode", "dream"), "mode='dream': workload 'mnist' has: train, infer"),
    (("auto", "--workload", "tinyllama", "--epochs", "3"), "'tinyllama' has no epochs"),
    (("auto", "--preset", "huge", "--device", "cpu"), "unknown preset 'huge'"),
    (("auto", "--dtype", "int8", *SMALL), "unknown dtype 'int8'"),
    (("trial", "mnist", "auto", "--hidden_size", "0", *SMALL), "hidden_size=0: expected a number"),
    (("max_batch", "--workload", "mnits"), "unknown workload 'mnits'"),
    (("max_batch", "--workload", "tinyllama"), "'tinyllama' has no batch_size; choose one of: "),
    (("max_batch", "--framework", "theano"), "no twin in 'theano'; it has: "),
    (("max_batch", "--memory_limit_gib", "0"), "0.0 is not in the range"),
    (("max_batch", "--memory_limit_gib", "much"), "'much' is not a valid float"),
    (("max_batch", "--memory_limit_gib", "99999", *SMALL), "GiB available now; expected at most"),
    (("max_batch", "--resolution", "2"), "2.0 is not in the range"),
    (("max_batch", "--seconds_per_probe", "0"), "0.0 is not in the range"),
    (("max_batch", "--most", "0"), "0 is not in the range"),
    (("max_batch", "--sizes", "width=3", *SMALL), "'width=3' is no setting"),
    (("max_batch", "--sizes", "batch_size=3", *SMALL), "expected sizes of mnist but batch_size"),
    (("max_batch", "--sizes", "layers=0", *SMALL), "layers=0: expected a number above 0"),
    (("max_batch", "--device", "tpu"), "unknown device 'tpu'"),
    (("max_batch", "--preset", "huge", "--device", "cpu"), "unknown preset 'huge'"),
    (("max_batch", "--mode", "dream"), "'dream' is not one of 'train', 'infer'"),
    (("code_size", "--workload", "mnits"), "unknown workload 'mnits'; choose one of: all, "),
    (("register", "--metric", "eval/acuracy"), "eval/acuracy"),
    (("register", "--run_id", "0" * 32), "0" * 32),
]


@pytest.mark.parametrize(
    ("words", "expected"), MISTAKES, ids=lambda v: " ".join(v) if isinstance(v, tuple) else ""
)
def test_one_line_and_exit_code_two(
    store: Path, run: Run, words: tuple[str, ...], expected: str
) -> None:
    code, out, err = run(*words)
    lines = [line for line in err.splitlines() if line.startswith("Error")]
    assert code == 2, (out, err)
    assert len(lines) == 1 and expected in lines[0], err
    assert "Traceback" not in err


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "sqlite:////proc/no/mlflow.db"])
def test_a_store_that_cannot_be_used(
    run: Run, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for words in (("analyze",), ("register",)):  # a trial is measured all the same, see `deliver`
        code, _, err = run(*words)
        assert code == 2, err
        assert "cannot be used" in err and "MLFLOW_TRACKING_URI" in err


def test_a_gpu_that_is_not_there(store: Path, run: Run) -> None:
    from entrypoints.probe import probe

    if "missing" not in probe("mlx")["devices"][1]:
        pytest.skip("this machine has a GPU for MLX")
    code, _, err = run("trial", "mnist", "mlx", "--device", "gpu", *SYNTHETIC)
    assert code == 2
    assert "device=gpu: MLX sees no GPU here; use device=cpu" in err


@pytest.mark.parametrize("device", ["auto", "cpu-gpu"])
def test_a_second_device_that_is_not_there(store: Path, run: Run, device: str) -> None:
    """Said, and never replaced by the CPU twice."""
    from entrypoints.probe import probe

    if "missing" not in probe("mlx")["devices"][1]:
        pytest.skip("this machine has a GPU for MLX")
    for words in (("trial", "device_switch", "mlx"), ("study", "--workload", "device_switch")):
        code, _, err = run(*words, "--preset", "smoke", "--device", device)
        assert code == 2
        lines = [line for line in err.splitlines() if line.startswith("Error")]
        assert len(lines) == 1 and "nothing to switch to" in lines[0]
        assert "device=cpu-cpu runs both halves" in lines[0]


def test_a_library_that_is_no_blas(store: Path, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "libfake.so"
    path.write_bytes(b"not a library")
    code, _, err = run("trial", "mnist", "mlx", "--blas", str(path), *SYNTHETIC)
    assert code == 2
    assert "libfake.so cannot be loaded" in err
