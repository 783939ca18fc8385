"""`register` from the first champion to a promotion and back, on a study in a real store."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow.entities import Metric
from mlflow.tracking import MlflowClient

from measurement.digest import digest
from serving import card, integrity, log, predictions
from serving.predictions import Predictions
from tests.entrypoints.conftest import use_store
from tracking import names, write

sys.path += [str(Path(__file__).resolve().parents[1] / name) for name in ("analysis", "serving")]
import served  # noqa: E402
import signed  # noqa: E402

Run = Callable[..., tuple[int, str, str]]
MLX, TORCH = signed.ARMS[:2]
ITEMS = served.images(8)
RECORDED = Predictions(ITEMS, served.digits(ITEMS))


@pytest.fixture(scope="module")
def runs(empty_store: Path, tmp_path_factory: pytest.TempPathFactory):  # noqa: ANN201
    """arm -> the id of its first run, which has a model; the study lies whole in the store."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("registered")
        use_store(empty_store, folder, patch)
        mlflow.set_tracking_uri(None)
        patch.setattr(integrity, "ask", lambda model, items: served.digits(items))
        yield _stored(folder)


def _stored(folder: Path) -> dict[str, str]:
    client, plan = MlflowClient(), signed.study()
    design = {
        **plan.design,
        "pairs": plan.pairs,
        "margin": plan.margin,
        "metric": plan.metric,
        "target": plan.target,
        "family": list(plan.family),
        "arms": list(plan.arms),
        "comparisons": [asdict(pairing) for pairing in plan.comparisons],
        "machine": plan.machine,
    }
    rows, samples = signed.rows(replace(plan, design=design))
    tags = {names.KIND: "study", "study": plan.name, "design": json.dumps(design)}
    client.create_run("0", start_time=1_000_000, tags=tags)
    found: dict[str, str] = {}
    for row in rows:
        start = int(1000 * row.start_seconds)
        more = {names.SIZE + name: str(value) for name, value in vars(served.CONFIG).items()}
        more |= {names.TRAINED: digest(served.weights()), "study": plan.name}
        more |= {names.PREDICTED: digest(RECORDED.arrays())}
        run_id = client.create_run("0", start_time=start, tags=row.tags | more).info.run_id
        client.log_batch(run_id, [Metric(k, v, start, 0) for k, v in row.metrics.items()])
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / names.SAMPLES
            series = {key: values.tolist() for key, values in samples[row.run_id].items()}
            write.write_samples(path, series)
            client.log_artifact(run_id, str(path))
        if row.pair == 0 and row.arm in (MLX, TORCH):
            framework = row.arm.split()[0]
            trial = served.write_trial(folder / framework, framework)
            predictions.save(trial / predictions.FILE, RECORDED)
            client.log_artifact(run_id, str(trial / predictions.FILE))
            log.log_model(run_id, framework, "mnist", trial)
            found[row.arm] = run_id
        client.set_terminated(run_id, end_time=start + 1000)
    return found


def aliases() -> dict[str, str]:
    found = MlflowClient().get_registered_model("mnist").aliases
    return {alias: str(version) for alias, version in found.items()}


def test_from_the_first_champion_to_a_promotion_and_back(runs: dict[str, str], run: Run) -> None:
    code, out, err = run("register", "--framework", "pytorch")
    assert code == 0, err
    assert "mnist version 1 registered, alias champion: pytorch, eval/accuracy 0.965" in out
    code, out, _ = run("register", "--promote", "true")
    assert code == 0 and "mnist has no challenger; the champion is version 1" in out

    code, out, err = run("register", "--run_id", runs[MLX])
    assert code == 0, err
    assert "version 2 registered, alias challenger" in out and "-P promote=true" in out
    assert aliases() == {"champion": "1", "challenger": "2"}

    code, out, err = run("register", "--promote", "true")
    assert code == 0, err
    assert "mnist version 2 is champion, version 1 previous" in out
    assert "same within 1 %" in out and "is faster than" in out
    assert aliases() == {"champion": "2", "previous": "1"}
    found = MlflowClient().get_model_version("mnist", "2")
    assert found.tags["promoted_over"] == "1" and found.tags["promoted_margin"] == "0.01"
    assert "promoted" not in MlflowClient().get_model_version("mnist", "1").tags

    code, out, err = run("register", "--promote", "true")  # asked again: nothing changes
    assert (
        code == 0 and "no challenger; the champion is version 2, the previous one version 1" in out
    )
    code, out, err = run("register", "--run_id", runs[MLX], "--promote", "true")
    assert code == 0 and "was registered already, alias champion" in out
    assert aliases() == {"champion": "2", "previous": "1"}

    # The slower one of two equals does not come back by itself, and goes back when told so.
    code, out, err = run("register", "--run_id", runs[TORCH], "--promote", "true")
    assert code == 2 and "Error: not promoted: the same by eval/accuracy, but" in err
    assert aliases()["champion"] == "2"
    code, out, err = run("register", "--promote", "back")
    assert code == 0, err
    assert "mnist version 1 is champion again, not version 2" in out
    assert aliases()["champion"] == "1" and "previous" not in aliases()
    code, _, err = run("register", "--promote", "back")
    assert code == 2 and "no previous champion" in err
    code, _, err = run("register", "--run_id", runs[MLX], "--promote", "true")
    assert code == 2 and "not promoted: version 2 of mnist was taken back" in err
    assert len(MlflowClient().search_model_versions("name = 'mnist'")) == 2
    assert [m.name for m in MlflowClient().search_registered_models()] == [
        "mnist"
    ]  # no lock is left


def test_the_card_says_all_that_is_known(runs: dict[str, str], run: Run) -> None:
    code, _, err = run("register", "--run_id", runs[MLX])
    assert code == 0, err
    client = MlflowClient()
    version = next(
        v for v in client.search_model_versions("name = 'mnist'") if v.run_id == runs[MLX]
    )
    text = Path(client.download_artifacts(runs[MLX], card.FILE)).read_text()
    assert version.description == text.rstrip("\n") or version.description == text
    for wanted in (
        "# mnist, version", "MNIST digits", "mlx 0.32.4", "`(n, 784)` float32", "`(n,)` int64",
        "sha256 `da7a`", "0.965 on 10,000 test items", "8 trials of its arm", "60,000 items in 3 epochs",
        "8 of 8 answers of the training process given again", "weights are those that were trained",
        "record as it was written", "A chip", "training time", "latency of one item, median",
        "Limits: Trained to compare frameworks", "Licence:", "mlflow models serve -m models:/mnist/",
        runs[MLX],
    ):  # fmt: skip
        assert wanted in text, (wanted, text)
    assert len(text) < 5000


def test_tampered_weights_are_neither_registered_nor_promoted(
    runs: dict[str, str], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(model: Path, items: np.ndarray) -> np.ndarray:
        return (served.digits(items) + 1) % 10

    monkeypatch.setattr(integrity, "ask", other)
    code, _, err = run("register", "--run_id", runs[TORCH])
    assert code == 2 and "8 of 8 answers are not those of the process that trained it" in err
    monkeypatch.undo()
    monkeypatch.setattr(integrity, "ask", lambda model, items: served.digits(items))
    monkeypatch.setattr(integrity.weights, "read", lambda folder, shapes: {})
    code, _, err = run("register", "--run_id", runs[MLX])
    assert code == 2 and "they were changed after the training" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("--workload", "tinyllama"),
            "trains no model; expected one that does: bert_tiny, deit_small",
        ),
        (("--promote", "yes"), "'yes' is not one of 'false', 'true', 'back'"),
        (("--workload", "bert_tiny", "--promote", "back"), "no previous champion"),
        (("--workload", "bert_tiny", "--promote", "true"), "the store holds no such run"),
        (("--framework", "tensorflow"), "nothing here serves tensorflow"),
    ],
)
def test_a_mistake_is_one_line(
    runs: dict[str, str], run: Run, words: tuple[str, ...], said: str
) -> None:
    code, _, err = run("register", *words)
    assert code == 2 and said in err and err.count("\n") == 1
