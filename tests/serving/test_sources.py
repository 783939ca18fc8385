"""The files that travel with a model are those it imports, and no more."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving import sources


def _names(paths: list[Path]) -> set[str]:
    return {path.as_posix() for path in paths}


def _tree(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("statement", "brings"),
    [
        ("import pkg.b", "pkg/b.py"),
        ("from pkg import b", "pkg/b.py"),
        ("from pkg.b import name", "pkg/b.py"),
        ("from . import b", "pkg/b.py"),
        ("from .b import name", "pkg/b.py"),
        ("from .. import top", "top.py"),
        ("def late():\n    from pkg.sub import c", "pkg/sub/c.py"),
        ("import pkg.sub.c as other", "pkg/sub/__init__.py"),
    ],
)
def test_every_spelling_of_an_import_is_followed(
    tmp_path: Path, statement: str, brings: str
) -> None:
    files = {
        "pkg/__init__.py": "",
        "pkg/a.py": statement,
        "pkg/b.py": "import numpy",
        "pkg/sub/__init__.py": "",
        "pkg/sub/c.py": "",
        "pkg/unused.py": "",
        "top.py": "",
    }
    found = _names(sources.closure(["pkg/a.py"], _tree(tmp_path, files)))
    assert {"pkg/__init__.py", "pkg/a.py", brings} <= found
    assert "pkg/unused.py" not in found


def test_files_that_import_each_other_end(tmp_path: Path) -> None:
    root = _tree(tmp_path, {"a.py": "import b", "b.py": "import a"})
    assert _names(sources.closure(["a.py"], root)) == {"a.py", "b.py"}


def test_the_mlx_model_brings_its_twin_and_not_the_other_framework() -> None:
    roots = ["serving/mlx_flavor.py", "frameworks/mlx.py", "models/mnist/mlx.py"]
    found = _names(sources.closure(roots))
    assert {"models/mnist/config.py", "models/__init__.py", "frameworks/__init__.py"} <= found
    assert "serving/trained.py" in found
    assert not {"models/mnist/pytorch.py", "frameworks/pytorch.py", "models/mnist/data.py"} & found
    assert not any(name.startswith(("tracking", "analysis", "entrypoints")) for name in found)
