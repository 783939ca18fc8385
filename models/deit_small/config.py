"""Sizes of the vision transformer: an image as a sequence of patches, classified by an extra token.

DeiT-small (Touvron et al. 2021, without the distillation token): pre-norm blocks, 12 layers, width
384, 6 heads, patches of 16 x 16 pixels; as timm's deit_small_patch16_224, whose parameters fit one to
one. No dropout and no stochastic depth, whose masks no two frameworks draw alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from measurement.errors import InputError
from models.parameters import Constant, Initial, Normal

CHANNELS = 3  # red, green, blue
MLP_RATIO = 4
NORM_EPSILON = 1e-6
INITIAL_STD = 0.02
BETAS, EPSILON = (0.9, 0.999), 1e-8
MEAN = (0.485, 0.456, 0.406)  # of a channel of ImageNet's pixels in [0, 1], which DeiT was made for
STD = (0.229, 0.224, 0.225)
TRAIN_ITEMS, TEST_ITEMS = 50_000, 10_000  # all of CIFAR-100

ITEM = "image"
KIND = "train"
DATASETS = ("cifar100", "synthetic")
OWN_DATA = ".npz"
# No arm of MLX on its wheel's reference BLAS by default: it takes 7 to 30 times as long.
AS_SHIPPED = False
DTYPES = ("float32", "tf32", "bfloat16")
QUALITY = "eval/accuracy"
OPTIMISER = "adamw"
# Chosen, not measured: where a first epoch of tens is expected to have gone far beyond chance (0.01).
# What the presets smoke and cpu train on a few images never gets there, and is censored.
TARGET, EPOCHS = 0.2, 10
EPOCHS_OF = {"smoke": 2, "cpu": 2}
STUDY_TARGET, STUDY_EPOCHS = 0.2, 1


@dataclass(frozen=True)
class Config:
    """The study's values; every one but the `_items` is an option.

    image_size: pixels of a side, to which the 32 of CIFAR-100 are enlarged. train_items, test_items:
    at most so many images, the first ones.
    """

    image_size: int = 224
    patch_size: int = 16
    dimension: int = 384
    depth: int = 12
    heads: int = 6
    classes: int = 100
    batch_size: int = 32
    learning_rate: float = 1e-4
    weight_decay: float = 0.05
    inference_batch_size: int = 128
    train_items: int = TRAIN_ITEMS
    test_items: int = TEST_ITEMS

    def check(self) -> None:
        """Raises InputError for sizes that cannot be."""
        least = {"image_size": 1, "patch_size": 1, "dimension": 1, "depth": 1, "heads": 1}
        least |= {"classes": 2, "batch_size": 1, "inference_batch_size": 1}
        for name, low in (least | {"train_items": 1, "test_items": 1}).items():
            if getattr(self, name) < low:
                raise InputError(f"{name} is {getattr(self, name)}; expected {low} or more")
        for whole, part in (("image_size", "patch_size"), ("dimension", "heads")):
            if getattr(self, whole) % getattr(self, part):
                raise InputError(
                    f"{whole} is {getattr(self, whole)} with {part} {getattr(self, part)}; expected"
                    f" a multiple of {part}: change one of them"
                )
        if not (self.learning_rate > 0 and self.weight_decay >= 0):
            raise InputError(
                f"learning_rate is {self.learning_rate} and weight_decay {self.weight_decay};"
                " expected more than 0, and 0 or more"
            )

    @property
    def tokens(self) -> int:
        """Patches of an image, and the class token before them."""
        return (self.image_size // self.patch_size) ** 2 + 1

    @property
    def patch_values(self) -> int:
        """Numbers in a patch: rows, columns, channels, in this order."""
        return self.patch_size**2 * CHANNELS

    def pixels(self) -> tuple[np.ndarray, np.ndarray]:
        """(mean, scale), each (patch_values,) float32: a patch of bytes minus mean times scale has
        ImageNet's mean 0 and standard deviation 1. In this order 16 bits lose least: the difference
        of bytes and mean is nearly exact, where products would cancel."""
        one = np.stack([255 * np.array(MEAN), 1 / (255 * np.array(STD))]).astype(np.float32)
        mean, scale = np.tile(one, self.patch_size**2)
        return mean, scale

    def parameters(self) -> dict[str, tuple[tuple[int, ...], Initial]]:
        """name -> (shape, initial) of every parameter, as DeiT starts: weights, class token and
        positions from a normal distribution of 0.02, biases 0, norms 1 and 0; the patches as the
        convolution that they are elsewhere."""
        width = self.dimension
        shapes: dict[str, tuple[tuple[int, ...], Initial]] = {}

        def norm(name: str) -> None:
            shapes[f"{name}.weight"] = ((width,), Constant(1.0))
            shapes[f"{name}.bias"] = ((width,), Constant(0.0))

        def linear(name: str, inputs: int, outputs: int) -> None:
            shapes[f"{name}.weight"] = ((outputs, inputs), Normal(INITIAL_STD))
            shapes[f"{name}.bias"] = ((outputs,), Constant(0.0))

        shapes["class_token"] = ((width,), Normal(INITIAL_STD))
        shapes["positions"] = ((self.tokens, width), Normal(INITIAL_STD))
        shapes["patches.weight"] = ((width, self.patch_values), self.patch_values)
        shapes["patches.bias"] = ((width,), self.patch_values)
        for i in range(self.depth):
            norm(f"blocks.{i}.attention_norm")
            linear(f"blocks.{i}.attention.qkv", width, 3 * width)
            linear(f"blocks.{i}.attention.output", width, width)
            norm(f"blocks.{i}.feed_forward_norm")
            linear(f"blocks.{i}.feed_forward.inner", width, MLP_RATIO * width)
            linear(f"blocks.{i}.feed_forward.outer", MLP_RATIO * width, width)
        norm("norm")
        linear("head", width, self.classes)
        return shapes

    def infer_flops_per_item(self) -> int:
        """Of one image, forward; multiply-adds count two. What norms and GELU do is no product."""
        width, tokens = self.dimension, self.tokens
        weights = (4 + 2 * MLP_RATIO) * width**2
        pairs = 2 * tokens * width
        blocks = self.depth * tokens * (weights + pairs)
        return 2 * (self._patch_products() + blocks + width * self.classes)

    def train_flops_per_item(self) -> int:
        """Forward, weight gradients, and input gradients of every product but that of the patches,
        whose input is data."""
        return 3 * self.infer_flops_per_item() - 2 * self._patch_products()

    def _patch_products(self) -> int:
        return (self.tokens - 1) * self.patch_values * self.dimension

    def tokens_per_item(self) -> int:
        """An image is no text."""
        return 0

    def inference_batch(self) -> int:
        """Images per batch in evaluation and batched inference."""
        return self.inference_batch_size

    def quality(self, scores: np.ndarray, labels: np.ndarray) -> float:
        """Accuracy: the mean of 1 where the answer is right, else 0. ValueError: of other images."""
        if len(scores) != len(labels):
            raise ValueError(f"{len(scores)} answers to {len(labels)} images")
        return float(np.mean(scores))

    def details(self, scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Nothing else is asked of the test set."""
        return {}

    def throughput_batches(self) -> tuple[int, ...]:
        """Batches whose images per second are measured: the largest is that of inference, the
        others a quarter and a sixteenth of it (8, 32 and 128 of the study)."""
        sizes = (self.inference_batch_size // share for share in (16, 4, 1))
        return tuple(size for size in sizes if size > 1)

    def example(self) -> np.ndarray:
        """Two images as a client sends them, (2, image_size, image_size, CHANNELS) uint8: one gets
        brighter from left to right, the other from top to bottom."""
        ramp = np.linspace(0, 255, self.image_size).astype(np.uint8)
        across = np.tile(ramp[None, :, None], (self.image_size, 1, CHANNELS))
        return np.stack([across, across.swapaxes(0, 1)])


# 65 tokens, so that attention takes the path of the 197 of the study, and wide enough that the keys'
# biases, whose updates are rounding alone, do not weigh in bfloat16.
SMOKE = Config(
    image_size=32,
    patch_size=4,
    dimension=96,
    depth=2,
    heads=3,
    batch_size=8,
    learning_rate=2e-3,  # a hundred steps are to show that it learns
    inference_batch_size=16,
    train_items=64,
    test_items=16,
)
# The published network on so few images that an epoch takes a quarter of a minute on two cores. Its
# accuracies say nothing.
CPU = Config(batch_size=8, inference_batch_size=8, train_items=32, test_items=16)
PRESETS = {"smoke": SMOKE, "cpu": CPU, "study": Config()}
DEFAULT_PRESET = {"cpu": "cpu", "gpu": "study"}
# What differs from the defaults of measurement.trial.Plan: counts of steps and calls.
PLANS: dict[str, dict[str, float]] = {
    "smoke": {
        "warmup_steps": 2,
        "waited_steps": 10,
        "latency_warmup_calls": 5,
        "latency_calls": 30,
        "audit_seconds": 0.02,
    },
    "cpu": {
        "warmup_steps": 1,
        "audit_seconds": 0.0,  # one step against two
        "audit_repetitions": 3,
        "waited_steps": 2,
        "latency_warmup_calls": 2,
        "latency_calls": 20,
        "inference_seconds": 0.0,
    },
    "study": {"waited_steps": 100, "latency_calls": 200},
}
