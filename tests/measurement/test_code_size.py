"""Counts against snippets counted by hand; an explanation changes none of them."""

from __future__ import annotations

import ast
import io
import tokenize
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import models
from measurement.code_size import CodeSize, code_size, imported, used

TWINS = sorted(
    Path(models.__file__).parent / workload / f"{framework}.py"
    for workload in models.names()
    for framework in models.frameworks(workload)
)

# (text, source lines, logical lines, complexity of all functions, of the largest)
COUNTED_BY_HAND = [
    ("", 0, 0, 0, 0),
    ("# nothing\n\n", 0, 0, 0, 0),
    ("x = 1\n", 1, 1, 0, 0),
    ("x = 1; y = 2\n", 1, 2, 0, 0),
    ("import os\nx = (\n    1,\n    2,\n)\n", 5, 2, 0, 0),
    ("def f():\n    return 1\n", 2, 2, 1, 1),
    ("def f(a):\n    if a:\n        return 1\n    return 2\n", 4, 4, 2, 2),
    ("def f(a, b):\n    if a and b or a:\n        return 1\n    return 2\n", 4, 4, 4, 4),
    ("def f(a):\n    return [i for i in a if i]\n", 2, 2, 3, 3),
    ("def f(a):\n    for i in a:\n        pass\n    while a:\n        pass\n", 5, 5, 3, 3),
    ("def f(a):\n    return 1 if a else 2\n\n\ndef g():\n    return f(1)\n", 4, 4, 3, 2),
    ("def f():\n    def g(a):\n        return a or 1\n    return g\n", 4, 4, 3, 2),
    (
        "def f():\n    class A:\n        def g(self, a):\n            return a or 1\n    return A\n",
        5, 5, 3, 2,
    ),
    ("class A:\n    x: int = 1\n\n    def f(self):\n        assert self.x\n", 4, 4, 2, 2),
    ("def f():\n    try:\n        g()\n    except ValueError:\n        pass\n", 5, 4, 2, 2),
    ('def f():\n    """Only this."""\n', 2, 2, 1, 1),
    ('"""Module."""\n\n\nclass A:\n    """Two\n    lines."""\n\n    x = 1\n', 2, 2, 0, 0),
    ('x = """not\na docstring"""\n', 2, 1, 0, 0),
    ("x = f(  # why\n    1,\n    # and why\n    2,\n)\n", 4, 1, 0, 0),
    ("@g\ndef f():\n    return 1\n", 3, 2, 1, 1),
]  # fmt: skip


@pytest.mark.parametrize(("text", "lines", "logical", "complexity", "most"), COUNTED_BY_HAND)
def test_as_counted_by_hand(
    text: str, lines: int, logical: int, complexity: int, most: int
) -> None:
    assert code_size(text) == CodeSize(lines, logical, complexity, most)


def places(text: str) -> tuple[list[int], list[int]]:
    """(rows before which a line of comment may stand, rows that may end in one): not in a string."""
    rows = range(1, len(text.splitlines()) + 1)
    inside = {
        row
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.STRING
        for row in range(token.start[0], token.end[0])
    }
    return [r for r in rows if r - 1 not in inside], [r for r in rows if r not in inside]


def with_comments(text: str, data: st.DataObject) -> str:
    before, after = places(text)
    whole = data.draw(st.sets(st.sampled_from(before), max_size=20))
    ends = data.draw(st.sets(st.sampled_from(after), max_size=20))
    made = []
    for row, line in enumerate(text.splitlines(), start=1):
        if row in whole:
            made += ['        # if a: \'why\' """ and why', ""]
        made.append(f"{line}  # for x in y: \u00fc" if row in ends else line)
    return "\n".join(made) + "\n"


def with_docstrings(text: str, data: st.DataObject) -> str:
    """A docstring for some of the functions and classes that have none."""
    lines = text.splitlines()
    owners = [
        n
        for n in ast.walk(ast.parse(text))
        if isinstance(n, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(n) is None
    ]
    chosen = [owner for owner in owners if data.draw(st.booleans())]
    for owner in sorted(chosen, key=lambda n: -n.body[0].lineno):
        first = owner.body[0]
        decorators = getattr(first, "decorator_list", [])
        row = min(n.lineno for n in (first, *decorators))
        indent = " " * first.col_offset
        said = data.draw(st.sampled_from(['"""One line."""', '"""Two\n\nlines: if \u00e4."""']))
        lines[row - 1 : row - 1] = (indent + said).split("\n")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("path", TWINS, ids=lambda p: f"{p.parent.name}-{p.stem}")
@given(data=st.data())
def test_an_explanation_costs_nothing(path: Path, data: st.DataObject) -> None:
    text = path.read_text(encoding="utf-8")
    assert code_size(with_comments(text, data)) == code_size(text)
    assert code_size(with_docstrings(text, data)) == code_size(text)


@pytest.mark.parametrize("path", TWINS, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_a_statement_costs_one(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    before, after = code_size(text), code_size(text + "\n\nif loss:\n    loss = 1\n")
    assert after.source_lines == before.source_lines + 2
    assert after.logical_lines == before.logical_lines + 2
    assert after.complexity == before.complexity > 0


def test_what_a_twin_needs_of_a_module_and_nothing_else() -> None:
    module = (
        '"""Doc."""\nimport os\n\nA = 1\nB: int = 2\n\n\n@wrap(B)\ndef f():\n    return g() + A\n\n\n'
        "def g():\n    return f\n\n\nclass C:\n    pass\n"
    )
    text = "from m.layers import f as h, C\nfrom m.other import g\nimport m.layers\n"
    assert imported(text, "m.layers") == {"f", "C"}
    assert "class" not in used(module, {"f"})
    assert code_size(used(module, {"f"})) == CodeSize(7, 6, 2, 1)
    assert code_size(used(module, {"C"})) == CodeSize(2, 2, 0, 0)
    assert used(module, {"nothing"}) == ""
