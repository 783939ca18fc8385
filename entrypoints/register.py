"""`register`: a trial's model becomes a version of the registered model of its workload, and promotions.

    python -m entrypoints.register --workload mnist
    python -m entrypoints.register --workload mnist --promote true
    python -m entrypoints.register --workload mnist --promote back

The first version is the champion, later ones are challengers. A challenger takes the champion's place
only on complete evidence and by the analysis of a study, see serving.promotion; what is missing is said
in one line, exit code 2. The champion before keeps the alias `previous`, to which `back` goes back.
"""

from __future__ import annotations

import time

import click

import frameworks
import models
from entrypoints.analyze import findings_of
from entrypoints.options import Command
from measurement.errors import InputError
from serving import card, integrity, promotion, trained
from serving.integrity import Proof
from tracking import names, read, registry, write
from tracking.read import Row
from tracking.registry import CHALLENGER, CHAMPION, PREVIOUS, ROLLED_BACK, Version


def _lines(done: registry.Registered) -> list[str]:
    """What was registered, from where, and how to use it; lines that can be pasted."""
    unit = names.METRICS[done.metric].unit
    state = "registered" if done.new else "was registered already"
    lines = [
        f"{done.name} version {done.version} {state}, alias {done.alias}: {done.framework}, "
        f"{done.metric} {done.value:.6g} {unit}".rstrip(),
        f"  from run {done.run_id} ({done.run_name}), commit {done.tags['git_commit'][:12]}, "
        f"data {done.tags['data_sha256'][:12]}",
    ]
    if done.left_out:
        listed = ", ".join(f"{count} {reason}" for reason, count in done.left_out.items())
        lines.append(f"  {done.considered} runs looked at, left out: {listed}")
    if "DIRTY-TREE" in done.tags["flags"].split(","):
        lines.append("  DIRTY-TREE: the code of this run differs from its commit")
    if done.alias == CHALLENGER:
        lines.append(
            f"  the champion stays; to promote this one: mlflow run . -e register -P workload={done.name} "
            "-P promote=true"
        )
    return lines + _usage(done.uri)


def _usage(uri: str) -> list[str]:
    load, serve, ask = card.usage(uri)[1:-1]
    return [f"load:  {load}", f"serve: {serve}", f"ask:   {ask}"]


def _chosen(value: str, known: list[str], what: str) -> str | None:
    if value == "any":
        return None
    if value not in known:
        raise InputError(f"unknown {what} '{value}'; choose one of: any, {', '.join(known)}")
    return value


def _expect_trained(workload: str) -> None:
    """Raises InputError for a workload that leaves no model."""
    if models.load(workload, "config").KIND != "train":
        known = [name for name in models.names() if models.load(name, "config").KIND == "train"]
        raise InputError(
            f"workload '{workload}' trains no model; expected one that does: {', '.join(known)}"
        )


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


class _Proofs:
    """What was found out about each model that was looked at, by its run."""

    def __init__(self) -> None:
        self.found: dict[str, Proof] = {}

    def __call__(self, row: Row, model_uri: str) -> str | None:
        """As registry.Refusal."""
        try:
            self.found[row.run_id] = integrity.prove(row, model_uri)
        except InputError as error:
            return str(error)
        return None


def _describe(row: Row, version: str, proof: Proof, decision: tuple[str, ...] = ()) -> None:
    """Writes the card: into the version, and as an artifact of the run."""
    kin = [
        one
        for one in (read.trials(row.study) if row.study else [])
        if (one.arm, one.machine) == (row.arm, row.machine)
    ]
    text = card.markdown(row, card.Story(version, proof, kin, decision))
    registry.describe(row.cell["workload"], version, text)
    write.attach_text(row.run_id, text, card.FILE)


def _register(
    workload: str, metric: str, framework: str, study: str, run_id: str
) -> registry.Registered:
    proofs = _Proofs()
    done = registry.register_best(
        metric,
        workload,
        _chosen(framework, frameworks.names(), "framework"),
        None if study == "any" else study,
        None if run_id == "best" else run_id,
        proofs,
    )
    (row,) = read.trials(run_ids=[done.run_id])
    _describe(row, done.version, proofs.found[row.run_id])
    return done


def _promote(challenger: Version, metric: str, margin: float) -> list[str]:
    """The challenger in the champion's place, or InputError with what is missing."""
    champion = registry.version(challenger.name, CHAMPION)
    if champion is None or champion.version == challenger.version:
        raise InputError(f"{challenger.name} has no champion to compare with; register one first")
    if day := challenger.tags.get(ROLLED_BACK):
        raise InputError(
            f"not promoted: version {challenger.version} of {challenger.name} was taken back on {day}; to "
            f"have it compared again delete its tag '{ROLLED_BACK}'"
        )
    first, second = (_row(version) for version in (challenger, champion))
    grounds = promotion.judge(second, first, metric, margin, findings_of)
    proof = integrity.prove(first, challenger.model_uri)
    if proof.missing:
        raise InputError(
            f"not promoted: run {first.run_id} does not record {proof.missing}; train again"
        )
    said = (
        f"champion since {time.strftime('%Y-%m-%d')} in place of version {champion.version} "
        f"(margin {margin:g}).",
        *(f"{sentence}." for sentence in grounds.sentences),
    )
    tags = {
        "promoted_over": champion.version,
        "promoted_by_metric": metric,
        "promoted_margin": f"{margin:g}",
        "promoted_on_studies": ", ".join(grounds.studies),
        "promoted_because": " ".join(said[1:]),
    }
    registry.promote(challenger, champion, tags)
    _describe(first, challenger.version, proof, said)
    return [
        f"{challenger.name} version {challenger.version} is champion, version {champion.version} previous",
        *(f"  {sentence}" for sentence in grounds.sentences),
        f"back:  mlflow run . -e register -P workload={challenger.name} -P promote=back",
    ]


def _row(version: Version) -> Row:
    if not version.run_id:
        raise InputError(
            f"version {version.version} of {version.name} names no run; expected one that `register` made"
        )
    (row,) = read.trials(run_ids=[version.run_id])
    return row


@click.command(cls=Command, example="mlflow run . -e register -P workload=mnist")
@click.option("--workload", default="mnist", show_default=True, help="Also the model's name.")
@click.option(
    "--metric",
    default="auto",
    show_default=True,
    help="What best means, and what a promotion is judged by; auto is the workload's quality.",
)
@click.option("--framework", default="any", show_default=True, help="A framework, or any.")
@click.option("--study", default="any", show_default=True, help="A study's name, or any.")
@click.option("--run_id", default="best", show_default=True, help="This very trial, or best.")
@click.option(
    "--promote",
    type=click.Choice(("false", "true", "back")),
    default="false",
    show_default=True,
    help="true: the challenger, or the trial of run_id, takes the champion's place, if the evidence "
    "allows it. back: the previous champion is champion again.",
)
@click.option(
    "--margin",
    type=float,
    default=promotion.MARGIN,
    show_default=True,
    help="Within which share two qualities are the same, for a promotion.",
)
def main(
    workload: str, metric: str, framework: str, study: str, run_id: str, promote: str, margin: float
) -> None:
    """Register the best trial whose evidence is complete, promote a challenger, or go back."""
    _expect_trained(workload)
    metric = str(models.load(workload, "config").QUALITY) if metric == "auto" else metric
    write.adopt("register", f"register {workload}")
    if promote == "back":
        now, before = registry.roll_back(workload)
        click.echo(
            f"{workload} version {now.version} is champion again, not version {before.version}"
        )
        return
    _expect_served(framework, run_id)
    champion = registry.version(workload, CHAMPION)
    challenger = registry.version(workload, CHALLENGER)
    if promote == "false" or champion is None or run_id != "best":
        done = _register(workload, metric, framework, study, run_id)
        click.echo("\n".join(_lines(done)))
        champion, challenger = (registry.version(workload, a) for a in (CHAMPION, CHALLENGER))
        if promote == "false" or done.alias == CHAMPION:
            return
        if challenger is None or challenger.version != done.version:
            raise InputError(
                f"not promoted: another command has changed the challenger of {workload} meanwhile; "
                "start this one again"
            )
    if challenger is None:
        last = registry.version(workload, PREVIOUS)
        click.echo(
            f"{workload} has no challenger; the champion is version {champion.version if champion else '?'}"
            + (f", the previous one version {last.version}" if last else "")
        )
        return
    click.echo("\n".join(_promote(challenger, metric, margin)))


if __name__ == "__main__":
    main()
