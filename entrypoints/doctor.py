"""`doctor`: in ten seconds, what this machine is, which frameworks, devices and meters work, and
what would spoil a measurement now.

    python -m entrypoints.doctor
"""

from __future__ import annotations

import sys
from typing import Any

import click

import frameworks
from analysis.flags import meaning
from entrypoints import environment, terminal
from entrypoints.options import Command
from entrypoints.probe import missing, probe
from entrypoints.processes import TrialFailed
from measurement import blas, energy, limits, machine, quiet
from measurement.gpus import Cards
from tracking import store, write


def lines() -> list[str]:
    """The report, one finding a line."""
    facts = machine.facts()
    found = [
        f"machine    {machine.fingerprint()}: {facts['machine_cpu']}, {facts['machine_cores']} cores, "
        f"{facts['machine_memory_gib']} GiB, {facts['machine_os']}, Python {facts['version_python']}",
        f"tracking   {store.address()}",
    ]
    warnings: list[str] = []
    tf32: dict[str, str] = {}
    for name in frameworks.names():
        if environment.ready(name) is None:
            found.append(f"{name:10} {missing(name)}")
            continue
        try:
            devices = probe(name, ceiling_seconds=0.3)["devices"]
        except TrialFailed as error:
            found.append(f"{name:10} does not start: {error}")
            continue
        for device in devices:
            found.append(_device_line(name, device))
            if "missing" in device:
                continue
            tf32[f"{name} on {device['device']}"] = device["numerics"]["tf32"]
            if device["device"] == "cpu" and device["numerics"]["blas_name"] == "reference":
                warnings.append(meaning("REFERENCE-BLAS"))
    found.append(f"better BLAS for MLX on Linux: {_better()}")
    for device in ("cpu", "gpu"):
        meter, reason = energy.find(device)
        found.append(f"meter      {device}: {meter.source if meter else reason}")
    state = machine.state(seconds=1.0)
    warnings += [f"now: {meaning(flag)}" for flag in machine.flags(state)]
    shared = limits.said_before(Cards(8).read(()))
    warnings += [f"now: {meaning(flag)} ({what})" for flag, what in shared.items()]
    if state["busy_fraction"] > machine.BUSY_FRACTION:
        warnings.append(f"busy: {quiet.who()}; study --wait_quiet SECONDS waits for its end")
    if len(set(tf32.values())) > 1:
        warnings.append(f"TF32 differs: {tf32}; set MLX_ENABLE_TF32=0 (the workers here do)")
    found.append("")
    found += [f"! {line}" for line in warnings] or ["nothing found that would spoil a measurement"]
    return found


def _device_line(name: str, device: dict[str, Any]) -> str:
    if "missing" in device:
        return f"{name:10} {device['device']}: {device['missing'].removeprefix('device=gpu: ')}"
    numerics, versions = device["numerics"], device["versions"]
    chip = versions.get("gpu", numerics["blas_loaded"])
    compiled = f"no ({device['compile']})" if device["compile"] else "yes"
    return (
        f"{name:10} {device['device']}: {versions['framework']}, {chip}, "
        f"{device['flops_per_second'] / 1e9:,.0f} GFLOP/s, compile {compiled}, TF32 {numerics['tf32']}"
    )


def _better() -> str:
    if sys.platform != "linux":
        return "not needed here"
    choice = blas.better()
    return f"blas={choice}" if choice else "none found; pip install -c constraints.txt mkl"


@click.command(cls=Command, help=__doc__, example="mlflow run . -e doctor")
def main() -> None:
    run_id = write.adopt("doctor", "doctor")
    text = "\n".join(lines())
    click.echo(text)
    terminal.result(machine=machine.fingerprint(), facts=machine.facts(), tracking=store.address())
    write.attach_text(run_id, text + "\n", "doctor.txt")


if __name__ == "__main__":
    main()
