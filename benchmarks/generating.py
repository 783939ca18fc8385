"""What the benchmarks of generating workloads share: our first phase and tokens beside those of peers,
at equal tokens, in one process and interleaved."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks import common
from benchmarks.common import MODES, Samples, Verdict, default, recorded, versus_peer
from measurement import blas
from measurement.errors import InputError

Generate = Callable[[int], Iterator[Any]]  # number of an item -> its tokens, each when it is there


def ours(session: Any, mode: str) -> Generate:
    framework, twin, config = session.framework, session.twin, session.config
    begin = common.submitted(
        session, lambda model, inputs: twin.begin(model, inputs, config.capacity()), mode
    )
    advance = common.submitted(session, twin.advance, mode)

    def generate(item: int) -> Iterator[Any]:
        token, _, cache = begin(session.inputs[item])
        framework.wait(token, cache)
        yield token
        for _ in range(config.decode_tokens - 1):
            token, _, cache = advance(token, cache)
            yield token
        framework.wait(token, cache)

    return generate


def tokens_of(session: Any, generate: Generate, item: int) -> list[int]:
    read = session.framework.read
    return [
        token if isinstance(token, int) else int(np.reshape(read(token), -1)[0])
        for token in generate(item)
    ]


def check_equal_work(session: Any, arms: dict[str, Generate]) -> str:
    """Every arm's tokens for every prompt; InputError when one differs."""
    first, *others = arms
    for item in range(len(session.inputs)):
        expected = tokens_of(session, arms[first], item)
        for name in others:
            found = tokens_of(session, arms[name], item)
            if found != expected:
                at = next((i for i, pair in enumerate(zip(found, expected, strict=False))
                           if pair[0] != pair[1]), min(len(found), len(expected)))  # fmt: skip
                raise InputError(
                    f"{name} makes other tokens than {first} from token {at} of prompt {item} on:"
                    " other work"
                )
    count = len(session.inputs) * session.config.decode_tokens
    return (
        f"equal work: all {count} tokens of {len(session.inputs)} prompts are the same in every arm"
    )


def arm(session: Any, name: str, generate: Generate) -> common.Arm:
    """A sample: one prompt, the next one each time."""
    turn = [0]

    def sample() -> dict[str, float]:
        item, turn[0] = turn[0] % len(session.inputs), turn[0] + 1
        start = perf_counter()
        tokens = generate(item)
        next(tokens)
        first = perf_counter()
        for _ in tokens:
            pass
        end = perf_counter()
        session.framework.wait()
        return {
            f"{name}, prompt": first - start,
            f"{name}, decoding": end - first,
            f"{name}, whole": end - start,
        }

    return sample


def measure(
    framework: str,
    options: argparse.Namespace,
    workload: str,
    peers_of: Callable[[Any], dict[str, Generate]],
    labels: dict[str, str],
) -> common.Measured:
    """Runs in a process of its own. labels: what people call the phases "prompt" and "decoding"."""
    blas.load(options.blas)
    session = common.session(framework, options, workload=workload)
    reason = session.framework.can_compile()
    common.say(f"{framework}: compiling and comparing tokens")
    modes = {MODES[mode]: ours(session, mode) for mode in common.modes(session)}
    peers = peers_of(session)
    notes = [check_equal_work(session, {**modes, **peers})]
    arms = {name: arm(session, name, generate) for name, generate in {**modes, **peers}.items()}
    samples = common.interleave(arms, options.pairs, options.seed, framework)
    if reason:
        notes.append(f"compiled modes not measured: {reason}")
    table = _rows(framework, session, samples, list(peers), labels)
    return common.Measured(framework, session.conditions(), samples, table, notes)


def _rows(
    framework: str, session: Any, samples: Samples, peers: list[str], labels: dict[str, str]
) -> list[common.Row]:
    parts = dict(zip(("prompt", "decoding"), common.own_modes(session), strict=True))
    found: list[tuple[str, str, str, Verdict]] = []
    for peer in peers:
        if not peer.endswith(" generate"):
            for part, mode in parts.items():
                label = f"{labels[part]}: ours ({MODES[mode]}) / {peer}"
                series = f"{MODES[mode]}, {part}", f"{peer}, {part}"
                found.append((*series, label, versus_peer))
        elif len(set(parts.values())) == 1:  # it does not tell the phases apart
            same = MODES[parts["prompt"]]
            label = f"whole: ours ({same}) / {peer}"
            found.append((f"{same}, whole", f"{peer}, whole", label, versus_peer))
    if "compiled, prompt" in samples:
        for part, mode in parts.items():
            label = f"{labels[part]}: compiled / eager"
            found.append((f"compiled, {part}", f"eager, {part}", label, default(mode != "off")))
    if f"{MODES['graphs']}, prompt" in samples:
        for part in parts:
            label = f"{labels[part]}: {MODES['graphs']} / compiled"
            series = f"{MODES['graphs']}, {part}", f"compiled, {part}"
            found.append((*series, label, recorded))
    return [common.compare(framework, samples, *entry) for entry in found]


def check_installed(framework: str, module: str) -> None:
    """InputError when the package of a framework's peer is missing."""
    if importlib.util.find_spec(module) is None:
        package = {"whisper": "openai-whisper"}.get(module, module.replace("_", "-"))
        raise InputError(f"the peer of {framework} is missing; pip install {package}")
