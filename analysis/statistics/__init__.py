"""A small statistics library: numbers in, a frozen result out, every result with its warnings.

| question | function |
|---|---|
| Q1 how much faster is a typical run, Q2 is there a difference | `paired_ratio` |
| Q1' the same for runs that were not paired | `unpaired_ratio` |
| Q2 on its own: a p-value from any interval | `p_by_inversion` |
| Q3 are they the same | `equivalence` |
| Q4 what does the whole bill look like, slow runs included | `average_ratio` |
| Q5 latency percentile of a run | `run_percentile`, `percentile_ratio` |
| Q5' percentile over runs | `tail_ratio` |
| Q6 time to a target that some runs miss | `arrival`, `log_rank`, `expected_time` |
| Q7 does it hold on other machines | `across_machines` |
| Q8 many tests at once | `holm`, `holm_pairs` |
| Q9 an interval that may be looked at after every pair | `anytime_ratio` |
| Q10 are the runs independent, is the experiment sound | `autocorrelation`, `order_effect`, `resolution` |
| Q11 one number over several models | `models_ratio` |
| where along a parameter two arms change places | `crossings` |
| a change between two sessions with a control in both | `change_ratio` |
| in what share of the pairs is the first smaller | `wins_share` |

Nothing here knows a run, a file or a framework; random state is always passed in.
"""

from __future__ import annotations

from analysis.statistics.anytime import anytime_ratio
from analysis.statistics.average import Average, average_ratio
from analysis.statistics.change import Change, change_ratio
from analysis.statistics.crossing import Crossing, Crossings, crossings
from analysis.statistics.diagnostics import (
    Autocorrelation,
    autocorrelation,
    order_effect,
    resolution,
)
from analysis.statistics.equivalence import Equivalence, equivalence, equivalence_of
from analysis.statistics.family import Family, holm, holm_pairs
from analysis.statistics.limits import Limits, p_by_inversion
from analysis.statistics.percentile import percentile_ratio, run_percentile, tail_ratio
from analysis.statistics.pooling import Machines, across_machines, models_ratio
from analysis.statistics.ratio import Ratio, paired_ratio, rare_share, unpaired_ratio
from analysis.statistics.survival import Arrival, LogRank, arrival, expected_time, log_rank
from analysis.statistics.wins import Share, wins_share

__all__ = [
    "Arrival",
    "Autocorrelation",
    "Average",
    "Change",
    "Crossing",
    "Crossings",
    "Equivalence",
    "Family",
    "Limits",
    "LogRank",
    "Machines",
    "Ratio",
    "Share",
    "across_machines",
    "anytime_ratio",
    "arrival",
    "autocorrelation",
    "average_ratio",
    "change_ratio",
    "crossings",
    "equivalence",
    "equivalence_of",
    "expected_time",
    "holm",
    "holm_pairs",
    "log_rank",
    "models_ratio",
    "order_effect",
    "p_by_inversion",
    "paired_ratio",
    "percentile_ratio",
    "rare_share",
    "resolution",
    "run_percentile",
    "tail_ratio",
    "unpaired_ratio",
    "wins_share",
]
