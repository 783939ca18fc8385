"""Whole reports, letter by letter but for the pictures: a change of the page is seen as one.

After a change that is meant, write them anew and read the difference:

    REGENERATE_GOLDEN=1 python -m pytest tests/analysis/test_golden.py -n 0 && git diff tests/analysis/golden
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import shown

from analysis import figures, page, report, workloads_figures, workloads_report

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def written():
    findings, several = shown.findings(), shown.several()
    drawings = figures.draw(findings)
    whole = workloads_report.page(
        several, workloads_figures.draw(several), {"lm": "lm/report.html"}
    )
    return {
        "study.html": report.html(findings, drawings),
        "study.md": report.markdown(findings, drawings),
        "workloads.html": page.html(whole),
        "workloads.md": page.markdown(whole),
    }


def normalised(text: str) -> str:
    """Without what a library draws, and without the style sheet, which has tests of its own."""
    text = re.sub(r"(<svg [^>]*?)viewBox=\"[^\"]*\">.*?</svg>", r"\1>", text, flags=re.S)
    text = re.sub(r"data:image/png;base64,[^\"]*", "data:", text)
    return re.sub(r"<style>.*?</style>", "<style></style>", text, flags=re.S)


@pytest.mark.parametrize("name", ["study.html", "study.md", "workloads.html", "workloads.md"])
def test_the_report_is_as_it_was(written, name):
    found, path = normalised(written[name]), GOLDEN / name
    if os.environ.get("REGENERATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(found, encoding="utf-8")
    expected = path.read_text(encoding="utf-8")
    assert found.splitlines() == expected.splitlines(), (
        f"{name} changed: see this file's first lines"
    )


def test_both_forms_say_the_same(written):
    """Every sentence, cell and alternative text of the Markdown is in the page too."""
    for one in ("study", "workloads"):
        html, text = written[f"{one}.html"], written[f"{one}.md"]
        page_words = " ".join(_plain(html).split())
        for line in text.splitlines():
            for part in re.split(
                r"(?<!\\)\||\*\*", re.sub(r"^(#+|-|!?\[|\|)\s*|\]\(.*\)$", "", line)
            ):
                said = " ".join(_plain(part.replace("\\|", "|")).split()).strip()
                assert not said.strip("-") or said in page_words, said


def _plain(text: str) -> str:
    labels = " ".join(re.findall(r'aria-label="([^"]*)"', text))
    without = re.sub(r"<style>.*?</style>|<svg .*?</svg>", " ", text, flags=re.S)
    plain = re.sub(r"<[^>]+>", " ", without) + " " + labels
    for entity, character in (
        ("&#34;", '"'), ("&quot;", '"'), ("&#39;", "'"), ("&#x27;", "'"), ("&lt;", "<"),
        ("&gt;", ">"), ("&le;", "≤"), ("&amp;", "&"),
    ):  # fmt: skip
        plain = plain.replace(entity, character)
    return plain
