"""One workload's twin bound to its data on the device of one framework, inside a worker."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

import frameworks
import models
from entrypoints.processes import thread_counts
from measurement import generation, identity, settings, streaming, trial
from measurement.digest import digest
from measurement.errors import InputError
from measurement.evidence import (
    PROBE_SEED,
    PROBE_STEPS,
    Evidence,
    collect,
    collect_generation,
    work_digest,
)
from measurement.framework import Framework
from measurement.ledger import Ledger
from measurement.operations import Counted, Operations, total
from models.batches import epoch_rows
from models.parameters import draw
from serving.predictions import MOST_ITEMS, Predictions, choose

if TYPE_CHECKING:
    from entrypoints.switch_session import SwitchSession

_PROBE_ITEMS = 4  # whose layer outputs are evidence: those of a whole batch may not fit twice


class Base:
    """What every kind of workload needs. `twin` replaces the registered one: a broken one, in tests.
    framework: an adapter that is open already, as that of a rank."""

    def __init__(
        self,
        spec: dict[str, Any],
        twin: ModuleType | None = None,
        framework: Framework | None = None,
    ) -> None:
        self.spec = spec
        self.module = models.load(spec["workload"], "config")
        self.config = self.module.Config(**spec["sizes"])
        # First the framework: it says in a line what a machine lacks, of which a twin's import dies.
        self.framework: Framework = framework or frameworks.load(
            spec["framework"], spec["device"], spec["dtype"], spec["threads"]
        )
        self.twin = twin or models.load(spec["workload"], spec["framework"])
        self.ledger = Ledger()
        self.graphs = self._records_graphs(spec["compile"])
        self.compiled, self.compiled_inference = self._compile_modes(spec["compile"])
        self.model = self.twin.Model(self.config)

    def _records_graphs(self, asked: str) -> bool:
        """`auto`: wherever the framework can; no workload's step was slower by it (docs/NVIDIA.md)."""
        missing = self.framework.can_graph()
        if asked == "graphs" and missing:
            raise InputError(f"compile=graphs: {missing}")
        return asked in ("auto", "graphs") and missing is None

    def _compile_modes(self, asked: str) -> tuple[bool, bool]:
        """`auto` is the mode that was measured faster in this framework."""
        reason = self.framework.can_compile()
        if asked in ("on", "graphs") and reason:
            raise InputError(f"compile={asked}: {reason}; install one or use compile=off")
        if asked == "auto" and reason is None and not self.graphs:
            first, second = self.twin.FASTER_COMPILED
            if self.framework.compiles_all:
                first = second = first or second
            own = self.framework.step_compiled
            return first if own is None else own, second
        return (asked != "off" and reason is None,) * 2

    def _step(self, step: Callable[..., Any], state: Any) -> Callable[..., Any]:
        """A training step as it is timed."""
        submit = self.framework.compile_step(step, state, self.compiled)
        return self.framework.graphed(submit, state) if self.graphs else submit

    def _inference(self, predict: Callable[..., Any], compiled: bool) -> Callable[..., Any]:
        """A call without gradients as it is timed."""
        submit = self.framework.compile_predict(predict, self.model, compiled)
        return self.framework.graphed(submit, self.model) if self.graphs else submit

    def _settings(self) -> str:
        """Of this process; the launchers of ranks set variables of their own, one framework's unlike the
        other's."""
        if self.framework.ranks > 1:
            return settings.DEFAULT
        return settings.of_process(thread_counts(self.spec["threads"], self.spec["dtype"]))

    def _conditions(self, data: dict[str, Any], weights: dict[str, str]) -> dict[str, Any]:
        """The condition as it is, read after the work from the libraries that did it."""
        on = {True: "graphs" if self.graphs else "on", False: "off"}
        return {
            "device": self.framework.device_of(self.model),
            "dtype": self.framework.dtype,
            "compile": on[self.compiled],
            "compile_inference": on[self.compiled_inference],
            "numerics": self.framework.numerics(),
            "versions": self.framework.versions(),
            "data": data,
            "weights": weights,
            "process": identity.process(),
            "settings": self._settings(),
        }


class Session(Base):
    """A workload that is trained. `compiled`: the training step, `compiled_inference`: the rest."""

    def __init__(
        self,
        spec: dict[str, Any],
        twin: ModuleType | None = None,
        initial: dict[str, np.ndarray] | None = None,
        framework: Framework | None = None,
    ) -> None:
        """initial: weights to start from, in place of those drawn from the seed."""
        super().__init__(spec, twin, framework)
        self.data = models.load(spec["workload"], "data").load(
            self.config, spec["dataset"], spec["data_dir"]
        )
        put = self.framework.put
        self.train = [put(array) for array in self.data.train.values()]
        self._portion = 0  # whose arrays `train` are
        self.test_items, self.test_labels = self.data.test.values()
        size = self.config.inference_batch()
        self.test = [
            tuple(put(array[start : start + size]) for array in self.data.test.values())
            for start in range(0, len(self.test_items), size)
        ]
        self._scores = np.zeros(0)
        self.drawn = initial is None
        self.initial = draw(self.config.parameters(), spec["seed"]) if initial is None else initial
        step, self.state, self.restart = self.twin.training(
            self.model, self.config, self.framework.differentiate
        )
        self.reset()
        self._submit = self._step(step, self.state)
        count = self.ledger.count
        self.step = count("step", lambda rows: self._submit(*self.train, rows))
        inference = self.compiled_inference
        self.predict = count("predict", self._inference(self.twin.predict, inference))
        self.score = count("score", self._inference(self.twin.score, inference))

    def reset(self, values: dict[str, np.ndarray] | None = None) -> None:
        """Initial parameters (or `values`) and the optimiser's first state."""
        self.framework.write_parameters(self.model, self.initial if values is None else values)
        self.restart()
        self.framework.wait(self.state)

    def batches(self, epoch: int, seed: int | None = None) -> trial.Batches:
        """Of the first portion, or of all there is."""
        return self._batches(0, self._first_items(), epoch, seed)

    def _first_items(self) -> int:
        portions = self.data.portions
        return len(self.data.train["labels"]) if portions is None else portions.sizes(0)

    def portions(self, epoch: int) -> Iterator[trial.Batches]:
        """The batches of an epoch; those of a streamed set portion by portion, in an order of its
        own in every epoch, each with its arrays on the device while it is the last one given."""
        portions = self.data.portions
        if portions is None:
            yield self.batches(epoch)
            return
        order = np.random.default_rng([self.spec["seed"], epoch, 0x0907]).permutation(
            portions.count
        )
        for number in map(int, order):
            shuffle = epoch * portions.count + number
            yield self._batches(number, portions.sizes(number), shuffle, None)

    def _batches(self, portion: int, items: int, epoch: int, seed: int | None) -> trial.Batches:
        if portion != self._portion and self.data.portions is not None:
            self.train = []  # gives its memory back first
            arrays = self.data.portions.read(portion)
            self.train = [self.framework.put(array) for array in arrays.values()]
            self._portion = portion
        seed = self.spec["seed"] if seed is None else seed
        rows = epoch_rows(items, self.config.batch_size, seed, epoch)
        return [self.framework.shard(batch) for batch in rows]

    def evaluate(self) -> float:
        """The quality on the whole test set."""
        scores = [self.framework.read(self.score(*batch)) for batch in self.test]
        self._scores = np.concatenate(scores)
        return float(self.config.quality(self._scores, self.test_labels))

    def details(self) -> dict[str, float]:
        """What else the last evaluation found, by metric."""
        return dict(self.config.details(self._scores, self.test_labels))

    def _judge(self, answers: Mapping[int, np.ndarray]) -> float:
        """See measurement.ledger.Judge; in the shapes of an evaluation, for which score is compiled."""
        read, scores, labels = self.framework.read, [], []
        for batch, given in answers.items():
            inputs, known = self.test[batch]
            asked = np.array(read(known))
            given = given[: len(asked)]
            asked[tuple(map(slice, given.shape))] = given
            scores.append(read(self.score(inputs, self.framework.put(asked)))[: len(given)])
            labels.append(asked[: len(given)])
        return float(self.config.quality(np.concatenate(scores), np.concatenate(labels)))

    def _items(self) -> int:
        portions = self.data.portions
        return len(self.data.train["labels"]) if portions is None else portions.items

    def _epoch_items(self) -> int:
        """Of this process."""
        if self.data.portions is not None:
            return self.data.portions.items
        return sum(items for _, items in self.batches(0))

    def work(self) -> trial.Work:
        items, framework, predict = self.test_items, self.framework, self.predict
        return trial.Work(
            step=self.step,
            state=self.state,
            batches=self.batches,
            portions=self.portions,
            reset=self.reset,
            evaluate=self.evaluate,
            details=self.details,
            predict_one=lambda i: framework.read(predict(framework.put(items[i : i + 1]))),
            predict_all=lambda: [predict(inputs) for inputs, _ in self.test],
            predict_batch={
                size: functools.partial(predict, framework.put(items[np.arange(size) % len(items)]))
                for size in self.config.throughput_batches()
            },
            read_parameters=lambda: framework.read_parameters(self.model),
            epoch_items=self._epoch_items(),
            epoch_steps=-(-self._items() // self.config.batch_size),
            test_items=len(items),
            flops_per_item=self.config.train_flops_per_item(),
            judge=self._judge,
            rows=framework.read,
            ledger=self.ledger,
        )

    def stream(self) -> streaming.Work:
        """Full batches of the first epoch, one after the other, as NumPy arrays."""
        put, size = self.framework.put, self.config.batch_size
        everything = put(np.arange(size, dtype=np.int32))
        rows = epoch_rows(len(self.data.train["labels"]), size, self.spec["seed"], 0)
        return streaming.Work(
            arrivals=[
                tuple(array[batch] for array in self.data.train.values())
                for batch in rows
                if len(batch) == size
            ],
            update=lambda batch: self._submit(*map(put, batch), everything),
            state=self.state,
            reset=self.reset,
            evaluate=self.evaluate,
            details=self.details,
            read_parameters=lambda: self.framework.read_parameters(self.model),
            batch_items=size,
            test_items=len(self.test_items),
            flops_per_item=self.config.train_flops_per_item(),
        )

    def evidence(self, values: dict[str, np.ndarray] | None = None) -> Evidence:
        """values: initial ones, in place of those every trial draws for its evidence. Dropout, whose
        masks no two frameworks draw alike, is left out of it: by a session without."""
        without = self
        if getattr(self.config, "dropout", 0):
            sizes = self.spec["sizes"] | {"dropout": 0.0}
            without = Session(self.spec | {"sizes": sizes}, self.twin, framework=self.framework)
        return replace(without._evidence(values), counted=self.counted())

    def counted(self) -> Counted:
        """The operations of the very calls that a trial times; changes the state."""
        framework, work = self.framework, self.work()
        rows, _ = self.batches(0, PROBE_SEED)[0]
        step: Callable[[], Any] = functools.partial(work.step, rows)
        if self.spec["mode"] == "stream":
            stream = self.stream()
            step = functools.partial(stream.update, stream.arrivals[0])
        # A test set that takes longer than a few steps is counted by its first batch.
        answers = self.config.infer_flops_per_item() * len(self.test_items)
        if answers <= 4 * self.config.train_flops_per_item() * self.config.batch_size:
            every: Callable[[], Any] = work.predict_all
        else:
            every = functools.partial(self.predict, self.test[0][0])
        return Counted(
            {
                "step": self._together(framework.count(step, self.state)),
                "answer": framework.count(functools.partial(work.predict_one, 0), self.model),
                "pass over the test set": framework.count(every, self.model),
            },
            framework.stored(self.model, self.state),
        )

    def _together(self, found: Operations) -> Operations:
        """Of all ranks, each of which does its part of a step."""
        if self.framework.ranks == 1:
            return found
        gather = self.framework.gather  # type: ignore[attr-defined]
        parts = gather(json.dumps(asdict(found)).encode())
        return total([Operations(**json.loads(part)) for part in parts])

    def _evidence(self, values: dict[str, np.ndarray] | None) -> Evidence:
        rows: list[Any] = []
        steps = models.setting(self.spec["workload"], "PROBE_STEPS")
        while len(rows) < steps:  # a small preset has fewer batches in an epoch
            rows += self.batches(len(rows), PROBE_SEED)
        rows = rows[:steps]
        size = self.config.batch_size
        first = epoch_rows(self._first_items(), size, PROBE_SEED, 0)[0]
        put = self.framework.put
        batch = [put(array[first]) for array in self.data.train.values()]
        probe = put(next(iter(self.data.train.values()))[first[:_PROBE_ITEMS]])
        values = draw(self.config.parameters(), PROBE_SEED) if values is None else values
        return collect(
            self.framework,
            self.model,
            self.twin.loss,
            self.step,
            lambda: self.reset(values),
            [probe],
            batch,
            rows,
            work_digest(self.spec["workload"], asdict(self.config), self.data.sha256),
            self.module.OPTIMISER,
        )

    def predictions(self, parameters: dict[str, np.ndarray]) -> Predictions:
        """What the trained model answers to a few items, as one that is served is asked; changes the
        state."""
        as_sent = models.setting(self.spec["workload"], "as_sent")
        items = choose(
            as_sent(self.test_items[:MOST_ITEMS]),
            self.config.example(),
            self.spec["dataset"] in self.module.DATASETS,
        )
        self.reset(parameters)
        with self.framework.inference():
            answers = self.twin.answer(self.model, self.framework.put(items))
            return Predictions(items, self.framework.read(answers).astype(np.int64))

    def conditions(self) -> dict[str, Any]:
        data = {
            "name": self.data.name,
            "source": self.data.source,
            "sha256": self.data.sha256,
            "train_items": self._items(),
            "test_items": len(self.test_labels),
        }
        if self.drawn:
            return self._conditions(data, {"source": "drawn from the seed", "sha256": ""})
        weights = {"source": "a trial's trained weights", "sha256": digest(self.initial)}
        return self._conditions(data, weights)


class GenerationSession(Base):
    """A workload that generates tokens. `compiled`: the first phase, `compiled_inference`: a token."""

    def __init__(self, spec: dict[str, Any], twin: ModuleType | None = None) -> None:
        super().__init__(spec, twin)
        self.checkpoint = models.load(spec["workload"], "checkpoint")
        self.data = models.load(spec["workload"], "data").load(
            self.config, spec["dataset"], spec["data_dir"], spec["checkpoint"]
        )
        # Random weights are always the same ones: a seed is no part of what a generation measures.
        weights = self.checkpoint.load(
            self.config, spec["checkpoint"], spec["data_dir"], PROBE_SEED
        )
        self.framework.write_parameters(self.model, weights.values)
        self.parameters = sum(value.size for value in weights.values.values())
        self.weights = {"source": weights.source, "sha256": weights.sha256}
        put = self.framework.put
        self.inputs = [put(row[None]) for row in self.data.test["inputs"]]
        self.begin, self.advance = self._calls(self.config.capacity())

    def _calls(self, capacity: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """(begin, advance) with a cache of `capacity` tokens."""

        def begin(model: Any, inputs: Any) -> Any:
            return self.twin.begin(model, inputs, capacity)

        return (
            self._inference(begin, self.compiled),
            self._inference(self.twin.advance, self.compiled_inference),
        )

    def work(self) -> generation.Work:
        def begin(item: int) -> tuple[Any, Any]:
            token, _, cache = self.begin(self.inputs[item])
            return token, cache

        def advance(token: Any, cache: Any) -> tuple[Any, Any]:
            token, _, cache = self.advance(token, cache)
            return token, cache

        return generation.Work(
            begin=begin,
            advance=advance,
            items=len(self.inputs),
            prompt_tokens=self.config.prompt_tokens,
            decode_tokens=self.config.decode_tokens,
            flops_per_item=self.config.flops_per_item(),
        )

    def evidence(self) -> Evidence:
        count = min(PROBE_STEPS, self.config.decode_tokens - 1)
        tokens = np.random.default_rng(PROBE_SEED).choice(self.config.probe_tokens(), count)
        digest = self.data.sha256 + self.weights["sha256"]
        evidence = collect_generation(
            self.framework,
            self.model,
            self.begin,
            self.advance,
            self.inputs[0],
            [int(token) for token in tokens],
            self.parameters,
            work_digest(self.spec["workload"], asdict(self.config), digest),
        )
        return replace(evidence, counted=self.counted())

    def counted(self) -> Counted:
        """The operations of the very calls that a trial times, and the cache beside the weights. Of a
        token that fills the cache: where a mask hides what is empty, and where it is cut off, are
        then alike."""
        framework, work = self.framework, self.work()
        token, cache = work.begin(0)
        for _ in range(work.decode_tokens - 1):
            token, cache = work.advance(token, cache)
        advance = functools.partial(work.advance, token, cache)
        return Counted(
            {
                "prompt": framework.count(functools.partial(work.begin, 0), self.model),
                "token": framework.count(advance, self.model),
            },
            # of a new cache: the other one was changed in place by what only counts
            framework.stored(self.model, list(work.begin(0)[1])),
            self.config.widest_flops(),
        )

    def text(self) -> str | None:
        """What the model makes of every text or recording, up to its end token, for people; None
        where there is no tokenizer: random weights have nothing to say."""
        spec = self.spec
        found = self.checkpoint.texts(spec["dataset"], spec["checkpoint"], spec["data_dir"])
        if not found:
            return None
        parts = []
        for label, pieces in found:
            said = [
                self.checkpoint.text(self._until_end(piece), spec["checkpoint"], spec["data_dir"])
                for piece in pieces
            ]
            parts.append(f"## {label}\n\n{' '.join(part.strip() for part in said)}\n")
        return "\n".join(parts)

    def _until_end(self, inputs: np.ndarray) -> list[int]:
        """The tokens generated for one prompt or window, without the end token. Not compiled: every
        length would be compiled anew."""
        most = self.config.text_tokens(inputs)
        tokens: list[int] = []
        with self.framework.inference():
            token, _, cache = self.twin.begin(
                self.model, self.framework.put(inputs[None]), self.config.capacity_of(inputs, most)
            )
            while len(tokens) < most:
                number = int(self.framework.read(token).reshape(-1)[0])
                if number == self.config.eos:
                    break
                tokens.append(number)
                token, _, cache = self.twin.advance(self.model, token, cache)
        return tokens

    def conditions(self) -> dict[str, Any]:
        data = {
            "name": self.data.name,
            "source": self.data.source,
            "sha256": self.data.sha256,
            "train_items": 0,
            "test_items": len(self.inputs),
        }
        return self._conditions(data, self.weights)


def open_session(spec: dict[str, Any]) -> Session | GenerationSession | SwitchSession:
    """The session of a specification, by the workload's kind and the mode asked for."""
    if spec["mode"] == "generate":
        return GenerationSession(spec)
    if spec["mode"] == "switch":
        from entrypoints.switch_session import SwitchSession  # it extends what stands here

        return SwitchSession(spec)
    if spec["checkpoint"] != "random":
        from serving import trained  # no MLflow in it

        found = trained.read_of(spec["workload"], spec["checkpoint"])
        return Session(spec, initial=found.weights)
    return Session(spec)
