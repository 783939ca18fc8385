"""The pins of this project against the advisories of the Python Packaging Authority, without a network.

    git clone https://github.com/pypa/advisory-database
    python -m benchmarks.advisories --database advisory-database

With a network `pip-audit -r constraints.txt` asks a service that is up to date; this reads a checkout,
so it knows what its commit knew. Exit code 1 where a pin is affected.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version


@dataclass(frozen=True)
class Finding:
    """A pin that an advisory names. fixed: the first version without it, "" where there is none."""

    package: str
    version: str
    id: str
    aliases: tuple[str, ...]
    fixed: str
    summary: str


def pins(text: str) -> dict[str, str]:
    """package -> version, of the lines `name==version`."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        try:
            requirement = Requirement(line.partition("#")[0].strip())
        except InvalidRequirement:
            continue
        if match := re.fullmatch(r"==([^*,]+)", str(requirement.specifier)):
            found[canonicalize_name(requirement.name)] = match[1]
    return found


def findings(pinned: dict[str, str], advisories: Iterable[dict[str, Any]]) -> Iterator[Finding]:
    """What of the pins is affected, advisory by advisory; withdrawn ones do not count."""
    for advisory in advisories:
        if advisory.get("withdrawn"):
            continue
        for affected in advisory.get("affected", ()):
            name = canonicalize_name(affected["package"]["name"])
            if name not in pinned:
                continue
            fixed = _affects(Version(pinned[name]), pinned[name], affected)
            if fixed is not None:
                yield Finding(
                    name, pinned[name], advisory["id"], tuple(advisory.get("aliases", ())), fixed,
                    " ".join(str(advisory.get("details", "")).split())[:160],
                )  # fmt: skip


def _affects(version: Version, written: str, affected: dict[str, Any]) -> str | None:
    """The version that mends it ("" for none), None where the pin is not affected."""
    for ranges in affected.get("ranges", ()):
        if ranges.get("type") != "ECOSYSTEM":
            continue
        start: Version | None = None
        for event in ranges["events"]:  # in order, as the OSV format has them
            if "introduced" in event:
                start = _version(event["introduced"])
            end = event.get("fixed") or event.get("last_affected")
            if end and start is not None:
                last = _version(end)
                if start <= version and (
                    version < last or ("fixed" not in event and version == last)
                ):
                    return str(event.get("fixed", ""))
                start = None
        if start is not None and start <= version:
            return ""
    return "" if written in map(str, affected.get("versions", ())) else None


def _version(text: Any) -> Version:
    try:
        return Version(str(text))
    except InvalidVersion:
        return Version("0")


def read(folder: Path, names: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The advisories of some packages in a checkout: vulns/<package>/<id>.yaml."""
    for name in sorted(names):
        for path in sorted((folder / "vulns" / name).glob("*.yaml")):
            yield yaml.safe_load(path.read_text(encoding="utf-8"))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    arguments.add_argument("--database", type=Path, required=True)
    arguments.add_argument("--pins", type=Path, default=Path("constraints.txt"))
    given = arguments.parse_args()
    pinned = pins(given.pins.read_text(encoding="utf-8"))
    advisories = list(read(given.database, pinned))
    found = list(findings(pinned, advisories))
    for one in found:
        names = " ".join((one.id, *one.aliases))
        print(
            f"{one.package} {one.version}: {names}, fixed in {one.fixed or 'none'}: {one.summary}"
        )
    print(f"{len(pinned)} pins, {len(advisories)} advisories about them, {len(found)} findings")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
