"""A small statistics library: numbers in, a frozen result out, every result with its warnings.

| question | function |
|---|---|
| Q1 how much faster is a typical run, Q2 is there a difference | `paired_ratio` |
| Q1' the same for runs that were not paired | `unpaired_ratio` |
| Q3 are they the same | `equivalence` |
| Q5 latency percentile of a run | `run_percentile`, `percentile_ratio` |
| Q6 time to a target that some runs miss | `arrival`, `log_rank` |
| a change between two sessions with a control in both | `change_ratio` |
| Q8 many tests at once | `holm`, `holm_pairs` |
| Q10 are the runs independent | `autocorrelation` |

Nothing here knows a run, a file or a framework; random state is always passed in.
"""

from __future__ import annotations

from analysis.statistics.change import Change, change_ratio
from analysis.statistics.diagnostics import (
    Autocorrelation,
    autocorrelation,
    order_effect,
    resolution,
)
from analysis.statistics.family import holm, holm_pairs
from analysis.statistics.percentile import percentile_ratio, run_percentile
from analysis.statistics.ratio import (
    Equivalence,
    Ratio,
    equivalence,
    p_by_inversion,
    paired_ratio,
    rare_share,
    unpaired_ratio,
)
from analysis.statistics.survival import Arrival, LogRank, arrival, log_rank

__all__ = [
    "Arrival",
    "Autocorrelation",
    "Change",
    "Equivalence",
    "LogRank",
    "Ratio",
    "arrival",
    "autocorrelation",
    "change_ratio",
    "equivalence",
    "holm",
    "holm_pairs",
    "log_rank",
    "order_effect",
    "p_by_inversion",
    "paired_ratio",
    "percentile_ratio",
    "rare_share",
    "resolution",
    "run_percentile",
    "unpaired_ratio",
]
