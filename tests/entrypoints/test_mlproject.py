"""MLproject and the commands are the same thing twice: names, defaults and types must agree."""

from __future__ import annotations

import re

import pytest
import yaml

import frameworks
import models
from entrypoints import commands
from tests.entrypoints.conftest import ROOT

PROJECT = yaml.safe_load((ROOT / "MLproject").read_text())
ENTRIES = PROJECT["entry_points"]


@pytest.mark.parametrize("entry", ENTRIES)
def test_parameters_are_the_options_with_their_defaults(entry: str) -> None:
    declared = ENTRIES[entry].get("parameters", {})
    options = {p.name: p for p in commands.load(entry).params}
    assert set(declared) == set(options)
    for name, parameter in declared.items():
        option = options[name]
        assert option.type.convert(parameter["default"], option, None) == option.default, name


@pytest.mark.parametrize("entry", ENTRIES)
def test_the_command_passes_every_parameter_under_its_own_name(entry: str) -> None:
    passed = re.findall(r"--(\w+) \{(\w+)\}", ENTRIES[entry]["command"])
    assert all(option == parameter for option, parameter in passed)
    assert {option for option, _ in passed} == set(ENTRIES[entry].get("parameters", {}))


def test_every_workload_and_framework_has_an_entry_point() -> None:
    wanted = {f"{w}_{f}" for w in models.names() for f in models.frameworks(w)}
    assert wanted <= set(ENTRIES)
    for workload in models.names():
        fixed = {"preset", "device", "seed", "dataset", "data_dir"}
        kind = models.load(workload, "config").KIND
        if kind != "switch":  # which has no weights
            fixed |= {"checkpoint"}
        if kind == "train":
            fixed |= {"epochs", "target", "mode"}
        for framework in models.frameworks(workload):
            assert fixed <= set(ENTRIES[f"{workload}_{framework}"]["parameters"])
    assert {"main", "study", "verify", "analyze", "register", "doctor"} <= set(ENTRIES)


def test_cuda_needs_what_the_rest_needs_but_for_the_backend() -> None:
    def names(file: str) -> set[str]:
        lines = (ROOT / file).read_text().splitlines()
        return {
            line.split(";")[0] for line in lines if not line.startswith(("#", "mlx", "zeus-apple"))
        }

    assert names("requirements-cuda.txt") == names("requirements.txt")
    assert "mlx[cuda13]" in (ROOT / "requirements-cuda.txt").read_text().splitlines()


def test_pins_stand_in_one_place_only() -> None:
    files = (
        "requirements.txt",
        "requirements-dev.txt",
        "requirements-cuda.txt",
        *frameworks.OWN_ENVIRONMENT.values(),
    )
    for file in files:
        lines = (ROOT / file).read_text().splitlines()
        assert not [line for line in lines if re.search("[=<>~]=", line.split(";")[0])]
    environment = yaml.safe_load((ROOT / "python_env.yaml").read_text())
    assert environment["dependencies"] == ["-r requirements.txt"]
    pinned = {
        re.split("[=<>]", line)[0] for line in (ROOT / "constraints.txt").read_text().split("\n")
    }
    for file in files:
        for line in (ROOT / file).read_text().splitlines():
            name = re.match(r"[A-Za-z][\w-]*", line)
            assert name is None or name.group() in {p.lower() for p in pinned}, line
