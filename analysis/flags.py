"""Warnings that travel with a result: what is wrong with it, and what would cure it.

What may be said of a ratio:

| sentence | needs |
|---|---|
| "faster", "slower" | p <= 0.05, Holm-adjusted in the declared family, and no flag of `BLOCKING` |
| "the same within 5 %" | the 90 % interval inside the margin fixed beforehand, and none either |
| "undecided with n pairs; the ratio is between L and U" | an interval |
| the ratios, one by one | nothing: the flag FEW refuses interval and p |

P90-FEW, AVERAGE-FEW and K-FEW refuse the interval of their own question only. Every other flag
leaves the numbers and says how to read them.
"""

from __future__ import annotations

from dataclasses import dataclass

MINIMUM_PAIRS = 6
"""The smallest sample whose minimum...maximum covers the median at 95 % (1 - 2**-5 = 96.9 %)."""

BLOCKING = frozenset(
    {
        # the design: what came in between may be the machine's doing
        "NOT-INTERLEAVED", "ONE-PROCESS", "OVERLAP", "STRICT-ORDER", "OTHER-ORDER", "OTHER-SEED",
        "COLD-RATIO",
        # the choice: what is shown is not all that ran
        "DROPPED", "SELECTED", "UNTIL-SIGNIFICANT",
        # the origin: not one study
        "MIXED-CODE", "MIXED-DATA", "MIXED-VERSIONS", "OTHER-MACHINE",
    }
)  # fmt: skip
"""Flags under which no difference between arms, and no sameness, may be blamed on frameworks."""


@dataclass(frozen=True)
class Flag:
    """A warning: its fixed name, one sentence for people, and the remedy ("" = there is none)."""

    name: str
    sentence: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.sentence}" + (f" {self.remedy}" if self.remedy else "")


def few(n: int, what: str = "pairs", needed: int = MINIMUM_PAIRS, confidence: float = 0.95) -> Flag:
    """FEW: no order-statistic interval exists (under six at 95 %), so there is no verdict.

    >>> few(5).sentence
    '5 pairs: even min...max covers only 93.75 % and p < 0.05 is out of reach.'
    """
    if n < 2:
        sentence = f"{n} {what}: nothing is known about the spread."
    else:
        covered = f"{100 * (1 - 2.0 ** (1 - n)):.2f}".rstrip("0").rstrip(".")
        out_of_reach = f"{1 - confidence:.2g}"
        sentence = (
            f"{n} {what}: even min...max covers only {covered} % "
            f"and p < {out_of_reach} is out of reach."
        )
    return Flag("FEW", sentence, f"Run at least {needed} {what}; 20 to 30 are advised.")


def rare(n: int, share: float) -> Flag:
    """RARE: always printed, since no formula can show what the sample does not hold."""
    return Flag("RARE", f"{n} runs can miss a slow mode rarer than {100 * share:.0f} %.")


def split(geometric_mean: float) -> Flag:
    """SPLIT: the average run and the typical run disagree."""
    return Flag(
        "SPLIT",
        f"The ratio of geometric means, {geometric_mean:.4g}, lies outside the interval: "
        "the typical and the average run disagree.",
        "Look at the slow runs of each arm.",
    )


def average(n: int, share: float) -> Flag:
    """AVERAGE: said with every average; it may stand beside the typical run, never alone."""
    return Flag(
        "AVERAGE",
        f"An average follows its slowest runs: {n} runs can miss a slow mode rarer than "
        f"{100 * share:.0f} %, and an interval of an average then misses the truth.",
        "Read the ratio of a typical run first.",
    )


def average_few(n: int, needed: int) -> Flag:
    """AVERAGE-FEW: the number may be shown, without an interval."""
    return Flag(
        "AVERAGE-FEW",
        f"{n} runs: an average has no honest interval under {needed}.",
        f"Run {needed}.",
    )


def tail_few(n: int, needed: int, percentile: float) -> Flag:
    """P90-FEW: the limit of a percentile over runs would lie beyond the slowest run.

    >>> tail_few(35, 36, 90).sentence
    '35 runs in an arm: the interval of the p90 over runs has no outer limit under 36.'
    """
    return Flag(
        f"P{percentile:g}-FEW",
        f"{n} runs in an arm: the interval of the p{percentile:g} over runs has no outer limit "
        f"under {needed}.",
        f"Run {needed} in each arm.",
    )


def k_few(machines: int, refused: bool) -> Flag:
    """K-FEW: under three machines the claim is on these machines only; under six it is loose."""
    noun = "machine" if machines == 1 else "machines"
    sentence = (
        f"{machines} {noun}: these machines only, no claim about others."
        if refused
        else f"{machines} machines: one unlike the rest can be missed, and the interval is wide."
    )
    return Flag("K-FEW", sentence, "Measure on 6 or more.")


ANYTIME = Flag(
    "ANYTIME",
    "May be looked at after every pair and stopped at any; wider than an interval for a planned n.",
)


def anytime_few(n: int, needed: int) -> Flag:
    """FEW: an interval for any number of looks needs more pairs than a planned one."""
    return Flag(
        "FEW",
        f"{n} pairs: an interval that may be looked at after every pair is infinite under {needed}.",
        "Run more pairs.",
    )


def no_limits(n: int, what: str) -> Flag:
    """FEW: enough for a planned interval, not for one that may be looked at after every pair."""
    return Flag("FEW", f"{n} {what}: one of the ratios has no limits yet.", "Run more pairs.")


def not_interleaved(sentence: str = "The arms were not run in random order in pairs.") -> Flag:
    """NOT-INTERLEAVED: drift of the machine cannot be told from a difference between the arms."""
    return Flag("NOT-INTERLEAVED", sentence, "Measure both arms in one `study`.")


def two_sessions() -> Flag:
    """TWO-SESSIONS: a control takes out what the machine did to both arms, and no more."""
    return Flag(
        "TWO-SESSIONS",
        "The versions ran in two sessions; one control removes what slowed both frameworks alike, "
        "not what changed for this framework alone (drivers, other packages).",
        "Run both versions as arms of one study.",
    )


def few_latencies(fewest: int, wanted: int, percentile: float) -> Flag:
    """FEW-LATENCIES: fewer than ten calls of a run lie beyond the percentile."""
    return Flag(
        "FEW-LATENCIES",
        f"p{percentile:g} of a run rests on {fewest} calls; {wanted} would put ten beyond it.",
        "Raise the number of timed calls.",
    )


def drift(arm: str, lag1: float, p: float) -> Flag:
    """DRIFT: consecutive runs of one arm resemble each other."""
    return Flag(
        "DRIFT",
        f"Runs of {arm} depend on the run before (lag-1 {lag1:+.2f}, p {p:.2g}); "
        "the pairs remove it, the arm's own median does not.",
        "Let the machine settle and close other programs.",
    )


def order(ratio: float, low: float, high: float) -> Flag:
    """ORDER: who goes first matters."""
    return Flag(
        "ORDER",
        f"The ratio depends on which arm runs first (AB over BA {ratio:.3f}, "
        f"{low:.3f} to {high:.3f}): one arm's run disturbs the next.",
        "Lengthen the idle gap between trials.",
    )


def never(missed: int, n: int) -> Flag:
    """NEVER: a ratio of the runs that arrived would reward the failures."""
    return Flag(
        "NEVER",
        f"{missed} of {n} runs missed the target.",
        "Compare the share that arrived; raise the number of epochs or lower the target.",
    )


def few_arrivals(n: int, needed: int) -> Flag:
    """FEW: so few runs can be told apart by no permutation."""
    return Flag("FEW", f"{n} runs in an arm: p < 0.05 needs {needed}.", "Run 6 or more.")


def budgets(shortest: float, longest: float) -> Flag:
    """BUDGETS: runs that missed the target had unequal chances to reach it."""
    return Flag(
        "BUDGETS",
        f"Some runs never arrived and budgets differ ({shortest:.3g} to {longest:.3g}): a longer "
        "budget arrives more often, so neither a test nor the expected times compare the arms.",
        "Stop every run after the same time or epochs.",
    )


def left_out(pairs: int) -> Flag:
    """LEFT-OUT: a pair counts only with both values."""
    noun = "pair lacks" if pairs == 1 else "pairs lack"
    return Flag(
        "LEFT-OUT",
        f"{pairs} {noun} the value of one arm and stay out.",
        "Resume the study under the same name.",
    )


def out_of_memory(arm: str, ended: int, trials: int) -> Flag:
    """OUT-OF-MEMORY: trials without times; the others are those that happened to fit."""
    what, remedy = TRIAL_REMEDIES["OUT-OF-MEMORY"]
    return Flag("OUT-OF-MEMORY", f"{ended} of {trials} trials of {arm} {what}.", remedy)


def differs_from_itself(arm: str, low: float, high: float) -> Flag:
    """A/A: the interval of an arm against itself excludes 1."""
    return Flag(
        "A/A",
        f"{arm} differs from itself: its ratio is between {low:.3f} and {high:.3f}, without 1.",
        "Trust no difference of that size (1 in 20 does so by chance); repeat on a quiet machine.",
    )


def below_resolution(width: float) -> Flag:
    """BELOW-RESOLUTION: a difference that A/A could show too."""
    return Flag(
        "BELOW-RESOLUTION",
        f"The ratio is nearer to 1 than an arm's ratio to itself is known (±{100 * width:.2g} %).",
        "More pairs sharpen both.",
    )


def holm_few(pairs: int, family: int, needed: int) -> Flag:
    """HOLM-FEW: the declared family is too large for the pairs."""
    return Flag(
        "HOLM-FEW",
        f"With {pairs} pairs no row of a family of {family} can reach p < 0.05.",
        f"It takes {needed} pairs.",
    )


def not_located(left: float, right: float) -> Flag:
    """NOT-LOCATED: a crossing is shown, its place is not."""
    return Flag(
        "NOT-LOCATED",
        f"The medians pass 1 more than once between {left:g} and {right:g}.",
        "Measure more pairs, or more values there.",
    )


def unplanned(n: int, planned: int) -> Flag:
    """INCOMPLETE or PEEKED: the number of pairs is not the one fixed before the first trial."""
    if n < planned:
        return Flag("INCOMPLETE", f"{n} of {planned} planned pairs.", "Resume the study.")
    return Flag(
        "PEEKED",
        f"{n} pairs where {planned} were planned: who stops by the result errs more than p says.",
        "Fix the number of pairs before the first trial.",
    )


def oversubscribed(ranks: int, threads: int, cores: int) -> Flag:
    """OVERSUBSCRIBED: the ranks of a job share cores.

    >>> oversubscribed(4, 1, 2).sentence
    '4 ranks of 1 thread share 2 cores, so an efficiency above 0.5 is not to be had here.'
    """
    return Flag(
        "OVERSUBSCRIBED",
        f"{ranks} ranks of {threads} thread{'s' * (threads != 1)} share {cores} "
        f"core{'s' * (cores != 1)}, so an efficiency above {cores / (ranks * threads):.2g} is not to "
        "be had here.",
        "Give ranks or threads that fit the machine.",
    )


UNDECIDED = Flag(
    "UNDECIDED",
    "Neither a difference nor sameness within the margin is shown.",
    "Plan more pairs in a new study.",
)


TRIAL_REMEDIES = {
    "REFERENCE-BLAS": (
        "multiplied with the reference BLAS of MLX's Linux CPU wheel",
        "Choose blas=mkl or blas=openblas.",
    ),
    "STOLEN-CPU": ("lost over 5 % of the cores to the hypervisor", "Repeat at a quieter time."),
    "CPU-QUOTA": (
        "were held back by a container's limit of processor time",
        "Give as many threads as the limit has cores, or raise the limit.",
    ),
    "CLOCK": (
        "ran at a clock far below what the processor or GPU is made for",
        "Look for a power limit, a power-saving profile or heat.",
    ),
    "GPU-SHARED": (
        "shared the GPU with other programs",
        "End them, or choose a free GPU with CUDA_VISIBLE_DEVICES.",
    ),
    "SUSPENDED": ("slept half way, or had the clock set", "Keep the machine awake and repeat."),
    "UNWATCHED": (
        "were not watched to their end, so that nothing is known of the machine's state",
        "Look into machine.json for the reason, and repeat.",
    ),
    "TF32": ("rounded float32 products to TF32", "Set MLX_ENABLE_TF32=0."),
    "OUT-OF-MEMORY": (
        "ended for lack of memory and have no times",
        "Choose a smaller batch_size or preset for every arm, or a device with more memory.",
    ),
    "RANDOM-WEIGHTS": (
        "generated with seeded random weights: the speed is that of trained weights of the same "
        "shape, the text means nothing",
        "Give checkpoint=FOLDER for text.",
    ),
    "DIVERGED": ("ended with an infinite or NaN loss", "Lower learning_rate."),
    "LOAD": ("ran while other programs kept the machine busy", "Close them and repeat."),
    "AUDIT": (
        "failed the completion audit: twice the work did not take twice the time",
        "Look at the barrier of the adapter, or repeat on a quiet machine.",
    ),
    "IN-CLOCK": (
        "did something else inside the clock of a training step, such as an evaluation",
        "Take it out of the clock, or put it into that of every arm.",
    ),
    "UNFINISHED": (
        "left work undone when the clock stopped, or had some left when it started",
        "Wait for every result and all state, before the clock and in it.",
    ),
    "UNTIMED": (
        "took another time by the supervisor's clock than by their own",
        "Look at the clock and at the barrier before it stops.",
    ),
    "ABOVE-CEILING": (
        "are said to compute more than twice as fast as the fastest matrix product of the same process",
        "Look for answers that are kept and given again, and for a clock that stops too early.",
    ),
    "SWITCHED": (
        "ran with a switch of the framework turned that it leaves alone by default (condition `switched`)",
        "Leave determinism, anomaly detection, profilers and autocast as the framework has them.",
    ),
    "THREADS": ("ran with another number of threads than they were given", "Leave it to threads."),
    "OVER-THREADS": (
        "used more processor time than their threads allow",
        "Look for threads or processes of their own.",
    ),
    "IDLE": (
        "left the processor idle for most of the epochs",
        "Look for what they wait for: a sleep, a disk, memory that is swapped in.",
    ),
    "REDUCED-PRECISION": (
        "allowed float32 products to be rounded to fewer bits",
        "Ask for the highest precision of products.",
    ),
    "DIRTY-TREE": ("ran code that is in no commit", "Commit, then measure."),
    "DROPOUT": (
        "trained with dropout, whose masks no two frameworks draw alike: the evidence of equal work is "
        "that of the same network without",
        "Leave out dropout.",
    ),
    "SYNTHETIC": ("used generated data, as asked for", "Leave out dataset for the real one."),
    "BATTERY": ("ran on battery", "Plug the machine in."),
    "LOW-POWER": ("ran in low power mode", "Switch it off."),
    "SWAP": (
        "ran while the machine was short of memory (much swap in use, pages moved, or processes waiting)",
        "Free memory.",
    ),
    "RESTARTED": (
        "were started again from the last epoch after a rank had ended before its time",
        "Repeat them for times of one piece.",
    ),
    "ROSETTA": ("ran under Rosetta translation", "Install an arm64 Python."),
    "ONE-PROCESS": ("shared one process", "Start a process for each trial."),
    "THERMAL": ("ran on a throttled machine", "Let it cool down; lengthen the idle gap."),
}


def meaning(name: str) -> str:
    """A flag of one trial, in words.

    >>> meaning("BATTERY")
    'BATTERY: ran on battery. Plug the machine in.'
    """
    what, remedy = TRIAL_REMEDIES[name]
    return f"{name}: {what}. {remedy}"


def trial_flag(name: str, flagged: int, trials: int) -> Flag:
    """A flag that trials carry, counted over the trials of a comparison.

    >>> str(trial_flag("BATTERY", 2, 12))
    'BATTERY: 2 of 12 trials ran on battery. Plug the machine in.'
    """
    what, remedy = TRIAL_REMEDIES.get(name, (f"carry the flag {name}", ""))
    return Flag(name, f"{flagged} of {trials} trials {what}.", remedy)
