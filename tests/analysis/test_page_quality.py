"""A report stands alone, and who cannot see it, holds a phone or prints it reads the same."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import shown
from shown import Reader

from analysis import figures, page, report, style, vector, workloads_figures, workloads_report

ROOT = Path(__file__).resolve().parents[2]
CSS = (ROOT / "analysis/page.css").read_text()


@pytest.fixture(scope="module")
def drawings():
    return figures.draw(shown.findings())


@pytest.fixture(scope="module", params=["study", "workloads"])
def html(request, drawings):
    if request.param == "study":
        return report.html(shown.findings(), drawings)
    found = shown.several()
    return page.html(workloads_report.page(found, workloads_figures.draw(found), {}))


def test_it_needs_no_network_and_no_other_file(html):
    assert not re.search(r"https?:|<script|@import|<link|<iframe|url\((?!#)", html)
    found = Reader(html)
    for address in found.addresses:
        assert address.startswith(("#", "data:image/png;base64,"))
        if address.startswith("#"):
            assert address[1:] in found.ids


def test_no_name_is_given_twice(html):
    ids = Reader(html).ids
    assert len(ids) == len(set(ids)) > 0


def test_every_figure_has_words_a_caption_and_a_table_behind_it(html):
    found = Reader(html)
    assert found.figures and len(found.alts) == 2 * len(found.figures)
    assert all(len(alt) > 40 for alt in found.alts)
    for figure in found.figures:
        assert figure == {"img": 2, "table": 1, "figcaption": 1}  # wide, and for a phone


def test_headings_follow_each_other_and_landmarks_are_there(html):
    found = Reader(html)
    assert found.headings[0] == 1 and found.headings.count(1) == 1
    for before, after in zip(found.headings, found.headings[1:], strict=False):
        assert after <= before + 1
    for landmark in ("header", "main", "nav"):
        assert found.tags.count(landmark) == 1
    assert '<html lang="en">' in html and "<title>" in html


def test_every_head_of_a_table_says_of_what(html):
    heads = Reader(html).heads
    assert heads and {head.get("scope") for head in heads} == {"col", "row"}


def test_tables_that_are_wider_than_a_phone_scroll_and_take_the_keyboard(html):
    assert html.count("<table") == html.count('<div class="scroll" role="region" aria-label=')
    assert html.count('class="scroll"') == html.count('tabindex="0"')


def test_the_verdict_and_its_picture_come_first(html):
    at = [html.index(mark) for mark in ('class="verdict"', "<figure>", "<nav", "<h2")]
    assert at == sorted(at)
    assert html.count("n = ") >= 3 and "flags: " in html


def luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance of sRGB."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def themes() -> list[dict[str, str]]:
    """The names of colours and their values: of light and paper, and of dark screens."""
    found = [
        dict(re.findall(r"(--[a-z0-9-]+): (#[0-9a-f]{6})", block))
        for block in re.findall(r":root \{(.*?)\}", CSS, re.S)
    ]
    assert len(found) == 2 and found[0].keys() == found[1].keys()
    return found


def test_the_formula_is_the_one_of_wcag():
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("dark", [0, 1])
def test_text_and_marks_stand_out(dark):
    theme = themes()[dark]
    for name in ("ink", "soft", "link", "better", "worse", "same", "warn"):
        for back in ("back", "card"):
            assert contrast(theme[f"--{name}"], theme[f"--{back}"]) >= 4.5, (name, back)
    for number in range(len(style.LIGHT.arms)):  # parts of a figure: 3 to 1
        assert contrast(theme[f"--arm-{number}"], theme["--back"]) >= 3, number


def test_the_page_has_the_colours_that_are_drawn():
    light, dark = themes()
    for theme, values in ((style.LIGHT, light), (style.DARK, dark)):
        assert [values[f"--arm-{i}"] for i in range(len(theme.arms))] == list(theme.arms)
        assert (values["--ink"], values["--line"], values["--back"]) == (
            theme.ink, theme.faint, theme.back,
        )  # fmt: skip
    assert len(vector.VARIABLES) == 3 + len(style.LIGHT.arms)  # no colour stands for two


def test_no_colour_of_a_figure_is_its_own(drawings):
    for drawing in drawings:
        for svg in (drawing.svg, drawing.narrow):
            text = re.sub(r'href="data:[^"]*"', "", svg)
            assert not re.findall(r"#[0-9a-fA-F]{6}\b(?=[;\"])", text), drawing.name
            assert "var(--arm-" in text and "DejaVu" not in text


def test_a_phone_gets_figures_of_its_own_width(drawings):
    for drawing in drawings:
        widths = [
            float(re.search(r'viewBox="0 0 ([\d.]+)', svg)[1])
            for svg in (drawing.svg, drawing.narrow)
        ]
        assert widths == [72 * style.LIGHT.width, 72 * style.PHONE.width]
        sizes = [float(s) for s in re.findall(r"font-size: ([\d.]+)px", drawing.narrow)]
        # On 375 px a figure has 349: so many CSS pixels has its smallest letter.
        assert sizes and min(sizes) * 349 / widths[1] >= 10, drawing.name


def test_print_is_light_and_shows_the_tables_behind_the_figures():
    assert "@media screen and (prefers-color-scheme: dark)" in CSS
    assert CSS.count("prefers-color-scheme: dark") == 1
    printed = CSS[CSS.index("@media print") :]
    assert "details-content" in printed and "break-inside: avoid" in printed


COMPUTES = {
    "median", "mean", "average", "quantile", "percentile", "std", "var", "sum", "cumsum", "exp", "fsum",
}  # fmt: skip
SHOW_ONLY = (
    "cells", "code_size", "figure_tables", "figures", "forest", "page", "report", "study_method",
    "study_page", "trial_figures", "workloads_figures", "workloads_report",
)  # fmt: skip


@pytest.mark.parametrize("module", SHOW_ONLY)
def test_nothing_is_computed_where_it_is_shown(module):
    """No statistic of any kind, and where there is no picture to place, no arithmetic but 100 for %."""
    tree = ast.parse((ROOT / f"analysis/{module}.py").read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            name = node.func.id if isinstance(node.func, ast.Name) else name
            counts = isinstance(node.func, ast.Name) and name == "sum" and module == "trial_figures"
            assert name not in COMPUTES or counts, f"{module}:{node.lineno} {name}"
        drawn = module in ("forest", "trial_figures", "page")
        if isinstance(node, ast.BinOp) and not drawn:
            assert not isinstance(node.op, ast.Div | ast.Sub | ast.Pow), f"{module}:{node.lineno}"
