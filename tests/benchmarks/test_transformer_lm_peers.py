"""The benchmark of the language model refuses what is not comparable. No figure is checked."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import frameworks
import models
from benchmarks import common, training, transformer_lm_peers
from measurement.errors import InputError

TWINS = [f for f in models.frameworks("transformer_lm") if f not in frameworks.OWN_ENVIRONMENT]
needs_all = pytest.mark.skipif(
    not all(frameworks.available(name) for name in TWINS),
    reason="needs every framework of the workload",
)


def options(*more):
    parser = common.parser("", pairs=6, dataset="synthetic", preset="smoke")
    return parser.parse_args(["--blas", "shipped", *more])


def test_a_missing_checkout_is_one_line(monkeypatch, capsys, tmp_path):
    for words, said in (
        ([], "--mlx_examples is missing: expected a checkout"),
        (["--mlx_examples", str(tmp_path)], "holds transformer_lm/main.py"),
    ):
        monkeypatch.setattr(sys, "argv", ["transformer_lm_peers", "--framework", "mlx", *words])
        assert transformer_lm_peers.main() == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1


@needs_all
@pytest.mark.parametrize("name", TWINS)
def test_a_peer_with_other_losses_is_refused_before_anything_is_timed(name):
    session = common.session(name, options(), "off", "transformer_lm")
    same = common.session(name, options(), "off", "transformer_lm")
    same.reset()
    note = training.check_equal_work(session, "a copy", training.ours(same))
    assert "equal work, a copy" in note
    with pytest.raises(InputError, match="a copy that went on: the losses of the first steps"):
        training.check_equal_work(session, "a copy that went on", training.ours(same))


def test_a_script_is_imported_without_being_run(tmp_path: Path):
    (tmp_path / "datasets.py").write_text("WORDS = 3\n")
    script = tmp_path / "main.py"
    script.write_text("import datasets\n\nif __name__ == '__main__':\n    raise SystemExit\n")
    assert transformer_lm_peers.imported(script)["datasets"].WORDS == 3
    assert "datasets" not in sys.modules and str(tmp_path) not in sys.path
