"""Load that does not wait for the server: a latency counts from when the request was meant to be sent."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from benchmarks import served, serving_latency, serving_latency_report
from benchmarks.served import Answered
from benchmarks.serving_latency_report import Block
from measurement.errors import InputError
from serving import log, predictions
from serving.predictions import Predictions

sys.path.append(str(Path(__file__).resolve().parents[1] / "serving"))
from served import digits, images, write_trial  # noqa: E402

ITEMS = images(8)
Server = Callable[..., str]


@pytest.fixture
def server() -> Iterator[Server]:
    """server(answer) -> address; answer(items) gives (status, predictions) and may take its time."""
    running = []

    def start(answer: Callable[[np.ndarray], tuple[int, list[int]]], keep: int = 10**9) -> str:
        alone = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            answered = 0

            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                with alone:  # one model, one request at a time
                    status, found = answer(np.array(json.loads(content)["inputs"], np.float32))
                text = json.dumps({"predictions": found}).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)
                self.answered += 1
                self.close_connection = (
                    self.answered >= keep
                )  # without a word, as one idle too long

            def log_message(self, *_: object) -> None:
                pass

        found = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=found.serve_forever, args=(0.01,), daemon=True).start()
        running.append(found)
        return f"http://127.0.0.1:{found.server_address[1]}"

    yield start
    for one in running:
        one.shutdown()
        one.server_close()


def right(items: np.ndarray) -> tuple[int, list[int]]:
    return 200, digits(items).tolist()


def offered(
    address: str, times: np.ndarray, connections: int = 2, seconds: float = 5.0
) -> Answered:
    bodies = [served.body(ITEMS[i : i + 1]) for i in range(len(ITEMS))]
    expected = [[int(digit)] for digit in digits(ITEMS)]
    return served.offer(address, bodies, expected, times, connections, seconds)


@pytest.mark.parametrize("connections", [1, 4])
def test_a_server_that_stalls_once_is_seen_by_all_who_should_have_been_served(
    server: Server, connections: int
) -> None:
    """A closed loop would see one slow request of fifty."""
    count = [0]

    def stalls(items: np.ndarray) -> tuple[int, list[int]]:
        count[0] += 1
        if count[0] == 10:
            time.sleep(0.3)
        return right(items)

    found = offered(server(stalls), served.arrivals(100, 0.5, "constant", [0]), connections)
    assert len(found.latencies) == 50 and not found.errors and found.wrong == 0
    assert np.sum(found.latencies > 0.1) >= 15  # of the 30 that were meant to be sent meanwhile
    assert np.max(found.latencies) >= 0.29


def test_failures_are_counted_and_are_the_longest(server: Server) -> None:
    count = [0]

    def fails(items: np.ndarray) -> tuple[int, list[int]]:
        count[0] += 1
        return (500, []) if count[0] % 5 == 0 else right(items)

    found = offered(server(fails), served.arrivals(200, 0.1, "constant", [0]))
    assert found.errors == {"HTTP 500": 4} and np.isinf(found.latencies).sum() == 4
    assert serving_latency_report.quantile(found.latencies, 99) == np.inf
    assert np.isfinite(serving_latency_report.quantile(found.latencies, 50))


def test_no_answer_in_time_is_a_failure(server: Server) -> None:
    def sleeps(items: np.ndarray) -> tuple[int, list[int]]:
        time.sleep(0.3)
        return right(items)

    found = offered(server(sleeps), np.array([0.0]), seconds=0.1)
    assert sum(found.errors.values()) == 1 and np.isinf(found.latencies).all()


def test_a_connection_that_was_closed_while_idle_is_no_failure(server: Server) -> None:
    found = offered(server(right, keep=3), served.arrivals(100, 0.2, "constant", [0]))
    assert not found.errors and found.wrong == 0


def test_wrong_answers_are_counted(server: Server) -> None:
    address = server(lambda items: (200, [10 for _ in items]))
    assert offered(address, served.arrivals(100, 0.1, "constant", [0])).wrong == 10


def test_arrivals_keep_the_rate_and_come_again() -> None:
    found = served.arrivals(1000, 20, "poisson", [1, 2])
    assert len(found) == 20_000 and (np.diff(found) > 0).all()
    assert found[-1] == pytest.approx(20, rel=0.05)
    gaps = np.diff(found)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)  # of an exponential
    assert (found == served.arrivals(1000, 20, "poisson", [1, 2])).all()
    assert (found[:9] != served.arrivals(1000, 20, "poisson", [1, 3])[:9]).all()


# --- the report


def blocks(factor: float, pairs: int = 8, failed: int = 0, spread: float = 0.02) -> list[Block]:
    rng, found = np.random.default_rng(0), []
    for pair in range(pairs):
        for order, (arm, scale) in enumerate((("mlx", factor), ("pytorch", 1.0))):
            level = 0.01 * scale * np.exp(rng.normal(0, spread))
            latencies = level * np.exp(rng.normal(0, 0.3, 1000))
            latencies[:failed] = np.inf
            errors = {"HTTP 500": failed} if failed else {}
            answered = Answered(latencies, np.zeros(1000), errors, 0, 20 + float(latencies[-1]))
            found.append(Block(arm, pair, order, answered))
    return found


def test_the_ratio_is_paired_by_block() -> None:
    found = serving_latency_report.compare(blocks(0.5), ("mlx", "pytorch"), 0)
    for ratio in found.ratios.values():
        assert ratio is not None and ratio.low is not None and ratio.high is not None
        assert ratio.low < 0.5 * 1.05 and ratio.high > 0.5 * 0.95 and ratio.high < 0.6
        assert ratio.n == 8
    p50, p99 = found.arms[1].percentiles
    assert p50.low < p50.seconds < p50.high < p99.low < p99.seconds
    assert found.arms[0].rate == pytest.approx(50, rel=0.01) and not found.arms[0].flags


def test_the_interval_is_of_blocks_and_not_of_requests() -> None:
    """8,000 requests would pin a median to 1 %; blocks that differ by a third do not let it."""
    found = serving_latency_report.compare(blocks(1.0, spread=0.3), ("mlx", "pytorch"), 0)
    p50 = found.arms[0].percentiles[0]
    assert (p50.high - p50.low) / p50.seconds > 0.15


def test_failures_leave_no_ratio_of_what_they_reach() -> None:
    found = serving_latency_report.compare(blocks(0.5, failed=20), ("mlx", "pytorch"), 0)
    assert found.ratios[99] is None and found.ratios[50] is not None
    assert "ERRORS: 160 of 8000" in found.arms[0].flags[0]


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A trial's local record."""
    folder = write_trial(tmp_path / "trial", "pytorch")
    predictions.save(folder / predictions.FILE, Predictions(ITEMS, digits(ITEMS)))
    return folder


SHORT = (
    "--blocks",
    "6",
    "--seconds",
    "0.1",
    "--warmup_seconds",
    "0",
    "--rate",
    "100",
    "--connections",
    "2",
)


def run(
    monkeypatch: pytest.MonkeyPatch,
    address: dict[str, str],
    trained: Path,
    output: Path,
    *words: str,
) -> int:
    """The command with servers that are there already, by framework."""

    @contextmanager
    def ready(model: Path, folder: Path, environment: object) -> Iterator[str]:
        yield address[folder.name]

    monkeypatch.setattr(served, "served", ready)
    monkeypatch.setattr(log, "save_model", lambda source, target: None)
    return serving_latency.main(
        ["--trained", str(trained), "--output", str(output), *SHORT, *words]
    )


def test_a_report_is_written(
    server: Server,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    address = server(right)
    assert (
        run(monkeypatch, dict.fromkeys(("mlx", "pytorch"), address), trained, tmp_path / "out") == 0
    )
    out = capsys.readouterr().out
    assert "mlx over pytorch" in out and "100 requests/s (poisson arrivals)" in out
    found = json.loads((tmp_path / "out/serving_latency.json").read_text())
    assert len(found["blocks"]) == 12 and len(found["blocks"][0]["latency_seconds"]) == 10
    assert {arm["failed"] for arm in found["arms"]} == {0}
    text = (tmp_path / "out/serving_latency.md").read_text()
    assert str(tmp_path) not in text + json.dumps(found)
    for name in ("serving_latency.png", "serving_latency_dark.png"):
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")


def test_other_predictions_get_no_latency(
    server: Server,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    address = {
        "mlx": server(lambda items: (200, [(int(d) + 1) % 10 for d in digits(items)])),
        "pytorch": server(right),
    }
    assert run(monkeypatch, address, trained, tmp_path / "out") == 2
    assert "mlx: 8 of 8 answers are not those" in capsys.readouterr().err
    assert not (tmp_path / "out/serving_latency.json").exists()


def test_an_answer_that_turns_under_load_ends_it(
    server: Server,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    count = [0]

    def turns(items: np.ndarray) -> tuple[int, list[int]]:
        count[0] += 1
        return right(items) if count[0] < 6 else (200, [0 for _ in items])

    addresses = dict.fromkeys(("mlx", "pytorch"), server(turns))
    assert run(monkeypatch, addresses, trained, tmp_path / "out") == 2
    assert "wrong answers under load" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--blocks", "5"), "expected 6 or more"),
        (("--rate", "0"), "--rate 0.0"),
        (("--frameworks", "mlx"), "expected two"),
        (("--frameworks", "mlx,tensorflow"), "tensorflow is not served"),
        (("--workload", "whisper_tiny"), "trains no model"),
    ],
)
def test_mistakes_are_told_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    assert serving_latency.main(["--output", str(tmp_path / "out"), *words]) == 2
    assert said in capsys.readouterr().err


def test_a_server_that_does_not_come_up_says_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho no such model\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    with (
        pytest.raises(InputError, match="did not answer .* no such model"),
        served.served(tmp_path / "none", tmp_path, {}),
    ):
        pass
