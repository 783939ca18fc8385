"""The examples of docs/ADDING.md: a workload and a framework, put where the document says in a copy of the
project, pass the project's own tests there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.models.twins import needs_all

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TREE = HERE / "tree"
COPIED = (
    "entrypoints",
    "models",
    "frameworks",
    "measurement",
    "tracking",
    "serving",
    "analysis",
    "tests",
)
FILES = ("MLproject", ".importlinter", "pyproject.toml", "constraints.txt", "python_env.yaml")
TESTS = (
    "tests/models/test_registries.py", "tests/models/test_twins.py", "tests/models/test_counted_work.py",
    "tests/entrypoints/test_mlproject.py", "tests/test_contracts.py", "tests/frameworks",
)  # fmt: skip
# Of those the ones that look at the new workload and the new framework, which has no dtype of 16 bits and
# no compiler; torch.compile would take longer than all the others.
CHOSEN = (
    "(blobs or tape or contracts_name or tree_keeps or entry_point or test_network)"
    " and not float16 and not compiled_twin and not itself_compiled and not seeded"
)


def added(project: Path) -> None:
    """What docs/ADDING.md says is to be added."""
    shutil.copytree(TREE, project, dirs_exist_ok=True)
    for name, text, place in (
        ("MLproject", (HERE / "MLproject.txt").read_text(), "  verify:\n"),
        (".importlinter", (HERE / "importlinter.txt").read_text() + "\n", "[importlinter:contract:mlflow]\n"),
    ):  # fmt: skip
        before = (project / name).read_text()
        assert before.count(place) == 1
        (project / name).write_text(before.replace(place, text + place))
    text = (project / ".importlinter").read_text()
    mnist = "    models.mnist\n"
    assert text.count(mnist) == 2
    (project / ".importlinter").write_text(text.replace(mnist, mnist + "    models.blobs\n"))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with both examples."""
    place = tmp_path_factory.mktemp("project")
    for name in COPIED:
        skip = shutil.ignore_patterns("__pycache__", "adding", "fixtures")
        shutil.copytree(ROOT / name, place / name, ignore=skip)
    for name in (*FILES, *(path.name for path in ROOT.glob("requirements*.txt"))):
        shutil.copy(ROOT / name, place / name)
    added(place)
    return place


def run(project: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=project,
        env={**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{project}/mlflow.db"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-3000:]
    return done.stdout


@needs_all
def test_both_examples_pass_the_projects_own_tests(project: Path) -> None:
    options = ("-o", "addopts=", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-rA")
    said = run(project, "pytest", *options, *TESTS, "-k", CHOSEN)
    for name in ("blobs-mlx", "blobs-tape", "cpu-tape", "contracts_name_every", "tree_keeps_every"):
        assert re.search(rf"^PASSED .*{name}", said, re.MULTILINE), name


def test_every_snippet_is_the_text_of_its_file_and_every_file_is_named() -> None:
    text = (ROOT / "docs/ADDING.md").read_text()
    snippets = re.findall(r"<!-- (\S+) -->\n```\w*\n(.*?)```", text, re.DOTALL)
    assert len(snippets) == text.count("\n```\n") // 1 - text.count("\n```\n\n```") or snippets
    for name, snippet in snippets:
        assert snippet in (ROOT / name).read_text(), name
    for path in TREE.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert str(path.relative_to(TREE)) in text, path
