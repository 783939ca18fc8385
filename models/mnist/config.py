"""Sizes of the MNIST classifier: 784 -> hidden_size x layers (ReLU) -> 10, trained by SGD."""

from __future__ import annotations

from dataclasses import dataclass

PIXELS = 784
CLASSES = 10
# Of the training pixels divided by 255; the usual constants of PyTorch's own MNIST example. Without
# them plain SGD at 0.1 ends at 95 % after ten epochs instead of 96 to 97 %.
PIXEL_MEAN, PIXEL_STD = 0.1307, 0.3081

ITEM = "image"
KINDS = ("train", "infer")
DATASETS = ("mnist", "synthetic")
DTYPES = ("float32", "bfloat16")
TARGET = 0.96


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

    def parameters(self) -> dict[str, tuple[tuple[int, ...], int]]:
        """name -> (shape, fan in) of every parameter, in the (out, in) layout of both frameworks."""
        names = [f"hidden.{i}.linear" for i in range(self.layers)] + ["head"]
        shapes: dict[str, tuple[tuple[int, ...], int]] = {}
        for name, (inputs, outputs) in zip(names, self.widths(), strict=True):
            shapes[f"{name}.weight"] = ((outputs, inputs), inputs)
            shapes[f"{name}.bias"] = ((outputs,), inputs)
        return shapes

    def train_flops_per_item(self) -> int:
        """Multiply-adds count two. Forward, weight gradients, and input gradients of all layers
        but the first, whose input is data: no framework computes that one."""
        products = [inputs * outputs for inputs, outputs in self.widths()]
        return 2 * (3 * sum(products) - products[0])


SMOKE = Config(train_items=2_048, test_items=1_000)
# The network is small enough that a CPU trains the study's own size.
PRESETS = {"smoke": SMOKE, "cpu": Config(), "study": Config()}
