"""The small real Llama checkpoint that tests use where it is (Karpathy's stories260K)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

STORIES = Path(os.environ.get("STUDY_TEST_DATA", "/nowhere"), "llama", "stories260K")
needs_stories = pytest.mark.skipif(
    not STORIES.is_dir(), reason="needs STUDY_TEST_DATA with llama/stories260K"
)
