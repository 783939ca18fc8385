"""Fuzz targets: files that others made. Seeds are valid small examples."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import fields
from typing import Any

import numpy as np

from benchmarks.fuzz_common import SCRATCH, Target, file_of, text_of
from measurement.errors import InputError


def recordings() -> Target:
    from analysis.published import recordings

    def run(data: bytes) -> None:
        name, _, text = text_of(data).partition("\n")
        recordings.parse(name, text)

    return run


def words() -> Target:
    """Small grammars that share a target: price table, hostfile, arms, images of containers."""
    from entrypoints import kubernetes, prices
    from entrypoints.hostfile import Hosts
    from measurement.schedule import Condition, parse_arm
    from models import hub

    mlproject = 'python_env: python_env.yaml\ncommand: "python -m entrypoints.a"\n'

    def run(data: bytes) -> None:
        if not data:
            return
        kind, text = data[0] % 5, text_of(data[1:])
        if kind == 0:
            prices.parse(text, "t.csv")
        elif kind == 1:
            Hosts.parse(text, "h.json")
        elif kind == 2:
            parse_arm(text, Condition("mlx"), {"batch_size": int, "learning_rate": float})
        elif kind == 3:
            kubernetes.project(mlproject, text)
        else:
            hub._ID.fullmatch(text)

    return run


def word_seeds() -> list[bytes]:
    hosts = {
        "hosts": [
            {"name": "a", "address": "192.168.2.1", "ssh": "me@a", "rdma": [None, "rdma_en5"]},
            {"address": ["192.168.2.2"], "ranks": 1, "rdma": [["x", "y"], None]},
        ],
        "port": 29500,
    }
    return [
        b"\x00chip,usd_per_hour\nApple M4,1.5\nH100,2e0\n",
        b"\x01" + json.dumps(hosts).encode(),
        b"\x01" + b'{"hosts": [{"address": "127.0.0.1", "ranks": 2}]}',
        b"\x02mlx blas=mkl threads=2 slowdown_percent=5 batch_size=64 (again)",
        b"\x03registry.example.org:5000/a/b:1.0",
        b"\x04owner/name@refs/pr/1",
    ]


def config() -> Target:
    """config.json of a Llama checkpoint, of a trial's folder, the index of shards."""
    from models import checkpoints
    from models.tinyllama import checkpoint
    from serving import trained

    folder = SCRATCH / "checkpoint"
    folder.mkdir(exist_ok=True)

    def run(data: bytes) -> None:
        if not data:
            return
        kind, content = data[0] % 3, data[1:]
        if kind == 0:
            (folder / "config.json").write_bytes(content)
            from models.tinyllama.config import Config

            sizes = checkpoint.sizes(str(folder), "auto")
            made = Config(**sizes)
            made.check()
            made.parameters()
        elif kind == 1:
            from measurement import untrusted

            _, _, known = trained._configuration(untrusted.parse_json(content, "it"))
            known.parameters()
        else:
            (folder / checkpoints.INDEX).write_bytes(content)
            checkpoints._shards(folder)

    return run


def config_seeds() -> list[bytes]:
    import models

    llama = {
        "model_type": "llama", "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4,
        "intermediate_size": 128, "vocab_size": 512, "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5, "num_key_value_heads": 2, "hidden_act": "silu", "eos_token_id": [2],
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}, "head_dim": 16,
        "layer_types": ["full_attention"], "tie_word_embeddings": True,
    }  # fmt: skip
    found = [b"\x00" + json.dumps(llama).encode()]
    for workload in models.names():
        preset = models.load(workload, "config").PRESETS["smoke"]
        values = {field.name: getattr(preset, field.name) for field in fields(preset)}
        text = json.dumps({"workload": workload, "framework": "mlx", **values})
        found.append(b"\x01" + text.encode())
    return [*found, b'\x02{"weight_map": {"a": "config.json"}}']


def safetensors() -> Target:
    from models import checkpoints
    from serving import trained

    folder = SCRATCH / "trained"
    folder.mkdir(exist_ok=True)
    (folder / trained.CONFIG_FILE).write_bytes(config_seeds()[-2][1:])

    def run(data: bytes) -> None:
        path = file_of(data, "weights.safetensors")
        with contextlib.suppress(InputError):
            checkpoints.read(path)
        (folder / trained.WEIGHTS_FILE).write_bytes(data)
        trained.read(folder)

    return run


def safetensors_seeds() -> list[bytes]:
    from safetensors.numpy import save

    half = np.ones((2, 2), np.float16)
    found = [
        save({"a": np.ones((2, 3), np.float32), "b": np.zeros(2, np.float64)}),
        save({"c": half, "d": np.ones((), np.float32)}, metadata={"format": "np"}),
        save({"e": np.zeros((0, 4), np.float32), "f": np.ones(3, np.int64)}),
    ]
    # NumPy has no bfloat16; the format has.
    header = json.dumps({"g": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    return [*found, len(header).to_bytes(8, "little") + header + b"\x80\x3f\x00\x40"]


def wav() -> Target:
    from models.whisper_tiny import data as audio

    def run(data: bytes) -> None:
        audio.windows(audio.read_wav(file_of(data, "a.wav")), 480_000)

    return run


def wav_seeds() -> list[bytes]:
    from scipy.io import wavfile

    found = []
    for kind in (np.int16, np.uint8, np.int32, np.float32):
        for shape in ((20,), (10, 2)):
            stream = io.BytesIO()
            wavfile.write(stream, 16_000, np.ones(shape, kind))
            found.append(stream.getvalue())
    return found


def npz() -> Target:
    from models.deit_small import data as images
    from models.eis_predictor import data as rows

    config = _smoke("eis_predictor")

    def run(data: bytes) -> None:
        if not data:
            return
        if data[0] % 2:
            record, _, content = data[1:].partition(b"\0\0")
            path = file_of(content, "rows.npy")
            file_of(record, "rows.npy.json")
            rows._verified(path, config)
        else:
            images.own_images(file_of(data[1:], "images.npz"))

    return run


def _smoke(workload: str) -> Any:
    import models

    return models.load(workload, "config").PRESETS["smoke"]


def npz_seeds() -> list[bytes]:
    from models.eis_predictor import data as rows

    stream, packed, plain = io.BytesIO(), io.BytesIO(), io.BytesIO()
    images, labels = np.zeros((2, 32, 32, 3), np.uint8), np.arange(2)
    np.savez(stream, images=images, labels=labels)
    np.savez_compressed(packed, images=images, fine_labels=labels)
    np.save(plain, np.zeros(3, rows.ROW))
    record = json.dumps(rows._facts(_smoke("eis_predictor")) | {"bytes": 1, "sha256": "0"}).encode()
    return [
        b"\x00" + stream.getvalue(),
        b"\x00" + packed.getvalue(),
        b"\x01" + record + b"\0\0" + plain.getvalue(),
    ]


def archives() -> Target:
    """CIFAR's tar, IDX and its gzip, the pickle that is listed and never loaded, download records."""
    from models import download, transfer
    from models.deit_small import data as cifar
    from models.mnist import data as mnist

    idx = mnist.Idx("x", (2, 2), "", "")

    def run(data: bytes) -> None:
        if not data:
            return
        kind, content = data[0] % 5, data[1:]
        if kind == 0:
            cifar.members(file_of(content, "cifar-100-binary.tar.gz"), [1, 1])
        elif kind == 1:
            cifar.records(content, cifar.PARTS[0])
        elif kind == 2:
            mnist._read(file_of(content, "x.gz"), idx)
        elif kind == 3:
            mnist._read(file_of(content, "x"), idx)
        else:
            file_of(content, "y.json")
            download.source(SCRATCH / "y")
            transfer._version(SCRATCH / "y", "0")

    return run


def archive_seeds() -> list[bytes]:
    import gzip
    import tarfile

    from models.deit_small import data as cifar

    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name in ("train.bin", "test.bin"):
            member = tarfile.TarInfo(f"{cifar.EXTRACTED}/{name}")
            member.size = 10
            archive.addfile(member, io.BytesIO(bytes(10)))
    idx = b"\0\0\x08\x02\0\0\0\x02\0\0\0\x02" + bytes(4)
    return [
        b"\x00" + stream.getvalue(),
        b"\x01" + bytes(cifar.RECORD),
        b"\x02" + gzip.compress(idx),
        b"\x03" + idx,
        b'\x04{"source": "a mirror", "version": "x", "sha256": "0"}',
    ]


def tokenizer() -> Target:
    """tokenizer.json (the library is Rust: only that nothing but InputError comes out of it), the
    pieces of a tiktoken file, a file of prompts."""
    from models.tinyllama import checkpoint as llama
    from models.whisper_tiny import checkpoint as whisper

    folder = SCRATCH / "tokens"
    folder.mkdir(exist_ok=True)
    number = iter(range(1 << 60))

    def run(data: bytes) -> None:
        if not data:
            return
        kind, content = data[0] % 3, data[1:]
        path = folder / f"{next(number)}"
        path.write_bytes(content)
        try:
            if kind == 0:
                llama._tokenizer.cache_clear()
                llama._tokenizer(path)
            elif kind == 1:
                whisper._pieces.cache_clear()
                whisper.decode([0, 1, 2], path)
            else:
                llama.lines(str(path.rename(path.with_suffix(".txt"))))
        finally:
            path.unlink(missing_ok=True)
            path.with_suffix(".txt").unlink(missing_ok=True)

    return run


def tokenizer_seeds() -> list[bytes]:
    from tokenizers import Tokenizer, models, pre_tokenizers

    made = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    pairs = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    return [
        b"\x00" + made.to_str().encode(),
        b"\x00" + pairs.to_str().encode(),
        b"\x01IQ== 0\nIg== 1\n",
        b"\x02Once upon a time\nTom\n",
    ]
