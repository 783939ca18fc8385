"""How a process is set, beside what a framework knows of itself: its place among others, its interpreter,
and the variables that libraries read. Two arms that differ in any of it do not run under the same condition."""

from __future__ import annotations

import gc
import hashlib
import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

DEFAULT = "default"
VARIABLES = re.compile(
    r"(OMP|GOMP|KMP|MKL|OPENBLAS|GOTO|BLIS|VECLIB|ATEN|DNNL|ONEDNN|TORCH|TORCHINDUCTOR|PYTORCH|MLX|TF|XLA|JAX|CUDA|"
    r"CUBLAS|CUDNN|NVIDIA|NCCL|MALLOC|GLIBC|LD|DYLD|PYTHON|MTL|METAL)_\w+|PYTHON[A-Z]+|XLA_FLAGS"
)
"""Read by what does the work."""

# Where things lie, and what says nothing of how fast they are.
_PLACES = re.compile(r"\w*(PATH|HOME|DIR|CACHE|CACHE_DIR|FILE|FOLDER)|PYTHON(UNBUFFERED|HASHSEED|IOENCODING|UTF8|WARNINGS|"
                     r"DONTWRITEBYTECODE|NOUSERSITE|FAULTHANDLER)")  # fmt: skip
_PLAIN = re.compile(r"[\w.,:+-]{0,40}")
_COLLECTOR = ((700, 10, 10), (2000, 10, 0), (2000, 10, 10))  # of Python's versions
_SWITCH_SECONDS = 0.005
_WHICH = ("CUDA_VISIBLE_DEVICES", "processors")
_NUMBERS = re.compile(r"[0-9]{1,5}(,[0-9]{1,5})*")
_ALLOCATORS = re.compile(r"/lib(jemalloc|tcmalloc|mimalloc|hoard|tbbmalloc_proxy)[^/\n]*$", re.M)


def of_process(given: Mapping[str, str]) -> str:
    """What differs from how a process is by default, in one line; `default` where nothing does. given:
    variables as the supervisor sets them for every arm alike. Values that may hold a path are hashed."""
    found = [*_place(), *_interpreter(), *_variables(os.environ, given)]
    return ", ".join(sorted(found)) or DEFAULT


@contextmanager
def same_variables() -> Iterator[None]:
    """This process's variables are afterwards as before. PyTorch and what it brings set some when they
    are imported or asked for a GPU, and whatever is started later would inherit them."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


class Place(NamedTuple):
    """Which of a machine's GPUs and processors, by number, a process was confined to; empty: to none
    that is known."""

    gpus: frozenset[int]
    processors: frozenset[int]

    def apart(self, other: Place) -> bool:
        """Whether two processes shared none of these."""
        return all(
            a and b and not a & b
            for a, b in ((self.gpus, other.gpus), (self.processors, other.processors))
        )


def placed(text: str) -> tuple[str, Place]:
    """(settings as `of_process` says them with how many GPUs and processors instead of which, which).

    >>> placed("CUDA_VISIBLE_DEVICES=1, OMP_PROC_BIND=true, processors=2,3 of 8")[0]
    'CUDA_VISIBLE_DEVICES=any 1, OMP_PROC_BIND=true, processors=any 2 of 8'
    """
    which = {name: frozenset[int]() for name in _WHICH}
    words = []
    for word in text.split(", "):
        name, _, value = word.partition("=")
        listed, of, total = value.partition(" of ")
        # A GPU has other names beside its number, and a long list of them is a hash: left as they are.
        if name in _WHICH and _NUMBERS.fullmatch(listed):
            which[name] = frozenset(map(int, listed.split(",")))
            word = f"{name}=any {len(which[name])}{of}{total}"
        words.append(word)
    return ", ".join(words), Place(*which.values())


def _place() -> list[str]:
    found = []
    if nice := os.getpriority(os.PRIO_PROCESS, 0):
        found.append(f"nice={nice}")
    if sys.platform != "linux":
        return found
    if (policy := os.sched_getscheduler(0)) != os.SCHED_OTHER:
        found.append(f"scheduling policy={policy}")
    usable, all_of_them = os.sched_getaffinity(0), os.cpu_count()
    if len(usable) != all_of_them:
        found.append(f"processors={','.join(map(str, sorted(usable)))} of {all_of_them}")
    if library := _ALLOCATORS.search(Path("/proc/self/maps").read_text()):
        found.append(f"allocator={library[1]}")
    return found


def _interpreter() -> list[str]:
    found = []
    if not gc.isenabled():
        found.append("garbage collector=off")
    elif gc.get_threshold() not in _COLLECTOR:
        found.append(f"garbage collector={gc.get_threshold()}")
    hooks = (sys.gettrace(), sys.getprofile(), threading.gettrace(), threading.getprofile())
    if any(hooks):
        found.append("traced or profiled")
    if sys.flags.dev_mode or sys.flags.optimize:
        found.append(f"interpreter=dev {sys.flags.dev_mode} optimize {sys.flags.optimize}")
    if abs(sys.getswitchinterval() - _SWITCH_SECONDS) > 1e-6:
        found.append(f"switch interval={sys.getswitchinterval():g} s")
    smallest = np.full(2, 1e-40, np.float32)
    if not (smallest * np.float32(0.5)).all():
        found.append("denormal numbers=flushed")
    return found


def _variables(environ: Mapping[str, str], given: Mapping[str, str]) -> list[str]:
    return [
        f"{name}={value if _PLAIN.fullmatch(value) else _hashed(value)}"
        for name, value in environ.items()
        if VARIABLES.fullmatch(name) and not _PLACES.fullmatch(name) and given.get(name) != value
    ]


def _hashed(value: str) -> str:
    return f"#{hashlib.sha256(value.encode()).hexdigest()[:8]}"
