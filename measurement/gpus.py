"""NVIDIA GPUs at a moment, from the driver's own counters (NVML): what others do on them, their clock,
and what slows them. None where there is no such GPU, or it does not say."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

_HOT = 0x20 | 0x40  # throttle reasons: thermal slowdown by software, by hardware
_SLOWED = 0x08 | 0x80  # hardware slowdown, power brake; a power cap (0x04) is normal at full load


@dataclass(frozen=True)
class Card:
    """One GPU. Shares are of 1; others: what this program did not start."""

    busy_share: float | None  # of the last moments, in which anything ran on it
    used_bytes: int | None
    clock_share: float | None  # of its highest clock
    hot: bool
    slowed: bool
    others: int | None  # processes that compute, None where the driver does not show ours
    others_bytes: int | None
    others_busy_share: float | None


class Cards:
    """The first `count` of the GPUs that CUDA_VISIBLE_DEVICES leaves, as the frameworks count them."""

    def __init__(self, count: int) -> None:
        self._library, self._handles = _open(count)
        self._seen = [0] * len(self._handles)  # time stamp of the last sample of each process

    def forget(self) -> None:
        """No card is read from now on."""
        self._handles = []

    def __len__(self) -> int:
        return len(self._handles)

    def read(self, own: Collection[int]) -> tuple[Card, ...]:
        """own: processes of this program."""
        return tuple(self._card(number, own) for number in range(len(self._handles)))

    def _card(self, number: int, own: Collection[int]) -> Card:
        nvml, handle = self._library, self._handles[number]
        ask = self._ask
        use = ask(nvml.nvmlDeviceGetUtilizationRates, handle)
        held = ask(nvml.nvmlDeviceGetMemoryInfo, handle, nvml.nvmlMemory_v2)
        clock = ask(nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_SM)
        highest = ask(nvml.nvmlDeviceGetMaxClockInfo, handle, nvml.NVML_CLOCK_SM)
        reasons = ask(nvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle) or 0
        others, others_bytes = self._others(handle, own)
        return Card(
            busy_share=None if use is None else use.gpu / 100,
            used_bytes=None if held is None else int(held.used),
            clock_share=clock / highest if clock and highest else None,
            hot=bool(reasons & _HOT),
            slowed=bool(reasons & _SLOWED),
            others=others,
            others_bytes=others_bytes,
            others_busy_share=self._others_busy(number, own),
        )

    def _others(self, handle: Any, own: Collection[int]) -> tuple[int | None, int | None]:
        """(processes of others, their memory). In a container the driver may show none, or those of the
        host under numbers that mean nothing here."""
        found = self._ask(self._library.nvmlDeviceGetComputeRunningProcesses, handle)
        if found is None or any(not os.path.exists(f"/proc/{one.pid}") for one in found):
            return None, None
        others = [one for one in found if one.pid not in own]
        return len(others), sum(one.usedGpuMemory or 0 for one in others)

    def _others_busy(self, number: int, own: Collection[int]) -> float | None:
        handle = self._handles[number]
        found = self._ask(self._library.nvmlDeviceGetProcessUtilization, handle, self._seen[number])
        if not found or any(not os.path.exists(f"/proc/{one.pid}") for one in found):
            return None
        self._seen[number] = max(one.timeStamp for one in found)
        latest = {one.pid: one.smUtil for one in found}
        return min(1.0, sum(use for pid, use in latest.items() if pid not in own) / 100)

    def _ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """None where this GPU or driver does not tell."""
        try:
            return function(*arguments)
        except self._library.NVMLError:
            return None


def _open(count: int) -> tuple[Any, list[Any]]:
    """(library, handles); no handle where there is no NVIDIA driver."""
    try:
        import pynvml
    except ImportError:
        return None, []
    try:
        pynvml.nvmlInit()
        named = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = (
            [str(n) for n in range(pynvml.nvmlDeviceGetCount())]
            if named is None
            else ([name.strip() for name in named.split(",") if name.strip()])
        )
        return pynvml, [_handle(pynvml, name) for name in names[:count]]
    except pynvml.NVMLError:  # no driver, no such card, or a part of one, which says little
        return pynvml, []


def _handle(nvml: Any, name: str) -> Any:
    if name.isdecimal():
        return nvml.nvmlDeviceGetHandleByIndex(int(name))
    return nvml.nvmlDeviceGetHandleByUUID(name)
