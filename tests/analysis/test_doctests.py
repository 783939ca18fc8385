"""Every example in the docstrings runs."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import analysis

MODULES = [module.name for module in pkgutil.iter_modules(analysis.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    module = importlib.import_module(f"analysis.{name}")
    result = doctest.testmod(module)
    assert result.failed == 0


@pytest.mark.parametrize("name", ["statistic", "diagnostics", "survival", "orderstat"])
def test_every_public_function_has_an_example(name):
    module = importlib.import_module(f"analysis.{name}")
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
