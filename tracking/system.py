"""System metrics under MLflow's own names, sampled by MLflow's own monitors, logged afterwards.

MLflow's background logging writes to the store while the worker is timed and gives up for good
after one failed call; here only the sampling runs beside the measurement.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any

from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor

from tracking.write import Point

PERIOD_SECONDS = 1.0


class Sampler:
    """Samples every second from `with` to its end; `points` are ready to log."""

    def __init__(self) -> None:
        self._monitors: list[Any] = [CPUMonitor()]
        with contextlib.suppress(ImportError, RuntimeError):  # no NVIDIA GPU, in MLflow's words
            self._monitors.append(GPUMonitor())
        self._samples: list[tuple[float, dict[str, float]]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _loop(self) -> None:
        while True:
            values: dict[str, float] = {}
            for monitor in self._monitors:
                monitor.collect_metrics()
                values |= monitor.aggregate_metrics()
                monitor.clear_metrics()
            self._samples.append((time.time(), values))
            if self._stop.wait(PERIOD_SECONDS):
                return

    def points(self) -> list[Point]:
        """Every sample as a metric point, `system/...`."""
        return [
            Point(f"system/{name}", value, step, seconds)
            for step, (seconds, values) in enumerate(self._samples)
            for name, value in values.items()
        ]

    def gpu_percent_mean(self, start: float, stop: float) -> float | None:
        """Mean GPU use between two wall-clock times; None without a GPU or a sample."""
        found = [
            value
            for seconds, values in self._samples
            if start <= seconds <= stop
            for name, value in values.items()
            if name.startswith("gpu_") and name.endswith("utilization_percentage")
        ]
        return sum(found) / len(found) if found else None
