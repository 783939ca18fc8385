"""How long the report of a large study takes, and how large it is.

    python -m benchmarks.report_speed --runs 10000

Writes a store of one study (SQLite, signed records, a file of samples a trial) and times `analyze` on it
in a fresh process: from the store to report.html, report.md, the tables and the figures. Imports are
inside the clock, writing the store is not.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import multiprocessing
import os
import pstats
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from time import perf_counter, process_time

from benchmarks import study_store
from benchmarks.common import say, whole
from measurement import memory

FILES = ("report.html", "report.md", "comparisons.csv", "trials.csv")


def reported(uri: str, folder: str, profiled: bool) -> dict[str, float]:
    """Seconds from the store to the report, the process's peak, and bytes of each file. Runs in a
    process of its own."""
    os.environ["MLFLOW_TRACKING_URI"] = uri
    os.chdir(folder)
    profile = cProfile.Profile()
    start = perf_counter()
    from entrypoints.analyze import analyze

    imported = perf_counter()
    if profiled:
        profile.enable()
    done = analyze(study_store.STUDY, Path(folder) / "report")
    profile.disable()
    stop = perf_counter()
    if profiled:
        pstats.Stats(profile, stream=sys.stderr).sort_stats("cumulative").print_stats(
            "analysis|tracking|entrypoints|measurement", 60
        )
    return {
        "seconds": stop - start,
        "seconds_of_processor": process_time(),
        "seconds_of_imports": imported - start,
        "peak_bytes": memory.process_peak_bytes(),
        **{f"bytes_of_{name}": (done.folder / name).stat().st_size for name in FILES},
    }


def main() -> int:
    found = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    found.add_argument("--runs", type=whole, default=10_000, help="trials of the study, five arms")
    found.add_argument("--profile", action="store_true", help="print where the time goes; slower")
    found.add_argument("--keep", type=Path, help="folder for store and report, kept afterwards")
    options = found.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = (options.keep or Path(scratch)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        pairs = -(-options.runs // len(study_store.ARMS))
        if (folder / "mlflow.db").exists():
            uri = f"sqlite:///{folder / 'mlflow.db'}"
        else:
            say(f"{pairs * len(study_store.ARMS):,} trials: writing the store")
            uri = study_store.fill(folder, pairs)
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            result = pool.submit(reported, uri, str(folder), options.profile).result()
    print(json.dumps({"runs": pairs * len(study_store.ARMS)} | result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
