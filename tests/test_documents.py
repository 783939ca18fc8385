"""What the documents say holds: every command is one that there is, with options and values that it takes,
and a test runs it; every link leads somewhere; the tables of results are those of the files."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path
from typing import NamedTuple

import click
import pytest

import models
from benchmarks import results_page
from entrypoints import commands
from measurement.errors import InputError
from tests.entrypoints.test_mlproject import ENTRIES

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "benchmarks/*.md", "deploy/**/*.md", "mlruns/README.md")
    for path in ROOT.glob(pattern)
)
WORKLOADS = {f"{w}_{f}" for w in models.names() for f in models.frameworks(w)}
JOBS = {entry for entry in ENTRIES if entry.endswith(("_ddp", "_distributed"))}
PLACEHOLDER = re.compile(
    r"<\w+>|\.\.\.|[A-Z][A-Z_./]*(=.*)?|\S*(FOLDER|FILE|DIR|NAME|SERVER|ID)\S*"
)

RUN_BY = {
    "main": "tests/entrypoints/test_study.py",
    "study": "tests/entrypoints/test_study.py",
    "deliver": "tests/entrypoints/test_deliver.py",
    "sweep": "tests/entrypoints/test_sweep_command.py",
    "scaling": "tests/entrypoints/test_scaling_command.py",
    "verify": "tests/entrypoints/test_verify.py",
    "selftest": "tests/entrypoints/test_selftest.py",
    "analyze": "tests/analysis/test_analyze_command.py",
    "machines": "tests/analysis/test_machines_command.py",
    "versions": "tests/analysis/test_versions_command.py",
    "reproduce": "tests/entrypoints/test_reproduce.py",
    "register": "tests/entrypoints/test_register.py",
    "calibrate": "tests/entrypoints/test_plan_command.py",
    "import_results": "tests/entrypoints/test_published_commands.py",
    "export_results": "tests/entrypoints/test_published_commands.py",
    "plan": "tests/entrypoints/test_plan_command.py",
    "auto": "tests/entrypoints/test_auto.py",
    "max_batch": "tests/entrypoints/test_max_batch.py",
    "code_size": "tests/analysis/test_code_in_reports.py",
    "kubernetes": "tests/entrypoints/test_kubernetes.py",
    "doctor": "tests/entrypoints/test_tensorflow_trial.py",
    "publish": "tests/entrypoints/test_publish.py",
    "decide": "tests/entrypoints/test_decide.py",
    "hosts": "tests/entrypoints/test_hosts.py",
    **dict.fromkeys(WORKLOADS, "tests/entrypoints/test_every_workload.py"),
    **dict.fromkeys(JOBS, "tests/entrypoints/test_jobs.py"),
}
"""Entry point -> the tests that run it."""


class Said(NamedTuple):
    document: str
    command: str


def documented(path: Path) -> list[str]:
    """The commands of a document, from its blocks and from its running text."""
    text = path.read_text()
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    prose = re.sub(r"^```\w*\n.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    lines += [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose)]
    return [part.strip() for line in lines for part in line.split(" # ")[0].split("&&")]


SAID = [Said(str(p.relative_to(ROOT)), c) for p in DOCUMENTS for c in documented(p)]
PROJECT_RUNS = [
    s for s in SAID if re.match(r"mlflow run [^-\s]\S*( |$)|mlflow run \.( |$)", s.command)
]
MODULES = [
    s for s in SAID if re.match(r"python3? -m (entrypoints|benchmarks|analysis)\b", s.command)
]


def parameters(words: list[str]) -> list[tuple[str, str]]:
    found = [words[i + 1] for i, word in enumerate(words[:-1]) if word == "-P"]
    return [(name, value) for name, _, value in (word.partition("=") for word in found)]


def value_of(words: list[str], option: str, default: str) -> str:
    return words[words.index(option) + 1] if option in words else default


@pytest.mark.parametrize("said", PROJECT_RUNS, ids=lambda said: said.command)
def test_a_run_names_an_entry_point_its_parameters_and_values_it_takes(said: Said) -> None:
    words = shlex.split(said.command)
    entry = value_of(words, "-e", "main")
    if PLACEHOLDER.search(entry):
        return
    assert entry in ENTRIES, said
    options = {option.name: option for option in commands.load(entry).params}
    for name, value in parameters(words):
        assert name in options, said
        if not PLACEHOLDER.fullmatch(value):
            options[name].type.convert(value, options[name], None)
    assert words[2] in (".", "mlruns/kubernetes") or PLACEHOLDER.fullmatch(words[2]), said


def test_every_entry_point_is_run_by_a_test_and_those_that_people_call_are_documented() -> None:
    assert set(RUN_BY) == set(ENTRIES)
    for entry, path in RUN_BY.items():
        text = (ROOT / path).read_text()
        if entry in WORKLOADS:  # of all that there are
            assert "models.names()" in text and '"trial"' in text, (entry, path)
        elif entry in JOBS:
            assert "distributed" in text and "run_job" in text, (entry, path)
        else:
            name = "study" if entry == "main" else entry
            called = rf'"{name}"|\bimport [\w, ]*\b{name}\b|entrypoints\.{name}\b'
            assert re.search(called, text), (entry, path)
    said = {value_of(shlex.split(s.command), "-e", "main") for s in PROJECT_RUNS}
    assert set(ENTRIES) - said - WORKLOADS - JOBS - {"study"} == set()


@pytest.mark.parametrize("said", MODULES, ids=lambda said: said.command)
def test_a_module_is_there_and_knows_the_options(said: Said) -> None:
    words = shlex.split(said.command)
    if words[2] == "entrypoints":
        if words[3:] and not PLACEHOLDER.search(words[3]) and words[3] != "completion":
            assert words[3] in ENTRIES, said
            words[2:4] = [f"entrypoints.{words[3]}"]
        else:
            return
    path = ROOT / (words[2].replace(".", "/") + ".py")
    assert path.exists(), said
    given = [word.partition("=")[0] for word in words[3:] if word.startswith("--")]
    if words[2].startswith("entrypoints."):
        entry = words[2].partition(".")[2]
        known = {f"--{option.name}" for option in commands.load(entry).params}
    else:
        sources = (path.read_text(), (ROOT / "benchmarks/common.py").read_text())
        known = {
            node.value
            for source in sources
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Constant) and str(node.value).startswith("--")
        }
    assert set(given) <= known, (said, set(given) - known)


# --- links


def anchor(heading: str) -> str:
    """As GitHub makes it."""
    plain = re.sub(r"[^\w\- ]", "", heading.strip().lower().replace("`", ""))
    return plain.replace(" ", "-")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_to_something_that_is_there(path: Path) -> None:
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"\w+:", link):
            continue
        place, _, part = link.partition("#")
        target = (path.parent / place).resolve() if place else path
        assert target.exists(), (path.name, link)
        if part:
            headings = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
            assert part in map(anchor, headings), (path.name, link)


def test_every_document_is_reached_from_the_readme() -> None:
    reached, todo = set(), [ROOT / "README.md"]
    while todo:
        path = todo.pop()
        reached.add(path)
        links = re.findall(r"\]\(([^)\s#]+\.md)", path.read_text())
        names = re.findall(r"(?<![\w/])((?:docs/)?[A-Z][A-Z_]+\.md)", path.read_text())
        for link in [*links, *names]:
            for base in (path.parent, ROOT, ROOT / "docs"):
                target = (base / link).resolve()
                if target.exists() and target not in reached:
                    todo.append(target)
    assert {path for path in DOCUMENTS if path.parent.name == "docs"} <= reached


# --- tables of results


def test_the_tables_of_results_are_those_of_the_files() -> None:
    text = (ROOT / "docs/RESULTS.md").read_text()
    assert results_page.page(text, ROOT / "results") == text, (
        "run python -m benchmarks.results_page"
    )
    assert set(results_page.MARK.findall(text)) and text.count("<!-- table: ") == len(
        results_page.TABLES
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<!-- table: studies -->\n", "no '<!-- end -->'"),
        (
            "<!-- table: guesses -->\n<!-- end -->",
            "unknown table 'guesses'; expected one of studies",
        ),
    ],
)
def test_a_mark_that_cannot_be_filled_is_an_error(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        results_page.page(text, ROOT / "results")


def test_the_licence_is_the_one_that_the_citation_names() -> None:
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")
    assert "\nlicense: MIT\n" in (ROOT / "CITATION.cff").read_text()


def test_commands_are_found_in_blocks_and_in_text() -> None:
    assert len(PROJECT_RUNS) > 30 and len(MODULES) > 10
    assert isinstance(commands.load("study"), click.Command)
