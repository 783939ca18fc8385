"""The card of a registered model, Markdown: what it is, what it was trained on, how good and how fast it
is, what is known of both, and how to use it. Everything is what its run recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import models
from analysis import flags
from analysis.units import quantity
from serving import integrity
from serving.integrity import Proof
from tracking.names import METRICS
from tracking.read import Row
from tracking.registry import DOUBTFUL_TIMES

FILE = "model_card.md"
PORT = 5001
EXAMPLE = "serving_input_example.json"  # MLflow keeps it beside every model with an example
_SPEEDS = (
    "inference/latency_seconds_p50", "inference/latency_seconds_p90", "inference/items_per_second",
    "train/total_seconds", "memory/process_peak_bytes",
)  # fmt: skip
_LIMITS = {
    "SYNTHETIC": "It was trained on generated data.",
    "DIRTY-TREE": "The code that trained it is in no commit.",
    "DROPOUT": "Dropout's masks are drawn anew in every framework.",
}


@dataclass(frozen=True)
class Story:
    """What a card says besides its run. kin: the trials of the same arm of its study, itself too;
    decision: on what grounds it became what it is."""

    version: str
    proof: Proof
    kin: Sequence[Row] = ()
    decision: Sequence[str] = ()


def markdown(row: Row, story: Story) -> str:
    """The card of the model that a trial trained."""
    workload, framework = row.cell["workload"], row.cell["framework"]
    config = models.load(workload, "config")
    lines = [
        f"# {workload}, version {story.version}",
        "",
        f"{models.about(workload)} Trained in {framework} {row.cell.get('version_framework', '')}.",
        "",
        f"- **In:** {_inputs(row)} **Out:** {_outputs(workload)}",
        f"- **Trained on:** {_data(row)}",
        *_quality(row, story.kin, str(config.QUALITY)),
        f"- **Speed, n = 1 trial:** {_speed(row)}",
        f"- **Machine:** {_machine(row)}",
        f"- **Evidence:** {_evidence(row, story.proof)}",
        f"- **Versions:** {_versions(row)}",
        *[f"- **Decision:** {sentence}" for sentence in story.decision],
        "",
        f"Limits: {' '.join(_limits(row))}",
        "",
        "Licence: MIT, as the code that made it; what the data set's own terms ask of who uses a model that "
        "was trained on it stays asked.",
        "",
        *usage(f"models:/{workload}/{story.version}"),
    ]
    return "\n".join(lines) + "\n"


def usage(uri: str) -> list[str]:
    """How to load and serve a model, in lines that can be pasted."""
    return [
        "```",
        f'mlflow.pyfunc.load_model("{uri}").predict(items)',
        f"mlflow models serve -m {uri} --env-manager local -p {PORT}",
        f"mlflow artifacts download -u {uri}/{EXAMPLE} -d . && curl -s -H 'Content-Type: application/json'"
        f" -d @{EXAMPLE} http://127.0.0.1:{PORT}/invocations",
        "```",
    ]


def _inputs(row: Row) -> str:
    example = integrity.configuration(row).example()
    shape = ", ".join(["n", *map(str, example.shape[1:])])
    return f"`({shape}{',' * (example.ndim == 1)})` {example.dtype}."


def _outputs(workload: str) -> str:
    shape = ", ".join(["n", *map(str, models.setting(workload, "ANSWER"))])
    return f"class of each, `({shape}{',' * (shape == 'n')})` int64."


def _data(row: Row) -> str:
    receipt = row.receipt or {}
    epochs = max(1, int(row.cell.get("epochs", "1") or 1))
    seen = (
        f", {receipt['items'] // epochs:,} items in {epochs} epochs" if "items" in receipt else ""
    )
    return (
        f"{row.cell.get('dataset', 'unknown')} ({row.tags.get('data_source', 'unknown')}){seen}, sha256 "
        f"`{row.tags.get('data_sha256', 'unknown')[:16]}`."
    )


def _quality(row: Row, kin: Sequence[Row], quality: str) -> list[str]:
    value = row.metrics.get(quality)
    if value is None:
        return [f"- **Quality:** {quality} not measured."]
    receipt, epochs = row.receipt or {}, max(1, int(row.cell.get("epochs", "1") or 1))
    items = int(receipt.get("eval_items", 0)) // epochs
    text = f"{METRICS[quality].label} {value:.4g} on {items:,} test items"
    others = sorted(r.metrics[quality] for r in kin if quality in r.metrics)
    if len(others) > 1:
        text += (
            f"; {len(others)} trials of its arm, seeds their own: {others[0]:.4g} to {others[-1]:.4g}, "
            f"median {others[len(others) // 2]:.4g}"
        )
    return [f"- **Quality:** {text}."]


def _speed(row: Row) -> str:
    said = [
        f"{METRICS[name].label} {quantity(row.metrics[name], METRICS[name].unit)}"
        for name in _SPEEDS
        if name in row.metrics
    ]
    doubt = sorted(DOUBTFUL_TIMES.intersection(row.flags))
    return (
        ("; ".join(said) or "not measured")
        + (f". {', '.join(doubt)}: its times are doubtful" if doubt else "")
        + ". Compare frameworks by a study, never by these."
    )


def _machine(row: Row) -> str:
    chip = row.facts.get("machine_cpu") or row.machine
    get = row.cell.get
    return (
        f"{chip}, {get('device', '')}, {get('dtype', '')}, {get('threads', '?')} threads, BLAS "
        f"{get('blas_loaded', 'unknown')}, compiled {get('compile', '?')} (inference "
        f"{get('compile_inference', '?')}); `{row.machine}`."
    )


def _evidence(row: Row, proof: Proof) -> str:
    said = [
        "equal work recorded" if row.parity else "no evidence of equal work",
        "receipt recorded" if row.receipt else "no receipt",
        _record(row),
        "weights are those that were trained" if proof.weights else "weights' digest not recorded",
        f"{proof.asked} of {proof.asked} answers of the training process given again by the loaded model"
        if proof.asked
        else "answers of the training process not recorded",
        f"flags: {', '.join(row.flags) or 'none'}",
    ]
    study = f" Study `{row.study}`, arm `{row.arm}`." if row.study else ""
    return "; ".join(said) + f". Run `{row.run_id}`.{study}"


def _record(row: Row) -> str:
    if row.altered is None:
        return "record without a digest"
    return "RECORD ALTERED" if row.altered else "record as it was written"


def _versions(row: Row) -> str:
    commit = row.tags.get("mlflow.source.git.commit", "unknown")[:12]
    return (
        f"{row.cell.get('framework')} {row.cell.get('version_framework', 'unknown')}, Python "
        f"{row.cell.get('version_python', 'unknown')}, commit `{commit}`, seed {row.seed}."
    )


def _limits(row: Row) -> list[str]:
    found = [
        "Trained to compare frameworks, from random weights, not for use in a product; nothing was tested "
        "but the data set's own test part.",
        "Served on the CPU in float32; a request holds one batch and must fit into memory.",
    ]
    if (dtype := row.cell.get("dtype", "float32")) != "float32":
        found.append(f"It was trained in {dtype}: classes that are near may turn in float32.")
    if (preset := row.cell.get("preset", "")) in ("smoke", "cpu"):
        found.append(f"Preset {preset}: its quality says nothing about the published size.")
    for name in row.flags:
        if name in flags.TRIAL_REMEDIES or name in _LIMITS:
            found.append(
                _LIMITS.get(name) or f"{name}: trials so flagged {flags.TRIAL_REMEDIES[name][0]}."
            )
    return found
