"""Sizes of the classifier of points: FEATURES -> CLASSES, trained by SGD."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.parameters import Parameters

FEATURES, CLASSES = 8, 4

ITEM = "point"
KIND = "train"
DATASETS = (
    "scattered",
    "synthetic",
)  # the first one is what a study runs on, the last one what tests do
OWN_DATA = ""
AS_SHIPPED = False
DTYPES = ("float32",)
OPTIMISER = "sgd"
QUALITY = "eval/accuracy"
TARGET, EPOCHS = 0.9, 3
STUDY_TARGET, STUDY_EPOCHS = 0.9, 2


@dataclass(frozen=True)
class Config:
    """Those that do not end in `_items` are options of a trial."""

    batch_size: int = 64
    learning_rate: float = 0.5
    train_items: int = 4_096
    test_items: int = 512

    def check(self) -> None:
        """Raises InputError for sizes that cannot be; all that are above 0 can."""

    def parameters(self) -> Parameters:
        """name -> (shape, initial) in the layout of PyTorch; an integer is the fan in."""
        return {"head.weight": ((CLASSES, FEATURES), FEATURES), "head.bias": ((CLASSES,), FEATURES)}

    def train_flops_per_item(self) -> int:
        """Multiply-adds count two: forward, and the gradient of the weight."""
        return 2 * self.infer_flops_per_item()

    def infer_flops_per_item(self) -> int:
        return 2 * FEATURES * CLASSES

    def tokens_per_item(self) -> int:
        return 0

    def inference_batch(self) -> int:
        return self.test_items

    def quality(self, scores: np.ndarray, labels: np.ndarray) -> float:
        return float(np.mean(scores))

    def details(self, scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        return {}

    def throughput_batches(self) -> tuple[int, ...]:
        return ()

    def example(self) -> np.ndarray:
        """What a client sends: (4, FEATURES) float32."""
        return np.eye(CLASSES, FEATURES, dtype=np.float32)


SMOKE = Config(train_items=640, test_items=64)
PRESETS = {"smoke": SMOKE, "cpu": Config()}
DEFAULT_PRESET = {"cpu": "cpu", "gpu": "cpu"}
PLANS: dict[str, dict[str, float]] = {
    "smoke": {"audit_seconds": 0.05, "inference_seconds": 0.05, "ceiling_seconds": 0.05}
}
