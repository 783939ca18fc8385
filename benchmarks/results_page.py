"""Writes the tables of docs/RESULTS.md from the files of results/, between their marks, so that no figure
there is typed by hand: the studies from their comparisons.csv and trials.csv, the public implementations
from their JSON."""

from __future__ import annotations

import argparse
import csv
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from analysis import wording
from measurement.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
MARK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
Row = dict[str, str]


def studies(results: Path) -> str:
    """Markdown of the primary metric of each pairing of each study, by workload."""
    lines = [
        "| workload | study | what is divided | metric | n | ratio [95 %] | p | outcome | flags |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    found = [(study, _rows(study)) for study in sorted(results.glob("**/comparisons.csv"))]
    for study, rows in sorted(found, key=lambda part: (_about(part[0])["workload"], str(part[0]))):
        primary = rows[0]["metric"]
        about, place = _about(study), study.parent.relative_to(results)
        for row in (row for row in rows if row["metric"] == primary and row["ratio"]):
            words = (
                f"`{about['workload']}`, {about['preset']}",
                f"[{study.parent.name}](../results/{place}/report.md)",
                f"{wording.ROLES.get(row['role'], row['role'])}: {row['numerator']} / {row['denominator']}",
                primary,
                row["pairs"],
                _ratio(row),
                f"{float(row['p']):.2g}" if row["p"] else "",
                row["outcome"],
                row["flags"],
            )
            lines.append(f"| {' | '.join(words)} |")
    return "\n".join(lines) + "\n"


def peers(results: Path) -> str:
    """Markdown of our twins against public implementations in the same framework, side by side in one
    run: ratio of seconds, ours / theirs."""
    lines = [
        "| benchmark | framework | what is divided | n | ours / theirs [95 %] | machine |",
        "|---|---|---|---|---|---|",
    ]
    for path in sorted(results.glob("*-peers/*.json")):
        whole = json.loads(path.read_text())
        for result, row in ((r, row) for r in whole["results"] for row in r["rows"]):
            ratio = row["ratio"]
            if row.get("comparison", "").startswith("noise"):
                continue
            shown = {"ratio": ratio["estimate"], "low": ratio["low"], "high": ratio["high"]}
            words = (
                f"[{path.stem}](../{path.relative_to(results.parent)})",
                row["framework"],
                row["comparison"],
                str(ratio["n"]),
                _ratio(shown),
                _where(whole, result["conditions"]),
            )
            lines.append(f"| {' | '.join(words)} |")
    return "\n".join(lines) + "\n"


def _where(whole: Any, conditions: Any) -> str:
    if conditions["device"] == "cpu":
        return f"{whole['machine']['machine_cpu']}, {whole['options']['threads']} thread"
    return f"{conditions['versions']['gpu']}, {conditions['dtype']}"


TABLES = {"studies": studies, "peers": peers}


def page(text: str, results: Path) -> str:
    """The page with its tables made anew. Raises InputError where a mark is unknown or has no end."""
    if text.count("<!-- table: ") != len(MARK.findall(text)):
        raise InputError("a table's mark has no '<!-- end -->' behind it; expected one: add it")

    def made(match: re.Match[str]) -> str:
        if match[2] not in TABLES:
            raise InputError(f"unknown table '{match[2]}'; expected one of {', '.join(TABLES)}")
        return match[1] + TABLES[match[2]](results) + match[3]

    return MARK.sub(made, text)


def _ratio(row: Any) -> str:
    digits = (f"{float(row[name]):.3g}" if float(row[name]) < 0.1 else f"{float(row[name]):.3f}"
              for name in ("ratio", "low", "high"))  # fmt: skip
    ratio, low, high = digits
    return f"{ratio} [{low}, {high}]"


def _rows(path: Path) -> list[Row]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def _about(comparisons: Path) -> Row:
    first = _rows(comparisons.parent / "trials.csv")[0]
    return {name: first[f"condition/{name}"] for name in ("workload", "preset")}


def main(words: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=str(__doc__))
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="folder of reports")
    parser.add_argument("--page", type=Path, default=ROOT / "docs/RESULTS.md", help="rewritten")
    options = parser.parse_args(None if words is None else list(words))
    options.page.write_text(page(options.page.read_text(), options.results))


if __name__ == "__main__":
    main()
