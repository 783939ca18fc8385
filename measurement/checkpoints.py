"""What a training has come to after an epoch, on disk, so that a process that is started anew goes on
from there: arrays as safetensors, the history of its epochs as JSON."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

KEPT = 2  # ranks on two hosts may end one epoch apart


class Checkpoints:
    """Of one process in one folder. A checkpoint is whole or it is not there: its history, which makes
    it one, is written last and put in place at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, epochs: int, arrays: Mapping[str, np.ndarray], history: dict[str, Any]) -> None:
        """Keeps the state after `epochs` epochs, and the one before it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        save_file(dict(arrays), self._arrays(epochs))
        part = self._history(epochs).with_suffix(".part")
        with part.open("w") as stream:
            stream.write(json.dumps(history))
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(self._history(epochs))
        for old in self.epochs()[:-KEPT]:
            self._history(old).unlink()
            self._arrays(old).unlink()

    def epochs(self) -> list[int]:
        """After how many epochs there is a checkpoint, ascending."""
        found = (re.fullmatch(r"epoch-(\d+)\.json", p.name) for p in self.folder.glob("epoch-*"))
        return sorted(int(match[1]) for match in found if match)

    def read(self, epochs: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """(arrays, history) after `epochs` epochs."""
        history: dict[str, Any] = json.loads(self._history(epochs).read_text())
        return load_file(self._arrays(epochs)), history

    def _arrays(self, epochs: int) -> Path:
        return self.folder / f"epoch-{epochs}.safetensors"

    def _history(self, epochs: int) -> Path:
        return self.folder / f"epoch-{epochs}.json"
