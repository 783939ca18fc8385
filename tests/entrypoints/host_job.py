"""What one host of a job does, less the study around it: no MLflow, few steps, short waits.

    python -m tests.entrypoints.host_job '{"framework": "mlx", "hostfile": ..., "folder": ...}'

It prints the result's measured part as JSON, or the one line that the user would see.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from entrypoints import launch
from entrypoints.distributed import distributed_options, job_specification
from entrypoints.processes import TrialFailed
from entrypoints.supervisor import TrialSpec, worker_spec
from measurement.errors import InputError

OPTIONS = {
    "preset": "smoke",
    "dataset": "synthetic",
    "device": "cpu",
    "compile": "off",
    "threads": 1,
    "target": 1.0,
    "layers": 1,
    "global_batch_size": 50,  # 25 a rank; the last batch has 20
}
SIZES = {"train_items": 170, "test_items": 100}
PLAN = {
    "warmup_steps": 2,
    "audit_seconds": 0.01,
    "audit_repetitions": 1,
    "waited_steps": 4,
    "ceiling_seconds": 0.02,
}


def specification(framework: str, **given: Any) -> TrialSpec:
    """A small training of MNIST."""
    options = distributed_options("mnist", framework)
    values = {o.name: o.default for o in options} | OPTIONS | given
    spec = job_specification("mnist", framework, values)
    return replace(spec, sizes=spec.sizes | SIZES)


def given_to_ranks(spec: TrialSpec) -> dict[str, Any]:
    found = worker_spec(spec, "measure")
    return found | {"plan": found["plan"] | PLAN}


def main() -> int:
    asked = json.loads(sys.argv[1])
    launch.START_SECONDS = asked["start_seconds"]
    folder = Path(asked["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    spec = specification(asked["framework"], hostfile=asked["hostfile"], **asked["options"])
    ranks = given_to_ranks(spec) | {"fault": asked["fault"]}
    try:
        found = launch.run_job(
            ranks, spec.hostfile, 0, folder, module="tests.entrypoints.faulty_rank"
        )
    except InputError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    except TrialFailed as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(found and found["trial"] | {"nodes": found["nodes"]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
