"""The table behind each figure: the same numbers, for who reads rather than looks."""

from __future__ import annotations

from collections.abc import Sequence

from analysis import cells, wording
from analysis.findings import Distribution, Findings, Grid, Learning, Rates, Roof, Spans
from analysis.units import quantity
from tracking.names import METRICS


def of_metrics(findings: Findings, names: Sequence[str]) -> Grid:
    """A row an arm: median, least and greatest over its trials."""
    return Grid(
        ("arm", "trials", *(METRICS[name].label for name in names)),
        tuple(
            (arm.name, str(arm.trials), *(cells.range_cell(arm, name) for name in names))
            for arm in findings.arms
        ),
    )


def spans(found: Sequence[Spans]) -> Grid:
    """A row an arm: how many spans, and their middle."""
    return Grid(
        ("arm", "trials", "timed", "median", "shortest", "longest"),
        tuple(
            (
                one.arm,
                str(len(one.trials)),
                str(one.every.n),
                *(quantity(v, "s") for v in (one.every.median, one.every.low, one.every.high)),
            )
            for one in found
        ),
    )


_SHOWN_SHARES = (1, 10, 25, 50, 75, 90, 99)


def latencies(found: Sequence[Distribution]) -> Grid:
    """A row an arm: quantiles of a trial's calls, the median over the trials."""
    return Grid(
        ("arm", "trials", "calls", *(f"p{share}" for share in _SHOWN_SHARES)),
        tuple(
            (
                one.arm,
                str(one.trials),
                str(one.calls),
                *(quantity(one.seconds[share], "s") for share in _SHOWN_SHARES),
            )
            for one in found
        ),
    )


def learning(found: Sequence[Learning], metric: str) -> Grid:
    """A row an arm and epoch."""
    unit = METRICS[metric].unit
    return Grid(
        ("arm", "epoch", "trials", "training time until then", METRICS[metric].label),
        tuple(
            (
                one.arm,
                str(epoch),
                str(quality.n),
                cells.middle_cell(seconds, "s"),
                cells.middle_cell(quality, unit),
            )
            for one in found
            for epoch, seconds, quality in zip(one.epochs, one.seconds, one.quality, strict=True)
        ),
    )


def arrivals(findings: Findings) -> Grid:
    """A row an arm and unit: who arrived, and when."""
    rows = []
    for (arm, unit), a in findings.arrivals.items():
        low, high = (
            "none" if limit is None else wording.time_text(limit, unit) for limit in (a.low, a.high)
        )
        rows.append(
            (
                arm,
                unit,
                cells.arrived_cell(a),
                wording.time_text(a.median, unit),
                f"{low} to {high}" if a.low is not None else "none under 6 trials",
                wording.time_text(a.expected, unit),
            )
        )
    header = ("arm", "in", "arrived", "median", "95 % interval", "expected with restarts")
    return Grid(header, tuple(rows))


def batches(found: Sequence[Rates]) -> Grid:
    """A row a batch size, a column an arm."""
    sizes = sorted({size for one in found for size in one.sizes})
    rates = {one.arm: dict(zip(one.sizes, one.rates, strict=True)) for one in found}
    return Grid(
        ("batch size", *(f"{arm} (items/s)" for arm in rates)),
        tuple(
            (
                str(size),
                *(
                    cells.middle_cell(by_size[size], "") if size in by_size else "not measured"
                    for by_size in rates.values()
                ),
            )
            for size in sizes
        ),
    )


def roofs(found: Sequence[Roof]) -> Grid:
    """A row an arm; what is not known says so."""
    return Grid(
        ("arm", "dtype", "achieved", "ceiling here", "share", "FLOP per byte, at most", "how"),
        tuple(
            (
                roof.arm,
                roof.dtype,
                cells.middle_cell(roof.achieved, "FLOP/s") if roof.achieved else "not measured",
                cells.middle_cell(roof.ceiling, "FLOP/s") if roof.ceiling else "not measured",
                wording.percent(roof.fraction.median) if roof.fraction else "not known",
                f"{roof.intensity:.3g}" if roof.intensity is not None else "not known",
                "; ".join(filter(None, (roof.how, roof.missing))),
            )
            for roof in found
        ),
    )
