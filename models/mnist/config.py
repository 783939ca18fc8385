"""Sizes of the MNIST classifier: 784 -> hidden_size x layers (ReLU) -> 10, trained by SGD."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.parameters import Initial, Parameters

PIXELS = 784
CLASSES = 10
# Of the training pixels divided by 255; the usual constants of PyTorch's own MNIST example. Without
# them plain SGD at 0.1 ends at 95 % after ten epochs instead of 96 to 97 %.
PIXEL_MEAN, PIXEL_STD = 0.1307, 0.3081

ITEM = "image"
KIND = "train"
DATASETS = ("mnist", "synthetic")
OWN_DATA = ""
# Whether a study on a Linux CPU also runs MLX as its wheel ships, on the reference BLAS: minutes here.
AS_SHIPPED = True
DTYPES = ("float32", "tf32", "bfloat16")
OPTIMISER = "sgd"
QUALITY = "eval/accuracy"
TARGET, EPOCHS = 0.96, 10
# Of a study, which repeats a training many times: three epochs, and what they reach.
STUDY_TARGET, STUDY_EPOCHS = 0.94, 3


def as_sent(items: np.ndarray) -> np.ndarray:
    """Standardised pixels -> pixels in [0, 1], which is what `answer` is given; float32."""
    return np.clip(items * PIXEL_STD + PIXEL_MEAN, 0, 1).astype(np.float32)


@dataclass(frozen=True)
class Config:
    """The study's values; `hidden_size`, `layers`, `batch_size` and `learning_rate` are options."""

    hidden_size: int = 32
    layers: int = 2
    batch_size: int = 256
    learning_rate: float = 0.1
    train_items: int = 60_000
    test_items: int = 10_000

    def widths(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of every linear layer, first to last."""
        sizes = [PIXELS, *[self.hidden_size] * self.layers, CLASSES]
        return list(zip(sizes, sizes[1:], strict=False))

    def check(self) -> None:
        """Every size above 0 is possible."""

    def parameters(self) -> Parameters:
        """name -> (shape, fan in) of every parameter, in the (out, in) layout of both frameworks."""
        names = [f"hidden.{i}.linear" for i in range(self.layers)] + ["head"]
        shapes: dict[str, tuple[tuple[int, ...], Initial]] = {}
        for name, (inputs, outputs) in zip(names, self.widths(), strict=True):
            shapes[f"{name}.weight"] = ((outputs, inputs), inputs)
            shapes[f"{name}.bias"] = ((outputs,), inputs)
        return shapes

    def train_flops_per_item(self) -> int:
        """Multiply-adds count two. Forward, weight gradients, and input gradients of all layers
        but the first, whose input is data: no framework computes that one."""
        products = [inputs * outputs for inputs, outputs in self.widths()]
        return 2 * (3 * sum(products) - products[0])

    def infer_flops_per_item(self) -> int:
        """The forward pass."""
        return 2 * sum(inputs * outputs for inputs, outputs in self.widths())

    def tokens_per_item(self) -> int:
        """An image is no text."""
        return 0

    def inference_batch(self) -> int:
        """The whole test set at once, as the published scripts do."""
        return self.test_items

    def quality(self, scores: np.ndarray, labels: np.ndarray) -> float:
        """Accuracy: the mean of 1 where the answer is right, else 0."""
        return float(np.mean(scores))

    def details(self, scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Nothing else is asked of the test set."""
        return {}

    def throughput_batches(self) -> tuple[int, ...]:
        """No batch but that of `inference_batch` is timed."""
        return ()

    def example(self) -> np.ndarray:
        """(4, pixels) float32 in [0, 1]: a vertical stroke, which a trained network takes for a 1."""
        side = round(PIXELS**0.5)
        image = np.zeros((side, side), np.float32)
        image[side // 7 : -side // 7, side // 2 - 1 : side // 2 + 1] = 1.0
        return np.repeat(image.reshape(1, PIXELS), 4, axis=0)


SMOKE = Config(train_items=2_048, test_items=1_000)
# The network is small enough that a CPU trains the study's own size.
PRESETS = {"smoke": SMOKE, "cpu": Config(), "study": Config()}
DEFAULT_PRESET = {"cpu": "study", "gpu": "study"}
PLANS: dict[str, dict[str, float]] = {
    "smoke": {"audit_seconds": 0.05, "inference_seconds": 0.1, "ceiling_seconds": 0.1}
}
