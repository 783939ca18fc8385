"""A scaling study for people: a page, and a short text for a terminal. No sums here."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from analysis import wording
from analysis.cells import conditions, limits_cell, outcome_word, ratio_cell, resolution_cell
from analysis.findings import Comparison, Drawing, Findings
from analysis.flags import Flag
from analysis.page import Grid, Page, Section
from analysis.scaling import RATE, Gain, Scaling, Whole, ranks_text
from analysis.scaling_figures import EFFICIENCY, STEP, THROUGHPUT
from analysis.scaling_jobs import RANK, Job, Share
from analysis.sweep import medians
from analysis.units import quantity
from tracking.names import METRICS, QUALITIES, RANKED

ENGINES = {"mlx": "MLX distributed", "pytorch": "PyTorch DDP"}

STRONG = (
    "Every number of ranks did the same work, proved by receipts and evidence: the same global batch, "
    "each rank a part of it. Speed-up is T(1) / T(ranks) of the whole job, efficiency is speed-up over "
    "ranks.",
)
WEAK = (
    "Here the work is not equal, on purpose: the global batch is that of one process times the number "
    "of ranks, so that a rank's part of a batch stays, and an epoch has as many times fewer steps and "
    "weight updates. A time over a time would compare two different trainings, so none is given. "
    "Efficiency is the items a second of the whole job over `ranks` times those of one process, block "
    "by block; both arms' own receipts state the same items, all of them.",
)
COMMUNICATION = (
    "The all-reduce of the bytes of a step's gradients, alone, in turn with whole steps of the same "
    "job; the share is its median over that of the steps. It is a measurement of its own: inside a step "
    "part of it may overlap with compute, so the share is not what the step would save without it.",
)
PARTS = (
    "What each rank did with its own part of every batch, medians of the trials. Nothing here is of the "
    "whole data set, and no time here may be set beside one of a whole job: a part takes less time "
    "because it is less work.",
)
HOW_TO_READ = (
    "A job is timed by its slowest rank, epoch by epoch. Every number of ranks has the same threads "
    "for each rank, one process included, so that a job of twice the ranks has twice the resources.",
    "A ratio or an efficiency is the median over blocks of the ratio inside a block, with the interval "
    "of interpolated order statistics; six blocks are the least that give one. Intervals stand each for "
    "itself: they are not adjusted for their number. Only MLX over PyTorch is a declared question, one "
    "for each number of ranks, and its p is adjusted over them (Holm).",
    "The interval of a median of single trials (communication) takes the trials as independent, which a "
    "machine that drifts breaks; that of a ratio inside blocks does not.",
)


def page(findings: Findings, scaling: Scaling, drawings: Sequence[Drawing]) -> Page:
    """The report; drawings: those of `scaling_figures.draw`."""
    study, whole = findings.study, scaling.whole
    figures = {one.name: one for one in drawings}

    def drawn(name: str) -> tuple[Drawing, ...]:
        return (figures[name],) if name in figures else ()

    return Page(
        title=f"Study {study.name}: {', '.join(map(str, whole.ranks))} ranks",
        subtitle=(
            f"{wording.subject(study.mode, str(study.design.get('workload', '')))} by "
            f"{' and '.join(whole.frameworks)}; global batch of one process {whole.batch_size}; "
            f"{whole.threads} thread{'s' * (whole.threads != 1)} a rank; {whole.pairs} "
            f"block{'s' * (whole.pairs != 1)} of fresh jobs in random order; primary metric {study.metric}; margin "
            f"{wording.percent(whole.margin)}. All fixed before the first trial."
        ),
        verdict=scaling.sentences,
        sections=(
            *_headlines(whole, drawn(THROUGHPUT)),
            *_strong(whole),
            *_weak(whole),
            *_efficiency(drawn(EFFICIENCY)),
            _communication(whole, drawn(STEP)),
            _resources(whole),
            *_everything(whole),
            _parts(scaling),
            _same_arm(whole, study.metric),
            Section(title="Conditions and notes", points=(*conditions(findings), *findings.notes)),
            Section(title="How to read this", text=HOW_TO_READ),
        ),
    )


def engine(job: Job) -> str:
    """What carried a job."""
    if job.ranks == 1:
        return "single process"
    name = ENGINES.get(job.framework.split()[0], job.framework)
    return f"{name}, {job.backend}" if job.backend != "none" else name


def _headlines(whole: Whole, drawings: tuple[Drawing, ...]) -> tuple[Section, ...]:
    asked = [(n, c) for n, c in whole.headlines if c.metric == "train/total_seconds"]
    if not asked:
        return (Section(title="Throughput", drawings=drawings),) if drawings else ()
    return (
        Section(
            title=f"{whole.frameworks[0]} over {whole.frameworks[1]} at every number of ranks",
            text=("Time of the whole job, same number of ranks on either side.",),
            grid=Grid(
                ("ranks", *whole.frameworks, "ratio [95 %]", "p (Holm)", "pairs won", "outcome"),
                tuple(
                    (
                        str(n),
                        *(quantity(v, c.unit) for v in medians(c)),
                        ratio_cell(c),
                        f"{c.p:.2g}" if c.p is not None else "",
                        f"{c.wins} of {c.ratio.n}" if c.wins is not None else "",
                        outcome_word(c),
                    )
                    for n, c in asked
                    if c.ratio is not None
                ),
            ),
            drawings=drawings,
            points=tuple(f"{ranks_text(n)}: {c.verdict}" for n, c in asked if c.ratio is None),
            flags=_shared([(ranks_text(n), c.flags) for n, c in asked]),
        ),
    )


def _strong(whole: Whole) -> tuple[Section, ...]:
    if not whole.strong:
        return ()
    gains = {gain.arm: gain for gain in whole.strong}
    return (
        Section(
            title="Strong scaling: the same work on more ranks",
            text=STRONG,
            grid=Grid(
                ("framework", "ranks", "run by", "time of the job", "items/s of the job",
                 "speed-up [95 %]", "efficiency [95 %]"),
                tuple(
                    (
                        job.framework,
                        str(job.ranks),
                        engine(job),
                        _cell(job, "train/total_seconds"),
                        _cell(job, RATE),
                        *_gain_cells(gains.get(job.arm)),
                    )
                    for job in whole.jobs
                    if job.kind in ("single", "strong")
                ),
            ),
            points=_refused(whole.strong),
            flags=_shared([(gain.arm, gain.flags) for gain in whole.strong]),
        ),
    )  # fmt: skip


def _weak(whole: Whole) -> tuple[Section, ...]:
    if not whole.weak:
        return ()
    gains = {gain.arm: gain for gain in whole.weak}
    return (
        Section(
            title="Weak scaling: a batch that grows with the ranks",
            text=WEAK,
            grid=Grid(
                ("framework", "ranks", "run by", "global batch", "weight updates",
                 "items/s of the job", "efficiency [95 %]"),
                tuple(
                    (
                        job.framework,
                        str(job.ranks),
                        engine(job),
                        str(job.batch_size),
                        "not stated" if job.steps is None else str(job.steps),
                        _cell(job, RATE),
                        _gain_cells(gains.get(job.arm))[1],
                    )
                    for job in whole.jobs
                    if job.kind in ("single", "weak")
                ),
            ),
            points=_refused(whole.weak),
            flags=_shared([(gain.arm, gain.flags) for gain in whole.weak]),
        ),
    )  # fmt: skip


def _efficiency(drawings: tuple[Drawing, ...]) -> tuple[Section, ...]:
    return (Section(title="Efficiency", drawings=drawings),) if drawings else ()


def _gain_cells(gain: Gain | None) -> tuple[str, str]:
    """(speed-up, efficiency); of a single process neither."""
    if gain is None:
        return "", ""
    if gain.refused:
        return "refused", "refused"
    return limits_cell(gain.speed_up), limits_cell(gain.efficiency)


def _refused(gains: Sequence[Gain]) -> tuple[str, ...]:
    return tuple(gain.sentence for gain in gains if gain.refused)


def _communication(whole: Whole, drawings: tuple[Drawing, ...]) -> Section:
    columns = (
        "communication/all_reduce_seconds_p50",
        "communication/all_reduce_seconds_p90",
        "communication/bytes_per_step",
        "train/step_seconds_p50",
    )
    jobs = [job for job in whole.jobs if job.ranks > 1]
    return Section(
        title="Communication",
        text=COMMUNICATION,
        grid=Grid(
            ("arm", "share of a step [95 %]", "least to most",
             *(METRICS[name].label for name in columns)),
            tuple(
                (
                    job.arm,
                    *_share_of_step(job),
                    *(_cell(job, name) for name in columns),
                )
                for job in jobs
            ),
        ),
        drawings=drawings,
        points=_reasons(jobs, ("communication/step_share",)),
    )  # fmt: skip


def _share_of_step(job: Job) -> tuple[str, str]:
    share = job.values.get("communication/step_share")
    if share is None:
        return "not measured", ""
    limits = ""
    if share.low is not None and share.high is not None:
        limits = f" [{_percent(share.low)}, {_percent(share.high)}]"
    return _percent(share.median) + limits, f"{_percent(share.least)} to {_percent(share.most)}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _resources(whole: Whole) -> Section:
    quality = [name for name in QUALITIES if any(name in job.values for job in whole.jobs)]
    columns = ("memory/process_peak_bytes", "memory/device_peak_bytes", "energy/joules", *quality)
    titles = ("peak memory, all ranks", "peak of the device allocators, all ranks",
              "energy, all ranks", *(METRICS[name].label for name in quality))  # fmt: skip
    return Section(
        title="Memory, energy and what was learnt, of the whole job",
        text=("Memory and energy are the sums over all ranks of a job.",),
        grid=Grid(
            ("arm", "scaling", *titles),
            tuple(
                (job.arm, job.kind, *(_cell(job, name) for name in columns)) for job in whole.jobs
            ),
        ),
        points=_reasons(whole.jobs, columns),
    )


def _everything(whole: Whole) -> tuple[Section, ...]:
    found = []
    between = _ratios(
        [(ranks_text(n), c) for n, c in whole.headlines],
        "Every metric: MLX over PyTorch",
        "Only the primary metric is a declared question.",
    )
    over_one = _ratios(
        [(f"{framework}, {n} over 1", c) for framework, n, c in whole.over_one],
        "Every metric: more ranks over one, strong scaling",
        "Whole jobs on both sides; memory and energy are sums over the ranks.",
    )
    for section in (between, over_one):
        found += [section] if section else []
    return tuple(found)


def _ratios(columns: Sequence[tuple[str, Comparison]], title: str, text: str) -> Section | None:
    """A row a metric, a column a pairing."""
    names = list(dict.fromkeys(name for name, _ in columns))
    rows: dict[str, dict[str, str]] = {}
    for name, c in columns:
        if c.ratio is not None:
            better = f" ({c.better} is better)" if c.better else ""
            rows.setdefault(c.label + better, {})[name] = ratio_cell(c)
    if not rows:
        return None
    return Section(
        title=title,
        text=(f"Ratio [95 % interval]. {text}",),
        grid=Grid(
            ("metric", *names),
            tuple(
                (label, *(cells.get(name, "") for name in names)) for label, cells in rows.items()
            ),
        ),
    )


def _parts(scaling: Scaling) -> Section:
    """Of single ranks, and of nothing else."""
    return Section(
        title="Each rank's own part",
        text=PARTS,
        grid=Grid(
            ("arm", "rank", *(METRICS[name].label for name in RANKED)),
            tuple(
                (share.arm, f"{share.rank} of {share.ranks}", *(_cell(share, n) for n in RANKED))
                for share in scaling.parts
            ),
        )
        if scaling.parts
        else None,
        points=(*scaling.without_parts, *_reasons(scaling.parts, RANKED)),
    )


def _cell(of: Job | Share, metric: str) -> str:
    """A median in its unit. ValueError for a rank's metric of a job, or a job's of a rank."""
    if isinstance(of, Share) != metric.startswith(RANK):
        raise ValueError(f"{metric} is no value of {of}")
    spread = of.values.get(metric)
    if spread is None:
        return "not measured"
    return quantity(spread.median, METRICS[metric].unit)


def _reasons(found: Sequence[Job] | Sequence[Share], metrics: Sequence[str]) -> tuple[str, ...]:
    """Why a value is missing, each reason once."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for one in found:
        for metric in metrics:
            if metric in one.not_measured:
                arms = reasons.setdefault((metric, one.not_measured[metric]), [])
                if one.arm not in arms:
                    arms.append(one.arm)
    every = {one.arm for one in found}
    return tuple(
        f"{METRICS[metric].label} not measured: {reason} "
        f"({'every arm here' if set(arms) == every else ', '.join(arms)})"
        for (metric, reason), arms in reasons.items()
    )


def _shared(carried: Sequence[tuple[str, Sequence[Flag]]]) -> tuple[Flag, ...]:
    """Each flag once, with the places that carry it and the words of the first."""
    found: dict[str, list[tuple[str, Flag]]] = {}
    for place, some in carried:
        for flag in some:
            if flag.name != "UNDECIDED":  # the table says so
                found.setdefault(flag.name, []).append((place, flag))
    flags = []
    for name, those in found.items():
        first = those[0][1]
        if len({flag for _, flag in those}) == 1 and len(those) == len(carried):
            flags.append(first)
            continue
        places = ", ".join(dict.fromkeys(place for place, _ in those))
        flags.append(Flag(name, f"({places}) First of them: {first.sentence}", first.remedy))
    return tuple(flags)


def _same_arm(whole: Whole, metric: str) -> Section:
    divided = [c for c in whole.same_arm if c.ratio is not None]
    return Section(
        title="The machine against itself",
        text=tuple(c.verdict for c in whole.same_arm if c.metric == metric),
        grid=Grid(
            ("metric", "ratio [95 %]", "resolution"),
            tuple((c.label, ratio_cell(c), resolution_cell(c)) for c in divided),
        )
        if divided
        else None,
    )


def terminal(findings: Findings, scaling: Scaling) -> str:
    """One line a job for either kind of scaling, then warnings with their remedy, then the verdict."""
    study, whole = findings.study, scaling.whole
    lines = [
        f"Study {study.name}: {', '.join(map(str, whole.ranks))} ranks, {whole.pairs} "
        f"pair{'s' * (whole.pairs != 1)}, {whole.threads} "
        f"thread{'s' * (whole.threads != 1)} a rank, primary metric {study.metric}",
    ]
    if whole.strong:
        lines += ["", "Strong scaling (same global batch): time, items/s, speed-up, efficiency"]
        lines += _lines(whole, "strong", whole.strong, _strong_words)
    if whole.weak:
        lines += ["", "Weak scaling (batch x ranks, other work): batch, items/s, efficiency"]
        lines += _lines(whole, "weak", whole.weak, _weak_words)
    measured = [j for j in whole.jobs if "communication/step_share" in j.values]
    if measured:
        lines += ["", "All-reduce over step, measured apart: share, all-reduce, bytes"]
        lines += [
            f"  {job.arm}: {_share_of_step(job)[0]}, "
            f"{_cell(job, 'communication/all_reduce_seconds_p50')}, "
            f"{_cell(job, 'communication/bytes_per_step')}"
            for job in measured
        ]
    same = [c.verdict for c in whole.same_arm if c.metric == study.metric]
    lines += ["", *(f"Note: {note}" for note in (*same, *findings.notes))]
    lines += ["", "Verdict", *scaling.sentences]
    return "\n".join(lines) + "\n"


def _lines(
    whole: Whole, kind: str, gains: Sequence[Gain], words: Callable[[Job], str]
) -> list[str]:
    by_arm = {gain.arm: gain for gain in gains}
    lines = []
    for job in whole.jobs:
        if job.kind in ("single", kind):
            cells = ", ".join(dict.fromkeys(c for c in _gain_cells(by_arm.get(job.arm)) if c))
            lines.append(f"  {job.arm}: {words(job)}" + (f", {cells}" if cells else ""))
    shared = _shared([(gain.arm, gain.flags) for gain in gains])
    return [*lines, *(f"  ! {flag}" for flag in shared)]


def _strong_words(job: Job) -> str:
    return f"{_cell(job, 'train/total_seconds')}, {_cell(job, RATE)}"


def _weak_words(job: Job) -> str:
    return f"batch {job.batch_size}, {_cell(job, RATE)}"
