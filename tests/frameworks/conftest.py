"""Every framework that is installed, on every device that is there."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
from networks import NAMES, SHAPES, parts_of

import frameworks
from measurement.errors import InputError
from measurement.framework import Framework


@pytest.fixture(params=NAMES)
def name(request) -> str:
    return request.param


@pytest.fixture(params=["cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
def framework(name, request) -> Framework:
    try:
        return frameworks.load(name, request.param)
    except InputError as error:
        pytest.skip(str(error))


@pytest.fixture
def parts(name) -> ModuleType:
    return parts_of(name)


@pytest.fixture
def values(rng) -> dict[str, np.ndarray]:
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
