"""Whole runs of any store, by its URI: everything that MLflow keeps of one, as plain values and digests.

By this a history is moved to another store (tracking.transfer), read back there, and a restored server
compared with what it was. The store in use stays as it is: what is read here is named.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import sqlalchemy
import yaml
from mlflow.entities import DatasetInput, LoggedModel, Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking import MlflowClient
from mlflow.utils.file_utils import local_file_uri_to_path
from requests.exceptions import RequestException
from sqlalchemy.exc import SQLAlchemyError

from measurement.errors import InputError
from measurement.untrusted import shown
from tracking import bulk, digest, names, private
from tracking.bulk import client as searches
from tracking.bulk.columns import Array, Histories, Wanted

PARENT, NAME = "mlflow.parentRunId", "mlflow.runName"
MODEL_FILE = "MLmodel"
_ORIGINS = "origin_"  # how the tags begin that moving a run gives it
ORIGIN = "origin_run_id"
"""Tag with the id that a run had where it was measured, however many stores it went through since."""
ORIGIN_SHA256 = "origin_sha256"
"""Tag with `Content.sha256` of what was copied; it comes last, so a run without it is not whole."""
_IDS = ("model_id", "model_uuid", "run_id", "artifact_path")  # of MLmodel: other ones in each store
_PAGE = 250
_FILES = 8  # at a time
CHUNK = 50
"""Runs that are read at a time: their points are in memory together."""


@dataclass(frozen=True)
class File:
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Model:
    """A model that a run has logged. metrics: (name, step, milliseconds, value as digits)."""

    model_id: str
    name: str
    kind: str
    status: str
    tags: dict[str, str]
    params: dict[str, str]
    metrics: frozenset[tuple[str, int, int, str]]
    step: int
    files: dict[str, File]


@dataclass(frozen=True, eq=False)
class Content:
    """One run. points: metric -> (steps, milliseconds, values), ordered by step, then time. datasets:
    (name, digest, tags as JSON). Its tags are without its name and its parent, which stand beside."""

    run_id: str
    name: str
    experiment: str
    status: str
    start_milliseconds: int
    end_milliseconds: int | None
    deleted: bool
    parent: str
    params: dict[str, str]
    tags: dict[str, str]
    points: dict[str, tuple[Array, Array, Array]]
    datasets: frozenset[tuple[str, str, str]]
    files: dict[str, File]
    models: tuple[Model, ...]

    @property
    def sha256(self) -> str:
        """Of all of it but what a store gives it, its ids and its experiment: equal in two stores that
        hold the same."""
        models = [
            [m.name, m.step, m.kind, m.status, _own(m.tags), m.params, sorted(m.metrics), _listed(m.files)]
            for m in sorted(self.models, key=lambda m: (m.name, m.step))
        ]  # fmt: skip
        parts = [
            self.name, self.status, self.start_milliseconds, self.end_milliseconds, self.deleted,
            self.params, _own(self.tags),
            {name: _of_columns(columns) for name, columns in self.points.items()},
            sorted(self.datasets), _listed(self.files), models,
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _own(tags: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in tags.items() if not key.startswith(_ORIGINS)}


def _listed(files: Mapping[str, File]) -> dict[str, str]:
    return {path: file.sha256 for path, file in files.items()}


def _of_columns(columns: tuple[Array, Array, Array]) -> str:
    steps, times, values = columns
    plain = np.where(np.isnan(values), np.nan, values + 0.0)  # one NaN, and no minus zero
    return hashlib.sha256(steps.tobytes() + times.tobytes() + plain.tobytes()).hexdigest()


def differences(expected: Content, found: Content) -> list[str]:
    """Names of what `found` lacks or has otherwise, () where it is all there. More tags than expected
    are no difference: a server and its readers add some."""
    wrong = [
        word
        for word in (
            "name",
            "experiment",
            "status",
            "start_milliseconds",
            "end_milliseconds",
            "parent",
        )
        if getattr(expected, word) != getattr(found, word)
    ]
    for kind in ("params", "tags"):
        there = getattr(found, kind)
        wrong += [
            f"{kind[:-1]} {key}"
            for key, value in getattr(expected, kind).items()
            if there.get(key) != value
        ]
    wrong += [f"parameter {key}" for key in found.params.keys() - expected.params.keys()]
    for key in expected.points.keys() | found.points.keys():
        ours, theirs = expected.points.get(key), found.points.get(key)
        if ours is None or theirs is None or _of_columns(ours) != _of_columns(theirs):
            wrong.append(f"metric {key}")
    wrong += [f"data set {name}" for name, *_ in expected.datasets - found.datasets]
    wrong += _files(expected.files, found.files)
    models = {(model.name, model.step): model for model in found.models}
    for model in expected.models:
        wrong += _model(model, models.get((model.name, model.step)))
    return wrong


def _model(expected: Model, found: Model | None) -> list[str]:
    if found is None:
        return [f"model {expected.name}"]
    same = (expected.kind, expected.status, expected.params, expected.metrics) == (
        found.kind, found.status, found.params, found.metrics,
    )  # fmt: skip
    same = same and expected.tags.items() <= found.tags.items()
    wrong = [] if same else [f"model {expected.name}"]
    return wrong + [
        f"model {expected.name}: {word}" for word in _files(expected.files, found.files)
    ]


def _files(expected: Mapping[str, File], found: Mapping[str, File]) -> list[str]:
    return [f"file {path}" for path, file in expected.items() if found.get(path) != file]


@dataclass(frozen=True)
class Head:
    """What says where a run belongs, before all of it is read."""

    run_id: str
    start_milliseconds: int
    deleted: bool
    tags: dict[str, str]


@dataclass(frozen=True)
class Opened:
    """A run with its files in a folder, and those of its models by model id."""

    content: Content
    folder: Path
    models: dict[str, Path]
    datasets: Sequence[DatasetInput]


class Store:
    """A tracking store. artifacts: the folder of its files, where they lie elsewhere than its database
    says because it was brought from another machine; by default they are also looked for in `mlruns`
    beside an SQLite file. files: whether artifacts and models are read at all."""

    def __init__(self, uri: str, artifacts: Path | None = None, files: bool = True) -> None:
        self.uri, self.files, self._artifacts = uri, files, artifacts
        self._beside: Path | None = None
        if uri.startswith("sqlite"):
            database = Path(sqlalchemy.make_url(uri).database or "")
            if not database.is_file():
                raise InputError(
                    f"source: there is no database '{private.home(str(database))}'; expected the "
                    "SQLite file of a store, as sqlite:///mlflow.db or sqlite:////folder/mlflow.db"
                )
            self._beside = database.absolute().parent / "mlruns"
        self.client = MlflowClient(uri, registry_uri=uri)  # it makes a database that is missing

    def experiments(self) -> dict[str, str]:
        """id -> name, the deleted ones too."""
        found: dict[str, str] = {}
        token = None
        while True:
            page = self.client.search_experiments(ViewType.ALL, page_token=token)
            found |= {str(one.experiment_id): one.name for one in page}
            if not (token := page.token):
                return found

    def heads(self, keys: Iterable[str], first: int = 0, last: int = 1 << 62) -> list[Head]:
        """Every run that began in that time (milliseconds), the deleted ones too, with these tags."""
        keys = frozenset(keys)
        window = f"attributes.start_time >= {first} and attributes.start_time <= {last}"
        return [
            Head(
                run.info.run_id,
                run.info.start_time,
                run.info.lifecycle_stage == "deleted",
                {key: value for key, value in run.data.tags.items() if key in keys},
            )
            for run in self._runs([*self.experiments()], [window])
        ]

    def _runs(self, experiments: list[str], conditions: Iterable[str]) -> Iterator[Run]:
        for condition in conditions:
            token = None
            while True:
                page = self.client.search_runs(
                    experiments, condition, ViewType.ALL, _PAGE, page_token=token
                )
                yield from page
                if not (token := page.token):
                    break

    @contextmanager
    def opened(self, run_ids: Sequence[str]) -> Iterator[Iterator[Opened]]:
        """Some runs, as they are asked for, one after the other, clean of what is private; the files
        of each are there until the next one is taken."""
        with tempfile.TemporaryDirectory() as scratch:
            yield self._opened(run_ids, Path(scratch))

    def _opened(self, run_ids: Sequence[str], scratch: Path) -> Iterator[Opened]:
        for run, content in self._without_files(run_ids):
            place = scratch / run.info.run_id
            inputs = run.inputs.dataset_inputs if run.inputs else []
            with self._clean(
                run.info.artifact_uri, content.run_id, place, content.deleted
            ) as folder:
                files = {} if folder is None else _digests(folder)
                sent = _sent(replace(content, files=files))
                models: dict[str, Path] = {}
                known: list[Model] = []
                with self._models(run, place, content.deleted) as found:
                    for model, step, where in found:
                        models[model.model_id] = where
                        known.append(_model_of(model, step, _digests(where), private.cleaned))
                    yield Opened(
                        replace(sent, models=tuple(known)), folder or place, models, inputs
                    )

    def contents(self, run_ids: Sequence[str]) -> Iterator[Content]:
        """Some runs exactly as they are stored, each file read."""
        for run, content in self._without_files(run_ids):
            if not self.files or content.deleted:
                yield content
                continue
            models = [
                _model_of(model, step, self._stored(model.artifact_location, model.model_id), dict)
                for model, step in self._logged(run)
            ]
            files = self._stored(run.info.artifact_uri, content.run_id)
            yield replace(content, files=files, models=tuple(models))

    def _stored(self, uri: str, owner: str) -> dict[str, File]:
        with tempfile.TemporaryDirectory() as scratch:
            folder = self._folder(uri, owner, Path(scratch))
            return {} if folder is None else _digests(folder)

    def _without_files(self, run_ids: Sequence[str]) -> Iterator[tuple[Run, Content]]:
        """In the order asked for."""
        experiments = self.experiments()
        conditions = searches.conditions(Wanted({}, None, tuple(run_ids)))
        found = {run.info.run_id: run for run in self._runs([*experiments], conditions)}
        keys = sorted({key for run in found.values() for key in run.data.metrics})
        points = self.histories([*found], keys)
        for run_id in run_ids:
            if run_id not in found:  # removed for good meanwhile
                continue
            run = found[run_id]
            tags, info = dict(run.data.tags), run.info
            parent = tags.pop(PARENT, "")
            tags.pop(NAME, None)
            yield (
                run,
                Content(
                    run_id=run_id,
                    name=info.run_name,
                    experiment=experiments[str(info.experiment_id)],
                    status=info.status,
                    start_milliseconds=info.start_time,
                    end_milliseconds=info.end_time,
                    deleted=info.lifecycle_stage == "deleted",
                    parent=parent,
                    params=dict(run.data.params),
                    tags=tags,
                    points={key: columns(points, run_id, key) for key in sorted(run.data.metrics)},
                    datasets=datasets(run.inputs.dataset_inputs if run.inputs else []),
                    files={},
                    models=(),
                ),
            )

    def histories(self, run_ids: Sequence[str], keys: Sequence[str]) -> Histories:
        """Every point of these metrics of these runs."""
        if not run_ids or not keys:
            return Histories.of(run_ids, keys, ())
        return Histories.of(run_ids, keys, bulk.source(self.uri).points(self.uri, run_ids, keys))

    # --- files

    def listed(self, uri: str) -> Iterator[tuple[str, int]]:
        """(path, bytes) of every file below an artifact address."""
        repository = get_artifact_repository(uri, tracking_uri=self.uri)
        folders: list[str | None] = [None]
        while folders:
            for info in repository.list_artifacts(folders.pop()):
                if info.is_dir:
                    folders.append(info.path)
                else:
                    yield info.path, info.file_size or 0

    def upload(self, uri: str, files: Mapping[str, Path]) -> None:
        """Files by their path below an artifact address: those that are not there, or are others
        there."""
        if not files:
            return
        there = dict(self.listed(uri))
        repository = get_artifact_repository(uri, tracking_uri=self.uri)
        with tempfile.TemporaryDirectory() as folder:

            def send(path: str) -> None:
                local = files[path]
                if there.get(path) == local.stat().st_size:
                    stored = Path(repository.download_artifacts(path, folder))
                    if _digest(stored) == _digest(local):
                        return
                above = PurePosixPath(path).parent.as_posix()
                repository.log_artifact(str(local), None if above == "." else above)

            _together(send, files)

    @contextmanager
    def _clean(self, uri: str, owner: str, place: Path, deleted: bool) -> Iterator[Path | None]:
        """A folder with the files at an artifact address, clean; None where there are none."""
        folder = None if deleted or not self.files else self._folder(uri, owner, place)
        if folder is None:
            yield None
            return
        with private.publishable(folder) as clean:
            yield clean

    @contextmanager
    def _models(
        self, run: Run, place: Path, deleted: bool
    ) -> Iterator[list[tuple[LoggedModel, int, Path]]]:
        with ExitStack() as stack:
            found = []
            for model, step in () if deleted or not self.files else self._logged(run):
                inside = place / model.model_id
                folder = stack.enter_context(
                    self._clean(model.artifact_location, model.model_id, inside, False)
                )
                if folder is None:
                    inside.mkdir(parents=True, exist_ok=True)
                found.append((model, step, folder or inside))
            yield found

    def _logged(self, run: Run) -> list[tuple[LoggedModel, int]]:
        """The models that a run has put out, with their step."""
        outputs = run.outputs.model_outputs if run.outputs else []
        found = []
        for output in outputs:
            try:
                found.append((self.client.get_logged_model(output.model_id), output.step))
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":  # deleted since
                    raise
        return found

    def _folder(self, uri: str, owner: str, place: Path) -> Path | None:
        """Where the files of an artifact address lie on this machine, fetched to `place` if they do
        not. owner: the run's or the model's id, which MLflow names their folder by: a database of
        somebody else's must not name any folder of this machine. Raises InputError."""
        scheme, _, rest = uri.partition(":/")
        local = not rest or scheme == "file"
        if not local and self._artifacts is None:
            place.mkdir(parents=True, exist_ok=True)
            repository = get_artifact_repository(uri, tracking_uri=self.uri)
            _together(
                lambda file: repository.download_artifacts(file, str(place)),
                [file for file, _ in self.listed(uri)],
            )
            return place
        path = Path(local_file_uri_to_path(uri)) if local else Path(rest)
        parts = path.parts[-4 if "models" in path.parts[-3:-2] else -3 :]
        if parts[-2:] != (owner, "artifacts") or ".." in path.parts:
            raise InputError(
                f"the files of {owner} are said to be in {shown(uri)}; expected a folder as MLflow "
                "names them: copy it there, or leave files out by artifacts=none"
            )
        places = [path] if self._artifacts is None else [self._artifacts.joinpath(*parts)]
        if self._artifacts is None and self._beside:
            places.append(self._beside.joinpath(*parts))
        return next((found for found in places if found.is_dir()), None)


@contextmanager
def readable(uri: str) -> Iterator[None]:
    """Turns a named store that cannot be read into one line; other errors pass."""
    try:
        yield
    except (RequestException, SQLAlchemyError, OSError, MlflowException) as error:
        said = shown(private.clean(str(error).strip().partition("\n")[0]))
        raise InputError(
            f"source: the store {private.address(uri)} cannot be read ({said}); expected one of this "
            "MLflow version: of an older one take a copy and run `mlflow db upgrade` on it"
        ) from error


def missing(content: Content) -> str:
    """What a run says that it has and that is not there; "" where nothing is missing."""
    if digest.SAMPLES in content.tags and names.SAMPLES not in content.files:
        return f"its {names.SAMPLES} is not here"
    for model in content.models:
        if model.status == "READY" and MODEL_FILE not in model.files:
            return f"the files of its model {model.name} are not here"
    return ""


def _sent(content: Content) -> Content:
    """As it may leave this machine: what is private is taken out, but for what was signed when it was
    recorded, which was clean there and must stay as it was signed."""
    try:
        signed = set(json.loads(content.tags.get(digest.PARTS, "{}"))["tags"])
    except (ValueError, KeyError, TypeError):
        signed = set()
    signed |= {digest.PARTS, digest.TAG}
    tags = private.cleaned({k: v for k, v in content.tags.items() if k not in signed})
    kept = {key: value for key, value in content.tags.items() if key in signed}
    return replace(
        content,
        name=private.clean(content.name),
        params=private.cleaned(content.params),
        tags={k: v for k, v in (tags | kept).items() if k not in (ORIGIN, ORIGIN_SHA256)},
    )


def columns(points: Histories, run_id: str, key: str) -> tuple[Array, Array, Array]:
    """Ordered by step, time and value, whatever order a store gives equal times in."""
    within = points.within(run_id, key)
    steps, times = points.step[within], points.timestamp_milliseconds[within]
    values = points.value[within]
    order = np.lexsort((values, times, steps))
    return steps[order], times[order], values[order]


def _together(work: Callable[[str], object], paths: Iterable[str]) -> None:
    """Several files at a time: each waits for a server far longer than it computes."""
    with ThreadPoolExecutor(_FILES) as pool:
        for done in [pool.submit(work, path) for path in paths]:
            done.result()


def datasets(inputs: Iterable[DatasetInput]) -> frozenset[tuple[str, str, str]]:
    return frozenset(
        (
            one.dataset.name,
            one.dataset.digest,
            json.dumps({tag.key: tag.value for tag in one.tags}, sort_keys=True),
        )
        for one in inputs
    )


def _model_of(model: LoggedModel, step: int, files: dict[str, File], texts: Any) -> Model:
    """texts: what is done to tags and parameters."""
    return Model(
        model_id=model.model_id,
        name=model.name,
        kind=model.model_type or "",
        status=str(model.status),
        tags=texts(model.tags),
        params=texts(model.params),
        metrics=model_metrics(model),
        step=step,
        files=files,
    )


def model_metrics(model: LoggedModel) -> frozenset[tuple[str, int, int, str]]:
    """(name, step, milliseconds, value as digits) of what its own run has logged of it."""
    return frozenset(
        (m.key, m.step, m.timestamp, repr(float(m.value)))
        for m in model.metrics or ()
        if m.run_id == model.source_run_id
    )


def _digests(folder: Path) -> dict[str, File]:
    return {
        path.relative_to(folder).as_posix(): _digest(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _digest(path: Path) -> File:
    """Of MLmodel without the ids and the place, which each store gives anew."""
    if path.name == MODEL_FILE:
        with suppress(InputError):  # a file of another kind that has this name
            text = json.dumps(described(path, {}), sort_keys=True, default=str).encode()
            return File(len(text), hashlib.sha256(text).hexdigest())
    with path.open("rb") as file:
        return File(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def described(path: Path, own: Mapping[str, str]) -> dict[str, Any]:
    """MLmodel as values, with these ids in place of its own. Raises InputError."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        found = {key: value for key, value in values.items() if key not in _IDS}
        return found | {key: value for key, value in own.items() if key in values}
    except (yaml.YAMLError, AttributeError, UnicodeDecodeError) as error:
        raise InputError(f"{MODEL_FILE} is none of MLflow's ({shown(str(error))})") from error
