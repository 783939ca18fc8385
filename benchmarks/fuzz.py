"""Every parser of outside data under a coverage-guided fuzzer (atheris, not among the requirements).

    pip install atheris==3.0.0
    python -m benchmarks.fuzz --parser tags --seconds 600
    python -m benchmarks.fuzz --list

The contract: a parser returns or raises InputError, within `MOST_SECONDS` and `MOST_MIB`, whatever it
is given. Only this project's modules are instrumented. Inputs that gave new coverage are kept in the
folder of --corpus, an input that breaks the contract in that of --crashes; results/fuzz has the log.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from measurement.errors import InputError

MOST_SECONDS, MOST_MIB = 10, 3072  # of one input: time, and of the process: memory
SEED = 7
Target = Callable[[bytes], object]
_folder = tempfile.TemporaryDirectory(prefix="fuzz-")  # gone when the process ends
_scratch = Path(_folder.name)


@dataclass(frozen=True)
class Parser:
    """target: parses one input. seeds: valid small examples, so that the fuzzer starts inside."""

    target: Callable[[], Target]
    seeds: Callable[[], list[bytes]]
    what: str


def _file(content: bytes, name: str) -> Path:
    path = _scratch / name
    path.write_bytes(content)
    return path


def _text(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")


def _tags(data: bytes) -> dict[str, str]:
    """tag=value lines."""
    lines = (line.partition("=") for line in _text(data).split("\n"))
    return {key: value for key, _, value in lines}


# --- what a run says of itself


def tags() -> Target:
    from measurement.audit import parity_difference, receipt_difference
    from tracking import read
    from tracking.bulk import Found

    def run(data: bytes) -> None:
        given = _tags(data)
        found = Found("r", given.get("name", ""), "FINISHED", 0, {}, given, {"a": 1.0})
        row = read.row_of(found)
        parity_difference(row.parity, row.parity)
        receipt_difference(row.receipt, row.receipt)
        str(row)

    return run


def design() -> Target:
    from measurement.schedule import Condition, parse_arm
    from tracking import read
    from tracking.bulk import Found

    def run(data: bytes) -> None:
        given = {"study": "s", "design": _text(data)}
        found = read._study(Found("r", "n", "FINISHED", 0, {}, given, {}))
        assert found.anytime in (True, False) and found.mode and found.quality
        for arm in found.arms:
            parse_arm(arm, Condition("pytorch"), {"batch_size": int})

    return run


_PARITY = {
    "work": "ab12", "dtype": "float32", "optimiser": "sgd", "parameters": 3, "output": [1.0, 2.0],
    "gradient": [1.0, 2.0], "update": [1.0, 2.0], "losses": [0.1, 0.2],
}  # fmt: skip
_RECEIPT = {
    "kind": "train", "items": 2, "steps": 1, "evaluated_items": 3, "weight_change_norm": 0.5,
    "check": 1.5,
}  # fmt: skip
_DESIGN = {
    "workload": "mnist", "mode": "train", "quality": "eval/accuracy", "checkpoint": "random",
    "preset": "smoke", "by_machine": ["device"], "pairs": 6, "stopping": "fixed", "epochs": 2,
    "seed": 0, "dataset": "mnist", "target": 0.9, "price_per_hour": 0.0, "gap_seconds": 0.5,
    "slowdown_percent": 0.0, "metric": "train/total_seconds", "margin": 0.05,
    "family": ["train/total_seconds"], "machine": "linux-x86_64-2c-abcdef",
    "condition": {"framework": "pytorch", "threads": 0}, "arms": ["mlx", "pytorch", "pytorch (again)"],
    "comparisons": [{"numerator": "mlx", "denominator": "pytorch", "role": "headline"}],
    "order": ["mlx", "pytorch"], "sweep": {"parameter": "batch_size", "values": [1, 2]},
    "scaling": {"ranks": [1, 2], "threads": 1}, "scaling_arms": [{"name": "a"}],
}  # fmt: skip


def _tag_seeds() -> list[bytes]:
    lines = [
        "study=s", "arm=mlx", "pair=1", "order=0", "machine=linux-x86_64-2c-abcdef", "seed=3",
        "framework=mlx", "epochs=2", "target=0.9", "batch_size=64", "flags=LOAD,SWAP", "size.layers=2",
        f"parity={json.dumps(_PARITY)}", f"receipt={json.dumps(_RECEIPT)}", "kind=trial",
        'not_measured={"energy/joules": "no meter"}', "machine_cores=2", "ranks=1", "hosts=1",
    ]  # fmt: skip
    generated = {"kind": "generate", "items": 1, "tokens": 4, "steps": 4, "check": "x"}
    return ["\n".join(lines).encode(), f"receipt={json.dumps(generated)}\nseed=1".encode()]


# --- tables and words


def recordings() -> Target:
    from analysis.published import recordings

    def run(data: bytes) -> None:
        name, _, text = _text(data).partition("\n")
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
        kind, text = data[0] % 5, _text(data[1:])
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


def _word_seeds() -> list[bytes]:
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

    folder = _scratch / "checkpoint"
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


def _config_seeds() -> list[bytes]:
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


# --- files of numbers


def safetensors() -> Target:
    from models import checkpoints
    from serving import trained

    folder = _scratch / "trained"
    folder.mkdir(exist_ok=True)
    (folder / trained.CONFIG_FILE).write_bytes(_config_seeds()[-2][1:])

    def run(data: bytes) -> None:
        path = _file(data, "weights.safetensors")
        with contextlib.suppress(InputError):
            checkpoints.read(path)
        (folder / trained.WEIGHTS_FILE).write_bytes(data)
        trained.read(folder)

    return run


def _safetensors_seeds() -> list[bytes]:
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


def samples() -> Target:
    from tracking import read

    def run(data: bytes) -> None:
        read.series(_file(data, "samples.parquet"))

    return run


def _samples_seeds() -> list[bytes]:
    import pyarrow
    import pyarrow.parquet

    from tracking import write

    found = []
    for series in ({"epoch_seconds": [1.0, 2.0], "losses": [0.5]}, {}):
        write.write_samples(_scratch / "seed.parquet", series)
        found.append((_scratch / "seed.parquet").read_bytes())
    table = pyarrow.table({"series": ["a"], "value": [1.0], "more": [[1, 2]]})
    for compression in ("none", "zstd", "gzip"):
        stream = io.BytesIO()
        pyarrow.parquet.write_table(table, stream, compression=compression)
        found.append(stream.getvalue())
    return found


def wav() -> Target:
    from models.whisper_tiny import data as audio

    def run(data: bytes) -> None:
        audio.windows(audio.read_wav(_file(data, "a.wav")), 480_000)

    return run


def _wav_seeds() -> list[bytes]:
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
            path = _file(content, "rows.npy")
            _file(record, "rows.npy.json")
            rows._verified(path, config)
        else:
            images.own_images(_file(data[1:], "images.npz"))

    return run


def _smoke(workload: str) -> Any:
    import models

    return models.load(workload, "config").PRESETS["smoke"]


def _npz_seeds() -> list[bytes]:
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
            cifar.members(_file(content, "cifar-100-binary.tar.gz"), [1, 1])
        elif kind == 1:
            cifar.records(content, cifar.PARTS[0])
        elif kind == 2:
            mnist._read(_file(content, "x.gz"), idx)
        elif kind == 3:
            mnist._read(_file(content, "x"), idx)
        else:
            _file(content, "y.json")
            download.source(_scratch / "y")
            transfer._version(_scratch / "y", "0")

    return run


def _archive_seeds() -> list[bytes]:
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

    folder = _scratch / "tokens"
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


def _tokenizer_seeds() -> list[bytes]:
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


# --- what answers as a tracking server


def server() -> Target:
    from tracking import bulk
    from tracking.bulk import client, server
    from tracking.bulk.columns import Histories, Part, Wanted

    answers: list[bytes] = []

    class Response:
        status_code = 200

        def __enter__(self) -> Response:
            return self

        def __exit__(self, *_: object) -> None: ...

        def iter_content(self, size: int) -> list[bytes]:
            return [answers.pop(0) if answers else b"{}"]

    for module, name, value in (
        (server, "http_request", lambda *_, **__: Response()),
        (server, "get_default_host_creds", lambda uri: None),
        (client, "experiment_ids", lambda uri, deleted=False: ["0"]),
        (client, "of_one", lambda *_: Part.of((), (), (), (), ())),
    ):
        setattr(module, name, value)
    server._ROWS = 3  # so that a small answer may be a cut one

    def run(data: bytes) -> None:
        answers[:] = data.split(b"\n")
        with bulk._as_mlflow_writes():
            server.runs("http://x", Wanted({}, None, None))
        answers[:] = data.split(b"\n")
        with bulk._as_mlflow_writes():
            points = server.points("http://x", ["a", "b"], ["m", "n"])
            Histories.of(["a", "b"], ["m", "n"], points)

    return run


def _server_seeds() -> list[bytes]:
    run = {
        "info": {"run_id": "a", "run_name": "n", "status": "FINISHED", "start_time": 1},
        "data": {
            "params": [{"key": "p", "value": "1"}],
            "tags": [{"key": "t", "value": "1"}],
            "metrics": [{"key": "m", "value": "NaN"}],
        },
    }
    page = json.dumps({"runs": [run], "next_page_token": "x"})
    last = json.dumps({"runs": [run]})
    point = {"run_id": "a", "step": 1, "value": 0.5, "timestamp": 2}
    points = json.dumps({"metrics": [point]})
    full = json.dumps({"metrics": [point, point, {**point, "run_id": "b"}]})
    return [last.encode(), "\n".join([page, last, last]).encode(), points.encode(), full.encode()]


def database() -> Target:
    """A database file whose tables hold what they should not: values of other kinds than declared.
    (Of the bytes of the file SQLite itself is the parser.)"""
    import sqlite3

    from mlflow.tracking import MlflowClient

    from tracking import bulk
    from tracking.bulk import client
    from tracking.bulk import database as tables
    from tracking.bulk.columns import Histories, Wanted
    from tracking.store import reachable

    path = _scratch / "mlflow.db"
    uri = f"sqlite:///{path}"
    made = MlflowClient(uri)
    run_id = made.create_run("0").info.run_id
    made.log_metric(run_id, "m", 1.0)
    made.set_tag(run_id, "t", "v")
    client.experiment_ids = lambda uri, deleted=False: ["0"]
    columns = [
        ("runs", "name"), ("runs", "status"), ("runs", "start_time"), ("tags", "key"),
        ("tags", "value"), ("params", "value"), ("metrics", "value"), ("metrics", "step"),
        ("metrics", "timestamp"), ("metrics", "is_nan"), ("latest_metrics", "value"),
        ("latest_metrics", "key"),
    ]  # fmt: skip

    def run(data: bytes) -> None:
        if len(data) < 2:
            return
        table, column = columns[data[0] % len(columns)]
        value: Any = data[2:]
        with contextlib.suppress(ValueError):
            value = [value, _text(value), int(value or b"0"), float(value or b"0"), None][
                data[1] % 5
            ]
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA ignore_check_constraints = 1")
            with contextlib.suppress(sqlite3.Error, OverflowError):
                connection.execute(f"UPDATE {table} SET {column} = ?", (value,))  # noqa: S608
                connection.commit()
        with reachable(), bulk._as_mlflow_writes():
            tables.runs(uri, Wanted({}, None, None))
        with reachable(), bulk._as_mlflow_writes():
            Histories.of([run_id], ["m"], tables.points(uri, [run_id], ["m"]))

    return run


def _database_seeds() -> list[bytes]:
    return [bytes([k, kind]) + b"7" for k in range(12) for kind in range(5)]


# --- models of a store


def model() -> Target:
    """What is looked at before a model is registered, or its weights compared: its description, its
    graph, the pickle in that; and the recipe and the digest of its run."""
    from entrypoints import recipe
    from serving import inspection, weights

    folder = _scratch / "model"
    (folder / "data").mkdir(parents=True, exist_ok=True)
    shapes = {"a": (2, 2)}

    def run(data: bytes) -> None:
        if not data:
            return
        kind, content = data[0] % 5, data[1:]
        if kind == 0:
            (folder / "MLmodel").write_bytes(content)
            inspection.check(folder)
        elif kind == 1:
            inspection._check_graph(_file(content, "model.pt2"))
        elif kind == 2:
            inspection._check_pickle(content, "data.pkl")
        elif kind == 3:
            (folder / weights._GRAPH).write_bytes(content)
            weights.read(folder, shapes)
        else:
            recipe.read({recipe.SPEC: _text(content)}, {})

    return run


def _model_seeds() -> list[bytes]:
    import zipfile

    import yaml

    plain = b"\x80\x02}q\x00X\x01\x00\x00\x00aq\x01K\x01s."  # a pickle of {"a": 1}
    function = {"loader_module": "mlflow.pytorch", "data": "data", "code": None}
    about = {"flavors": {"python_function": function, "pytorch": {"model_data": "data"}}}
    example, graph = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(example, "w") as archive:
        archive.writestr("archive/data.pkl", plain)
    meta = {"dtype": 7}
    listed = {"config": {"a": {"path_name": "weight_0", "use_pickle": False, "tensor_meta": meta}}}
    with zipfile.ZipFile(graph, "w") as archive:
        archive.writestr("m/data/weights/model_weights_config.json", json.dumps(listed))
        archive.writestr("m/data/weights/weight_0", bytes(16))
        archive.writestr("m/data/sample_inputs/model.pt", example.getvalue())
    condition = {"framework": "mlx", "device": "cpu", "threads": 1}
    spec = {"workload": "mnist", "condition": condition, "preset": "smoke", "sizes": {"layers": 2}}
    return [
        b"\x00" + yaml.safe_dump(about).encode(),
        b"\x01" + graph.getvalue(),
        b"\x02" + plain,
        b"\x02cbuiltins\nprint\n.",
        b"\x03" + graph.getvalue(),
        b"\x04" + json.dumps(spec).encode(),
    ]


# --- local records, which another machine's disk or an interrupted write may have spoilt


def record() -> Target:
    from tracking import digest, outbox

    folder = _scratch / "record"
    folder.mkdir(exist_ok=True)

    def run(data: bytes) -> None:
        header, _, rest = data.partition(b"\n")
        points, _, receipts = rest.partition(b"\n")
        (folder / outbox.HEADER).write_bytes(header)
        (folder / outbox.POINTS).write_bytes(points)
        (folder / outbox.RECEIPTS).write_bytes(receipts)
        outbox.receipts(folder)
        kept = outbox.read(folder)
        kept.points()
        digest.altered(kept.record.tags, {"a": 1.0})

    return run


def _record_seeds() -> list[bytes]:
    from dataclasses import asdict

    from tracking import digest, outbox
    from tracking.write import Point, Record

    points = [Point("a", 1.0, 0, 2.0)]
    tags = {"seed": "1", "arm": "mlx"}
    given = Record("n", "note", {"p": "1"}, {**tags, **digest.sign(tags, points)}, [], {})
    text = json.dumps([["a", 1.0, 0, 2.0]]).encode()
    kept = outbox.Kept(_scratch, "id", given, points_sha256=hashlib.sha256(text).hexdigest())
    header = json.dumps({**asdict(kept), "folder": "f"}).encode()
    return [b"\n".join([header, text, b'{"http://x": {"run_id": "r", "status": "FINISHED"}}'])]


PARSERS: dict[str, Parser] = {
    "tags": Parser(tags, _tag_seeds, "tags of a trial: condition, parity, receipt, flags"),
    "design": Parser(design, lambda: [json.dumps(_DESIGN).encode()], "design of a study, its arms"),
    "recordings": Parser(
        recordings,
        lambda: [
            b"torch-train-mps-n2-e2.csv\nepoch_0,epoch_1,avg,iter_total\n1,3,2,4.5\n1,2,1.5,4\n",
            b"mlx-test-cpu.blas_mkl-n1.csv\niter_total\n1.5e-3\n",
            b"mlx-train-gpu-n1-e1-vbatch.csv\nepoch_0,batch_size,avg,iter_total\n1,64,1,2\n",
        ],
        "CSV files of import_results",
    ),
    "words": Parser(words, _word_seeds, "hostfile, price table, arms, container image, hub id"),
    "config": Parser(config, _config_seeds, "config.json of checkpoints and trials, shard index"),
    "safetensors": Parser(safetensors, _safetensors_seeds, "weights, as checkpoint and as model"),
    "samples": Parser(samples, _samples_seeds, "samples.parquet of a run"),
    "wav": Parser(wav, _wav_seeds, "a user's recording"),
    "npz": Parser(npz, _npz_seeds, "a user's images; shards of simulated circuits"),
    "archives": Parser(archives, _archive_seeds, "CIFAR tar, IDX, gzip, records of downloads"),
    "tokenizer": Parser(tokenizer, _tokenizer_seeds, "tokenizer.json, tiktoken pieces, prompts"),
    "server": Parser(server, _server_seeds, "answers of a tracking server"),
    "model": Parser(model, _model_seeds, "an MLflow model, its graph and pickles; a run's recipe"),
    "record": Parser(record, _record_seeds, "a local record, its points and receipts"),
    "database": Parser(database, _database_seeds, "values in the tables of a tracking database"),
}
OURS = ["analysis", "entrypoints", "frameworks", "measurement", "models", "serving", "tracking"]


_NASTY: list[Any] = [
    None, True, 0, -1, 1.5, 1e308, -1e308, float("nan"), float("inf"), 2**31, 2**63, 2**64, 10**400, "",
    "a", "\u00b2", "..", "../../x", "/etc/passwd", "\0", "\ud800", "1" * 5000, "=1+1", "\x1b[2J", [], {},
    [[]], {"a": {}}, [1, "a"],
]  # fmt: skip


def mutated(data: bytes, most: int, seed: int) -> bytes:
    """An input like `data`. Where a line of it ends in JSON, every other time one node of that is
    changed: the bytes of JSON, cut anywhere, rarely stay JSON."""
    import atheris

    random = Random(seed)
    lines = data.split(b"\n")
    places = [k for k, line in enumerate(lines) if b"{" in line]
    if places and random.random() < 0.5:
        place = random.choice(places)
        head, brace, tail = lines[place].partition(b"{")
        with contextlib.suppress(ValueError, RecursionError):
            tree = _changed(json.loads(brace + tail), random)
            lines[place] = head + json.dumps(tree).encode("utf-8", "replace")
            return b"\n".join(lines)[:most]
    found: bytes = atheris.Mutate(data, most)
    return found


def _changed(tree: Any, random: Random) -> Any:
    if not isinstance(tree, (dict, list)) or not tree or random.random() < 0.2:
        return random.choice([*_NASTY, tree, [tree], [tree] * 5])
    keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
    key = random.choice(keys)
    if random.random() < 0.1:
        del tree[key]
    elif random.random() < 0.1 and isinstance(tree, dict):
        tree[str(random.choice(_NASTY))] = tree[key]
    else:
        tree[key] = _changed(tree[key], random)
    return tree


def check(target: Target, data: bytes) -> None:
    """One input by the contract: returns, or the InputError that a parser may raise."""
    with contextlib.suppress(InputError):
        target(data)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    arguments.add_argument("--parser", choices=sorted(PARSERS))
    arguments.add_argument("--seconds", type=int, default=600)
    arguments.add_argument("--corpus", default="mlruns/fuzz/corpus")
    arguments.add_argument("--crashes", default="mlruns/fuzz/crashes")
    arguments.add_argument("--list", action="store_true")
    given = arguments.parse_args()
    if given.list or not given.parser:
        print("\n".join(f"{name:12} {parser.what}" for name, parser in PARSERS.items()))
        return
    import atheris

    logging.disable(logging.WARNING)
    parser = PARSERS[given.parser]
    corpus, crashes = (Path(f) / given.parser for f in (given.corpus, given.crashes))
    for folder in (corpus, crashes):
        folder.mkdir(parents=True, exist_ok=True)
    with atheris.instrument_imports(include=OURS, enable_loader_override=False):
        target = parser.target()
    for number, seed in enumerate(parser.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    start, executed = time.monotonic(), 0

    def once(data: bytes) -> None:
        nonlocal executed
        executed += 1
        check(target, data)

    options = [
        f"-max_total_time={given.seconds}", f"-timeout={MOST_SECONDS}", f"-rss_limit_mb={MOST_MIB}",
        f"-artifact_prefix={crashes}/", f"-seed={SEED}", "-max_len=65536", "-print_final_stats=1",
        "-use_value_profile=1", str(corpus),
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *options], once, custom_mutator=mutated)
    print(f"{given.parser}: start", os.getpid(), start, file=sys.stderr)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
