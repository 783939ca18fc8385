"""`decide` as a user runs it: files, the run's artifacts, JSON, prices, one line for a mistake."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from tests.entrypoints.conftest import use_store

sys.path.append(str(Path(__file__).resolve().parents[1] / "analysis"))
import language  # noqa: E402
from fleet import MLX, TORCH, measured  # noqa: E402
from stored import store as keep  # noqa: E402

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module", autouse=True)
def studies(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two studies in one store: MLX is slower and leaner on mnist, and did other work on bert."""
    folder = tmp_path_factory.mktemp("decide")
    with pytest.MonkeyPatch.context() as patch:
        use_store(empty_store, folder, patch)
        mnist, rows = measured("first", speed={MLX: 1.3}, pairs=6, arms=(MLX, TORCH))
        rows = [
            replace(r, metrics={k: v for k, v in r.metrics.items() if k != "cost/usd"})
            for r in rows
        ]
        bert, unequal = language.bert_of_other_work()
        unequal = [row for row in unequal if row.pair == 0]
        keep([(mnist, rows), (bert, unequal)], language.kept)
        yield folder


def test_a_card_is_files_and_a_run_s_artifacts(run: Run, studies: Path) -> None:
    code, out, err = run("decide", "--priority", "memory", "--workload", "mnist")
    assert code == 0, err
    assert "Training of mnist on cpu of chip of m1: mlx blas=mkl (indicated, study first)" in out
    assert "! UNDECLARED" in out
    folder = studies / "results" / "decision-memory"
    record = json.loads((folder / "decision.json").read_text())
    assert record["answers"][0]["framework"] == "mlx"
    assert "# Decision: memory" in (folder / "decision.md").read_text()
    client = MlflowClient()
    (made,) = client.search_runs(["0"], "tags.kind = 'decision'")
    assert made.info.status == "FINISHED" and made.data.params["priority"] == "memory"
    paths = {file.path for file in client.list_artifacts(made.info.run_id, "decision")}
    assert {f"decision/decision.{end}" for end in ("md", "html", "json")} <= paths


def test_priorities_disagree_and_json_says_so(run: Run) -> None:
    code, out, err = run("decide", "--study", "first", "--json")
    assert code == 0, err
    said = json.loads(out)
    (answer,) = said["result"]["answers"]
    assert (said["command"], answer["framework"], answer["certainty"]) == (
        "decide", "pytorch", "shown",
    )  # fmt: skip
    assert [other["where"] for other in answer["other_answers"]][:1] == ["priority=memory"]
    assert said["text"] and said["error"] is None
    assert "Training of mnist" in err and "Training of mnist" not in out.split('"text"')[0]


def test_every_study_of_the_store_with_its_refusals(run: Run, tmp_path: Path) -> None:
    code, out, err = run("decide", "--output", str(tmp_path / "card"))
    assert code == 0, err
    assert out.count(", study ") == 2
    assert "not equal work" in out and "mlflow run . -e verify -P workload=bert_tiny" in out
    assert (tmp_path / "card" / "decision.html").is_file()


def test_cost_needs_a_price(run: Run, tmp_path: Path) -> None:
    words = ("decide", "--priority", "cost", "--study", "first", "--output", str(tmp_path))
    code, out, _ = run(*words)
    assert code == 0 and "no choice (not measured, study first)" in out
    assert "-P priority=cost -P price_per_hour=USD" in out
    code, out, _ = run(*words, "--price_per_hour", "2")
    assert code == 0 and "costs more than" in out and "at 2 USD an hour" in out
    table = tmp_path / "prices.csv"
    table.write_text("chip,usd_per_hour\nchip of m1,2\n")
    assert "at 2 USD an hour" in run(*words, "--price_table", str(table))[1]
    table.write_text("chip,usd_per_hour\nanother,2\n")
    code, out, _ = run(*words, "--price_table", str(table))
    assert "not measured" in out and "has no chip 'chip of m1': add a row" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--priority", "beauty"), "'beauty' is not one of 'speed', 'latency'"),
        (("--study", "nope"), "no study named 'nope' in this store; there are:"),
        (("--study", "first,nope"), "no study named 'nope'"),
        (("--workload", "poetry"), "workload=poetry: no study of it; expected one of: bert_tiny, mnist"),
        (("--price_per_hour", "-1"), "-1.0 is not in the range"),
        (("--price_per_hour", "1", "--price_table", "a.csv"), "are both given; expected one"),
        (("--price_table", "none.csv"), "price_table="),
        (("--output", "/proc/no"), "cannot write to '/proc/no'"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_leaves_no_run(
    run: Run, words: tuple[str, ...], said: str
) -> None:
    before = len(MlflowClient().search_runs(["0"]))
    code, out, err = run("decide", *words)
    lines = [line for line in err.splitlines() if line.startswith("Error")]
    assert (code, out, len(lines)) == (2, "", 1) and said in lines[0]
    assert len(MlflowClient().search_runs(["0"])) == before


def test_an_empty_store_says_what_to_run(store: Path, run: Run) -> None:
    code, _, err = run("decide")
    assert code == 2 and "run one with 'mlflow run . -e study'" in err
