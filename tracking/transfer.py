"""A history goes from one store to the one in use: every run once, whole, with where it came from.

The tag `origin_run_id` names a run in every store, so that the next attempt finds it instead of making a
second one; every further call either repeats harmlessly or first looks at what is there. Until all of a
run was read back and found equal its kind is `publishing`, which no reader takes for a trial; kind and
`origin_sha256` come last, in one call. A run that a record was delivered to is the same run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import mlflow
from mlflow.entities import Dataset, DatasetInput, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from measurement.errors import InputError
from tracking import contents, names, private, store, transfer_models
from tracking.bulk.columns import Array
from tracking.contents import ORIGIN, ORIGIN_SHA256, PARENT, Content, Head, Opened, Store
from tracking.published import quiet
from tracking.store import StoreAway, once, prepare, reachable

PUBLISHING = "publishing"
"""Kind of a run that is not whole yet."""
DELETED = "deleted run"
"""Kind of a run that is deleted where it came from, and that the server would not delete."""
ORIGIN_PARENT = "origin_parent_run_id"
"""Tag of a run whose parent did not come with it."""
ORIGIN_EXPERIMENT = "origin_experiment"
"""Tag of a run that was put into an experiment of another name."""
NEW, COMPLETED, UPDATED, THERE, DELIVERED, GONE, REFUSED = (
    "new", "completed", "brought up to date", "there already", "delivered before", "deleted there",
    "not whole",
)  # fmt: skip
"""What became of a run."""

_DOUBLE = "double"
_DAY_MILLISECONDS = 86_400_000
_LAST = (names.KIND, names.DELIVERED)
_HEAD = (ORIGIN, ORIGIN_SHA256, PARENT, names.RECORD, *_LAST, "study")


@dataclass(frozen=True)
class Moved:
    """What became of one run. run_id: in the store in use, "" where it has none. problem: one line."""

    origin: str
    run_id: str
    name: str
    kind: str
    study: str
    experiment: str
    state: str
    problem: str = ""


@dataclass
class Totals:
    """What was read back and found equal or, when nothing is written, would be written."""

    states: Counter[str] = field(default_factory=Counter)
    experiments: set[str] = field(default_factory=set)
    params: int = 0
    tags: int = 0
    points: int = 0
    datasets: int = 0
    files: int = 0
    file_bytes: int = 0
    models: int = 0

    def add(self, content: Content) -> None:
        listed = [*content.files.values(), *(f for m in content.models for f in m.files.values())]
        self.params += len(content.params)
        self.tags += len(content.tags)
        self.points += sum(len(steps) for steps, _, _ in content.points.values())
        self.datasets += len(content.datasets)
        self.files += len(listed)
        self.file_bytes += sum(file.size_bytes for file in listed)
        self.models += len(content.models)


@dataclass(frozen=True)
class _Begun:
    """A run that was written and is to be read back. last: the tags by which it begins to count."""

    moved: Moved
    expected: Content
    last: dict[str, str]


class Transfer:
    """From `source` to the store in use. experiment: of all runs, "" = each to one of its own name.
    dry: nothing is written. studies: only the runs of these, with those above and below them."""

    def __init__(
        self, source: Store, experiment: str = "", dry: bool = False, studies: Sequence[str] = ()
    ) -> None:
        self.source, self.experiment, self.dry = source, experiment, dry
        self.totals = Totals()
        self.ids: dict[str, str] = {}
        """Run id in the source -> run id in the store in use."""
        with contents.readable(source.uri):
            self.heads = ordered(chosen(source.heads(_HEAD), studies))
        self._here = {head.run_id for head in self.heads}
        with reachable():
            self.target = Store(mlflow.get_tracking_uri(), files=source.files)
            self._known, self._records = self._there()
        self._experiments: dict[str, str] = {}

    def _there(self) -> tuple[dict[str, Head], dict[str, Head]]:
        """What the store in use has: origin -> run, record -> run that has all of it."""
        known: dict[str, Head] = {}
        records: dict[str, Head] = {}
        starts = [head.start_milliseconds for head in self.heads] or [0]
        # A run that a record was delivered to may have begun at another moment.
        window = max(0, min(starts) - _DAY_MILLISECONDS), max(starts) + _DAY_MILLISECONDS
        for head in self.target.heads(_HEAD, *window):
            if head.tags.get(names.KIND) == _DOUBLE:
                continue
            known.setdefault(head.run_id, head)
            if ORIGIN in head.tags:
                known[head.tags[ORIGIN]] = head
            if names.RECORD in head.tags and names.DELIVERED in head.tags:
                records[head.tags[names.RECORD]] = head
        return known, records

    def move(self, progress: Callable[[int], None]) -> Iterator[Moved]:
        """Every run, parents first; `progress` hears of two steps a run, its writing and its reading.
        Raises StoreAway where the store in use does not go on: start again to complete it."""
        with reachable(), quiet():
            for some in range(0, len(self.heads), contents.CHUNK):
                begun: list[_Begun] = []
                for found in self._write_all(self.heads[some : some + contents.CHUNK]):
                    progress(1)
                    if isinstance(found, _Begun):
                        begun.append(found)
                        continue
                    progress(1)
                    yield self._counted(found)
                for moved in self._read_back(begun):
                    progress(1)
                    yield self._counted(moved)

    def _counted(self, moved: Moved) -> Moved:
        self.totals.states[moved.state] += 1
        self.totals.experiments.add(moved.experiment)
        return moved

    def _write_all(self, chunk: Sequence[Head]) -> Iterator[_Begun | Moved]:
        heads = {head.run_id: head for head in chunk}
        with self.source.opened([*heads]) as runs:
            while True:
                with contents.readable(self.source.uri):
                    opened = next(runs, None)
                if opened is None:
                    return
                moved = self._moved(heads[opened.content.run_id], opened.content)
                try:
                    yield self._write(moved, opened)
                except StoreAway:
                    raise
                except InputError as error:
                    yield replace(moved, state=REFUSED, problem=str(error))
                except MlflowException as error:
                    if store.away(error):
                        raise
                    yield replace(moved, state=REFUSED, problem=_line(error))

    def _moved(self, head: Head, content: Content) -> Moved:
        return Moved(
            origin=head.tags.get(ORIGIN, head.run_id),
            run_id="",
            name=content.name,
            kind=content.tags.get(names.KIND, ""),
            study=content.tags.get("study", ""),
            experiment=self.experiment or content.experiment,
            state=NEW,
        )

    # --- one run

    def _write(self, moved: Moved, opened: Opened) -> _Begun | Moved:
        content = opened.content
        there = self._known.get(moved.origin)
        if there is None:
            there = self._records.get(content.tags.get(names.RECORD, ""))
        if there is not None:
            self.ids[content.run_id] = there.run_id
            moved = replace(moved, run_id=there.run_id, state=_state(there, content))
            if moved.state not in (COMPLETED, UPDATED):
                return moved
        if self.source.files and (problem := contents.missing(content)):
            text = f"{problem}; say as artifacts in which folder the source's files are"
            return replace(moved, state=REFUSED, problem=text)
        if content.parent in self._here and content.parent not in self.ids:
            text = "the run above it is not there; start again when that is"
            return replace(moved, state=REFUSED, problem=text)
        if self.dry:
            self.totals.add(content)
            self.ids.setdefault(content.run_id, "")
            return moved
        if there is None:
            moved = replace(moved, run_id=self._create(moved, content))
            self.ids[content.run_id] = moved.run_id
        expected = self._expected(moved, content)
        self._fill(moved.run_id, expected, opened)
        last = {key: content.tags[key] for key in _LAST if key in content.tags}
        return _Begun(moved, expected, last | {ORIGIN_SHA256: content.sha256})

    def _expected(self, moved: Moved, content: Content) -> Content:
        """As it shall be there, without the tags that come last."""
        tags = {key: value for key, value in content.tags.items() if key not in _LAST}
        above = self.ids.get(content.parent, "")
        if content.parent and not above:
            tags[ORIGIN_PARENT] = content.parent
        if moved.experiment != content.experiment:
            tags.setdefault(ORIGIN_EXPERIMENT, content.experiment)
        return replace(content, tags=tags, parent=above, experiment=moved.experiment)

    def _create(self, moved: Moved, content: Content) -> str:
        """A new run, the only one of its origin, whoever else publishes it at this moment."""
        if moved.experiment not in self._experiments:
            self._experiments[moved.experiment] = prepare(moved.experiment)
        experiment = self._experiments[moved.experiment]
        tags = {ORIGIN: moved.origin, names.KIND: PUBLISHING}
        if user := content.tags.get("mlflow.user"):
            tags["mlflow.user"] = user  # MLflow makes the run's user of it, now or never
        for last in (False, True):
            try:
                with reachable(), once():
                    self.target.client.create_run(
                        experiment, content.start_milliseconds, tags, content.name
                    )
            except StoreAway:
                if not self._of(experiment, moved.origin):  # or the answer only was lost
                    if last:
                        raise
                    continue
            break
        # Each publisher writes before it reads, so of two at least one sees the other's run.
        first, *others = self._of(experiment, moved.origin)
        for run_id in others:
            self.target.client.set_tag(run_id, names.KIND, _DOUBLE)
            self._delete(run_id)
        return first

    def _of(self, experiment: str, origin: str) -> list[str]:
        found = self.target.client.search_runs([experiment], f"tags.{ORIGIN} = '{origin}'")
        kept = [run for run in found if run.data.tags.get(names.KIND) != _DOUBLE]
        return sorted(run.info.run_id for run in kept)

    def _fill(self, run_id: str, expected: Content, opened: Opened) -> None:
        """Everything of a run that is not there yet, but for its last tags."""
        client = self.target.client
        run = client.get_run(run_id)
        params = [Param(k, v) for k, v in expected.params.items() if k not in run.data.params]
        wanted = expected.tags | ({PARENT: expected.parent} if expected.parent else {})
        tags = [RunTag(k, v) for k, v in wanted.items() if run.data.tags.get(k) != v]
        client.log_batch(run_id, params=params)  # apart: one call takes a million bytes
        client.log_batch(run_id, tags=tags)
        client.log_batch(run_id, metrics=self._missing(run, expected))
        if run.info.run_name != expected.name:
            client.update_run(run_id, name=expected.name)
        known = contents.datasets(run.inputs.dataset_inputs if run.inputs else [])
        inputs = [_clean(one) for one in opened.datasets if not contents.datasets([one]) <= known]
        if inputs:
            client.log_inputs(run_id, inputs)
        files = {path: opened.folder / path for path in expected.files}
        self.target.upload(run.info.artifact_uri, files)
        for model in expected.models:
            transfer_models.copy(self.target, run, model, opened.models[model.model_id])
        ended = expected.status, expected.end_milliseconds
        if expected.status != "RUNNING" and (run.info.status, run.info.end_time) != ended:
            client.set_terminated(run_id, *ended)

    def _missing(self, run: Run, expected: Content) -> list[Metric]:
        """The points that the run does not have."""
        there = {}
        keys = sorted(run.data.metrics.keys() & expected.points.keys())
        found = self.target.histories([run.info.run_id], keys)
        for key in keys:
            there[key] = {*_plain(contents.columns(found, run.info.run_id, key))}
        return [
            Metric(key, float(value), time, step)
            for key, columns in expected.points.items()
            for step, time, value in _plain(columns)
            if (step, time, value) not in there.get(key, ())
        ]

    # --- reading back

    def _read_back(self, begun: Sequence[_Begun]) -> Iterator[Moved]:
        """Reads all of every run and, where it is equal, lets it count."""
        waiting = {one.moved.run_id: one for one in begun}
        for found in self.target.contents([*waiting]):
            one = waiting.pop(found.run_id)
            if wrong := contents.differences(one.expected, found):
                more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
                text = f"read back it differs in {', '.join(wrong[:3])}{more}; start again"
                yield replace(one.moved, state=REFUSED, problem=text)
                continue
            self.totals.add(one.expected)
            yield replace(one.moved, problem=self._let_count(one, found))
        for one in waiting.values():
            yield replace(one.moved, state=REFUSED, problem="it was deleted there meanwhile")

    def _let_count(self, one: _Begun, found: Content) -> str:
        """From here on it is a run as in the source. Returns what could not be done, or ""."""
        client, run_id = self.target.client, one.moved.run_id
        if names.KIND in found.tags and names.KIND not in one.last:  # none of this project's runs
            client.delete_tag(run_id, names.KIND)
        last = [RunTag(k, v) for k, v in one.last.items() if found.tags.get(k) != v]
        client.log_batch(run_id, tags=last)
        if one.expected.deleted and not self._delete(run_id):  # or it would be a trial again
            client.set_tag(run_id, names.KIND, DELETED)
            return f"it is deleted in the source and may not be here: its kind is '{DELETED}'"
        return ""

    def _delete(self, run_id: str) -> bool:
        """False where that is not allowed."""
        try:
            self.target.client.delete_run(run_id)
        except MlflowException as error:
            if error.error_code != "PERMISSION_DENIED":
                raise
            return False
        return True


def _state(there: Head, content: Content) -> str:
    """What is to be done with a run that is there."""
    if ORIGIN not in there.tags:
        return DELIVERED
    if ORIGIN_SHA256 not in there.tags:
        return COMPLETED
    if there.deleted:  # a deleted run cannot be changed
        return THERE if content.deleted else GONE
    whole = there.tags[ORIGIN_SHA256] == content.sha256
    if whole and (not content.deleted or there.tags.get(names.KIND) == DELETED):
        return THERE
    return UPDATED


def chosen(heads: Sequence[Head], studies: Sequence[str]) -> list[Head]:
    """The runs of these studies with all that are above and below them; all runs where none is named.
    Raises InputError."""
    if not studies:
        return [*heads]
    known = {head.tags["study"] for head in heads if "study" in head.tags}
    for name in studies:
        if name not in known:
            listed = ", ".join(sorted(known)[:10]) or "none"
            raise InputError(f"studies: no run of '{name}' in the source; there are: {listed}")
    by_id = {head.run_id: head for head in heads}
    taken = {head.run_id for head in heads if head.tags.get("study") in studies}
    for run_id in [*taken]:
        while (run_id := by_id[run_id].tags.get(PARENT, "")) in by_id and run_id not in taken:
            taken.add(run_id)
    below = set(taken)
    while below:
        below = {h.run_id for h in heads if h.tags.get(PARENT) in below} - taken
        taken |= below
    return [head for head in heads if head.run_id in taken]


def ordered(heads: Iterable[Head]) -> list[Head]:
    """Parents before their children, else by time."""
    by_id = {head.run_id: head for head in heads}

    def depth(head: Head) -> int:
        count, seen = 0, {head.run_id}
        while (above := head.tags.get(PARENT, "")) in by_id and above not in seen:
            head, count = by_id[above], count + 1
            seen.add(above)
        return count

    return sorted(by_id.values(), key=lambda h: (depth(h), h.start_milliseconds, h.run_id))


def _plain(columns: tuple[Array, Array, Array]) -> Iterator[tuple[int, int, str]]:
    """(step, milliseconds, value) of every point; the value as digits, of which NaN equals itself."""
    steps, times, values = columns
    return zip(steps.tolist(), times.tolist(), map(repr, values.tolist()), strict=True)


def _clean(one: DatasetInput) -> DatasetInput:
    found = one.dataset
    schema, profile = (text and private.clean(text) for text in (found.schema, found.profile))
    source = private.clean(found.source)
    return DatasetInput(
        Dataset(found.name, found.digest, found.source_type, source, schema, profile), one.tags
    )


def _line(error: Exception) -> str:
    return private.clean(str(error).strip().partition("\n")[0])[:200]
