"""What an exported PyTorch graph (.pt2, a zip archive) says besides the graph: every node carries the
stack of the code that made it, with the folders of the machine where that was."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

_TRACE = "stack_trace"
_LARGEST = 256 << 20  # bytes of the graph's description


def without_traces(path: Path) -> None:
    """Rewrites an archive without them; tensors are copied as they are. Raises OSError."""
    part = path.with_suffix(".part")
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(part, "w") as written:
        for member in archive.infolist():
            content = archive.read(member)
            if member.filename.endswith(".json") and len(content) <= _LARGEST:
                tree = json.loads(content)
                if _dropped(tree):
                    content = json.dumps(tree, ensure_ascii=False).encode()
            written.writestr(
                zipfile.ZipInfo(member.filename), content
            )  # stored, as PyTorch wants it
    part.replace(path)


def _dropped(tree: Any) -> int:
    """How many traces went."""
    found, waiting = 0, [tree]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            found += one.pop(_TRACE, None) is not None
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
    return found
