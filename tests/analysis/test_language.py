"""Studies that generate or are judged by a perplexity, through a real store and the command."""

from __future__ import annotations

import csv
import re
from dataclasses import replace

import language
import numpy as np
import pytest
import rows as made_rows
from language import ITEMS, MLX, TORCH, spoilt
from mlflow.tracking import MlflowClient
from stored import store

from analysis import cells, report
from analysis.comparison import analyse
from entrypoints import analyze as command
from measurement.errors import InputError
from tracking import read
from tracking.read import Pairing


def run(made):
    return analyse(*made, np.random.default_rng(0))


def pick(findings, metric, role="headline"):
    return next(c for c in findings.comparisons if (c.metric, c.role) == (metric, role))


def names(c):
    return [flag.name for flag in c.flags]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A store with a generation, a language model, and a study from before the keys existed."""
    path = tmp_path_factory.mktemp("language")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}/mlflow.db")
        patch.chdir(path)
        MlflowClient().get_experiment("0")
        old = (made_rows.study(), made_rows.rows())
        store([language.tinyllama(), language.transformer(), old], language.kept)
        yield path


def files(folder):
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def test_a_generation_is_reported_without_a_word_on_training(server, tmp_path):
    done = command.analyze("llama", tmp_path)
    html, text = (tmp_path / "report.html").read_text(), (tmp_path / "report.md").read_text()
    assert done.text.startswith("Study llama, generation by tinyllama: 8 pairs")
    assert "mlx blas=mkl is faster than pytorch blas=mkl: time of all timed generations" in text
    for words in ("prefill throughput", "decode throughput", "time to the first token"):
        assert words in text and words in done.text and words in html
    for page in (html, text, done.text):
        assert "train" not in page.replace("trained", "")
        assert "accuracy" not in page and "None" not in page
        assert "Time to " not in page.replace("Time to the first token", "")
    assert "Generation by tinyllama: 8 pairs" in " ".join(html.split())
    assert {
        f"figures/{name}.png"
        for name in ("generation", "generation_times", "token_latency", "ratio_by_metric")
    } <= files(tmp_path)
    assert not {"figures/epoch_times.png", "figures/time_to_target.png"} & files(tmp_path)
    assert html.index("large marks are medians") < html.index(">Latency</h2>")
    with (tmp_path / "trials.csv").open() as file:
        first = next(csv.DictReader(file))
    assert first["inference/output_tokens"] == "33.0" and first["condition/mode"] == "generate"
    assert not [column for column in first if column.startswith(("train/", "target/", "eval/"))]


def test_prefill_and_decode_are_told_apart():
    """Decoding is half as fast and the rest is the same: only decoding is slower."""
    plan, found = language.tinyllama()
    torch = {r.pair: r for r in found if r.arm == TORCH}
    names = ("inference/first_token_seconds", "inference/prefill_tokens_per_second")
    equal = [
        replace(r, metrics={**r.metrics, **{n: torch[r.pair].metrics[n] for n in names}})
        if r.arm == MLX
        else r
        for r in found
    ]
    findings = run((plan, equal))
    assert pick(findings, names[1]).outcome == "same"
    assert pick(findings, "inference/decode_tokens_per_second").outcome == "better"


def test_a_perplexity_is_a_target_met_from_above(server, tmp_path):
    done = command.analyze("lm", tmp_path)
    html, text = (tmp_path / "report.html").read_text(), (tmp_path / "report.md").read_text()
    assert "## Time to test perplexity of 120 or less" in text
    assert "Target test perplexity of 120 or less: mlx blas=mkl median 2.00 epochs" in done.text
    assert "target test perplexity of 120 or less" in html
    assert "Training time until test perplexity of 120 or less" in html
    for page in (html, text, done.text):
        assert "accuracy" not in page and "test perplexity" in page
    with (tmp_path / "trials.csv").open() as file:
        first = next(csv.DictReader(file))
    assert first["eval/perplexity"] == "118.0" and "eval/accuracy" not in first
    assert float(first["train/tokens_per_second"]) == 128 * float(first["train/items_per_second"])


def test_runs_without_the_new_keys_read_as_before(server, tmp_path):
    study = read.study("mnist-cpu")
    assert (study.mode, study.quality) == ("train", "eval/accuracy")
    rows = read.trials("mnist-cpu")
    assert {(r.cell["mode"], r.cell["checkpoint"]) for r in rows} == {("train", "random")}
    before = run((made_rows.study(), made_rows.rows()))
    after = run((study, rows))
    assert after.headline == before.headline
    assert [c.verdict for c in after.comparisons] == [c.verdict for c in before.comparisons]
    command.analyze("mnist-cpu", tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "## Time to 96 % test accuracy" in text
    assert "token" not in text and "perplexity" not in text
    assert not [name for name in files(tmp_path) if "generation" in name or "token" in name]


def test_a_run_with_the_new_keys_compares_with_one_without():
    old = made_rows.rows()
    keys = {"mode": "train", "checkpoint": "random"}
    new = [replace(r, cell={**r.cell, **keys}) for r in old]
    assert run((made_rows.study(), new)).headline == run((made_rows.study(), old)).headline


UNITS = {
    "seconds of the first token in milliseconds": ("inference/first_token_seconds", 1000.0),
    "all seconds in milliseconds": ("inference/total_seconds", 1000.0),
    "prefill per millisecond": ("inference/prefill_tokens_per_second", 0.001),
    "prefill in prompts": ("inference/prefill_tokens_per_second", 1 / language.PROMPT),
    "decoding per millisecond": ("inference/decode_tokens_per_second", 0.001),
}


@pytest.mark.parametrize("case", UNITS)
def test_units_that_contradict_each_other_are_refused(case):
    metric, factor = UNITS[case]
    plan, found = language.tinyllama()
    value = next(r for r in found if r.arm == MLX and r.pair == 2).metrics[metric]
    wrong = made_rows.changed(found, MLX, 2, metrics={metric: factor * value})
    with pytest.raises(InputError, match="llama-mlx blas=mkl-2 .*units are mixed") as error:
        run((plan, wrong))
    assert "\n" not in str(error.value)


def test_a_receipt_without_numbers_is_no_contradiction():
    made = spoilt(language.tinyllama(), MLX, receipt={"items": "ten", "tokens": None})
    assert "differ in items: ten against 10" in pick(run(made), "inference/total_seconds").refused


def test_a_slow_call_is_no_unit():
    """Five times the median, in the sum only."""
    plan, found = language.tinyllama()
    slow = next(r for r in found if r.arm == MLX and r.pair == 2).metrics
    total = 5 * slow["inference/total_seconds"]
    run((plan, made_rows.changed(found, MLX, 2, metrics={"inference/total_seconds": total})))


def test_encoding_in_milliseconds_is_refused():
    wrong = spoilt(language.whisper(), MLX, metrics={"inference/encode_seconds": 60.0})
    with pytest.raises(InputError, match="units are mixed"):
        run(wrong)
    run(language.whisper())


@pytest.mark.parametrize(
    ("receipt", "said"),
    [
        ({"tokens": 10}, "tokens"),
        ({"prompt_tokens": ITEMS * 63}, "prompt_tokens"),
        ({"tokens_digest": "bb22"}, "tokens_digest"),
        ({"kind": "train"}, "kind"),
    ],
)
def test_a_generation_of_other_work_has_no_ratio(receipt, said):
    plan, found = language.tinyllama()
    # Of the fields that the units are checked with, so that the work alone is what is wrong.
    bare = {"inference/prefill_tokens_per_second", "inference/decode_tokens_per_second"}
    found = [
        replace(r, metrics={k: v for k, v in r.metrics.items() if k not in bare}) for r in found
    ]
    c = pick(run(spoilt((plan, found), MLX, receipt=receipt)), "inference/total_seconds")
    assert f"not equal work (pair 0): the receipts differ in {said}" in c.refused


def test_the_percentiles_of_a_token_count_the_tokens():
    findings = run(spoilt(language.tinyllama(), MLX, receipt={}))
    assert "FEW-LATENCIES" in names(pick(findings, "inference/token_seconds_p99"))
    assert "FEW-LATENCIES" not in names(pick(findings, "inference/token_seconds_p90"))


def test_random_weights_are_a_note_and_no_reason_to_refuse():
    c = pick(run(language.tinyllama()), "inference/total_seconds")
    assert "RANDOM-WEIGHTS" in names(c) and c.outcome == "better"


def test_another_checkpoint_is_not_like_with_like():
    wrong = spoilt(language.tinyllama(), MLX, cell={"checkpoint": "stories260K"})
    c = pick(run(wrong), "inference/total_seconds")
    assert "checkpoint is 'stories260K' for mlx blas=mkl and 'random'" in c.refused


SHORT = {"status": "FAILED", "flags": ("OUT-OF-MEMORY",)}


def test_trials_out_of_memory_are_counted_and_not_hidden():
    findings = run(spoilt(language.tinyllama(), MLX, 2, **SHORT))
    assert any("2 of them for lack of memory (mlx blas=mkl)" in note for note in findings.notes)
    c = pick(findings, "inference/total_seconds")
    assert "2 of 8 trials of mlx blas=mkl ended for lack of memory" in str(c.flags)
    assert c.outcome == "none" and "6 of 8 planned pairs" in c.verdict
    assert "OUT-OF-MEMORY" in [flag.name for flag, _ in cells.arm_flags(findings)]


def test_an_arm_that_never_fits_says_why_there_is_no_ratio():
    findings = run(spoilt(language.tinyllama(), MLX, **SHORT))
    c = pick(findings, "inference/total_seconds")
    assert c.refused == (
        "no pair in which both arms finished: 8 trials of mlx blas=mkl ended for lack of memory"
    )
    assert "lack of memory" in report.terminal(findings) and "None" not in report.terminal(findings)


def test_nothing_fits_is_one_line():
    plan, found = language.tinyllama()
    with pytest.raises(InputError, match="24 ended for lack of memory .*smaller batch_size"):
        run((plan, [replace(r, **SHORT) for r in found]))


def test_a_slowdown_has_a_known_ratio_in_tokens_too():
    plan, found = language.tinyllama()
    again = plan.arms[2]
    plan = replace(plan, comparisons=(Pairing(again, TORCH, "injected"),))
    found = [
        replace(r, cell={**r.cell, "slowdown_percent": "25" if r.arm == again else "0"})
        for r in found
    ]
    findings = run((plan, found))
    assert pick(findings, "inference/decode_tokens_per_second", "injected").truth == 0.8
    assert pick(findings, "inference/first_token_seconds", "injected").truth == 1.25


def test_a_quality_that_is_no_metric_is_one_line():
    with pytest.raises(InputError, match="'eval/bleu' is no metric"):
        run(language.transformer(quality="eval/bleu"))


def test_a_diverged_language_model_is_a_result():
    wrong = spoilt(language.transformer(), MLX, metrics={"eval/perplexity": float("inf")})
    text = report.terminal(run(wrong))
    assert re.search(r"test perplexity inf", text)
