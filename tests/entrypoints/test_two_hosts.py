"""A job over two hosts: the work of one process, over a fast line and a slow one, and one line in a
stated time where a host, the line or what lies on a host is wrong. See tests.entrypoints.namespaces for
what two namespaces do not show."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from entrypoints.launch import END_SECONDS
from entrypoints.processes import run_worker
from tests.entrypoints.host_job import given_to_ranks, specification
from tests.entrypoints.namespaces import ADDRESSES, TwoHosts

FRAMEWORKS = ("pytorch", "mlx")
PROJECT = Path(__file__).resolve().parents[2]
TIMEOUT_SECONDS = 8.0  # that a rank waits for a silent one


class Job:
    """A job of one rank a host. on: the hosts where the command runs; without it both for torchrun,
    the first one for mlx.launch."""

    def __init__(self, two: TwoHosts, framework: str, folder: Path, **asked: Any) -> None:
        self.folders = [folder / f"host-{i}" for i in (0, 1)]
        self._started: list[subprocess.Popen[str]] = []
        options = {"timeout_seconds": TIMEOUT_SECONDS, **asked.pop("options", {})}
        common = {"framework": framework, "hostfile": str(two.hostfile()), "options": options}
        common |= {"fault": "none", "start_seconds": 30.0, **asked}
        for host in asked.get("on", (0, 1) if framework == "pytorch" else (0,)):
            words = json.dumps(common | {"folder": str(self.folders[host])})
            self._started.append(
                two.start(
                    host,
                    [sys.executable, "-m", "tests.entrypoints.host_job", words],
                    cwd=PROJECT,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                )
            )

    def end(self, seconds: float) -> tuple[int, str, str]:
        """(exit code, output, errors) of the first host, when every host has ended in `seconds`."""
        until = time.monotonic() + seconds
        ended = [p.communicate(timeout=max(0.1, until - time.monotonic())) for p in self._started]
        return (self._started[0].returncode, *ended[0])

    def result(self) -> dict[str, Any]:
        code, out, err = self.end(90)
        assert code == 0, err
        found: dict[str, Any] = json.loads(out.strip().split("\n")[-1])
        return found

    def line(self, seconds: float) -> str:
        """The one line with which the job ends within `seconds`."""
        code, out, err = self.end(seconds)
        assert code in (1, 2), out
        assert err.startswith("Error: ") and err.count("\n") == 1, err
        return err

    def weights(self) -> dict[str, np.ndarray]:
        return load_file(self.folders[0] / "weights.safetensors")

    def wait_for(self, event: str, host: int = 0, seconds: float = 60) -> None:
        """Until the host's rank has said it."""
        path = self.folders[host] / f"events-{host}.jsonl"
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if path.exists() and f'"event": "{event}"' in path.read_text():
                return
            time.sleep(0.1)
        raise AssertionError(f"no {event} in {path}")


def one_process(framework: str, folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    spec = specification(framework, epochs=1)
    alone = replace(spec.condition, ranks=1, backend="auto")
    folder.mkdir()
    given = given_to_ranks(replace(spec, condition=alone))
    trial = run_worker(given, folder)["trial"]
    return trial, load_file(folder / "weights.safetensors")


def same(trial: dict[str, Any], weights: dict[str, np.ndarray], expected: Any) -> None:
    """As a job of one host is the same as one process."""
    np.testing.assert_allclose(trial["epoch_loss"], expected[0]["epoch_loss"], rtol=1e-5)
    assert trial["epoch_quality"] == expected[0]["epoch_quality"]
    assert set(weights) == set(expected[1])
    for name, value in expected[1].items():
        largest = float(np.abs(value).max())
        np.testing.assert_allclose(weights[name], value, rtol=0, atol=1e-5 * largest, err_msg=name)


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.long
def test_two_hosts_do_the_work_of_one_process(
    framework: str, two_hosts: TwoHosts, tmp_path: Path
) -> None:
    """Also with 50 ms each way and 100 Mbit/s, where only adding up takes longer."""
    alone = one_process(framework, tmp_path / "one")
    reduce, epoch = {}, {}
    for line in ("fast", "slow"):
        if line == "slow":
            two_hosts.slow(delay_ms=50, rate_mbit=100)
        job = Job(two_hosts, framework, tmp_path / line, options={"epochs": 1})
        trial = job.result()
        same(trial, job.weights(), alone)
        reduce[line] = min(trial["reduce_seconds"])  # what else the machine does takes longer
        epoch[line] = min(trial["epoch_seconds"])
    (node,) = trial["nodes"]  # of the second host; the first one's supervisor watches itself
    assert node[0]["cpu_utilization_percentage"] >= 0
    assert reduce["slow"] >= 0.1  # there, and back
    assert reduce["slow"] > 5 * reduce["fast"]
    assert epoch["slow"] > epoch["fast"] + 3 * 0.1  # 4 steps
    for host in (0, 1):
        assert two_hosts.processes(host) == []


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_cut_line_ends_the_job_with_one_line(
    framework: str, two_hosts: TwoHosts, tmp_path: Path
) -> None:
    job = Job(two_hosts, framework, tmp_path, options={"epochs": 1_000_000})
    job.wait_for("epoch")
    two_hosts.cut()
    line = job.line(TIMEOUT_SECONDS + END_SECONDS)
    assert "of 2" in line and "host-1 does not answer any more" in line
    for host in (0, 1):
        assert two_hosts.processes(host) == []


def test_a_host_that_does_not_answer_is_named(two_hosts: TwoHosts, tmp_path: Path) -> None:
    """Before any launcher is started, so in either framework."""
    two_hosts.cut()
    line = Job(two_hosts, FRAMEWORKS[0], tmp_path, on=(0,)).line(20)
    assert "host-1 does not answer within 3 s" in line


def test_a_host_on_which_nothing_was_started_is_told_from_one_that_is_off(
    two_hosts: TwoHosts, tmp_path: Path
) -> None:
    """torchrun's hosts are started one by one; mlx.launch starts all of them, by ssh."""
    line = Job(two_hosts, "pytorch", tmp_path, on=(0,), start_seconds=4.0).line(30)
    assert "not all 2 ranks joined within 4 s: every host answers" in line


def test_ssh_that_fails_is_named(two_hosts: TwoHosts, tmp_path: Path) -> None:
    (two_hosts.folder / "ssh").write_text("#!/bin/sh\nexit 255\n")
    line = Job(two_hosts, "mlx", tmp_path).line(30)
    assert f"host-1: ssh {ADDRESSES[1]} failed" in line


@pytest.mark.parametrize(("framework", "fault"), [("pytorch", "data"), ("mlx", "version")])
def test_a_host_with_something_else_is_named(
    framework: str, fault: str, two_hosts: TwoHosts, tmp_path: Path
) -> None:
    line = Job(two_hosts, framework, tmp_path, fault=fault).line(60)
    what = {"data": "data", "version": "version of the framework '0.0.1'"}[fault]
    assert f"rank 1 on host-1 has {what}" in line
