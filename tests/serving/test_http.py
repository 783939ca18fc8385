"""`mlflow models serve` answers over HTTP for both frameworks, where the project is not, as the process
that trained the model did."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from served import FRAMEWORKS, digits, images, write_trial

from benchmarks import served as server
from measurement.errors import InputError
from serving import log, predictions
from serving.predictions import Predictions

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=FRAMEWORKS)
def address(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Of a server of each framework's model; its folder is in ADDRESSED."""
    folder = tmp_path_factory.mktemp(request.param)
    log.save_model(write_trial(folder / "trial", request.param), folder / "model")
    with server.served(folder / "model", folder, os.environ) as found:
        ADDRESSED[found] = folder
        yield found


ADDRESSED: dict[str, Path] = {}


def ask(address: str, items: np.ndarray) -> list[int]:
    return server.ask(address, server.body(items))


def refused(address: str, content: bytes) -> tuple[int, str]:
    """(status, what is said) of a request that is none."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{address}/invocations", content, headers)
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(request, timeout=30)
    return error.value.code, error.value.read().decode()


def test_a_batch_of_images_is_answered_as_the_trial_does(address: str, tmp_path: Path) -> None:
    x = images(32)
    assert ask(address, x[:1]) == digits(x[:1]).tolist()
    with ThreadPoolExecutor(4) as clients:  # several requests at once
        answers = list(clients.map(lambda rows: ask(address, rows), np.split(x, 8)))
    assert np.concatenate(answers).tolist() == digits(x).tolist()
    # As `register` and the benchmark ask: what the training process answered, out of its file.
    predictions.save(tmp_path / predictions.FILE, Predictions(x, digits(x)))
    recorded = predictions.read(tmp_path / predictions.FILE)
    given = np.array(ask(address, recorded.inputs))
    assert predictions.difference(recorded.answers, given, "float32") is None


def test_the_example_that_people_are_told_to_send_is_answered(address: str) -> None:
    example = ADDRESSED[address] / "model/serving_input_example.json"
    assert len(server.ask(address, example.read_bytes())) == 4


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (json.dumps({"inputs": [[0.0] * 3]}), r"shape"),
        (json.dumps({"inputs": [0.0] * 784}), r"shape"),
        (json.dumps({"inputs": [["one"] * 784]}), ""),
        ("{", "JSON"),
        (json.dumps({"images": []}), "inputs"),
    ],
)
def test_what_is_no_batch_of_images_is_refused_with_the_reason(
    address: str, content: str, said: str
) -> None:
    code, text = refused(address, content.encode())
    assert code == 400, text
    assert said.lower() in text.lower(), text
    assert ask(address, images(2)) == digits(images(2)).tolist()  # and the server goes on


def test_a_wrong_shape_names_the_one_that_is_expected(address: str) -> None:
    with pytest.raises(InputError, match=r"400.*\(-1, 784\)"):
        ask(address, images(4)[:, :3])


def test_open_loop_load_is_answered_rightly(address: str) -> None:
    x = images(4)
    bodies, expected = [server.body(x[i : i + 2]) for i in (0, 2)], np.split(digits(x), 2)
    times = server.arrivals(40, 0.5, "constant", [0])
    found = server.offer(address, bodies, [e.tolist() for e in expected], times, connections=4)
    assert found.wrong == 0 and not found.errors and np.isfinite(found.latencies).all()
