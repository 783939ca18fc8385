"""The dependency rules of the project hold, and each of them bites on a seeded violation."""

from __future__ import annotations

import ast
import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import frameworks
import models

PACKAGES = ("entrypoints", "serving", "analysis", "frameworks", "models", "tracking", "measurement")

# (contract, file, line): the line breaks that contract and no other.
SEEDS = [
    ("layers", "measurement/seeded.py", "import entrypoints"),
    ("layers", "frameworks/seeded.py", "import models.batches"),
    ("layers", "models/seeded.py", "import frameworks"),
    ("layers", "analysis/seeded.py", "import models"),
    ("layers", "models/seeded.py", "import analysis"),
    ("layers", "tracking/seeded.py", "import serving"),
    ("analysis", "analysis/statistics/ratio.py", "import analysis.comparison"),
    ("analysis", "analysis/comparison.py", "import analysis.report"),
    ("torch", "measurement/trial.py", "import torch"),
    ("torch", "frameworks/__init__.py", "import torch"),
    ("torch", "frameworks/mlx.py", "import torch"),
    ("torch", "models/__init__.py", "import torch"),
    ("torch", "models/seeded.py", "import torch"),
    ("torch", "models/mnist/data.py", "import torchvision"),
    ("torch", "models/mnist/mlx.py", "import torch"),
    ("torch", "serving/seeded.py", "import torch"),
    ("mlx", "entrypoints/worker.py", "def f():\n    import mlx.core"),
    ("mlx", "frameworks/pytorch.py", "import mlx.nn"),
    ("mlx", "models/mnist/__init__.py", "import mlx.core"),
    ("mlx", "models/mnist/config.py", "from mlx import core"),
    ("mlx", "models/mnist/pytorch.py", "import mlx.core"),
    ("tensorflow", "models/mnist/mlx.py", "import tensorflow"),
    ("tensorflow", "frameworks/pytorch.py", "import tensorflow"),
    ("tensorflow", "models/layers/pytorch.py", "import tensorflow"),
    ("tensorflow", "entrypoints/environment.py", "def f():\n    import tensorflow"),
    ("torch", "frameworks/tensorflow.py", "import torch"),
    ("torch", "models/layers/tensorflow.py", "import torch"),
    ("mlx", "models/layers/tensorflow.py", "import mlx.core"),
    ("twins", "entrypoints/environment.py", "import frameworks.tensorflow"),
    ("mlflow", "entrypoints/worker.py", "import mlflow"),
    ("mlflow", "analysis/seeded.py", "from mlflow.tracking import MlflowClient"),
    ("click", "measurement/errors.py", "import click"),
    ("click", "tracking/seeded.py", "import click"),
    ("tracking", "models/seeded.py", "import tracking"),
    ("tracking", "frameworks/pytorch.py", "import tracking.names"),
    ("twins", "entrypoints/worker.py", "import models.mnist.pytorch"),
    ("twins", "entrypoints/worker.py", "import frameworks.mlx"),
    ("twins", "serving/seeded.py", "from models.mnist import config"),
    ("workloads", "models/mnist/config.py", "import models.other.config"),
    *(
        (frameworks.package(name), "models/mnist/data.py", f"import {frameworks.package(name)}")
        for name in frameworks.names()
    ),
]


def configuration(root: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(root / ".importlinter")
    return parser


def words(root: Path, contract: str, field: str) -> list[str]:
    return configuration(root)[f"importlinter:contract:{contract}"][field].split()


def contracts(root: Path) -> dict[str, str]:
    """identifier -> name, as lint-imports prints it."""
    parser = configuration(root)
    return {s.split(":")[-1]: parser[s]["name"] for s in parser.sections() if s.count(":") == 2}


def broken(folder: Path) -> set[str]:
    """The contracts that lint-imports calls broken in a folder."""
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache", "--no-logo"],
        cwd=folder,
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "400", "PYTHONDONTWRITEBYTECODE": "1"},
    )
    names = contracts(folder)
    lines = [
        re.sub(r" \(\d+ ignored imports?\)$", "", x.rstrip()) for x in done.stdout.splitlines()
    ]
    found = {key for key, name in names.items() if f"{name} BROKEN" in lines}
    kept = {key for key, name in names.items() if f"{name} KEPT" in lines}
    assert found | kept == set(names), done.stdout + done.stderr
    assert (done.returncode != 0) == bool(found)
    return found


@pytest.fixture
def tree(project: Path, tmp_path: Path) -> Path:
    """A copy of the packages and their contracts, with a second workload beside mnist."""
    skip = shutil.ignore_patterns("__pycache__", "*.html")
    for package in PACKAGES:
        shutil.copytree(project / package, tmp_path / package, ignore=skip)
        (tmp_path / package / "__init__.py").touch()
    (tmp_path / "models/other").mkdir()
    for name in ("__init__.py", "config.py"):
        (tmp_path / "models/other" / name).write_text("")
    text = (project / ".importlinter").read_text()
    head, tail = text.split("[importlinter:contract:workloads]")
    tail = tail.replace("    models.mnist\n", "    models.mnist\n    models.other\n", 1)
    (tmp_path / ".importlinter").write_text(f"{head}[importlinter:contract:workloads]{tail}")
    return tmp_path


def test_the_tree_keeps_every_contract(project):
    assert broken(project) == set()


def test_the_copy_keeps_every_contract(tree):
    assert broken(tree) == set()


@pytest.mark.parametrize(("contract", "file", "line"), SEEDS)
def test_a_seeded_violation_breaks_exactly_its_contract(tree, contract, file, line):
    path = tree / file
    text = path.read_text() if path.exists() else ""
    path.write_text(f"{text}\n{line}\n")
    assert broken(tree) == {contract}


def test_every_contract_has_a_seed(project):
    assert {contract for contract, _, _ in SEEDS} == set(contracts(project))


def test_contracts_name_every_workload_and_adapter(project):
    """A new workload or adapter must be added where a wildcard cannot do it."""
    workloads = {f"models.{name}" for name in models.names()}
    assert workloads <= set(words(project, "workloads", "modules"))
    assert workloads | {"frameworks.*"} <= set(words(project, "twins", "forbidden_modules"))
    for name in frameworks.names():
        contract = frameworks.package(name)
        assert contract in words(project, contract, "forbidden_modules")
        assert set(PACKAGES) == set(words(project, contract, "source_modules"))
        importers = words(project, contract, "ignore_imports")[::3]  # of "importer -> imported"
        assert {importer.split(".")[-1] for importer in importers} == {name}


def test_only_the_registries_import_by_name(project):
    """importlib.import_module, __import__ and runpy reach what no contract sees."""
    allowed = {project / "models/__init__.py", project / "frameworks/__init__.py"}
    for package in PACKAGES:
        for path in set((project / package).rglob("*.py")) - allowed:
            for node in ast.walk(ast.parse(path.read_text())):
                named = getattr(node, "attr", getattr(node, "id", ""))
                assert named not in ("import_module", "__import__", "run_module"), path


def ruff(project: Path, source: str, path: str) -> str:
    done = subprocess.run(
        [Path(sys.executable).parent / "ruff", "check", "--no-cache", "--output-format=concise",
         "--config", project / "pyproject.toml", "--stdin-filename", project / path, "-"],
        input=source,
        capture_output=True,
        text=True,
        cwd=project,
    )  # fmt: skip
    return done.stdout


@pytest.mark.parametrize(
    "source",
    [
        "import importlib\n\nimportlib.import_module('frameworks.mlx')\n",
        "from importlib import import_module\n\nimport_module('frameworks.mlx')\n",
        "import pickle\n\npickle.dumps(1)\n",
        "import torch\n\ntorch.load('x')\n",
    ],
)
def test_ruff_refuses_a_banned_call(project, source):
    assert "TID251" in ruff(project, source, "entrypoints/seeded.py")
    assert "TID251" in ruff(project, source, "models/mnist/seeded.py")


@pytest.mark.parametrize("registry", ["models/__init__.py", "frameworks/__init__.py"])
def test_the_registries_may_import_by_name(project, registry):
    assert "TID251" not in ruff(project, (project / registry).read_text(), registry)
    assert "import_module" in (project / registry).read_text()
