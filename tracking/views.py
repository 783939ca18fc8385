"""What MLflow's pages show beside the values: named views of the table of runs with the columns that
matter, charts of one framework against the other by epoch, a colour for each framework, notes.

A project cannot set the columns that MLflow shows first (Dataset, Source and Models). MLflow has saved
views instead, each a tag of the experiment: they stand under "Views" above the table, and a link opens one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlflow
from mlflow.entities import RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from tracking import names, private
from tracking.store import address, reachable

NOTE, PARENT, COLOUR = "mlflow.note.content", "mlflow.parentRunId", "mlflow.runColor"
VERDICT = "verdict"
"""Tag of a study's run, a column of the views."""
_VIEW = "mlflow.sharedViewState."
_VERSION_TAG, VERSION = "mlflow.framework-study.views", "1"
"""Of the experiment: the views that it has got. One that a user has deleted or changed stays so. Pages
hide what begins with `mlflow.`."""
_KEPT = 20  # views of single studies; MLflow's pages offer 40 in all
_LONGEST = 8000  # characters of a tag

# Okabe & Ito, in the order in which the report colours its arms.
COLOURS = {"mlx": "#0072B2", "pytorch": "#D55E00", "jax": "#CC79A7", "tensorflow": "#009E73"}

_CONDITION = ("workload", "framework", "device")
_MORE = ("blas", "preset", "seed")  # of the condition, after the results
_RESULTS = (
    "train/total_seconds", "train/items_per_second", "inference/items_per_second",
    "inference/latency_seconds_p50", "memory/process_peak_bytes", "energy/joules", "eval/accuracy",
)  # fmt: skip
# Columns that are always there, by the names that the table has for them.
_FIRST = ("attributes.`Run Name`", "runDateAndNestInfo", "duration")
_WIDTH = 150
_WIDTHS = {VERDICT: 380, "workload": 110, "framework": 100, "device": 80, "blas": 90, "preset": 80,
           "seed": 70, "flags": 120}  # fmt: skip
_BLOCKS = "tags.`pair`"  # every arm once in each
_BY_EPOCH = ("train/loss", "eval/accuracy", "train/epoch_seconds")
# Sections of charts of every training, by what the names of metrics begin with.
_CLOSED = ("audit", "code", "eval", "hardware", "inference", "machine", "memory", "target", "train",
           "System metrics")  # fmt: skip


@dataclass(frozen=True)
class View:
    """One saved view. columns: ("params" | "tags" | "metrics", key). filter: as in the search field.
    order: what rows are sorted by, "" = time, where children fold below their parents and these come
    too; a page has the first hundred of many runs, which must not be the best ones. groups: tags whose
    values make one row, and one line of a chart, each; folded: values of the only one whose runs are
    hidden below that row at first. charts: metrics with a chart at the top."""

    key: str
    name: str
    columns: tuple[tuple[str, str], ...]
    filter: str = ""
    order: str = ""
    groups: tuple[str, ...] = ()
    folded: tuple[str, ...] = ()
    charts: tuple[str, ...] = ()

    def value(self, created_milliseconds: int) -> str:
        """The tag's value, in the form in which MLflow's own page saves a view."""
        columns = [f"{kind}.`{key}`" for kind, key in self.columns]
        state: dict[str, Any] = {
            "searchFilter": self.filter,
            "selectedColumns": columns,
            # Else metrics come first, then parameters, then tags.
            "columnOrder": [*_FIRST, *columns],
            "columnWidths": {
                name: _WIDTHS.get(key, _WIDTH)
                for name, (_, key) in zip(columns, self.columns, strict=True)
            },
        }
        if self.order:
            state |= {"orderByKey": self.order, "orderByAsc": True}
        if self.groups:
            keys = [{"mode": "tag", "groupByData": key} for key in self.groups]
            state["groupBy"] = {"aggregateFunction": "average", "groupByKeys": keys}
            state["groupsExpanded"] = {f"tag.{self.groups[0]}.{one}": False for one in self.folded}
        if self.charts:
            state |= _charts(self.charts)
        text = json.dumps(state, separators=(",", ":"))
        saved = {"name": self.name, "createdAt": created_milliseconds, "state": text}
        return json.dumps(saved, separators=(",", ":"))


def _charts(metrics: Sequence[str]) -> dict[str, Any]:
    """Lines by epoch in a section of their own, which MLflow's order by name puts first. The sections
    that MLflow makes of all other metrics are closed: drawing forty charts takes seconds."""
    cards = [
        {
            "uuid": f"study {metric}",
            "type": "LINE",
            "metricSectionId": "study",
            "metricKey": metric,
            "selectedMetricKeys": [metric],
            "runsCountToCompare": 10,
            "deleted": False,
            "isGenerated": False,
            "xAxisKey": "step",
            "scaleType": "linear",
            "lineSmoothness": 0,
            "useGlobalXaxisKey": True,
            "useGlobalLineSmoothing": True,
        }
        for metric in metrics
    ]
    common = {"isReordered": False, "deleted": False}
    sections = [
        {
            "uuid": "study",
            "name": "arms, by epoch",
            "display": True,
            "isGenerated": False,
            **common,
        },
        *(
            {"uuid": f"of {name}", "name": name, "display": False, "isGenerated": True, **common}
            for name in _CLOSED
        ),
    ]
    return {"compareRunCharts": cards, "compareRunSections": sections}


def general() -> tuple[View, ...]:
    """The views of every experiment."""
    results = tuple(("metrics", key) for key in _RESULTS)
    condition = tuple(("params", key) for key in _CONDITION)
    more = tuple(("params", key) for key in _MORE)
    return (
        View(
            "studies",
            "Studies, their trials below them",
            (("tags", VERDICT), *condition, ("tags", "flags"), *results, *more),
        ),
        View(
            "frameworks",
            "Framework against framework, by epoch",
            (*condition, *results, *more),
            filter=f"tags.{names.KIND} = 'trial'",
            order=_BLOCKS,
            groups=("workload", "framework", "blas"),
            charts=_BY_EPOCH,
        ),
    )


def of_study(name: str, design: Mapping[str, Any]) -> View:
    """The trials of one study, one line of a chart for each arm."""
    metric, quality = str(design["metric"]), str(design.get("quality", ""))
    own = [metric, *([quality] if quality in names.METRICS else [])]
    columns = list(dict.fromkeys([*own, *_RESULTS]))
    by_epoch = [key for key in _BY_EPOCH if key != "eval/accuracy"]
    if quality in names.STEPPED:
        by_epoch.insert(1, quality)
    training = metric.startswith("train/")
    return View(
        _key_of(name),
        f"Study {name}, arm by arm",
        (*(("metrics", key) for key in columns), ("tags", "flags")),
        filter=f"tags.study = '{name}' and tags.{names.KIND} = 'trial'",
        order=_BLOCKS,
        groups=("arm",),
        folded=tuple(design["arms"]),
        charts=tuple(by_epoch) if training else (),
    )


def _key_of(study: str) -> str:
    return f"study-{study}"


def publish(client: MlflowClient, experiment: str, study: str, design: Mapping[str, Any]) -> None:
    """Gives an experiment its views and, where it has none, its note. study, design: of the record that
    is being sent, "" of a trial on its own. Asked again it adds nothing."""
    there = client.get_experiment(experiment).tags
    now, wanted = int(time.time() * 1000), {}
    if study and _VIEW + _key_of(study) not in there:
        wanted[_VIEW + _key_of(study)] = of_study(study, design).value(now)
        for old in _old(there):
            _unless(client, experiment, old, False, client.delete_experiment_tag, old)
    if there.get(_VERSION_TAG) != VERSION:
        wanted |= {_VIEW + view.key: view.value(now + 1) for view in general()}
        if not there.get(NOTE):
            wanted[NOTE] = experiment_note(experiment)
        # Where a page asks what an experiment is of. MLflow 3.17's own asks the browser instead.
        wanted["mlflow.experimentKind"] = "custom_model_development"
        wanted[_VERSION_TAG] = VERSION  # last: what was cut off begins again
    for key, value in wanted.items():
        _unless(client, experiment, key, True, client.set_experiment_tag, key, value)


def _unless(
    client: MlflowClient,
    experiment: str,
    key: str,
    there: bool,
    change: Callable[..., None],
    *words: str,
) -> None:
    """A change of an experiment's tag, which of several processes at once one makes and the others are
    refused by the database's key: fine where the tag is, or is not, there then."""
    try:
        change(experiment, *words)
    except MlflowException:
        if (key in client.get_experiment(experiment).tags) != there:
            raise


def _old(tags: Mapping[str, str]) -> list[str]:
    """Our views of single studies but for the newest, so that users have room for their own."""
    ours = [key for key in tags if key.startswith(_VIEW + _key_of(""))]
    return sorted(ours, key=lambda key: _created(tags[key]), reverse=True)[_KEPT - 1 :]


def _created(value: str) -> float:
    """Of a view; 0 of what is none."""
    try:
        return float(json.loads(value)["createdAt"])
    except (ValueError, TypeError, LookupError):
        return 0.0


def of_run(tags: Mapping[str, str], present: Mapping[str, str], kind: str) -> dict[str, str]:
    """Tags by which MLflow's pages draw and name a run. tags: its record's; present: those that the run
    has, which `mlflow run` may have set."""
    found = {}
    framework, workload = tags.get("framework", ""), tags.get("workload", "")
    if framework in COLOURS:
        found[COLOUR] = COLOURS[framework]
    if kind in ("trial", "study"):  # the column Source
        entry = f"{workload}_{framework}" if kind == "trial" and framework else "study"
        found |= {
            "mlflow.source.type": "PROJECT",
            "mlflow.source.name": entry,  # the column shows its beginning only
        }
    source = "mlflow.source.name" in present
    return {key: value for key, value in found.items() if not (source and key != COLOUR)}


# --- notes


# MLflow's pages open for traces of agents unless their address says otherwise.
_TRAINING = "workflowType=machine_learning"


def page(experiment: str, key: str, charts: bool = False) -> str:
    """The part of an address after the server's name: the table of runs as a view shows it."""
    mode = "&compareRunsMode=CHART" if charts else ""
    return f"#/experiments/{experiment}/runs?viewStateShareKey={key}&{_TRAINING}{mode}"


def run_page(experiment: str, run_id: str, tab: str = "") -> str:
    """One run's page, or a tab of it."""
    below = f"/{tab}" if tab else ""
    return f"#/experiments/{experiment}/runs/{run_id}{below}?{_TRAINING}"


def report_page(experiment: str, run_id: str) -> str:
    """A study's report in the viewer of artifacts."""
    return run_page(experiment, run_id, "artifacts/report/report.html")


def experiment_note(experiment: str) -> str:
    """What an experiment holds and how to read it, Markdown."""
    return "\n".join((
        "Which framework does the same work faster, leaner and cheaper? **Views**, above on the right, shows "
        "the verdicts and the columns that matter.",
        "",
        f"- [Studies, their trials below them]({page(experiment, 'studies')}): the verdict of each, and the "
        "columns that matter",
        f"- [Framework against framework, by epoch]({page(experiment, 'frameworks', charts=True)})",
        "- a view of each study, arm by arm, under **Views**",
        "",
        "A *study* is a run whose children are its *trials*, each a process of its own; its report is below "
        "Artifacts, `report/report.html`. A trial with *flags* is doubtful: its description says why. "
        "Times are seconds, memory bytes, rates items per second; `system/` was sampled once a second. "
        "Single trials differ by chance: what holds is in the report, with its interval.",
    ))  # fmt: skip


def study_note(
    name: str, design: Mapping[str, Any], verdict: str = "", experiment: str = "", run_id: str = ""
) -> str:
    """What a study asks, what it found, how to read it, Markdown. Links only with an experiment and a
    run."""
    arms = ", ".join(f"`{arm}`" for arm in design["arms"])
    lines = [f"**Verdict.** {verdict or 'Not analysed yet.'}", ""]
    if run_id:  # first: pages fold what is below
        key = _key_of(name)
        lines += [
            f"[The report]({report_page(experiment, run_id)}), its trials [arm by arm]"
            f"({page(experiment, key)}) and [by epoch]({page(experiment, key, charts=True)}).",
            "",
        ]
    lines += [
        f"Study `{name}` of `{design.get('workload', 'a workload')}`: {design['pairs']} blocks of {arms}, each "
        "arm once a block, in random order, every trial a process of its own.",
        "",
        f"The question is `{design['metric']}`; two arms within {100 * design['margin']:g} % are the same. A "
        "ratio is of the first arm over the second; without equal work, or with fewer than six blocks, there "
        "is no verdict.",
    ]
    return "\n".join(lines)[:_LONGEST]


def conclude(run_id: str, name: str, design: Mapping[str, Any], verdict: str) -> None:
    """Writes what was found into the study's run: its description, and the column `verdict`. Raises
    InputError."""
    verdict = private.clean(verdict)
    with reachable():
        client = MlflowClient()
        experiment = client.get_run(run_id).info.experiment_id
        note = study_note(name, design, verdict.replace("\n", "\n\n"), experiment, run_id)
        first = verdict.splitlines()[0] if verdict else ""
        found = {NOTE: private.clean(note), VERDICT: first[:500]}
        client.log_batch(run_id, tags=[RunTag(key, text) for key, text in found.items()])


def link(run_id: str, study: str) -> str:
    """The address of a study's view: on the server in use, or where `mlflow ui` will show it. Raises
    InputError."""
    with reachable():
        experiment = MlflowClient().get_run(run_id).info.experiment_id
    uri = mlflow.get_tracking_uri()
    server = address().rstrip("/") if uri.startswith("http") else "http://127.0.0.1:5000"
    return f"{server}/{page(experiment, _key_of(study))}"
