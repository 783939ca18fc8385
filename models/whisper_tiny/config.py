"""Sizes of Whisper: 80 mel bands, an encoder over 30 s of audio, a decoder of text with a cache.

After Radford et al. 2023, "Robust Speech Recognition via Large-Scale Weak Supervision"; sizes,
parameter names and decoding are those of openai/whisper. What is said here of tokens is its
tokenizer's (`whisper/tokenizer.py`) and its default `DecodingOptions` without timestamps.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from measurement.errors import InputError
from models.parameters import Constant, Initial, Normal

SAMPLE_RATE = 16_000
FFT_SAMPLES, HOP_SAMPLES = 400, 160
HALF_SAMPLES = FFT_SAMPLES // 2  # mirrored at both ends, so that frame i is around sample 160 i
SAMPLES_PER_POSITION = 2 * HOP_SAMPLES  # the second convolution halves the frames: 20 ms
MEL_BANDS = 80
EPSILON = 1e-5  # of every layer norm

ITEM = "30 s window"
KIND = "generate"
DATASETS = ("jfk", "synthetic")
OWN_DATA = ".wav"
# No arm of MLX on its wheel's reference BLAS by default: it takes 7 to 30 times as long.
AS_SHIPPED = False
DTYPES = ("float32", "tf32", "float16", "bfloat16")


@dataclass(frozen=True)
class Vocabulary:
    """What the decoder starts from, stops at and never says: English, no timestamps.

    first: suppressed at the first step only, a blank and the end. suppressed: at every step, signs
    that are no speech (♪, brackets, ...) and the tokens that steer the model.
    """

    start: tuple[int, ...]
    eos: int
    first: tuple[int, ...]
    suppressed: tuple[int, ...]


# fmt: off
VOCABULARIES = {  # size -> English only (tiny.en), and multilingual (tiny)
    51864: Vocabulary(
        start=(50257, 50362),  # start of transcript, no timestamps
        eos=50256,
        first=(220, 50256),
        suppressed=(
            1, 2, 7, 8, 9, 10, 14, 25, 26, 27, 28, 29, 31, 58, 59, 60, 61, 62, 63, 90, 91, 92, 93,
            357, 366, 438, 532, 685, 705, 796, 930, 1058, 1220, 1267, 1279, 1303, 1343, 1377, 1391,
            1635, 1782, 1875, 2162, 2361, 2488, 3467, 4008, 4211, 4600, 4808, 5299, 5855, 6329,
            7203, 9609, 9959, 10563, 10786, 11420, 11709, 11907, 13163, 13697, 13700, 14808, 15306,
            16410, 16791, 17992, 19203, 19510, 20724, 22305, 22935, 27007, 30109, 30420, 33409,
            34949, 40283, 40493, 40549, 47282, 49146, 50257, 50357, 50358, 50359, 50360, 50361,
        ),
    ),
    51865: Vocabulary(
        start=(50258, 50259, 50359, 50363),  # start, English, transcribe, no timestamps
        eos=50257,
        first=(220, 50257),
        suppressed=(
            1, 2, 7, 8, 9, 10, 14, 25, 26, 27, 28, 29, 31, 58, 59, 60, 61, 62, 63, 90, 91, 92, 93,
            359, 503, 522, 542, 873, 893, 902, 918, 922, 931, 1350, 1853, 1982, 2460, 2627, 3246,
            3253, 3268, 3536, 3846, 3961, 4183, 4667, 6585, 6647, 7273, 9061, 9383, 10428, 10929,
            11938, 12033, 12331, 12562, 13793, 14157, 14635, 15265, 15618, 16553, 16604, 18362,
            18956, 20075, 21675, 22520, 26130, 26161, 26435, 28279, 29464, 31650, 32302, 32470,
            36865, 42863, 47425, 49870, 50254, 50258, 50358, 50359, 50360, 50361, 50362,
        ),
    ),
}
# fmt: on


@dataclass(frozen=True)
class Config:
    """tiny.en; every field is an option. decode_tokens: of a timed run, which never stops early,
    the token that the first phase puts out included."""

    audio_context: int = 1500
    audio_layers: int = 4
    text_context: int = 448
    text_layers: int = 4
    width: int = 384
    heads: int = 6
    vocabulary_size: int = 51864
    decode_tokens: int = 48

    def check(self) -> None:
        """Raises InputError for sizes that no Whisper can have."""
        for name, value in vars(self).items():
            if value < 1:
                raise InputError(f"{name} is {value}; expected 1 or more")
        if self.width % self.heads:
            raise InputError(
                f"width {self.width} is not divisible by heads {self.heads}; change one of them"
            )
        if self.vocabulary_size not in VOCABULARIES:
            raise InputError(
                f"vocabulary_size is {self.vocabulary_size}; expected 51864 (English only, tiny.en)"
                " or 51865 (multilingual, tiny)"
            )
        if self.decode_tokens < 2:
            raise InputError(
                f"decode_tokens is {self.decode_tokens}; expected 2 or more, to time one"
            )
        room = self.text_context - self.prompt_tokens
        if self.decode_tokens > room:
            raise InputError(
                f"decode_tokens is {self.decode_tokens}; expected at most {max(room, 0)}, what"
                f" text_context {self.text_context} leaves after {self.prompt_tokens} start tokens"
            )

    @property
    def vocabulary(self) -> Vocabulary:
        return VOCABULARIES[self.vocabulary_size]

    @property
    def prompt_tokens(self) -> int:
        return len(self.vocabulary.start)

    @property
    def eos(self) -> int:
        """The token at which a text ends."""
        return self.vocabulary.eos

    @property
    def frames(self) -> int:
        """Of a window's log-mel spectrogram, one every 10 ms."""
        return 2 * self.audio_context

    @property
    def window_samples(self) -> int:
        """Samples at 16 kHz of one item: 480,000, which is 30 s, with an audio_context of 1500."""
        return self.audio_context * SAMPLES_PER_POSITION

    def capacity(self) -> int:
        """Tokens that the cache of a timed run has room for."""
        return self.prompt_tokens + self.decode_tokens

    def probe_tokens(self) -> np.ndarray:
        """The tokens from which those of the evidence are drawn."""
        return np.arange(self.vocabulary_size)

    def text_tokens(self, inputs: np.ndarray) -> int:
        """The most tokens of one window's text, as in openai/whisper."""
        return self.text_context // 2

    def capacity_of(self, inputs: np.ndarray, tokens: int) -> int:
        """Room in the cache for a window's start and `tokens` of its text."""
        return self.prompt_tokens + tokens

    def never(self) -> np.ndarray:
        """(2, vocabulary) float32, for the first step and all others: minus infinity for tokens
        that are not put out, else 0."""
        values = np.zeros((2, self.vocabulary_size), np.float32)
        values[:, list(self.vocabulary.suppressed)] = -np.inf
        values[0, list(self.vocabulary.first)] = -np.inf
        return values

    def parameters(self) -> dict[str, tuple[tuple[int, ...], Initial]]:
        """name -> (shape, initial) under the names of OpenAI's state dict, the encoder's positions
        included, which checkpoints store in their own rounding. Convolutions: (out, in, taps).

        Biases of norms are not zero and embeddings are small, so that a bias left out or another
        epsilon shows.
        """
        width = self.width
        found: dict[str, tuple[tuple[int, ...], Initial]] = {}

        def linear(name: str, inputs: int, outputs: int, bias: bool = True) -> None:
            found[f"{name}.weight"] = ((outputs, inputs), inputs)
            if bias:
                found[f"{name}.bias"] = ((outputs,), inputs)

        def norm(name: str) -> None:
            found[f"{name}.weight"] = ((width,), Constant(1.0))
            found[f"{name}.bias"] = ((width,), Normal(0.1))

        def attention(name: str) -> None:
            for part in ("query", "key", "value", "out"):
                linear(f"{name}.{part}", width, width, bias=part != "key")

        for name, inputs in (("encoder.conv1", MEL_BANDS), ("encoder.conv2", width)):
            found[f"{name}.weight"] = ((width, inputs, 3), 3 * inputs)
            found[f"{name}.bias"] = ((width,), 3 * inputs)
        found["encoder.positional_embedding"] = ((self.audio_context, width), Normal(0.1))
        found["decoder.token_embedding.weight"] = ((self.vocabulary_size, width), Normal(0.02))
        found["decoder.positional_embedding"] = ((self.text_context, width), Normal(0.2))
        for side, layers in (("encoder", self.audio_layers), ("decoder", self.text_layers)):
            for i in range(layers):
                block = f"{side}.blocks.{i}"
                attention(f"{block}.attn")
                norm(f"{block}.attn_ln")
                if side == "decoder":
                    attention(f"{block}.cross_attn")
                    norm(f"{block}.cross_attn_ln")
                linear(f"{block}.mlp.0", width, 4 * width)
                linear(f"{block}.mlp.2", 4 * width, width)
                norm(f"{block}.mlp_ln")
        norm("encoder.ln_post")
        norm("decoder.ln")
        return found

    def flops_per_item(self) -> int:
        """One window and its decode_tokens. Multiply-adds of matrix products count two; norms,
        activations and the Fourier transform are left out."""
        width, positions = self.width, self.audio_context
        features = self.frames * MEL_BANDS * (FFT_SAMPLES // 2 + 1)
        convolutions = self.frames * 3 * MEL_BANDS * width + positions * 3 * width * width
        encoder = self.audio_layers * (12 * positions * width**2 + 2 * positions**2 * width)
        cross = self.text_layers * 2 * positions * width**2
        # Tokens that pass the decoder: the start and all but the last that it puts out.
        tokens = self.prompt_tokens + self.decode_tokens - 1
        looks = tokens * (tokens + 1) // 2  # of self-attention, over all tokens
        decoder = self.text_layers * (
            tokens * (14 * width**2 + 2 * positions * width) + 2 * looks * width
        )
        logits = self.decode_tokens * width * self.vocabulary_size
        return 2 * (features + convolutions + encoder + cross + decoder + logits)

    def widest_flops(self) -> dict[str, int]:
        """The Fourier transform of a window as a product, see `fourier`; FLOPs by what is timed."""
        return {"prompt": 2 * self.frames * FFT_SAMPLES * (FFT_SAMPLES + 2)}

    def rates(self, begin_seconds: float, decode_seconds: float) -> dict[str, float]:
        """Metrics of one window from the medians of its two phases, in seconds.

        real_time_factor: seconds of processing for a second of a window, padding included, since
        Whisper always processes whole windows. The second phase puts out all tokens but the first.
        """
        total = begin_seconds + decode_seconds
        return {
            "inference/encode_seconds": begin_seconds,
            "inference/decode_seconds": decode_seconds,
            "inference/decode_tokens_per_second": (self.decode_tokens - 1) / decode_seconds,
            "inference/real_time_factor": total * SAMPLE_RATE / self.window_samples,
            "inference/seconds_per_audio": total,
        }


def hann_window() -> np.ndarray:
    """(400,) float64, periodic: 0.5 - 0.5 cos(2 pi n / 400)."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FFT_SAMPLES) / FFT_SAMPLES)


@functools.cache
def fourier() -> np.ndarray:
    """(400, 402) float64: a frame times this is the real, then the imaginary part of its windowed
    Fourier transform, for MLX, which has none in float64.

    In float32 the bands that are quiet beside the loudest of a frame keep few digits, and the
    logarithm shows it: 2.5e-5 of the largest value between two frameworks on the recording "jfk",
    against 1e-7 from float64."""
    turns = np.outer(np.arange(FFT_SAMPLES), np.arange(FFT_SAMPLES // 2 + 1)) % FFT_SAMPLES
    angles = 2 * np.pi * turns / FFT_SAMPLES
    return np.hstack([np.cos(angles), -np.sin(angles)]) * hann_window()[:, None]


def mel_filters() -> np.ndarray:
    """(80, 201) float32: triangles over the bins of a 400-point transform at 16 kHz, of unit area,
    on Slaney's mel scale (linear to 1 kHz, logarithmic above; Auditory Toolbox, 1998).

    Equals `librosa.filters.mel(sr=16000, n_fft=400, n_mels=80)` and Whisper's mel_filters.npz. A module
    that keeps them as integers, upon which no dtype is put, has them in float32 in every dtype.
    """
    break_hertz, hertz_per_mel, log_step = 1000.0, 200 / 3, np.log(6.4) / 27
    break_mel = break_hertz / hertz_per_mel
    nyquist = SAMPLE_RATE / 2
    top = break_mel + np.log(nyquist / break_hertz) / log_step
    mels = np.linspace(0.0, top, MEL_BANDS + 2)
    above = break_hertz * np.exp(log_step * (mels - break_mel))
    edges = np.where(mels < break_mel, mels * hertz_per_mel, above)
    bins = np.linspace(0.0, nyquist, FFT_SAMPLES // 2 + 1)
    rising = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    return (triangles * (2.0 / (edges[2:] - edges[:-2]))[:, None]).astype(np.float32)


SMOKE = Config(
    audio_context=100,
    audio_layers=2,
    text_context=32,
    text_layers=2,
    width=64,
    heads=4,
    decode_tokens=6,
)
# The network is small enough that a CPU runs the study's own; its plan differs in counts only.
PRESETS = {"smoke": SMOKE, "cpu": Config(), "study": Config()}
DEFAULT_PRESET = {"cpu": "cpu", "gpu": "study"}
PLANS: dict[str, dict[str, float]] = {
    "smoke": {"passes": 2, "latency_passes": 1, "audit_seconds": 0.02, "ceiling_seconds": 0.02},
    "cpu": {"passes": 5, "latency_passes": 3},
    "study": {"passes": 20, "latency_passes": 4},
}
