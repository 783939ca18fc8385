"""Every example in the docstrings runs."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import analysis

MODULES = [module.name for module in pkgutil.walk_packages(analysis.__path__, "analysis.")]
STATISTICS = [name for name in MODULES if name.startswith("analysis.statistics.")]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    module = importlib.import_module(name)
    result = doctest.testmod(module)
    assert result.failed == 0


@pytest.mark.parametrize("name", STATISTICS)
def test_every_public_function_has_an_example(name):
    module = importlib.import_module(name)
    without = [
        key
        for key, value in vars(module).items()
        if callable(value)
        and not isinstance(value, type)
        and not key.startswith("_")
        and getattr(value, "__module__", "") == module.__name__
        and ">>>" not in (value.__doc__ or "")
    ]
    assert without == []
