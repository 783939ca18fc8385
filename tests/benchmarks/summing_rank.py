"""A rank of benchmarks.distributed_peers whose peer adds gradients up in place of averaging them; ours,
which says which group it means, is as it should be."""

from __future__ import annotations

import sys
from typing import Any

from benchmarks import distributed_rank


def break_peer() -> None:
    from mlx import nn
    from mlx.utils import tree_map

    average = nn.average_gradients

    def summed(gradients: Any, group: Any = None) -> Any:
        if group is not None:
            return average(gradients, group)
        return tree_map(lambda gradient: 2 * gradient, average(gradients))

    nn.average_gradients = summed


if __name__ == "__main__":
    make = distributed_rank.mlx

    def broken(*given: Any) -> distributed_rank.Arm:
        break_peer()  # now, when the BLAS has been loaded
        return make(*given)

    distributed_rank.PEERS["mlx"] = ("average_gradients", broken)
    sys.exit(distributed_rank.main())
