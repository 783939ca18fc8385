"""How commands speak: --help, --json, colour, progress, exit codes, completion; no process is started."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import signal
import sys
from collections.abc import Callable

import click
import pytest
from click.shell_completion import get_completion_class
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from entrypoints import __main__ as program
from entrypoints import commands, terminal
from entrypoints.options import Command, whole
from measurement.errors import InputError
from tests.entrypoints.conftest import ROOT

NAMES = [*commands.entries()]
UNITS = {
    "seconds", "gib", "usd", "share", "percent", "number", "numbers", "items", "threads", "ranks",
    "size", "accuracy", "perplexity", "error", "reach", "whole", "bytes", "batch", "tried", "exact",
}  # fmt: skip


# --- every command


@pytest.fixture(scope="module", params=NAMES)
def entry(request: pytest.FixtureRequest) -> tuple[str, click.Command]:
    return request.param, commands.load(request.param)


def test_help_is_enough_to_use_a_command(entry: tuple[str, click.Command]) -> None:
    name, command = entry
    done = CliRunner().invoke(command, ["--help"], prog_name=name, terminal_width=100)
    assert done.exit_code == 0, done.output
    assert command.help and len(command.help) > 20
    for option in command.params:
        assert isinstance(option, click.Option)
        assert option.help, f"{name} --{option.name} says nothing of itself"
        assert option.show_default, f"{name} --{option.name} does not show its default"
        inner = getattr(option.type, "kind", option.type)  # of Or
        if isinstance(inner, (click.types.IntParamType, click.types.FloatParamType)):
            said = set(re.findall(r"[a-z]+", option.help.lower()))
            assert said & UNITS, f"{name} --{option.name} has no unit: {option.help}"
        assert f"--{option.name}" in done.output


def test_help_ends_with_an_example_that_is_right(entry: tuple[str, click.Command]) -> None:
    name, command = entry
    output = CliRunner().invoke(command, ["--help"], prog_name=name, terminal_width=100).output
    head, example = output.rstrip().rsplit("\n", 1)
    assert head.endswith("Example:")
    words = example.split()
    assert words[:4] == ["mlflow", "run", ".", "-e"]
    assert words[4] == name or {words[4], name} == {"study", "main"}
    given_options = re.findall(r"-P (\w+)=", example)
    assert set(given_options) <= {option.name for option in command.params}


def test_every_command_takes_json_and_project_passes_it(entry: tuple[str, click.Command]) -> None:
    name, command = entry
    (option,) = [o for o in command.params if o.name == "json"]
    assert option.type.convert("false", option, None) is False
    assert "--json {json}" in commands.entries()[name]["command"]


def test_a_wrong_option_is_one_line_and_json_too(
    entry: tuple[str, click.Command], capsys: pytest.CaptureFixture[str]
) -> None:
    name, command = entry
    with pytest.raises(SystemExit) as stop:
        command.main(["--no_such", "1", "--json"])
    out, err = capsys.readouterr()
    assert stop.value.code == terminal.BAD_INPUT
    assert err.startswith("Error: ") and err.count("\n") == 1 and "no_such" in err
    said = json.loads(out)
    assert (said["exit_code"], said["result"], said["text"]) == (2, {}, [])
    assert "no_such" in said["error"] and "Error" not in said["error"]


# --- json


def made(run: Callable[..., None]) -> Command:
    return Command(
        "made",
        params=[click.Option(["--pairs"], type=whole(1), default=6)],
        callback=run,
    )


def ended(command: Command, *words: str) -> int:
    try:
        command.main([*words])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_json_is_all_of_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    def run(pairs: int) -> None:
        click.echo("mlx is faster")
        print("    ! FEW: 5 pairs. Run 6.")
        click.echo("working", err=True)
        terminal.result(pairs=pairs, ratio=float("nan"), arms=("a", "b"))
        terminal.result(more=True)

    assert ended(made(run), "--pairs", "7", "--json", "true") == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {
        "command": "made",
        "exit_code": 0,
        "error": None,
        "result": {"pairs": 7, "ratio": None, "arms": ["a", "b"], "more": True},
        "warnings": ["FEW: 5 pairs. Run 6."],
        "text": ["mlx is faster", "    ! FEW: 5 pairs. Run 6."],
    }
    assert "mlx is faster" in err and "working" in err


def test_without_json_results_are_text(capsys: pytest.CaptureFixture[str]) -> None:
    def run(pairs: int) -> None:
        click.echo("mlx is faster")
        terminal.result(pairs=pairs)

    assert ended(made(run), "--json", "false") == 0
    assert capsys.readouterr().out == "mlx is faster\n"


@pytest.mark.parametrize(("code", "said"), [(1, None), (75, None), (2, "what; expected this")])
def test_json_says_how_it_ended(
    capsys: pytest.CaptureFixture[str], code: int, said: str | None
) -> None:
    def run(pairs: int) -> None:
        if said:
            raise InputError(said)
        sys.exit(code)

    assert ended(made(run), "--json") == code
    told = json.loads(capsys.readouterr().out)
    assert (told["exit_code"], told["error"]) == (code, said)


def test_json_of_a_command_with_a_mistake_of_ours_is_no_success(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(pairs: int) -> None:
        raise RuntimeError("ours")

    before = sys.stdout
    with pytest.raises(RuntimeError):
        made(run).main(["--json"])
    assert sys.stdout is before and capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ([], False), (["--json"], True), (["--json", "--study", "a"], True), (["--json=true"], True),
        (["--json=false"], False), (["--json", "FALSE"], False), (["--json", "1"], True),
        (["--study", "json"], False),
    ],
)  # fmt: skip
def test_whether_json_is_asked_for(words: list[str], asked: bool) -> None:
    assert terminal.json_asked(words) is asked


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(VALUES)
def test_every_value_is_json_in_the_end(value: object) -> None:
    json.loads(json.dumps(terminal.plain(value), allow_nan=False))


# --- stopping


def test_sigterm_ends_a_command_as_ctrl_c_does(capsys: pytest.CaptureFixture[str]) -> None:
    closed = []

    def run(pairs: int) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        finally:
            closed.append(True)

    before = signal.getsignal(signal.SIGTERM)
    assert ended(made(run)) == terminal.STOPPED and closed
    assert "Stopped." in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == before


# --- colour and progress


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def warns(pairs: int) -> None:
    click.echo("mlx is faster\n    ! FEW: 5 pairs.")


def on_a_screen(patch: pytest.MonkeyPatch, **environment: str) -> str:
    """What `warns` shows on a terminal."""
    patch.delenv("NO_COLOR", raising=False)
    patch.setenv("TERM", "xterm")
    for name, value in environment.items():
        patch.setenv(name, value)
    shown = Screen()
    patch.setattr(sys, "stdout", shown)
    assert ended(made(warns)) == 0
    return shown.getvalue()


def test_a_warning_has_a_colour_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = on_a_screen(monkeypatch)
    assert shown == "mlx is faster\n\033[33m    ! FEW: 5 pairs.\033[0m\n"


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_no_colour_where_none_is_wanted(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    shown = on_a_screen(monkeypatch, **{name: value})
    assert shown == "mlx is faster\n    ! FEW: 5 pairs.\n"


def test_plain_text_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(made(warns)) == 0
    assert "\033" not in capsys.readouterr().out


def test_colour_is_in_one_place() -> None:
    others = [p for p in (ROOT / "entrypoints").rglob("*.py") if p.name != "terminal.py"]
    assert not [p for p in others if re.search(r"click\.(style|secho)|\\033\[", p.read_text())]


def test_progress_says_how_long_it_still_takes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter(range(0, 1000, 6))
    monkeypatch.setattr(terminal.time, "monotonic", lambda: float(next(ticks)))
    assert list(terminal.each("abcd", "letters", str)) == ["a", "b", "c", "d"]
    out, err = capsys.readouterr()
    assert out == "" and err.splitlines() == ["letters 2/4 b, 12 s left", "letters 4/4 d, 0 s left"]


def test_progress_is_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Screen()
    monkeypatch.setattr(sys, "stderr", shown)
    assert list(terminal.each([1, 2], "numbers", str)) == [1, 2]
    assert "numbers" in shown.getvalue() and "2/2" in shown.getvalue()


def test_long_loops_say_how_far_they_are() -> None:
    """A bar of click's own prints its label once where there is no terminal, and no time."""
    used = [
        p.name
        for p in (ROOT / "entrypoints").rglob("*.py")
        if "progressbar(" in p.read_text() and p.name not in ("terminal.py", "study.py")
    ]
    assert used == []  # a study says a line after every trial by itself


# --- exit codes


def test_the_document_has_the_exit_codes_of_the_code() -> None:
    text = (ROOT / "docs/TERMINAL.md").read_text(encoding="utf-8")
    table = text.split("## Exit codes")[1].split("\n## ")[0]
    rows = dict(re.findall(r"^\| (\d+) \| (.+) \|$", table, re.M))
    assert {int(code): said for code, said in rows.items()} == terminal.EXIT_CODES


def test_no_command_ends_with_another_code() -> None:
    for path in (ROOT / "entrypoints").glob("*.py"):
        if path.stem in ("rank", "worker", "node", "pod"):  # processes of ours, no commands
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "sys.exit":
                for value in ast.walk(node):
                    if isinstance(value, ast.Constant) and type(value.value) is int:
                        assert value.value in terminal.EXIT_CODES, f"{path}: {ast.unparse(node)}"


def test_keys_of_the_object_are_those_of_the_document() -> None:
    text = (ROOT / "docs/TERMINAL.md").read_text(encoding="utf-8")
    keys = re.findall(r"^  \| `(\w+)` \|", text, re.M)
    assert keys == list(json.loads(terminal.Said("x").as_json(0)))


# --- all commands as one


def test_the_list_has_every_command_with_a_sentence() -> None:
    done = CliRunner().invoke(program.group, ["--help"], terminal_width=100)
    assert done.exit_code == 0
    for name in NAMES:
        assert re.search(rf"^  {name} +\S.{{9}}", done.output, re.M), name


def test_a_command_runs_by_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["entrypoints", "analyze", "--no_such"])
    with pytest.raises(SystemExit) as stop:
        program.main()
    assert stop.value.code == 2 and "no_such" in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_asks_python(shell: str) -> None:
    text = program.script(shell)
    assert text.startswith(("framework-study()", "function framework-study"))
    assert f"{program.COMPLETE}={shell}_complete" in text
    assert "python -m entrypoints" in text.split("\n", 1)[1]
    assert "$1)" not in text and "$+commands" not in text


@pytest.mark.parametrize(
    ("words", "expected"),
    [("framework-study dec", "decide"), ("framework-study decide --prio", "--priority")],
)
def test_tab_completes_commands_and_options(
    monkeypatch: pytest.MonkeyPatch, words: str, expected: str
) -> None:
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    kind = get_completion_class("bash")
    assert kind is not None
    found = kind(program.group, {}, program.PROGRAM, program.COMPLETE).complete()
    assert found == f"plain,{expected}"
