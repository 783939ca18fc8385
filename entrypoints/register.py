"""`register`: the best trial by a metric becomes the registered model version `champion`.

python -m entrypoints.register --workload mnist --metric eval/accuracy
"""

from __future__ import annotations

import click

import frameworks
import models
from entrypoints.options import Command
from measurement.errors import InputError
from serving import inspection, trained
from tracking import names, read, registry, write

_PORT = 5001
_EXAMPLE = "serving_input_example.json"  # MLflow keeps it beside every model with an example


def _lines(done: registry.Registered) -> list[str]:
    """What was registered, from where, and how to use it; lines that can be pasted."""
    unit = names.METRICS[done.metric].unit
    state = "registered" if done.new else "was registered already"
    lines = [
        f"{done.name} version {done.version} {state}, alias {registry.ALIAS}: {done.framework}, "
        f"{done.metric} {done.value:.6g} {unit}".rstrip(),
        f"  from run {done.run_id} ({done.run_name}), commit {done.tags['git_commit'][:12]}, "
        f"data {done.tags['data_sha256'][:12]}",
    ]
    if done.left_out:
        listed = ", ".join(f"{count} {reason}" for reason, count in done.left_out.items())
        lines.append(f"  {done.considered} runs looked at, left out: {listed}")
    if "DIRTY-TREE" in done.tags["flags"].split(","):
        lines.append("  DIRTY-TREE: the code of this run differs from its commit")
    return lines + [
        f"load:  mlflow.pyfunc.load_model('{done.uri}').predict(images)",
        f"serve: mlflow models serve -m {done.uri} --env-manager local -p {_PORT}",
        f"ask:   mlflow artifacts download -u {done.uri}/{_EXAMPLE} -d . && curl -s -H"
        f" 'Content-Type: application/json' -d @{_EXAMPLE} http://127.0.0.1:{_PORT}/invocations",
    ]


def _chosen(value: str, known: list[str], what: str) -> str | None:
    if value == "any":
        return None
    if value not in known:
        raise InputError(f"unknown {what} '{value}'; choose one of: any, {', '.join(known)}")
    return value


def _expect_served(framework: str, run_id: str) -> None:
    """Raises InputError for a framework whose runs hold no MLflow model, or such a run."""
    found = {framework}
    if run_id != "best":
        found |= {
            row.cell.get("framework", "") for row in read.trials(None, [run_id], finished=False)
        }
    for name in sorted(found & set(frameworks.names()) - set(trained.SERVED)):
        raise InputError(
            f"{name} runs hold no MLflow model, because nothing here serves {name}; expected one of "
            f"{', '.join(trained.SERVED)}: use the weights of its run with mode=infer"
        )


@click.command(cls=Command)
@click.option("--workload", default="mnist", show_default=True, help="Also the model's name.")
@click.option("--metric", default="eval/accuracy", show_default=True, help="What best means.")
@click.option("--framework", default="any", show_default=True, help="A framework, or any.")
@click.option("--study", default="any", show_default=True, help="A study's name, or any.")
@click.option("--run_id", default="best", show_default=True, help="This very trial, or best.")
def main(workload: str, metric: str, framework: str, study: str, run_id: str) -> None:
    """Register the best trial whose evidence is complete, and say how to load and serve it."""
    models.load(workload, "config")
    write.adopt("register", f"register {workload}")
    _expect_served(framework, run_id)
    done = registry.register_best(
        metric,
        workload,
        _chosen(framework, frameworks.names(), "framework"),
        None if study == "any" else study,
        None if run_id == "best" else run_id,
        inspection.refusal,
    )
    click.echo("\n".join(_lines(done)))


if __name__ == "__main__":
    main()
