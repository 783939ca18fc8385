"""The plan of a study: its arms and what they are compared to, the device and the sizes, all of it fixed
before the first trial and recorded with the study."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import frameworks
import models
from analysis import stopping
from entrypoints import agreement, environment, prices
from entrypoints.probe import probe
from entrypoints.supervisor import TrialSpec, dataset_for, preset_for, resolve
from entrypoints.trial import checked_target
from measurement import blas, machine
from measurement.errors import InputError
from measurement.schedule import AGAIN, Condition, blocks, parse_arm
from tracking import names, private


def default_arms(device: str, as_shipped: bool = True) -> tuple[list[str], list[dict[str, str]]]:
    """(arms, comparisons). The A/A arm is PyTorch a second time.

    On a Linux CPU the MLX wheel multiplies with the reference BLAS, so the headline gives both
    frameworks the same better library; as_shipped: two more arms show what pip alone gives.
    """
    tuned = blas.better() if "cpu" in device and sys.platform == "linux" else None
    suffix = f" blas={tuned}" if tuned else ""
    mlx, torch = f"mlx{suffix}", f"pytorch{suffix}"
    arms = [mlx, torch, f"{torch} {AGAIN}"]
    comparisons = [_pairing(mlx, torch, "headline"), _pairing(arms[2], torch, "resolution")]
    if tuned and as_shipped:
        shipped = ["mlx blas=shipped", "pytorch blas=shipped"]
        arms += shipped
        comparisons += [
            _pairing(shipped[0], mlx, "wheel"),
            _pairing(shipped[0], shipped[1], "as shipped"),
        ]
    return arms, comparisons


def given_arms(
    text: str, base: Condition, sizes: Mapping[str, type]
) -> tuple[list[str], list[dict[str, str]]]:
    """Arms from the command line: the first against the second is the question; a second copy of
    the second is the A/A arm. Raises InputError."""
    arms = [" ".join(arm.split()) for arm in private.home(text).split(",")]
    if len(arms) < 2 or len(set(arms)) != len(arms):
        raise InputError(
            f"arms='{text}': expected two or more different arms, as in 'mlx blas=mkl, pytorch'"
        )
    conditions = [parse_arm(arm, base, sizes)[0] for arm in arms]
    comparisons = [
        _pairing(arm, arms[1], _role(conditions[i], conditions[1], first=i == 0))
        for i, arm in enumerate(arms)
        if i != 1
    ]
    again = f"{arms[1]} {AGAIN}"
    return [*arms, again], [*comparisons, _pairing(again, arms[1], "resolution")]


def _pairing(numerator: str, denominator: str, role: str) -> dict[str, str]:
    return {"numerator": numerator, "denominator": denominator, "role": role}


def _further(arms: str, workload: str) -> list[str]:
    """Frameworks with an environment of their own that the arms name and the workload has."""
    named = {word for arm in arms.split(",") for word in arm.split()[:1]}
    return sorted(named & set(frameworks.OWN_ENVIRONMENT) & set(models.frameworks(workload)))


def _role(arm: Condition, reference: Condition, first: bool) -> str:
    """What a pairing asks, from what differs in it."""
    if arm.framework == reference.framework:
        for key, role in (
            ("slowdown_percent", "injected"), ("version", "version"), ("blas", "wheel"),
        ):  # fmt: skip
            if getattr(arm, key) != getattr(reference, key):
                return role
    # A framework that takes no BLAS has no other like.
    return "headline" if first or arm.framework in frameworks.OWN_PRODUCTS else "as shipped"


def common_device(asked: str, further: Sequence[str] = ()) -> str:
    """`auto` -> gpu when both frameworks have one here, and so have the `further` ones, else cpu:
    never one of each."""
    if asked != "auto":
        return asked
    for framework in further:
        environment.python(framework)  # made now, if it is missing
    found = [probe(framework)["devices"][1] for framework in ("mlx", "pytorch", *further)]
    return "cpu" if any("missing" in device for device in found) else "gpu"


def two_devices(workload: str, device: str) -> str:
    """`device`, which names two. Raises InputError where a framework finds no second one here."""
    if "gpu" not in device:
        return device
    without = [f for f in ("mlx", "pytorch") if "missing" in probe(f)["devices"][1]]
    if without:
        raise InputError(
            f"device={device}: {' and '.join(without)} see no GPU here, so there is nothing to switch "
            f"to; device=cpu-cpu runs both halves of '{workload}' on the CPU"
        )
    return device


def design(options: dict[str, Any], base: Condition) -> dict[str, Any]:
    """Everything that is fixed before the first trial."""
    if options["arms"] == "auto":
        as_shipped = models.load(options["workload"], "config").AS_SHIPPED
        arms, comparisons = default_arms(base.device, as_shipped)
    else:
        arms, comparisons = given_arms(options["arms"], base, models.options(options["workload"]))
    if options["slowdown_percent"]:
        reference = comparisons[0]["denominator"]
        arms.append(f"{reference} slowdown_percent={options['slowdown_percent']:g}")
        comparisons.append(_pairing(arms[-1], reference, "injected"))
    if options["until_resolved"] and options["pairs"] < stopping.FIRST_LOOK:
        raise InputError(
            f"pairs={options['pairs']} with until_resolved: expected {stopping.FIRST_LOOK} or more, the "
            "most that may be run; an interval that may be looked at needs that many"
        )
    return fixed(options, base, arms, comparisons)


def fixed(
    options: dict[str, Any], base: Condition, arms: list[str], comparisons: list[dict[str, str]]
) -> dict[str, Any]:
    """The design of given arms as it is recorded."""
    return {
        "workload": options["workload"],
        "mode": options["mode"],
        # of a workload that is never trained there is none
        "quality": str(getattr(models.load(options["workload"], "config"), "QUALITY", "none")),
        "checkpoint": Path(options["checkpoint"]).name,
        "preset": options["preset"],
        "by_machine": agreement.left_open(options),
        "pairs": options["pairs"],
        "stopping": "anytime" if options.get("until_resolved") else "fixed",
        "epochs": options["epochs"],
        "seed": options["seed"],
        "dataset": Path(options["dataset"]).name,
        "target": options["target"],
        "price_per_hour": options["price_per_hour"],
        "gap_seconds": options["gap_seconds"],
        "wait_quiet": options.get("wait_quiet", 0.0),
        "slowdown_percent": options.get("slowdown_percent", 0.0),
        "metric": names.PRIMARY[options["mode"]],
        "margin": options["margin"],
        "family": [names.PRIMARY[options["mode"]]],
        "machine": machine.fingerprint(),
        "condition": asdict(base),
        "arms": arms,
        "comparisons": comparisons,
        "order": [slot.arm for slot in blocks(tuple(arms), options["pairs"], options["seed"])],
    }


@dataclass(frozen=True)
class Sources:
    """Where a study's data and weights come from here; a design, which others read, has names only."""

    data_dir: str
    dataset: str
    checkpoint: str = "random"


def specifications(plan: dict[str, Any], sources: Sources) -> dict[str, TrialSpec]:
    """arm -> its checked trial, seed still 0. Raises InputError before anything is measured."""
    specs = {}
    for arm in plan["arms"]:
        condition, own = parse_arm(
            arm, Condition(**plan["condition"]), models.options(plan["workload"])
        )
        places = sources.dataset, condition, sources.checkpoint, sources.data_dir
        sizes = resolve(plan["workload"], plan["preset"], own, *places)
        specs[arm] = TrialSpec(
            plan["workload"],
            condition,
            plan["preset"],
            sizes,
            0,
            plan["epochs"],
            sources.dataset,
            sources.data_dir,
            plan["target"],
            plan["price_per_hour"],
            plan["mode"],
            sources.checkpoint,
        )
    if any(spec.condition.ranks > 1 for spec in specs.values()):
        # A job trains and no more; so does every other arm, that receipts agree.
        specs = {arm: replace(spec, inference=False) for arm, spec in specs.items()}
    return specs


def complete(options: dict[str, Any]) -> tuple[dict[str, Any], Condition]:
    """(options with every `auto` replaced by what the workload and this machine say, what the arms
    share unless they say otherwise). Raises InputError."""
    workload = options["workload"]
    config = models.load(workload, "config")
    device = models.device(workload, options["device"])
    base = Condition(
        "pytorch",
        two_devices(workload, device)
        if "-" in device
        else common_device(device, _further(options.get("arms", "auto"), workload)),
        options["dtype"],
        "auto",
        "shipped",
        options["threads"],
    )
    mode = {"auto": config.KIND}.get(options["mode"], options["mode"])
    if mode not in models.modes(workload):
        known = ", ".join(models.modes(workload))
        raise InputError(f"mode='{mode}': workload '{workload}' has: {known}")
    found = options | {
        "by_machine": agreement.left_open(options),
        "mode": mode,
        "preset": preset_for(workload, options["preset"], base.device),
        "dataset": dataset_for(workload, options["dataset"]),
        "epochs": 0,
        "target": 0.0,
        "price_per_hour": prices.per_hour(
            options["price_per_hour"], options["price_table"], base.framework, base.device
        ),
    }
    if mode == "train":
        epochs = models.setting(workload, "EPOCHS_OF").get(found["preset"], config.STUDY_EPOCHS)
        own = {"epochs": epochs, "target": config.STUDY_TARGET}
        found |= {k: v if options[k] == "auto" else options[k] for k, v in own.items()}
        checked_target(workload, found["target"])
    if mode in ("train", "stream") and options["checkpoint"] != "random":
        raise InputError(f"checkpoint={options['checkpoint']}: a training starts from random "
                         "weights; use it with mode=infer or a workload that generates")  # fmt: skip
    return found, base


def sources_of(options: dict[str, Any]) -> Sources:
    """The sources that complete options name."""
    return Sources(options["data_dir"], options["dataset"], options["checkpoint"])
