"""`sweep`: a study over one parameter: at every value both frameworks, and where they change places.

python -m entrypoints.sweep --parameter batch_size --values 64..1024 --name batches
"""

from __future__ import annotations

import math
import os
import sys
from typing import Any

import click

import models
from analysis.statistics import holm_pairs
from entrypoints import study, study_plan
from entrypoints.options import Command, whole
from measurement.errors import InputError
from measurement.schedule import AGAIN, Condition

Value = int | float
_AS_IN_STUDY = (
    "name", "workload", "preset", "pairs", "device", "dtype", "threads", "dataset", "data_dir",
    "seed", "target", "margin", "price_per_hour", "price_table", "gap_seconds", "wait_quiet", "mode", "checkpoint",
)  # fmt: skip
_KINDS = {int: "a whole number above 0", float: "a number above 0"}


def parse_values(text: str, parameter: str, kind: type, option: str = "values") -> list[Value]:
    """`16..128` -> [16, 32, 64, 128], each twice the last; `16,64,256` as it stands, ascending.

    option: the option that they came from, as an error names it.
    Raises InputError: not a number of the parameter's kind or not above 0, one value only, a value
    twice, ends that no doubling joins.
    """
    shape = "expected two or more values, as in 16..1024 (doubling) or 16,64,256"
    ends = text.split("..")
    if len(ends) > 2:
        raise InputError(f"{option}='{text}': {shape}")
    if len(ends) == 1:
        values = [_value(word, parameter, kind) for word in text.split(",")]
        if twice := [value for value in values if values.count(value) > 1]:
            raise InputError(f"{option}='{text}': {twice[0]:g} is given twice; expected it once")
        if len(values) < 2:
            raise InputError(f"{option}='{text}': {shape}")
        return sorted(values)
    low, high = (_value(word, parameter, kind) for word in ends)
    steps = round(math.log2(high / low))
    if steps < 1 or not math.isclose(low * 2**steps, high, rel_tol=1e-9):
        raise InputError(
            f"{option}='{text}': doubling {low:g} never gives {high:g}; expected a range that doubles "
            f"from end to end, as in {low:g}..{low * 2 ** max(steps, 1):g}, or a list with commas"
        )
    return [low * 2**step for step in range(steps + 1)]


def _value(word: str, parameter: str, kind: type) -> Value:
    try:
        value: Value = kind(word.strip())
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise InputError(f"{parameter}='{word.strip()}': expected {_KINDS[kind]}")
    return value


def checked(options: dict[str, Any]) -> list[Value]:
    """The values asked for. Raises InputError when the workload cannot take one of them."""
    parameter, workload = options["parameter"], options["workload"]
    kinds = {**models.options(workload), "threads": int}
    if parameter not in kinds:
        raise InputError(
            f"parameter='{parameter}' is none of workload '{workload}'; choose one of: "
            f"{', '.join(kinds)}"
        )
    values = parse_values(options["values"], parameter, kinds[parameter])
    presets = models.load(workload, "config").PRESETS
    limits = {  # beyond it a value means the same as a smaller one
        "batch_size": (
            getattr(presets.get(options["preset"]), "train_items", math.inf),
            f"the training items of preset {options['preset']}",
        ),
        "threads": (os.cpu_count() or math.inf, "the processors of this machine"),
    }
    most, what = limits.get(parameter, (math.inf, ""))
    if values[-1] > most:
        raise InputError(
            f"{parameter}={values[-1]:g}: expected {most:g} or less, {what}; choose smaller values"
        )
    return values


def design(options: dict[str, Any], base: Condition, values: list[Value]) -> dict[str, Any]:
    """The study: at every value one pairing of the frameworks, and an A/A arm at the middle one."""
    parameter = options["parameter"]
    mlx, torch = study_plan.default_arms(base.device)[0][:2]
    comparisons = [
        {
            "numerator": f"{mlx} {parameter}={value}",
            "denominator": f"{torch} {parameter}={value}",
            "role": "sweep",
        }
        for value in values
    ]
    arms = [pairing[side] for side in ("numerator", "denominator") for pairing in comparisons]
    middle = comparisons[len(values) // 2]["denominator"]
    arms.append(f"{middle} {AGAIN}")
    comparisons.append({"numerator": arms[-1], "denominator": middle, "role": "resolution"})
    plan = study_plan.fixed(options, base, arms, comparisons)
    return {**plan, "sweep": {"parameter": parameter, "values": values}}


@click.command(
    cls=Command,
    help=__doc__,
    example="mlflow run . -e sweep -P parameter=batch_size -P values=64..1024",
    params=[p for p in study.main.params if p.name in _AS_IN_STUDY],
)
@click.option("--parameter", default="batch_size", show_default=True,
              help="a size of the workload, or threads")  # fmt: skip
@click.option("--values", default="16..16384", show_default=True,
              help="16..1024 doubles from end to end; or a list, 16,64,256")  # fmt: skip
@click.option("--epochs", type=whole(1), default=1, show_default=True)
def main(**options: Any) -> None:
    options, base = study_plan.complete(options)
    values = checked(options)
    plan = design(options, base, values)
    needed = holm_pairs(len(values))
    click.echo(
        f"sweep over {options['parameter']}: {len(values)} values, {len(plan['order'])} trials", err=True
    )  # fmt: skip
    if plan["pairs"] < needed:
        click.echo(
            f"{plan['pairs']} pairs: crossings need 6, a verdict on each of {len(values)} values "
            f"needs {needed}",
            err=True,
        )
    sys.exit(study.conduct(options["name"], plan, study_plan.sources_of(options)))


if __name__ == "__main__":
    main()
