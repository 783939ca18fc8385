"""Sizes of the work that changes its device: three products on one, three on the other, and again.

One loop, from a, b, c (size, size); N divides every column by its largest value:

    first device    r1 = N(a b)     r2 = N(b c)     r3 = N(c a)
    second device   a' = N(r1 r2)   b' = N(r2 r3)   c' = N(r3 r1)

and the next loop starts from a', b', c'. `cpu-gpu`: the matrices lie on the CPU, the GPU computes the
first half, the CPU the second, so that they lie on the CPU again. `cpu-cpu`: both on the CPU.

Every value stays in (0, 1] however many loops there are: the products of positive numbers are
positive, and N makes the largest of a column 1. The columns of a matrix become alike within two
loops; the rows keep apart by a share of about 1 / sqrt(size), by which an order of operands shows.
"""

from __future__ import annotations

from dataclasses import dataclass

from measurement.errors import InputError
from models.parameters import Initial

ITEM = "loop"
KIND = "switch"
# Where the matrices lie, and what computes the first half of a loop. `auto` is the one after it, and
# never the last: without a GPU there is nothing to switch to.
DEVICES = ("auto", "cpu-gpu", "cpu-cpu")
# Both are the seeded random matrices: there are no others, and every workload knows the second name.
DATASETS = ("uniform", "synthetic")
OWN_DATA = ""
# No arm of MLX on its wheel's reference BLAS by default: it takes 12 to 27 times as long.
AS_SHIPPED = False
# In 16 bits values near 1 are further apart than the rows are: nothing would show that work is equal.
DTYPES = ("float32",)
PRODUCTS = 6  # of one loop


@dataclass(frozen=True)
class Config:
    """The published test's values. size: rows and columns of each matrix. loops: in one timed pass."""

    size: int = 10_000
    loops: int = 50

    def check(self) -> None:
        """Raises InputError for sizes that cannot be."""
        if self.size < 2:
            raise InputError(
                f"size is {self.size}; expected 2 or more: a matrix of one value is normalised to 1"
            )
        if self.loops < 1:
            raise InputError(f"loops is {self.loops}; expected 1 or more")

    def parameters(self) -> dict[str, tuple[tuple[int, ...], Initial]]:
        """None: nothing is learnt."""
        return {}

    def flops_per_item(self) -> int:
        """Of one loop: its products, a multiply-add counts two. Not the normalisation, which reads
        and writes a matrix and multiplies nothing."""
        return PRODUCTS * 2 * self.size**3


SMOKE = Config(size=32, loops=2)
CPU = Config(size=1024, loops=10)
PRESETS = {"smoke": SMOKE, "cpu": CPU, "study": Config()}
DEFAULT_PRESET = {"cpu": "cpu", "gpu": "study"}
PLANS: dict[str, dict[str, float]] = {
    "smoke": {
        "passes": 2,
        "waited_loops": 5,
        "parts_loops": 5,
        "audit_seconds": 0.02,
        "ceiling_seconds": 0.02,
    },
    "cpu": {},
    # A loop takes seconds: 12 TFLOP, half of them on a CPU.
    "study": {"passes": 1, "warmup_loops": 1, "waited_loops": 10, "parts_loops": 10,
              "audit_repetitions": 2},
}  # fmt: skip
