"""`auto`: picks framework, device and BLAS for this machine, says why, and runs that trial.

    python -m entrypoints.auto --workload mnist

Measured runs of the same work on this machine decide where they can: a study's verdict, else medians
of single runs, which carry none and are said to carry none. Without them the platform decides. With
`python -m entrypoints.trial mnist auto` sizes can be given too.
"""

from __future__ import annotations

from typing import Any

import click

import models
from entrypoints import prices, trial
from entrypoints.choice import AUTO
from entrypoints.options import TARGET, Command, Or, whole
from measurement.errors import InputError

# Words that a trial's own option knows.
_PASSED = ("preset", "device", "data_dir", "compile", "blas")


def values_for(workload: str, given: dict[str, Any]) -> dict[str, Any]:
    """The options of a trial of this workload: its defaults, over them what was given. Raises
    InputError for one that the workload does not have."""
    modes = models.modes(workload)
    if given["mode"] not in (AUTO, *modes):
        raise InputError(f"mode='{given['mode']}': workload '{workload}' has: {', '.join(modes)}")
    found = {str(option.name): option.default for option in trial.options(workload)}
    for name, value in given.items():
        if value == AUTO and name not in _PASSED:
            continue
        if name in found:
            found[name] = value
        elif name in ("epochs", "target") or (name == "checkpoint" and value != "random"):
            raise InputError(f"{name}={value}: workload '{workload}' has no {name}; leave it out")
    return found


@click.command(
    cls=Command, help=__doc__, example="mlflow run . -e auto -P workload=mnist -P preset=smoke"
)
@click.option("--workload", default="mnist", show_default=True)
@click.option(
    "--framework", default=AUTO, show_default=True, help="auto, or the only one to look at"
)
@click.option("--mode", default=AUTO, show_default=True, help="as of a trial; auto: its usual one")
@click.option("--preset", default=AUTO, show_default=True, help="auto: by workload and device")
@click.option("--device", default=AUTO, show_default=True, help="as of a trial; auto: chosen")
@click.option("--seed", type=whole(0), default=0, show_default=True)
@click.option("--dataset", default=AUTO, show_default=True, help="auto: the workload's real data")
@click.option("--data_dir", default=AUTO, show_default=True)
@click.option("--dtype", default="float32", show_default=True)
@click.option("--compile", default=AUTO, show_default=True, help="on | off | auto: chosen")
@click.option(
    "--blas", default=AUTO, show_default=True, help="shipped | mkl | openblas | auto: chosen"
)
@click.option(
    "--threads",
    type=whole(0),
    default=0,
    show_default=True,
    help="number of threads; 0: every core",
)
@click.option(
    "--price_per_hour",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="USD an hour",
)
@click.option("--price_table", default=prices.NONE, show_default=True, help="as of a trial")
@click.option(
    "--epochs",
    type=Or(AUTO, whole(1)),
    default=AUTO,
    show_default=True,
    help="number; auto: the workload's own",
)
@click.option(
    "--target",
    type=Or(AUTO, TARGET),
    default=AUTO,
    show_default=True,
    help="accuracy or perplexity to reach; auto: the workload's own",
)
@click.option("--checkpoint", default="random", show_default=True, help="as of a trial")
def main(workload: str, framework: str, **given: Any) -> None:
    trial.perform_best(workload, framework, values_for(workload, given))


if __name__ == "__main__":
    main()
