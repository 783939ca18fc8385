"""The two registries: what they find, and what they say of what they do not know."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path

import pytest

import frameworks
import models
from measurement import generation, switching, trial
from measurement.comparison import UPDATE_TOLERANCES
from measurement.errors import InputError
from tracking import names


def test_workloads_and_frameworks_are_found_in_the_folders(project):
    assert "mnist" in models.names()
    assert models.names() == sorted(models.names())
    assert {"mlx", "pytorch"} <= set(frameworks.names())
    for name in models.names():
        assert (project / "models" / name / "data.py").exists()
        assert set(models.frameworks(name)) <= set(frameworks.names())


@pytest.mark.parametrize("name", frameworks.names())
def test_every_adapter_tells_whether_it_is_available(name):
    assert frameworks.available(name) in (True, False)


@pytest.mark.parametrize("workload", models.names())
def test_every_workload_states_its_sizes(workload):
    config = models.load(workload, "config")
    assert {"smoke", "cpu"} <= set(config.PRESETS)
    assert set(config.DEFAULT_PRESET) == {"cpu", "gpu"}
    assert set(config.DEFAULT_PRESET.values()) | set(config.PLANS) <= set(config.PRESETS)
    trained = config.KIND == "train"
    plans = {"train": trial.Plan, "generate": generation.Plan, "switch": switching.Plan}
    counts = {field.name for field in fields(plans[config.KIND])}  # type: ignore[arg-type]
    for preset in config.PRESETS.values():
        assert is_dataclass(preset) and preset.__dataclass_params__.frozen
        zero = models.setting(workload, "MAY_BE_ZERO")
        assert all(v > 0 or (v == 0 and k in zero) for k, v in asdict(preset).items())
        preset.check()
        flops = preset.train_flops_per_item() if trained else preset.flops_per_item()
        assert flops > 0
        assert bool(preset.parameters()) == (config.KIND != "switch")
    for chosen in config.PLANS.values():
        assert set(chosen) <= counts - {"epochs", "target", "target_is_floor", "slowdown"}
    if trained:
        assert config.QUALITY in names.QUALITIES and config.OPTIMISER in UPDATE_TOLERANCES
        assert config.TARGET > 0 and config.STUDY_TARGET > 0
        assert config.EPOCHS >= config.STUDY_EPOCHS >= 1
    else:
        stored = (Path(str(models.__file__)).parent / workload / "checkpoint.py").exists()
        assert stored == (config.KIND == "generate")
    devices = models.setting(workload, "DEVICES")
    assert devices[0] == "auto" and models.device(workload, devices[-1]) == devices[-1]
    assert config.AS_SHIPPED in (True, False)
    assert config.DATASETS[-1] == "synthetic" and len(config.DATASETS) > 1
    assert "float32" in config.DTYPES
    assert len(models.frameworks(workload)) >= 2


def test_flops_of_mnist_by_hand():
    config = models.load("mnist", "config").Config(hidden_size=3, layers=2)
    forward = 784 * 3 + 3 * 3 + 3 * 10
    assert config.train_flops_per_item() == 2 * (forward + forward + 3 * 3 + 3 * 10)


@pytest.mark.parametrize("workload", ["", "nope", "../models", "mnist/", "__pycache__", "layers"])
def test_an_unknown_workload_is_one_line_with_what_there_is(workload):
    with pytest.raises(InputError, match="unknown workload") as raised:
        models.load(workload, "config")
    assert "mnist" in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("part", ["", "theano", "__init__", "../mnist/mlx", "mnist"])
def test_an_unknown_twin_is_one_line_with_what_there_is(part):
    with pytest.raises(InputError, match="no twin in") as raised:
        models.load("mnist", part)
    assert "mlx, pytorch" in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["", "theano", "__init__", "os"])
def test_an_unknown_framework_is_one_line_with_what_there_is(name):
    with pytest.raises(InputError, match="mlx, pytorch, tensorflow"):
        frameworks.load(name)
    assert frameworks.available(name) is False


@pytest.mark.parametrize("name", frameworks.names())
def test_a_framework_that_is_not_installed_says_what_to_do(monkeypatch, name):
    monkeypatch.setattr(frameworks, "available", lambda name: False)
    with pytest.raises(InputError, match=r"pip install -r requirements(-\w+)?\.txt"):
        frameworks.load(name)


@pytest.mark.parametrize("name", frameworks.names())
def test_a_framework_whose_library_is_broken_says_so(monkeypatch, name):
    """Such as the Linux wheel of MLX without its backend."""

    def fail(module):
        raise ImportError("libmlx.so: cannot open shared object file")

    monkeypatch.setattr(frameworks, "available", lambda name: True)
    monkeypatch.setattr(frameworks.importlib, "import_module", fail)
    with pytest.raises(InputError, match=r"libmlx\.so.*pip install -r requirements(-\w+)?\.txt"):
        frameworks.load(name)


def test_the_registries_import_no_framework(project):
    """Whether one is there is known without importing it: that costs seconds and a BLAS."""
    code = (
        "import sys, frameworks, models; frameworks.names(); models.names();"
        "[frameworks.available(n) for n in frameworks.names()];"
        "[models.load(w, p) for w in models.names() for p in ('config', 'data')];"
        "print([m for m in (*frameworks.packages(), 'torchvision', 'mlflow') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
