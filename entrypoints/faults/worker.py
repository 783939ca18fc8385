"""The worker of an arm that is broken on purpose: makes the mistake, then is the real worker."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from entrypoints import worker
from entrypoints.faults import FAULTS


def main() -> int:
    spec = json.loads(Path(sys.argv[1]).read_text())
    if break_it := FAULTS[spec["fault"]].worker:
        break_it(setattr, spec)
    return worker.main()


if __name__ == "__main__":
    sys.exit(main())
