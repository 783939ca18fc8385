"""Every parser of outside data, for a second each: a few hundred mutations of valid inputs. For minutes
each: python -m benchmarks.fuzz."""

from __future__ import annotations

import json
import logging
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks import fuzz
from measurement.errors import InputError
from tracking.bulk import client, server

EXAMPLES = {"database": 15, "safetensors": 60, "samples": 60}


@pytest.fixture(autouse=True)
def undone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two targets put something else in the place of the network."""
    for module, name in (
        (server, "http_request"), (server, "get_default_host_creds"), (server, "_ROWS"),
        (client, "experiment_ids"), (client, "of_one"),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, getattr(module, name))
    monkeypatch.setattr(logging.root, "disabled", True)


def changed(data: bytes, seed: int) -> bytes:
    """What a fuzzer would make of an input: bytes cut out, doubled and changed, nodes of JSON."""
    random = Random(seed)
    head, brace, tail = data.partition(b"{")
    if brace and random.random() < 0.6:
        try:
            tree = fuzz._changed(json.loads(brace + tail), random)
            return head + json.dumps(tree).encode("utf-8", "replace")
        except ValueError:
            pass
    made = bytearray(data)
    for _ in range(random.randint(1, 4)):
        start = random.randrange(len(made) + 1)
        end = min(len(made), start + random.choice((0, 1, 4, 16)))
        made[start:end] = random.choice(
            (b"", random.randbytes(4), bytes(8), b"\xff" * 8, bytes(made[start:end]) * 2)
        )
    return bytes(made)


@pytest.mark.parametrize("name", sorted(fuzz.PARSERS))
def test_nothing_but_a_refusal_comes_out_of_a_parser(name: str) -> None:
    parser = fuzz.PARSERS[name]
    target, seeds = parser.target(), parser.seeds()
    for seed in seeds:
        fuzz.check(target, seed)

    @settings(
        max_examples=EXAMPLES.get(name, 150), deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.sampled_from(seeds), st.integers(0, 2**32), st.booleans(), st.binary(max_size=64))
    def holds(seed: bytes, number: int, mutated: bool, anything: bytes) -> None:
        fuzz.check(target, changed(seed, number) if mutated else anything)

    holds()


@pytest.mark.parametrize("name", ["design", "recordings"])
def test_the_seeds_are_what_a_parser_takes(name: str) -> None:
    parser = fuzz.PARSERS[name]
    target = parser.target()
    for seed in parser.seeds():
        target(seed)


FOUND = {  # what the fuzzers found, by parser
    "tags": [b'parity={"work": 1, "dtype": "float32", "parameters": 1, "optimiser": "s,d"}\nseed=1',
             b'parity={"work": 1, "dtype": [], "parameters": 1}\nseed=1',
             b'parity={"work": 1, "dtype": "float32", "parameters": 1, "output": [1%s, 2]}\nseed=1'
             % (b"0" * 400),
             b'receipt={"kind": []}\nseed=1', "pair=\u00b2\nseed=\u00b2".encode(),
             b"parity=" + b"[" * 8000],
    "config": [b'\x02{"weight_map": {"a": "%s"}}' % (b"1" * 5000),
               b'\x02{"weight_map": {"a": "../../x", "b": "\\ud800", "c": "\\u0000"}}',
               b'\x00{"model_type": "llama", "num_hidden_layers": 1000000000000}'],
    "npz": [b"\x01{}\0\0\x93NUMPY\x01\x00\x0e\x00{'descr': (((\n\n",],
    "samples": [b"PAR1", fuzz.PARSERS["samples"].seeds()[0].replace(b"series", b"sERies")],
    "tokenizer": [b"\x01Ig= 1\n", b"\x00{"],
    "recordings": [b"mlx-train-gpu-n1-e2.csv\nepoch_0,epoch_1,avg,iter_total\n1e308,1e308,1e308,1e308\n"],
    "words": [b"\x01" + b'{"hosts": ' + b"[" * 3000, b"\x01[" + b"1" * 5000 + b"]"],
}  # fmt: skip


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_is_refused_in_one_line(name: str) -> None:
    target = fuzz.PARSERS[name].target()
    for data in FOUND[name]:
        try:
            target(data)
        except InputError as error:
            assert "\n" not in str(error) and len(str(error)) < 1000
