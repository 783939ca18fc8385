"""Fuzz targets: what comes out of a store, of its server, and of local records."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from dataclasses import asdict
from typing import Any

from benchmarks.fuzz_common import SCRATCH, Target, file_of, text_of


def _tags(data: bytes) -> dict[str, str]:
    """tag=value lines."""
    lines = (line.partition("=") for line in text_of(data).split("\n"))
    return {key: value for key, _, value in lines}


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
        given = {"study": "s", "design": text_of(data)}
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


DESIGN = {
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


def tag_seeds() -> list[bytes]:
    lines = [
        "study=s", "arm=mlx", "pair=1", "order=0", "machine=linux-x86_64-2c-abcdef", "seed=3",
        "framework=mlx", "epochs=2", "target=0.9", "batch_size=64", "flags=LOAD,SWAP", "size.layers=2",
        f"parity={json.dumps(_PARITY)}", f"receipt={json.dumps(_RECEIPT)}", "kind=trial",
        'not_measured={"energy/joules": "no meter"}', "machine_cores=2", "ranks=1", "hosts=1",
    ]  # fmt: skip
    generated = {"kind": "generate", "items": 1, "tokens": 4, "steps": 4, "check": "x"}
    return ["\n".join(lines).encode(), f"receipt={json.dumps(generated)}\nseed=1".encode()]


def samples() -> Target:
    from tracking import read

    def run(data: bytes) -> None:
        read.series(file_of(data, "samples.parquet"))

    return run


def samples_seeds() -> list[bytes]:
    import pyarrow
    import pyarrow.parquet

    from tracking import write

    found = []
    for series in ({"epoch_seconds": [1.0, 2.0], "losses": [0.5]}, {}):
        write.write_samples(SCRATCH / "seed.parquet", series)
        found.append((SCRATCH / "seed.parquet").read_bytes())
    table = pyarrow.table({"series": ["a"], "value": [1.0], "more": [[1, 2]]})
    for compression in ("none", "zstd", "gzip"):
        stream = io.BytesIO()
        pyarrow.parquet.write_table(table, stream, compression=compression)
        found.append(stream.getvalue())
    return found


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


def server_seeds() -> list[bytes]:
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

    path = SCRATCH / "mlflow.db"
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
            value = [value, text_of(value), int(value or b"0"), float(value or b"0"), None][
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


def database_seeds() -> list[bytes]:
    return [bytes([k, kind]) + b"7" for k in range(12) for kind in range(5)]


def model() -> Target:
    """What is looked at before a model is registered, or its weights compared: its description, its
    graph, the pickle in that; and the recipe and the digest of its run."""
    from entrypoints import recipe
    from serving import inspection, weights

    folder = SCRATCH / "model"
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
            inspection._check_graph(file_of(content, "model.pt2"))
        elif kind == 2:
            inspection._check_pickle(content, "data.pkl")
        elif kind == 3:
            (folder / weights._GRAPH).write_bytes(content)
            weights.read(folder, shapes)
        else:
            recipe.read({recipe.SPEC: text_of(content)}, {})

    return run


def model_seeds() -> list[bytes]:
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


def record() -> Target:
    from tracking import digest, outbox

    folder = SCRATCH / "record"
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


def record_seeds() -> list[bytes]:

    from tracking import digest, outbox
    from tracking.write import Point, Record

    points = [Point("a", 1.0, 0, 2.0)]
    tags = {"seed": "1", "arm": "mlx"}
    given = Record("n", "note", {"p": "1"}, {**tags, **digest.sign(tags, points)}, [], {})
    text = json.dumps([["a", 1.0, 0, 2.0]]).encode()
    kept = outbox.Kept(SCRATCH, "id", given, points_sha256=hashlib.sha256(text).hexdigest())
    header = json.dumps({**asdict(kept), "folder": "f"}).encode()
    return [b"\n".join([header, text, b'{"http://x": {"run_id": "r", "status": "FINISHED"}}'])]
