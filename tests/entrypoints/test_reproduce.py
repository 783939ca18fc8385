"""A trial is done again from what its run says; what cannot be the same is refused or named."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow.tracking import MlflowClient

import frameworks
from analysis import reproduction
from analysis.reproduction import DIFFERENT, SAME_RESULTS, SAME_WEIGHTS, WITHIN, Ran, judge
from entrypoints import checkout, installed, recipe, repeated, reproduce
from entrypoints.recipe import Own
from measurement.digest import digest
from measurement.errors import InputError
from tests.entrypoints.conftest import invoke
from tracking import artifacts
from tracking import read as rows
from tracking.bulk import Found

FRAMEWORK = next(name for name in ("mlx", "pytorch") if frameworks.available(name))
SMOKE = ("--preset", "smoke", "--dataset", "synthetic", "--epochs", "2", "--compile", "off")
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def original(module_store: Path) -> str:
    """The id of a real trial's run."""
    assert invoke("trial", "mnist", FRAMEWORK, *SMOKE, "--seed", "3") == 0
    (run,) = MlflowClient().search_runs(["0"], "tags.kind = 'trial'")
    return str(run.info.run_id)


@pytest.fixture(scope="module")
def again(original: str) -> str:
    """The id of its repetition's run."""
    assert invoke("reproduce", "--run_id", original, "--commit", "here") == 0
    (run,) = MlflowClient().search_runs(["0"], f"tags.reproduces = '{original}'")
    return str(run.info.run_id)


@pytest.fixture
def altered(original: str) -> Iterator[Callable[..., None]]:
    """altered(tag="value"): the original's run says that, until the test ends."""
    before = dict(MlflowClient().get_run(original).data.tags)
    changed: list[str] = []

    def alter(**tags: str) -> None:
        for name, value in tags.items():
            changed.append(name)
            MlflowClient().set_tag(original, name, value)

    yield alter
    for name in changed:
        MlflowClient().set_tag(original, name, before[name])


# --- a real trial and its repetition


def test_the_weights_are_the_same_bit_for_bit(original: str, again: str) -> None:
    first, second = (MlflowClient().get_run(run_id).data for run_id in (original, again))
    assert second.tags["reproduction"] == SAME_WEIGHTS
    assert second.tags["trained_sha256"] == first.tags["trained_sha256"]
    assert second.tags["reproduction_time_agrees"] in ("unknown", "not compared")
    assert second.metrics["train/loss"] == first.metrics["train/loss"]
    assert second.tags["study"] == "" if "study" in second.tags else True
    files = {file.path for file in MlflowClient().list_artifacts(again, "report")}
    assert files == {"report/reproduction.md", "report/figures"}
    text = artifacts.text(again, "environment.json")
    assert text is not None and json.loads(text)["packages"]["numpy"] == np.__version__


def test_the_model_kept_holds_the_weights_that_the_run_states(original: str) -> None:
    run = repeated.trial(original)
    spec = recipe.specification(recipe.read(run.tags, run.metrics), Own())
    found = repeated.read(run, repeated.shapes(spec))
    assert found.weights is not None
    assert digest(found.weights) == found.weights_sha256 == found.kept_sha256


def test_what_a_run_says_names_no_place(original: str) -> None:
    run = repeated.trial(original)
    text = run.tags["spec"] + str(artifacts.text(original, "environment.json"))
    assert str(Path.home()) not in text and str(Path.cwd()) not in text
    assert "data_dir" not in run.tags["spec"]


def test_an_older_run_is_pieced_together_from_its_tags(original: str) -> None:
    run = repeated.trial(original)
    new = recipe.specification(recipe.read(run.tags, run.metrics), Own())
    old = {k: v for k, v in run.tags.items() if k not in ("spec", "trained_sha256", "pins_sha256")}
    assert asdict(recipe.specification(recipe.read(old, run.metrics), Own())) == asdict(new)
    computes, rest = repeated.versions_apart(
        replace(run, run_id=original), installed.environment(new.condition)
    )
    assert (computes, rest) == ([], [])


# --- refused before anything is measured


def test_other_data_are_refused_with_both_digests(
    original: str, altered: Callable[..., None], run: Command
) -> None:
    recorded = MlflowClient().get_run(original).data.tags["data_sha256"]
    altered(data_sha256="0" * 64)
    code, _, said = run("reproduce", "--run_id", original, "--commit", "here")
    assert code == 2 and "0" * 64 in said and recorded in said


def test_other_versions_are_refused_by_name(
    original: str, again: str, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = installed.environment

    def other(condition: Any) -> dict[str, Any]:
        found = here(condition)
        return found | {"packages": found["packages"] | {"numpy": "1.0", "click": "1.0"}}

    monkeypatch.setattr(installed, "environment", other)
    code, _, said = run("reproduce", "--run_id", original, "--commit", "here")
    assert code == 2 and f"numpy {np.__version__} against 1.0" in said and "click" not in said
    monkeypatch.setattr(reproduce, "repeat", lambda *_: [again])
    words = ("--run_id", original, "--commit", "here", "--versions", "any")
    code, out, _ = run("reproduce", *words)
    assert code == 0 and SAME_WEIGHTS in out and "versions: numpy" in out
    assert "time not compared: another versions" in out


def test_unknown_ids_name_the_trials_there_are(original: str, run: Command) -> None:
    code, _, said = run("reproduce", "--run_id", "f" * 32)
    assert code == 2 and original in said
    client = MlflowClient()
    other = client.create_run("0", tags={"kind": "study", "study": "none", "design": "{}"})
    code, _, said = run("reproduce", "--run_id", other.info.run_id)
    client.delete_run(other.info.run_id)
    assert code == 2 and "is no trial (kind study)" in said
    failed = client.create_run("0", tags={"kind": "trial"})
    code, _, said = run("reproduce", "--run_id", failed.info.run_id)
    client.delete_run(failed.info.run_id)
    assert code == 2 and "RUNNING" in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dataset": "/etc/passwd"}, "dataset"),
        ({"checkpoint": "../model"}, "checkpoint"),
        ({"sizes": {"hidden_size": 8}}, "sizes"),
        ({"seed": "3"}, "seed"),
        ({"surprise": 1}, "surprise"),
        ({"workload": "os"}, "unknown workload"),
        ({"several_hosts": True}, "several hosts"),
        ({"condition": {"framework": FRAMEWORK, "blas": "/tmp/evil.so"}}, "blas"),
        ({"condition": {"framework": FRAMEWORK, "threads": True}}, "threads"),
        ({"condition": {"framework": FRAMEWORK, "surprise": 1}}, "surprise"),
    ],
)
def test_what_others_wrote_into_a_run_is_checked(
    original: str, change: dict[str, Any], said: str
) -> None:
    run = repeated.trial(original)
    with pytest.raises(InputError, match=said):
        recipe.specification(recipe.read(run.tags, run.metrics) | change, Own())
    with pytest.raises(InputError, match="does not say what it ran"):
        recipe.read({"spec": "["}, {})


# --- whose code


def fake(**tags: str) -> Found:
    return Found("a" * 32, "name", "FINISHED", 0, {}, tags, {})


def test_the_code_is_that_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    head, other = "1" * 40, "2" * 40
    state = {"commit": (head, False)}
    monkeypatch.setattr(reproduce.machine, "commit", lambda folder: state["commit"])
    monkeypatch.setattr(checkout, "known", lambda commit: commit in (other, head))
    commit = "mlflow.source.git.commit"
    assert reproduce.code(fake(**{commit: head}), "recorded") == ("", [])
    assert reproduce.code(fake(**{commit: other}), "recorded") == (other, [])
    place, (said,) = reproduce.code(fake(**{commit: other}), "here")
    assert place == "" and "code: 222222222222 against 111111111111" in said
    place, (said,) = reproduce.code(fake(**{commit: head, "flags": "DIRTY-TREE"}), "recorded")
    assert place == "" and "in no commit" in said
    with pytest.raises(InputError, match="fetch it"):
        reproduce.code(fake(**{commit: "3" * 40}), "recorded")
    state["commit"] = (head, True)  # changes here are left alone, the commit gets a tree of its own
    assert reproduce.code(fake(**{commit: head}), "recorded") == (head, [])


def test_a_commit_gets_a_tree_of_its_own_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*words: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        done = subprocess.run(["git", *who, *words], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    git("init", "--quiet")
    (tmp_path / "file").write_text("old")
    git("add", "file")
    git("commit", "--quiet", "-m", "first")
    first = git("rev-parse", "HEAD")
    (tmp_path / "file").write_text("changed by the user")
    monkeypatch.setattr(checkout, "ROOT", tmp_path)
    with checkout.tree(first) as place:
        assert (place / "file").read_text() == "old"
    assert not place.exists() and len(git("worktree", "list").splitlines()) == 1
    assert (tmp_path / "file").read_text() == "changed by the user"
    for unknown in ("4" * 40, "--help", "HEAD", ""):
        with pytest.raises(InputError, match="not in this repository"), checkout.tree(unknown):
            pass


def test_another_commit_runs_its_own_command(
    original: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = repeated.trial(original)
    spec = recipe.specification(recipe.read(run.tags, run.metrics), Own())
    words = reproduce.words(spec)
    assert words[:4] == ["-m", "entrypoints.trial", "mnist", FRAMEWORK]
    from entrypoints import trial

    command = trial.command("mnist", FRAMEWORK)
    given = command.make_context("again", words[4:]).params
    assert asdict(trial.specification("mnist", FRAMEWORK, given)) == asdict(spec)
    with pytest.raises(InputError, match="only a study asks for that"):
        reproduce.words(replace(spec, condition=replace(spec.condition, slowdown_percent=5.0)))
    ranks = replace(spec, condition=replace(spec.condition, ranks=2))
    assert "entrypoints.distributed" in reproduce.words(ranks)
    called: dict[str, Any] = {}

    def start(words: list[str], **given: Any) -> Any:
        called.update(given, words=words)
        return subprocess.CompletedProcess(words, 0)

    monkeypatch.setattr(reproduce.subprocess, "run", start)
    reproduce.run_at(tmp_path, spec, "b" * 32)
    assert called["words"][:3] == [sys.executable, "-P", "-m"]
    assert called["env"]["MLFLOW_RUN_ID"] == "b" * 32
    assert called["env"]["PYTHONPATH"].split(":")[0] == str(tmp_path)


# --- the verdict, from fabricated runs

PARITY = {
    "work": "w", "dtype": "float32", "optimiser": "sgd", "parameters": 4, "output": [1.0, 0.5],
    "gradient": [1.0, 0.5], "update": [1.0, 0.5], "losses": [1.0, 0.9],
}  # fmt: skip
RECEIPT = {
    "kind": "train", "items": 8, "steps": 2, "flops": 16, "eval_items": 4, "inference_items": 4,
    "latency_calls": 1, "weight_change_norm": 1.0, "check_value": 0.5,
}  # fmt: skip
START = {"a": np.zeros(2, np.float32), "b": np.zeros(2, np.float32)}


def ran(change: float = 0.0, mode: str = "train", **other: Any) -> Ran:
    weights = {"a": np.float32([1, 1]), "b": np.float32([1, 1 + change])}
    given: dict[str, Any] = {
        "run_id": "r", "mode": mode, "machine": "m", "commit": "c", "versions": {}, "condition": {},
        "flags": (), "parity": PARITY, "receipt": RECEIPT, "losses": np.asarray([1.0, 0.5]),
        "seconds": 1.0, "weights": weights, "weights_sha256": digest(weights),
        "kept_sha256": digest(weights),
    }  # fmt: skip
    return Ran(**given | other)


def test_the_words_of_a_verdict() -> None:
    assert judge(ran(), ran(), START, ()).word == SAME_WEIGHTS
    assert judge(ran(), ran(1e-6), START, ("machine: a against b",)).word == WITHIN
    found = judge(ran(), ran(0.5), START, ("versions: torch 1 against 2", "machine: a against b"))
    assert found.word == DIFFERENT and not found.same
    assert found.first.startswith("versions: torch 1 against 2; weights: their change differs by")
    assert "first b, by 5.00e-01" in found.first
    assert judge(ran(), ran(1e-6, losses=np.asarray([1.0, 0.8])), START, ()).word == DIFFERENT
    assert judge(ran(), ran(1e-6, losses=np.asarray([1.0])), START, ()).word == DIFFERENT
    other = PARITY | {"update": [1.0, 0.6]}
    assert "update" in judge(ran(), ran(1e-6, parity=other), START, ()).first
    assert judge(ran(), ran(1e-6, receipt=RECEIPT | {"steps": 3}), START, ()).word == DIFFERENT
    assert judge(ran(), ran(float("nan")), START, ()).word == DIFFERENT


def test_a_model_that_was_changed_after_its_run_is_not_the_same() -> None:
    found = judge(ran(kept_sha256="0" * 64), ran(), START, ())
    assert found.word == DIFFERENT and "changed afterwards" in found.first


def test_weights_that_are_not_kept_are_said_not_to_be_compared() -> None:
    bare = {"weights": None, "weights_sha256": None, "kept_sha256": None}
    found = judge(ran(**bare), ran(), START, ())
    assert found.word == WITHIN
    assert any(reason.startswith("weights: not compared") for reason in found.reasons)


def test_without_learning_the_results_are_compared() -> None:
    receipt = {
        "kind": "generate", "items": 1, "prompt_tokens": 1, "tokens": 2, "flops": 1, "latency_calls": 1,
        "tokens_digest": "abc",
    }  # fmt: skip
    bare = {"weights": None, "weights_sha256": None, "kept_sha256": None, "mode": "generate"}
    one = ran(**bare, receipt=receipt)
    assert judge(one, one, None, ()).word == SAME_RESULTS
    near = PARITY | {"output": [1.0, 0.5 + 1e-9]}
    assert judge(one, replace(one, parity=near), None, ()).word == WITHIN
    other = replace(one, receipt=receipt | {"tokens_digest": "abd"})
    assert "tokens_digest" in judge(one, other, None, ()).first
    loaded, another = replace(one, start_sha256="1"), replace(one, start_sha256="2")
    assert judge(loaded, another, None, ()).first == "checkpoint: sha256 1 against 2"


def test_times_agree_within_a_known_resolution_only() -> None:
    a_a = reproduction.from_pairs([1.01, 0.99, 1.02, 0.98, 1.01, 1.0], "pairs")
    assert a_a is not None and 0.02 < a_a.share < 0.05
    assert reproduction.from_pairs([1.0] * 5, "pairs") is None
    assert reproduction.timing(ran(), [ran(seconds=1.02)], a_a, None).agrees == "yes"
    assert reproduction.timing(ran(), [ran(seconds=1.2)], a_a, None).agrees == "no"
    alone = reproduction.timing(ran(), [ran(seconds=1.02)], None, None)
    assert alone.agrees == "unknown" and "resolution unknown" in alone.sentence
    assert reproduction.from_repeats([1.0, 1.1]) is None
    several = reproduction.from_repeats([1.0, 1.1, 0.9])
    assert several is not None and several.share > 0.2
    assert repeated.untimed(ran(), [ran()], ["machine: a against b"]) is not None
    assert repeated.untimed(ran(), [ran(flags=("LOAD",))], []) == "run r carries LOAD"
    assert repeated.untimed(ran(), [ran()], []) is None


def test_the_resolution_comes_from_undisturbed_pairs_of_the_same_work(
    original: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (own,) = rows.trials(run_ids=[original])
    pairing = rows.Pairing("x (again)", "x", "resolution")
    study = rows.Study(
        "s", "id", 6, 0.05, "train/total_seconds", 0.9, (), ("x", "x (again)"), (pairing,),
        {"workload": "mnist"}, own.machine,
    )  # fmt: skip

    def trials(**change: Any) -> list[rows.Row]:
        return [
            replace(own, **{"flags": (), "pair": pair, "arm": arm, "metrics": {study.metric: seconds}} | change)
            for pair in range(6)
            for arm, seconds in (("x", 1.0), ("x (again)", 1.01 if pair % 2 else 0.99))
        ]  # fmt: skip

    def found(**change: Any) -> reproduction.Resolution | None:
        monkeypatch.setattr(rows, "studies", lambda: [study])
        monkeypatch.setattr(rows, "trials_of", lambda study, finished: trials(**change))
        return repeated.resolution(original)

    share = found()
    assert share is not None and share.count == 6 and 0.02 < share.share < 0.03
    assert found(flags=("LOAD",)) is None
    assert found(cell=own.cell | {"epochs": "9"}) is None
    other = found(cell=own.cell | {"framework": "tensorflow", "compile": "on"})
    assert other is not None and "tensorflow" in other.source
