"""The Whisper twins against NumPy in float64 and against openai-whisper on the real recording."""

from __future__ import annotations

import hashlib
import json
import os
import wave
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from twins import config_of, here, needs_all, session

import frameworks
import models
from entrypoints.session import GenerationSession
from measurement.errors import InputError
from models.parameters import draw
from models.whisper_tiny import checkpoint, data
from models.whisper_tiny import config as sizes
from models.whisper_tiny.config import SMOKE, VOCABULARIES, Config

RECORDED = json.loads(
    Path(__file__).with_name("fixtures").joinpath("whisper_tiny_en_jfk.json").read_text()
)
STUDY_DATA = os.environ.get("STUDY_TEST_DATA", "")
WEIGHTS = os.environ.get("STUDY_TEST_WHISPER", "")
needs_data = pytest.mark.skipif(
    not STUDY_DATA, reason="STUDY_TEST_DATA names no folder with the recording"
)
needs_weights = pytest.mark.skipif(
    not (STUDY_DATA and WEIGHTS),
    reason="STUDY_TEST_DATA and STUDY_TEST_WHISPER (tiny.en as safetensors) are not set",
)


def one_line(error) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


# --- the whole network against NumPy in float64


def erf(x):
    from scipy.special import erf as exact

    return exact(x)


class Oracle:
    """Whisper as openai/whisper states it, without a cache, in float64."""

    def __init__(self, config: Config, values) -> None:
        self.config = config
        self.values = {name: np.asarray(value, np.float64) for name, value in values.items()}

    def linear(self, name, x):
        return x @ self.values[f"{name}.weight"].T + self.values.get(f"{name}.bias", 0.0)

    def norm(self, name, x):
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return scaled * self.values[f"{name}.weight"] + self.values[f"{name}.bias"]

    def attention(self, name, x, source, causal):
        heads = self.config.heads

        def cut(y):
            return y.reshape(len(y), heads, -1).transpose(1, 0, 2)

        q, k, v = (
            cut(self.linear(f"{name}.{part}", y))
            for part, y in (("query", x), ("key", source), ("value", source))
        )
        scores = q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1])
        if causal:
            scores = np.where(np.tri(len(x), dtype=bool), scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        return self.linear(f"{name}.out", (weights @ v).transpose(1, 0, 2).reshape(len(x), -1))

    def block(self, name, x, encoded=None):
        y = self.norm(f"{name}.attn_ln", x)
        x = x + self.attention(f"{name}.attn", y, y, causal=encoded is not None)
        if encoded is not None:
            y = self.norm(f"{name}.cross_attn_ln", x)
            x = x + self.attention(f"{name}.cross_attn", y, encoded, causal=False)
        y = self.linear(f"{name}.mlp.0", self.norm(f"{name}.mlp_ln", x))
        return x + self.linear(f"{name}.mlp.2", y * 0.5 * (1 + erf(y / np.sqrt(2))))

    def convolution(self, name, x, stride):
        weight = self.values[f"{name}.weight"]
        padded = np.pad(x, ((1, 1), (0, 0)))
        y = sum(padded[i : i + len(x)] @ weight[:, :, i].T for i in range(3))
        y = y[::stride] + self.values[f"{name}.bias"]
        return y * 0.5 * (1 + erf(y / np.sqrt(2)))

    def log_mel(self, audio):
        padded = np.pad(np.asarray(audio, np.float64), 200, mode="reflect")
        frames = np.lib.stride_tricks.sliding_window_view(padded, 400)[::160][:-1]
        window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
        power = np.abs(np.fft.rfft(frames * window)) ** 2
        mel = np.log10(np.maximum(power @ sizes.mel_filters().T.astype(np.float64), 1e-10))
        return (np.maximum(mel, mel.max() - 8) + 4) / 4

    def encode(self, audio):
        x = self.convolution("encoder.conv1", self.log_mel(audio), 1)
        x = self.convolution("encoder.conv2", x, 2) + self.values["encoder.positional_embedding"]
        for i in range(self.config.audio_layers):
            x = self.block(f"encoder.blocks.{i}", x)
        return self.norm("encoder.ln_post", x)

    def logits(self, tokens, encoded):
        embedding = self.values["decoder.token_embedding.weight"]
        x = embedding[tokens] + self.values["decoder.positional_embedding"][: len(tokens)]
        for i in range(self.config.text_layers):
            x = self.block(f"decoder.blocks.{i}", x, encoded)
        return self.norm("decoder.ln", x) @ embedding.T

    def greedy(self, audio, count):
        """(tokens, the logits each was chosen by), the whole text computed anew for each."""
        vocabulary, encoded = self.config.vocabulary, self.encode(audio)
        tokens, rows = list(vocabulary.start), []
        for step in range(count):
            rows.append(self.logits(tokens, encoded)[-1])
            allowed = rows[-1].copy()
            allowed[list(vocabulary.suppressed)] = -np.inf
            if step == 0:
                allowed[list(vocabulary.first)] = -np.inf
            tokens.append(int(np.argmax(allowed)))
        return tokens[len(vocabulary.start) :], rows


def generated(opened, count):
    """(tokens, logits) of the twin's own greedy steps."""
    read = opened.framework.read
    token, logits, cache = opened.begin(opened.inputs[0])
    tokens, rows = [int(read(token)[0])], [read(logits)[0]]
    while len(tokens) < count:
        token, logits, cache = opened.advance(token, cache)
        tokens.append(int(read(token)[0]))
        rows.append(read(logits)[0])
    return tokens, rows


@pytest.mark.parametrize("vocabulary_size", sorted(VOCABULARIES))
@pytest.mark.parametrize("name", ["mlx", "pytorch"])
def test_a_twin_computes_what_numpy_computes(name, vocabulary_size):
    if not frameworks.available(name):
        pytest.skip(f"{name} is not installed")
    config = config_of("whisper_tiny", vocabulary_size=vocabulary_size)
    opened = session("whisper_tiny", name, config)
    count = config.decode_tokens
    oracle = Oracle(config, draw(config.parameters(), 0))
    expected, rows = oracle.greedy(opened.data.test["inputs"][0], count)
    tokens, found = generated(opened, count)
    assert tokens == expected
    assert len(set(tokens)) > 1
    for a, b in zip(found, rows, strict=True):
        assert np.abs(a - b).max() <= 1e-5 * np.abs(b).max()


@needs_all
def test_suppressed_tokens_are_never_chosen():
    """A model that wants nothing but a suppressed token says another one."""
    config = config_of("whisper_tiny")
    for name in ("mlx", "pytorch"):
        opened = session("whisper_tiny", name, config)
        first = config.vocabulary.first[0]
        for wanted, later in ((config.vocabulary.suppressed[5], False), (first, True)):
            values = opened.framework.read_parameters(opened.model)
            embedding = values["decoder.token_embedding.weight"]
            values["decoder.ln.weight"] = np.zeros_like(values["decoder.ln.weight"])
            values["decoder.ln.bias"] = np.ones_like(values["decoder.ln.bias"])
            embedding[...] = 0.001 * np.random.default_rng(0).random(embedding.shape)
            embedding[wanted] = 1.0  # so that its logit is by far the largest at every step
            opened.framework.write_parameters(opened.model, values)
            tokens, rows = generated(opened, 3)
            assert all(int(np.argmax(row)) == wanted for row in rows)
            assert tokens[0] != wanted
            assert (tokens[1:] == [wanted] * 2) == later


def test_the_filters_are_slaneys():
    """Against librosa's own values, where they are at hand; else their defining properties."""
    filters = sizes.mel_filters()
    assert filters.shape == (80, 201) and filters.dtype == np.float32
    assert (filters >= 0).all() and (filters.max(axis=1) > 0).all()
    peaks = filters.argmax(axis=1)
    assert (np.diff(peaks) >= 0).all()
    if STUDY_DATA:
        with np.load(Path(STUDY_DATA, "whisper", "mel_filters.npz")) as stored:
            np.testing.assert_allclose(filters, stored["mel_80"], atol=2e-9)


def test_a_transform_by_a_product_is_the_fourier_transform():
    frames = np.random.default_rng(0).standard_normal((3, 400))
    real, imaginary = np.split(frames @ sizes.fourier(), 2, axis=1)
    expected = np.fft.rfft(frames * sizes.hann_window())
    np.testing.assert_allclose(real + 1j * imaginary, expected, atol=1e-11)


@needs_all
@pytest.mark.parametrize(("bits", "digits"), [(32, 2e-6), (64, 1e-12)])
def test_power_spectrum_of_mlx(bits, digits):
    """In float32, as on a GPU, it is no product, which may be multiplied in TF32."""
    import mlx.core as mx

    from frameworks.counting import mlx as counting
    from models.layers import mlx as layers

    frames = np.random.default_rng(0).standard_normal((2, 5, 400))
    with mx.stream(mx.cpu):
        given = mx.array(frames, getattr(mx, f"float{bits}"))
        constants = sizes.hann_window(), sizes.fourier()
        found = np.array(layers.power_spectrum(given, *constants))
    expected = np.abs(np.fft.rfft(frames * sizes.hann_window())) ** 2
    np.testing.assert_allclose(found, expected, atol=digits * expected.max())
    if bits == 32:
        counted = counting.count(
            lambda: mx.eval(layers.power_spectrum(given, *constants)), {}, tf32=True
        )
        assert counted.products == {"float32": 4 * 10 * 201 * 400}


def test_flops_of_the_study():
    """By hand for tiny.en: 1500 positions, 2 + 47 tokens through the decoder, 48 times the head."""
    w, p, t = 384, 1500, 49
    convolutions = 3000 * 3 * 80 * w + p * 3 * w * w
    encoder = 4 * (12 * p * w * w + 2 * p * p * w)
    decoder = 4 * (2 * p * w * w + t * (14 * w * w + 2 * p * w) + 2 * w * t * (t + 1) // 2)
    head = 48 * w * 51864
    total = 2 * (3000 * 80 * 201 + convolutions + encoder + decoder + head)
    assert Config().flops_per_item() == total


def test_rates():
    found = Config().rates(0.5, 1.0)
    assert found["inference/real_time_factor"] == pytest.approx(1.5 / 30)
    assert found["inference/decode_tokens_per_second"] == pytest.approx(47)
    assert found["inference/seconds_per_audio"] == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"width": 65}, "not divisible by heads"),
        ({"vocabulary_size": 50000}, "51864"),
        ({"decode_tokens": 31}, "at most 30"),
        ({"decode_tokens": 1}, "2 or more"),
        ({"text_layers": 0}, "text_layers is 0"),
    ],
)
def test_sizes_that_cannot_be_are_refused(changes, said):
    from dataclasses import replace

    with pytest.raises(InputError) as error:
        replace(SMOKE, **changes).check()
    assert said in one_line(error)


def test_every_preset_can_be():
    for preset in sizes.PRESETS.values():
        preset.check()


# --- audio


def wav(path: Path, samples: np.ndarray, rate: int = 16_000) -> str:
    from scipy.io import wavfile

    wavfile.write(path, rate, samples)
    return str(path)


@pytest.mark.parametrize(
    "dtype", [np.uint8, np.int16, np.int32, np.float32], ids=lambda dtype: dtype.__name__
)
@pytest.mark.parametrize("channels", [1, 2])
def test_audio_of_every_kind_reads_the_same(tmp_path, dtype, channels):
    wanted = np.sin(np.arange(4000) / 20) * 0.5
    if dtype == np.uint8:
        stored = np.round(wanted * 128 + 128).astype(dtype)
    elif dtype == np.float32:
        stored = wanted.astype(dtype)
    else:
        stored = np.round(wanted * (np.iinfo(dtype).max + 1)).astype(dtype)
    if channels == 2:
        stored = np.stack([stored, stored], axis=1)
    found = data.read_wav(Path(wav(tmp_path / "a.wav", stored)))
    assert found.shape == (4000,) and found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=1 / 128 if dtype == np.uint8 else 1e-4)


def test_long_audio_is_cut_into_windows_and_the_last_one_padded(tmp_path):
    window = SMOKE.window_samples
    samples = (np.random.default_rng(0).random(2 * window + 7) * 1000).astype(np.int16)
    path = wav(tmp_path / "long.wav", samples)
    data.prepare(path, "auto")
    loaded = data.load(SMOKE, path, "auto")
    inputs = loaded.test["inputs"]
    assert inputs.shape == (3, window) and loaded.train == {} and loaded.name == "long.wav"
    np.testing.assert_array_equal(inputs.reshape(-1)[: len(samples)] * 32768, samples)
    assert not inputs[2, 7:].any()
    assert loaded.sha256 != data.load(SMOKE, "synthetic", "auto").sha256


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not a WAV file"),
        (b"some text, no audio at all", "is not a WAV file"),
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", "is not a WAV file"),
    ],
)
def test_what_is_no_audio_is_refused(tmp_path, content, said):
    path = tmp_path / "speech.wav"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        data.prepare(str(path), "auto")
    assert said in one_line(error) and "ffmpeg" in str(error.value)


def test_audio_of_no_length_at_another_rate_or_of_no_numbers_is_refused(tmp_path):
    with wave.open(str(tmp_path / "empty.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
    broken = np.array([0.1, np.nan], np.float32)
    cases = {
        str(tmp_path / "empty.wav"): "0 s",
        wav(tmp_path / "cd.wav", np.zeros(10, np.int16), 44_100): "44100 Hz; expected 16000",
        wav(tmp_path / "nan.wav", broken): "no numbers",
        str(tmp_path / "missing.wav"): "No such file",
        "no-such-set": "expected one of: jfk, synthetic",
    }
    for path, said in cases.items():
        for call in (data.prepare, lambda dataset, place: data.load(SMOKE, dataset, place)):
            with pytest.raises(InputError) as error:
                call(path, "auto")
            assert said in one_line(error)


def test_a_file_that_is_not_the_recording_is_refused_and_kept(tmp_path):
    path = tmp_path / "jfk.wav"
    path.write_bytes(b"other")
    for call in (data.prepare, lambda dataset, place: data.load(SMOKE, dataset, place)):
        with pytest.raises(InputError) as error:
            call("jfk", str(tmp_path))
        assert data.JFK[0].sha256 in one_line(error)
    assert path.read_bytes() == b"other"


def test_a_missing_recording_is_named(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"jfk\.wav or jfk_16k_mono\.wav is not in"):
        data.load(SMOKE, "jfk", str(tmp_path))
    monkeypatch.setattr(data, "SOURCES", [])
    with pytest.raises(InputError, match="no source has recording"):
        data.prepare("jfk", str(tmp_path))


def test_the_recording_is_stored_where_a_source_delivers(tmp_path, monkeypatch):
    content = b"a recording"
    file = data.File("jfk.wav", hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(data, "JFK", (file,))
    monkeypatch.setattr(data, "SOURCES", [("here", lambda missing: [(missing[0], content)])])
    data.prepare("jfk", str(tmp_path))
    assert (tmp_path / "whisper" / "jfk.wav").read_bytes() == content
    assert data.find(tmp_path, data.JFK) == tmp_path / "whisper" / "jfk.wav"


# --- checkpoints and text

HUGGING_FACE = (
    ("encoder.conv1.weight", "model.encoder.conv1.weight"),
    ("encoder.positional_embedding", "model.encoder.embed_positions.weight"),
    ("encoder.ln_post.bias", "model.encoder.layer_norm.bias"),
    ("decoder.token_embedding.weight", "model.decoder.embed_tokens.weight"),
    ("decoder.positional_embedding", "model.decoder.embed_positions.weight"),
    ("decoder.ln.weight", "model.decoder.layer_norm.weight"),
    ("decoder.blocks.1.attn.query.bias", "model.decoder.layers.1.self_attn.q_proj.bias"),
    ("decoder.blocks.1.attn_ln.weight", "model.decoder.layers.1.self_attn_layer_norm.weight"),
    ("decoder.blocks.1.cross_attn.key.weight", "model.decoder.layers.1.encoder_attn.k_proj.weight"),
    ("decoder.blocks.0.cross_attn_ln.bias", "model.decoder.layers.0.encoder_attn_layer_norm.bias"),
    ("decoder.blocks.0.cross_attn.value.bias", "model.decoder.layers.0.encoder_attn.v_proj.bias"),
    ("encoder.blocks.0.attn.out.weight", "model.encoder.layers.0.self_attn.out_proj.weight"),
    ("encoder.blocks.0.mlp.0.weight", "model.encoder.layers.0.fc1.weight"),
    ("encoder.blocks.0.mlp.2.bias", "model.encoder.layers.0.fc2.bias"),
    ("encoder.blocks.0.mlp_ln.bias", "model.encoder.layers.0.final_layer_norm.bias"),
)


@pytest.mark.parametrize(("ours", "theirs"), HUGGING_FACE)
def test_names_of_hugging_face_become_openais(ours, theirs):
    assert checkpoint.openai_name(theirs) == ours == checkpoint.openai_name(ours)
    assert ours in SMOKE.parameters()


@pytest.fixture
def tokenizer(monkeypatch):
    """A tokenizer of three pieces in place of the real ones."""
    content = b"SGk= 0\nLCA= 1\nPQ== 2\n"
    digest = hashlib.sha256(content).hexdigest()
    files = {n: checkpoint.File(file.name, digest) for n, file in checkpoint.RANKS.items()}
    monkeypatch.setattr(checkpoint, "RANKS", files)
    monkeypatch.setattr(checkpoint, "SOURCES", [("here", lambda missing: [(missing[0], content)])])


@pytest.fixture
def stored(tmp_path, tokenizer):
    """(weights of SMOKE, a function that writes them to a file)."""
    config = Config(**{**vars(SMOKE), "width": 64, "heads": 1})
    values = draw(config.parameters(), 3)

    def write(changed, name="model.safetensors"):
        save_file(changed, tmp_path / name)
        return str(tmp_path / name)

    return config, values, write


def test_a_checkpoint_sets_the_sizes_and_the_values(tmp_path, stored):
    config, values, write = stored
    halves = {name: value.astype(np.float16) for name, value in values.items()}
    for path in (write(halves), str(tmp_path)):
        found = checkpoint.sizes(path, str(tmp_path))
        assert Config(**found, decode_tokens=6) == config
        weights = checkpoint.load(config, path, str(tmp_path), 0)
        assert set(weights.values) == set(values) and len(weights.sha256) == 64
        for name, value in weights.values.items():
            np.testing.assert_array_equal(value, halves[name].astype(np.float32))
    assert checkpoint.text([0, 1, 0, 50257, 2], path, str(tmp_path)) == "Hi, Hi="
    assert checkpoint.texts("synthetic", path, str(tmp_path)) == []


def test_random_weights_have_a_digest_and_no_text():
    a, b = (checkpoint.load(SMOKE, "random", "auto", seed) for seed in (0, 1))
    assert a.sha256 != b.sha256 and a.values.keys() == b.values.keys() == SMOKE.parameters().keys()
    assert checkpoint.sizes("random", "auto") == {}
    assert checkpoint.text([1], "random", "auto") is None
    assert checkpoint.texts("jfk", "random", "auto") == []


def test_a_broken_checkpoint_names_the_tensor(tmp_path, stored):
    config, values, write = stored
    name = "decoder.blocks.1.cross_attn.key.weight"
    missing = {key: value for key, value in values.items() if key != name}
    misshapen = {**values, name: np.zeros((64, 65), np.float32)}
    extra = {**values, "decoder.blocks.1.cross_attn.key.bias": np.zeros(64, np.float32)}
    for i, (changed, said) in enumerate(
        [(missing, name), (misshapen, f"{name} has shape (64, 65)"), (extra, "cross_attn.key.bias")]
    ):
        with pytest.raises(InputError) as error:
            checkpoint.load(config, write(changed, f"{i}.safetensors"), str(tmp_path), 0)
        assert said in one_line(error)
    other = {**values, "decoder.token_embedding.weight": np.zeros((51866, 64), np.float32)}
    cases = {
        write(other, "v3.safetensors"): "vocabulary of 51866",
        write({"x": np.zeros(1, np.float32)}, "x.safetensors"): "token_embedding.weight is missing",
        str(tmp_path / "nothing.safetensors"): "no folder or file here",
    }
    (tmp_path / "text.safetensors").write_text("Whisper, please")
    cases[str(tmp_path / "text.safetensors")] = "is not a safetensors file"
    for path, said in cases.items():
        with pytest.raises(InputError) as error:
            checkpoint.sizes(path, str(tmp_path))
        assert said in one_line(error)


def test_no_tokenizer_is_said_before_anything_runs(tmp_path, stored, monkeypatch):
    _, values, write = stored
    monkeypatch.setattr(checkpoint, "SOURCES", [])
    with pytest.raises(InputError, match=r"put gpt2\.tiktoken into"):
        checkpoint.sizes(write(values), str(tmp_path))


# --- the real thing


def real(name: str) -> GenerationSession:
    spec = {
        "workload": "whisper_tiny",
        "framework": name,
        "device": "cpu",
        "dtype": "float32",
        "threads": None,
        "compile": "off",
        "sizes": {**checkpoint.sizes(WEIGHTS, STUDY_DATA), "decode_tokens": 25},
        "dataset": "jfk",
        "data_dir": STUDY_DATA,
        "seed": 0,
        "mode": "generate",
        "checkpoint": WEIGHTS,
    }
    return GenerationSession(spec)


@needs_weights
@pytest.mark.parametrize("name", ["mlx", "pytorch"])
def test_the_recording_word_for_word(name):
    if not frameworks.available(name):
        pytest.skip(f"{name} is not installed")
    opened = real(name)
    tokens, _ = generated(opened, 25)
    assert tokens == [*RECORDED["tokens"], opened.config.eos]
    text = opened.text()
    assert text is not None and RECORDED["text"] in text
    assert "jfk" in text.splitlines()[0]


@needs_weights
def test_openai_whisper_says_what_was_recorded():
    whisper = pytest.importorskip("whisper", reason="openai-whisper is not installed")
    import torch

    config = Config(**checkpoint.sizes(WEIGHTS, STUDY_DATA))
    values = checkpoint.load(config, WEIGHTS, STUDY_DATA, 0).values
    dimensions = whisper.model.ModelDimensions(
        80, config.audio_context, config.width, config.heads, config.audio_layers,
        config.vocabulary_size, config.text_context, config.width, config.heads, config.text_layers,
    )  # fmt: skip
    model = whisper.model.Whisper(dimensions)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in values.items()})
    audio = data.read_wav(data.recording(STUDY_DATA))
    mel = whisper.log_mel_spectrogram(whisper.pad_or_trim(torch.from_numpy(audio)))
    options = whisper.DecodingOptions(without_timestamps=True, language="en", fp16=False)
    found = whisper.decode(model.eval(), mel, options)
    assert found.tokens == RECORDED["tokens"]
    assert found.text == RECORDED["text"]


@needs_data
def test_the_real_tokenizer_reads_the_recorded_tokens():
    path = data.find(Path(STUDY_DATA), [checkpoint.RANKS[51864]])
    assert path is not None
    assert checkpoint.decode(RECORDED["tokens"], path).strip() == RECORDED["text"]


def test_suppression_is_openai_whispers():
    tokenizers = pytest.importorskip("whisper.tokenizer", reason="openai-whisper is not installed")
    for size, vocabulary in VOCABULARIES.items():
        multilingual = size == 51865
        found = tokenizers.get_tokenizer(
            multilingual, num_languages=99, language="en", task="transcribe"
        )
        steering = {found.transcribe, found.translate, found.sot, found.sot_prev, found.sot_lm}
        banned = {*found.non_speech_tokens, *steering, found.no_speech}
        assert vocabulary.suppressed == tuple(sorted(banned))
        assert vocabulary.first == (*found.encode(" "), found.eot)
        assert vocabulary.start == found.sot_sequence_including_notimestamps
        assert vocabulary.eos == found.eot


def test_the_workload_is_registered():
    assert "whisper_tiny" in models.names()
    assert models.frameworks("whisper_tiny") == ["mlx", "pytorch"]


@needs_all
@pytest.mark.parametrize("name", here("whisper_tiny"))
def test_what_may_be_in_the_widest_floats_is_what_is_counted_in_them(name):
    config = config_of("whisper_tiny")
    counted = session("whisper_tiny", name, config).counted()
    assert counted.calls["prompt"].products["float64"] == config.widest_flops()["prompt"]
    assert counted.summary()["widest"] == config.widest_flops()
