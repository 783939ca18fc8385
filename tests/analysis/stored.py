"""Hand-made studies written into the tracking store of a test, as the harness writes them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
from mlflow.entities import Metric, RunTag
from mlflow.tracking import MlflowClient

from tracking import names, views, write
from tracking.read import Row, Study

Series = Mapping[str, np.ndarray]


def store(
    made: Iterable[tuple[Study, list[Row]]],
    samples: Callable[[Row], Series] | None = None,
    **more: str,
) -> list[str]:
    """Every study as one run and its trials as runs below it with tags, metrics and, if given,
    samples; returns the studies' runs. more: further tags of these."""
    runs = []
    client = MlflowClient()
    for study, rows in made:
        design = {
            **study.design,
            "pairs": study.pairs,
            "margin": study.margin,
            "metric": study.metric,
            "target": study.target,
            "family": list(study.family),
            "arms": list(study.arms),
            "comparisons": [asdict(pairing) for pairing in study.comparisons],
        }
        if study.machine:
            design["machine"] = study.machine
        start = int(1000 * min(row.start_seconds for row in rows))
        tags = {names.KIND: "study", "study": study.name, "design": json.dumps(design), **more}
        run = client.create_run("0", start_time=start, tags=tags, run_name=study.name)
        runs.append(str(run.info.run_id))
        for row in rows:
            _trial(client, row, samples, runs[-1])
    return runs


def _trial(
    client: MlflowClient, row: Row, samples: Callable[[Row], Series] | None, parent: str
) -> None:
    start, tags = int(1000 * row.start_seconds), {**tags_of(row), views.PARENT: parent}
    run = client.create_run("0", start_time=start, tags=tags, run_name=row.name)
    metrics = [Metric(name, value, start, 0) for name, value in row.metrics.items()]
    client.log_batch(run.info.run_id, metrics=metrics, tags=[RunTag("order", str(row.order))])
    if samples is not None and row.metrics:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / names.SAMPLES
            write.write_samples(path, {k: v.tolist() for k, v in samples(row).items()})
            client.log_artifact(run.info.run_id, str(path))
    client.set_terminated(run.info.run_id, row.status, end_time=start + 1000)


def tags_of(row: Row) -> dict[str, str]:
    tags = {
        names.KIND: "trial",
        "study": row.study,
        "arm": row.arm,
        "pair": str(row.pair),
        "machine": row.machine,
        "seed": str(row.seed),
        "parity": json.dumps(row.parity),
        "receipt": json.dumps(row.receipt),
        "flags": ",".join(row.flags),
        "not_measured": json.dumps(row.not_measured),
        **row.facts,
        **row.cell,
    }
    return {key: value for key, value in tags.items() if value}
