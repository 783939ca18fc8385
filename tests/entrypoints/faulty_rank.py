"""A rank as the launchers start it, of which rank 1 has other data or another version, where the
specification asks for a fault."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import frameworks
from entrypoints import rank
from models.mnist import data


def other_data() -> None:
    data.SYNTHETIC_SEED += 1


def other_version() -> None:
    join = frameworks.join

    def joined(*words: object) -> object:
        framework = join(*words)
        framework.versions = lambda: {"framework": "0.0.1"}
        return framework

    frameworks.join = joined


FAULTS: dict[str, Callable[[], None]] = {
    "none": lambda: None,
    "data": other_data,
    "version": other_version,
}

if __name__ == "__main__":
    if rank.number() == 1:
        FAULTS[json.loads(sys.argv[1]).get("fault", "none")]()
    sys.exit(rank.main())
