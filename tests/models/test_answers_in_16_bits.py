"""Answers in 16 bits are judged by how good each model holds its own for."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from twins import TRAINED, config_of, here, needs_all, session

from measurement.ledger import put_out, single_put_out

BOUND = 0.02  # see measurement.audit


@cache
def opened(workload: str, framework: str, dtype: str) -> Any:
    return session(workload, framework, config_of(workload), dtype=dtype)


def said(workload: str, framework: str, dtype: str) -> dict[str, Any]:
    one = opened(workload, framework, dtype)
    work = one.work()
    singles = [work.predict_one(i) for i in range(2)]
    return {
        **put_out(work.predict_all(), one.framework, work.judge),
        **single_put_out(singles, one.framework, work.judge),
    }


@needs_all
@pytest.mark.parametrize("workload", TRAINED)
def test_sound_twins_hold_their_answers_for_as_good(workload):
    first, *others = (said(workload, framework, "bfloat16") for framework in here(workload))
    for other in others:
        assert other["answer_quality"] == pytest.approx(first["answer_quality"], rel=BOUND / 5)
        assert other["single_answer_quality"] == pytest.approx(
            first["single_answer_quality"], rel=BOUND / 5
        )


@pytest.mark.parametrize("workload", TRAINED)
def test_in_float32_the_answers_themselves_are_compared(workload):
    assert set(said(workload, "pytorch", "float32")) == {"answers", "single_answers"}


@needs_all
@pytest.mark.parametrize("framework", ["mlx", "pytorch"])
def test_words_that_are_not_the_likeliest_are_found(framework):
    """Words were 0.47 of their norm apart in sound twins; half of them elsewhere are 0.7."""
    one = opened("transformer_lm", framework, "bfloat16")
    words = np.asarray(one.framework.read(one.work().predict_all()[0]))
    sound = one._judge({0: words})
    moved = words.copy()
    moved[::2] = np.roll(words, 1, axis=0)[::2]
    alike = np.broadcast_to(words[:1], words.shape)
    assert one._judge({0: moved}) > (1 + 5 * BOUND) * sound
    assert one._judge({0: alike}) > (1 + 5 * BOUND) * sound


def test_answers_of_another_shape_are_no_crash():
    """Of a twin that puts out more rows, or fewer: as many as the batch has are judged."""
    one = opened("mnist", "pytorch", "bfloat16")
    digits = np.asarray(one.framework.read(one.work().predict_all()[0]))
    for given in (np.concatenate([digits, digits]), digits[:1]):
        assert one._judge({0: given}) == 1
