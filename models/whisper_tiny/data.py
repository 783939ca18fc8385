"""Audio as windows: a public recording, the user's own .wav, or made from a seed.

"jfk" is eleven seconds of the inaugural address of 1961, the recording that Whisper's own tests
transcribe, at 16 kHz: whisper.cpp's samples/jfk.wav, or the 44.1 kHz stereo of openai/whisper's
tests/jfk.flac averaged and resampled with scipy.signal.resample_poly. The two differ in rounding
and are two data sets by their digest. Audio is cut into windows of `config.window_samples`, the
last one padded with silence; windows follow each other without overlap and without a search for
time stamps, so a word that stands across a cut may be lost.
"""

from __future__ import annotations

import hashlib
import math
import os
import stat
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.io import wavfile

from measurement import untrusted
from measurement.errors import InputError
from models import download
from models.dataset import Data
from models.whisper_tiny.config import DATASETS, OWN_DATA, SAMPLE_RATE, Config

FOLDER = "whisper"
SYNTHETIC_SEED = 2022
MOST_BYTES = 256 << 20  # of a recording: two hours at 16 kHz, in 16 bits
MOST_ASSET = 64 << 20  # of a file that is known by its digest


@dataclass(frozen=True)
class File:
    """A file that is known by its digest."""

    name: str
    sha256: str


JFK = (
    File("jfk.wav", "59dfb9a4acb36fe2a2affc14bacbee2920ff435cb13cc314a08c13f66ba7860e"),
    File("jfk_16k_mono.wav", "36002c29a362518b874e502ac121a7d66073f3948d5aa8b5c68fca0b648a3896"),
)
ORIGIN = (
    "https://raw.githubusercontent.com/ggml-org/whisper.cpp/"
    "233fe1fc9b48a09e361d3594520838ca266537fe/samples/"
)


def prepare(dataset: str, data_dir: str) -> None:
    """Have the recording on disk and verified; fetch what is missing and say so on stderr.

    data_dir: "auto" (the user's cache folder) or a folder that exists, into whose `whisper` a
    missing file is written. Raises InputError: unknown data set, no such or no writable folder, a
    file that is not the recording (it is never replaced), a user's file that is no audio or not at
    16 kHz, no source that delivers.
    """
    if own(dataset):
        read_wav(Path(dataset).expanduser())
    elif dataset == "synthetic":
        download.say("synthetic: made from a seed when loaded, nothing to get")
    else:
        directory = download.directory(data_dir)
        if find(directory, JFK) is None:
            target = directory / FOLDER
            download.collect("recording", JFK[:1], SOURCES, check, target)
        download.say(f"{dataset}: {find(directory, JFK)} has the right sha256")


def load(config: Config, dataset: str, data_dir: str, checkpoint: str = "random") -> Data:
    """inputs: (windows, window_samples) float32 in [-1, 1]; the same for every checkpoint.

    Fetches nothing. Raises InputError: as `prepare`, a missing file.
    """
    if own(dataset):
        path = Path(dataset).expanduser()
        name, source, audio = path.name, "the user's file", read_wav(path)
    elif dataset == "synthetic":
        name, source = dataset, f"seed {SYNTHETIC_SEED}"
        audio = synthetic(config.window_samples)
    else:
        path = recording(data_dir)
        name, source, audio = dataset, download.source(path), read_wav(path)
    inputs = windows(audio, config.window_samples)
    digest = hashlib.sha256(str(inputs.shape).encode() + inputs.tobytes()).hexdigest()
    return Data(train={}, test={"inputs": inputs}, name=name, source=source, sha256=digest)


def own(dataset: str) -> bool:
    """Whether `dataset` is the path of a user's file. Raises InputError for an unknown data set."""
    if dataset in DATASETS:
        return False
    if not dataset.lower().endswith(OWN_DATA):
        raise InputError(
            f"no data set {dataset!r}; expected one of: {', '.join(DATASETS)}, or the path of a"
            f" {OWN_DATA} file"
        )
    return True


def recording(data_dir: str) -> Path:
    """The verified file of "jfk". Raises InputError: it is missing, or another file has its name."""
    directory = download.directory(data_dir)
    path = find(directory, JFK)
    if path is None:
        names = " or ".join(file.name for file in JFK)
        raise InputError(
            f"{names} is not in {directory}; expected it there or in {FOLDER} below it: start a"
            " trial or study to fetch it"
        )
    return path


def find(directory: Path, files: Sequence[File]) -> Path | None:
    """The first of `files` that is in `directory` or its folder whisper. Raises InputError: a file
    that has the name and not the content."""
    for file in files:
        for path in (directory / FOLDER / file.name, directory / file.name):
            if not os.path.exists(path):
                continue
            try:
                check(untrusted.read_bytes(path, MOST_ASSET, file.name), file)
            except InputError:
                raise
            except ValueError as error:
                raise InputError(
                    f"{path} {error}; expected the sha256 {file.sha256}: delete it or move it away,"
                    " then run again to fetch a good one"
                ) from error
            return path
    return None


def check(content: bytes, file: File) -> None:
    """Raises ValueError where `content` is not the file's."""
    digest = hashlib.sha256(content).hexdigest()
    if digest != file.sha256:
        raise ValueError(f"has {len(content):,} bytes and the sha256 {digest}")


def _from_origin(missing: Sequence[File]) -> Iterator[tuple[File, bytes]]:
    yield from fetched(ORIGIN, missing)


SOURCES: list[download.Source[File]] = [("ggml-org/whisper.cpp on GitHub", _from_origin)]


def fetched(address: str, missing: Sequence[File]) -> Iterator[tuple[File, bytes]]:
    """Each file's bytes from below `address`."""
    import tempfile

    for file in missing:
        with tempfile.TemporaryDirectory() as folder:
            path = download.fetch(address + file.name, file.sha256, Path(folder))
            yield file, path.read_bytes()


# --- audio as arrays


def read_wav(path: Path) -> np.ndarray:
    """(samples,) float32 in [-1, 1] at 16 kHz; of several channels the mean.

    Raises InputError: no such file, no WAV file, no sample, another rate, values that are no
    finite numbers.
    """
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode) or found.st_size > MOST_BYTES:
            raise ValueError(f"no plain file of at most {MOST_BYTES:,} bytes")
        with warnings.catch_warnings():  # about chunks that hold no audio
            warnings.simplefilter("ignore", wavfile.WavFileWarning)
            rate, samples = wavfile.read(path)
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}); expected a WAV file at 16 kHz"
        ) from error
    except Exception as error:  # noqa: BLE001  scipy raises many types for what is no WAV file
        reason = " ".join(str(error).split())[:120]
        raise InputError(
            f"{path} is not a WAV file ({reason}); expected one at 16 kHz: convert it with"
            f" 'ffmpeg -i {path.name} -ar 16000 -ac 1 -c:a pcm_s16le OUT.wav'"
        ) from error
    if not samples.size:
        raise InputError(f"{path} holds 0 s of audio; expected a recording: take another file")
    if rate != SAMPLE_RATE:
        raise InputError(
            f"{path} is at {rate} Hz; expected {SAMPLE_RATE}: convert it with"
            f" 'ffmpeg -i {path.name} -ar {SAMPLE_RATE} -ac 1 -c:a pcm_s16le OUT.wav'"
        )
    if samples.dtype == np.uint8:
        values = (samples.astype(np.float32) - 128) / 128
    elif np.issubdtype(samples.dtype, np.integer):
        values = samples.astype(np.float32) / (float(np.iinfo(samples.dtype).max) + 1)
    else:
        values = samples.astype(np.float32)
    if not np.isfinite(values).all():
        raise InputError(
            f"{path} holds values that are no numbers; expected audio: export it again"
        )
    return values.mean(axis=1, dtype=np.float32) if values.ndim > 1 else values


def windows(audio: np.ndarray, samples: int) -> np.ndarray:
    """(n, samples): the audio cut without overlap, the last window padded with silence."""
    count = math.ceil(len(audio) / samples)
    padded = np.zeros(count * samples, np.float32)
    padded[: len(audio)] = audio
    return padded.reshape(count, samples)


def synthetic(samples: int) -> np.ndarray:
    """A voice-like sound: harmonics of a wandering pitch that swells like syllables, and noise."""
    generator = np.random.default_rng(SYNTHETIC_SEED)
    seconds = np.arange(samples) / SAMPLE_RATE
    pitch = 140 + 40 * np.sin(2 * np.pi * 0.4 * seconds)
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    voice = sum(np.sin(k * phase + k) / k for k in range(1, 20))
    swell = np.sin(2 * np.pi * 1.7 * seconds) ** 2
    noise = generator.standard_normal(samples)
    return (0.2 * swell * voice + 0.01 * noise).astype(np.float32)
