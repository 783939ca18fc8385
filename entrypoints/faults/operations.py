"""Class W and M: work that changes no result, and numbers kept in fewer bits. Outputs, losses and
weights agree, so that only counted operations tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from entrypoints.faults.fault import Fault, Patch, Spec, on_adapter, on_session, on_twin


def _on_step(patch: Patch, spec: Spec, more: Callable[[Any, Any, tuple[Any, ...]], Any]) -> None:
    """`more`, of the twin, the model and a batch, is computed in the loss besides, and is worth 0."""

    def change(twin: Any) -> dict[str, Any]:
        def training(model: Any, config: Any, differentiate: Any) -> Any:
            def with_more(model: Any, loss: Any) -> Any:
                return differentiate(
                    model, lambda m, *batch: loss(m, *batch) + 0 * more(twin, m, batch)
                )

            return twin.training(model, config, with_more)

        return {"training": training}

    on_twin(patch, spec, change)


def _forward_twice(patch: Patch, spec: Spec) -> None:
    _on_step(patch, spec, lambda twin, model, batch: twin.loss(model, *batch))


def _evaluation_in_step(patch: Patch, spec: Spec) -> None:
    _on_step(patch, spec, lambda twin, model, batch: twin.score(model, *batch).max())


def _each_item_twice(patch: Patch, spec: Spec) -> None:
    """The mean over a batch is the same when every item stands in it twice."""

    def change(adapter: Any) -> None:
        whole = adapter.shard
        adapter.shard = lambda rows: (whole(np.concatenate([rows, rows]))[0], len(rows))

    on_adapter(patch, change)


def _padded_answer(patch: Patch, spec: Spec) -> None:
    """One item is answered as the first of eight."""

    def change(session: Any) -> None:
        predict = session.predict

        def padded(inputs: Any) -> Any:
            if len(inputs) > 1:
                return predict(inputs)
            row = session.framework.read(inputs)
            return predict(session.framework.put(np.repeat(row, 8, axis=0)))[:1]

        session.predict = padded

    on_session(patch, change)


def _recorded_answers(patch: Patch, spec: Spec) -> None:
    """No inference mode: every answer keeps what its gradient would need."""

    def change(adapter: Any) -> None:
        adapter.compile_predict = lambda predict, model, compiled: (
            lambda *inputs: predict(model, *inputs)
        )

    on_adapter(patch, change)


def _short_moments(patch: Patch, spec: Spec) -> None:
    """AdamW keeps its first moments in bfloat16 from step to step."""

    def change(twin: Any) -> dict[str, Any]:
        update, restart = twin.AdamW.update, twin.AdamW.restart

        def in_mlx(self: Any, gradients: Any) -> None:
            update(self, gradients)
            _shorten(self.optimizer.state, twin.mx.bfloat16)

        def in_pytorch(self: Any, gradients: Any) -> None:
            kept = self.first
            self.first = [moment.float() for moment in kept]
            update(self, gradients)
            for moment, new in zip(kept, self.first, strict=True):
                moment.copy_(new)
            self.first = kept

        def restarted(self: Any) -> None:
            restart(self)
            if spec["framework"] == "pytorch":
                self.first = [moment.to(twin.torch.bfloat16) for moment in self.first]
                self.state[1 : 1 + len(self.first)] = self.first

        patch(twin.AdamW, "update", in_mlx if spec["framework"] == "mlx" else in_pytorch)
        patch(twin.AdamW, "restart", restarted)
        return {}

    on_twin(patch, spec, change)


def _shorten(tree: Any, dtype: Any) -> None:
    for key, value in list(tree.items() if isinstance(tree, dict) else enumerate(tree)):
        if isinstance(value, dict | list):
            _shorten(value, dtype)
        elif key == "m":
            tree[key] = value.astype(dtype)


def _wide_products(patch: Patch, spec: Spec) -> None:
    """The products of every layer in float64: slower, and nearer to the truth than is asked."""

    def change(twin: Any) -> dict[str, Any]:
        def in_mlx(self: Any, x: Any) -> Any:
            wide = (x.astype(twin.mx.float64) @ self.weight.astype(twin.mx.float64).T) + self.bias
            return wide.astype(twin.mx.float32)

        def in_pytorch(self: Any, x: Any) -> Any:
            return (x.double() @ self.weight.double().T + self.bias).float()

        if spec["framework"] == "mlx":
            patch(twin.nn.Linear, "__call__", in_mlx)
        else:
            patch(twin.nn.Linear, "forward", in_pytorch)
        return {}

    on_twin(patch, spec, change)


def _checkpointed(patch: Patch, spec: Spec) -> None:
    """Every block is computed again for its gradient: less memory, a third more work."""

    def change(twin: Any) -> dict[str, Any]:
        once = twin.Block.__call__

        def again(self: Any, *inputs: Any) -> Any:
            return twin.nn.utils.checkpoint(self, lambda *given: once(self, *given))(*inputs)

        patch(twin.Block, "__call__", again)
        return {}

    on_twin(patch, spec, change)


FAULTS = (
    Fault(
        "forward_twice",
        "W",
        "the forward pass of each step is computed twice, the second time for nothing",
        ("counted work of one step",),
        worker=_forward_twice,
    ),
    Fault(
        "evaluation_in_step",
        "W",
        "each step computes the evaluation of its batch too",
        ("counted work of one step",),
        worker=_evaluation_in_step,
    ),
    Fault(
        "padded_batch",
        "W",
        "each item stands in a batch twice, which changes no mean",
        ("counted work of one step",),
        worker=_each_item_twice,
    ),
    Fault(
        "padded_answer",
        "W",
        "a single item is answered as one of a batch of eight",
        ("counted work of one answer",),
        worker=_padded_answer,
    ),
    Fault(
        "wide_products",
        "W",
        "the products of every layer are computed in float64",
        ("FLOP in float64",),
        worker=_wide_products,
    ),
    Fault(
        "gradients_in_answers",
        "W",
        "answers are computed with gradient recording on",
        ("recorded for a gradient",),
        frameworks=("pytorch",),
        worker=_recorded_answers,
    ),
    Fault(
        "checkpointed",
        "W",
        "each block is computed again for its gradient, to save memory",
        ("work of one step",),
        workload="bert_tiny",
        frameworks=(
            "mlx",
        ),  # torch.compile (2.13) takes no checkpoint into the graph of a whole step
        worker=_checkpointed,
    ),
    Fault(
        "short_moments",
        "M",
        "the optimiser keeps its first moments in bfloat16",
        ("what is stored differs", "loss of step"),
        workload="bert_tiny",
        worker=_short_moments,
    ),
)
