"""How large a piece of Python is, counted by radon: lines and branching. Text is read, never run.

Comments and docstrings are taken out first, so that an explanation costs nothing. What is left:

    source lines    physical lines that hold code
    logical lines   statements, by Python's parser, since radon takes an annotated assignment for two:
                    one that spans lines counts once, a compound one 1 and its body; a clause
                    (else, except) and a decorator are none
    complexity      McCabe's cyclomatic complexity: of a function 1, and 1 more for every branch, loop,
                    comprehension and its conditions, `and`, `or`, `except`; summed over all functions,
                    methods and closures, and that of the largest one
"""

from __future__ import annotations

import ast
import io
import tokenize
from dataclasses import dataclass

from radon.raw import analyze
from radon.visitors import ComplexityVisitor

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True)
class CodeSize:
    """complexity_most: of the function that has the most; 0 where there is no function."""

    source_lines: int
    logical_lines: int
    complexity: int
    complexity_most: int


def code_size(text: str) -> CodeSize:
    """The size of some source text. Raises SyntaxError."""
    tree = ast.parse(text)
    bare = _without_comments(_without_docstrings(text, tree))
    statements = sum(isinstance(node, ast.stmt) for node in ast.walk(ast.parse(bare)))
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    # Each alone: radon's own list leaves out the methods of a class inside a function.
    each = [ComplexityVisitor.from_ast(node).functions[0].complexity for node in functions]
    return CodeSize(analyze(bare).sloc, statements, sum(each), max(each, default=0))


def imported(text: str, module: str) -> set[str]:
    """The names that some source text imports from a module, wherever the import stands."""
    return {
        alias.name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ImportFrom) and node.module == module and not node.level
        for alias in node.names
    }


def used(text: str, names: set[str]) -> str:
    """The top-level definitions of a module that some names need, as source text: their own, and
    those that these mention in turn. Imports of the module are left out.

    >>> used("A = 1\\ndef f(): return A\\ndef g(): return f()\\ndef h(): return 2", {"g"})
    'A = 1\\ndef f(): return A\\ndef g(): return f()\\n'
    """
    lines = text.split("\n")  # as ast counts them; splitlines also breaks at form feeds
    statements = [
        node
        for node in ast.parse(text).body
        if not isinstance(node, ast.Import | ast.ImportFrom | ast.Expr)
    ]
    wanted: set[int] = set()
    pending = set(names)
    while pending:
        found = {i for i, node in enumerate(statements) if _defines(node) & pending} - wanted
        wanted |= found
        pending = {name for i in found for name in _mentions(statements[i])}
    pieces = []
    for i in sorted(wanted):
        node = statements[i]
        decorators = node.decorator_list if isinstance(node, Definition) else []
        first = min([node.lineno, *(decorator.lineno for decorator in decorators)])
        pieces += lines[first - 1 : node.end_lineno]
    return "".join(f"{line}\n" for line in pieces)


def _defines(node: ast.stmt) -> set[str]:
    if isinstance(node, Definition):
        return {node.name}
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and _is_stored(n)}


def _is_stored(name: ast.Name) -> bool:
    return isinstance(name.ctx, ast.Store)


def _mentions(node: ast.stmt) -> set[str]:
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and not _is_stored(n)}


def _without_docstrings(text: str, tree: ast.Module) -> str:
    """Docstrings blanked; `pass` where one is the whole body, or shares its line with code."""
    lines = [line.encode() for line in text.split("\n")]  # the offsets of a node count bytes
    for owner in ast.walk(tree):
        if not isinstance(owner, ast.Module | Definition) or ast.get_docstring(owner) is None:
            continue
        node = owner.body[0]
        first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
        before, after = lines[first][: node.col_offset], lines[last][node.end_col_offset :]
        alone = not before.strip() and not after.partition(b"#")[0].strip()
        keep = len(owner.body) == 1 and not isinstance(owner, ast.Module)
        lines[first : last + 1] = [b""] * (last + 1 - first)
        lines[last] = before + (b"" if alone and not keep else b"pass") + after
    return "".join(line.decode() + "\n" for line in lines)


def _without_comments(text: str) -> str:
    """Comments cut off; radon by itself counts a comment between brackets as a line of source."""
    lines = text.split("\n")
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column].rstrip()
    return "".join(f"{line}\n" for line in lines)
