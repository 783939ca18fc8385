"""The seed CSV format: one row a run, `epoch_0..epoch_k[, batch_size], avg, iter_total`, seconds.

An inference file has the single column `iter_total`. The name tells the arm and must agree with
the contents: `<mlx|torch|tensorflow>-<train|test>-<device>-n<runs>[-e<epochs>][-vbatch].csv`, as
written by https://github.com/richiksc/mlx-benchmarks. The device may carry a label after a dot
(`cpu.blas_mkl`), which tells apart two arms of one framework and device.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from measurement import untrusted
from measurement.errors import InputError
from measurement.untrusted import shown

FRAMEWORKS = {"mlx": "mlx", "torch": "pytorch", "tensorflow": "tensorflow"}
DEVICES = {"cpu": "cpu", "gpu": "gpu", "mps": "gpu", "cuda": "gpu"}
NAME = re.compile(
    r"(?P<framework>mlx|torch|tensorflow)-(?P<phase>train|test)-(?P<device>[A-Za-z0-9_.+]+)"
    r"-n(?P<runs>[1-9]\d{0,8})(?:-e(?P<epochs>[1-9]\d{0,8}))?(?P<sweep>-vbatch)?\.csv"
)
EXAMPLE = "mlx-train-gpu-n100-e20.csv or torch-test-mps-n100.csv"
_NUMBER = re.compile(r"\+?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_ROUNDING = 1e-9  # relative; sums of doubles differ by far less
_COARSE = 0.01  # numbers as coarse as that are checked to 1 % all the same
_OTHER_UNIT = 500  # a total this many times its epochs is in milliseconds
LARGEST, _MOST_FILES = 4 * untrusted.MIB, 1000  # bytes of a file; files of a folder
_MOST_SECONDS = 1e9  # 30 years; sums stay finite
_BY_CHANCE = 20  # digits of a row that two runs do not share by chance


@dataclass(frozen=True)
class Recording:
    """One CSV: the runs of one arm, in file order. Times in seconds.

    total_seconds: `iter_total` of each run; epoch_seconds: one tuple a run, empty for an inference
    file; batch_sizes: one a run where the file is a sweep, else empty. framework and device are in
    our words; device_as_written is the author's. label tells apart arms of one framework and device.
    """

    file: str
    framework: str
    phase: str
    device: str
    device_as_written: str
    label: str
    epoch_seconds: tuple[tuple[float, ...], ...]
    total_seconds: tuple[float, ...]
    batch_sizes: tuple[int, ...]
    sha256: str
    text: str

    @property
    def runs(self) -> int:
        """Rows of the file."""
        return len(self.total_seconds)

    @property
    def epochs(self) -> int:
        """Epochs of each run; 0 for an inference file."""
        return len(self.epoch_seconds[0]) if self.epoch_seconds else 0

    @property
    def work(self) -> str:
        """The phase in words: training or inference."""
        return "training" if self.phase == "train" else "inference"

    @property
    def sweep(self) -> bool:
        """Does every row have a batch size of its own?"""
        return bool(self.batch_sizes)

    @property
    def arm(self) -> str:
        """Framework, device and label: 'mlx gpu'."""
        return " ".join(part for part in (self.framework, self.device, self.label) if part)


def read_folder(folder: Path) -> list[Recording]:
    """Every CSV of a folder, by name. Raises InputError: no folder, no CSV, two equal files, and
    whatever `read` refuses."""
    if not folder.is_dir():
        raise InputError(f"'{folder}' is no folder; expected one with files such as {EXAMPLE}")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".csv")
    if not paths:
        raise InputError(f"'{folder}' holds no CSV file; expected files such as {EXAMPLE}")
    if len(paths) > _MOST_FILES:
        raise InputError(
            f"'{folder}' holds {len(paths):,} CSV files; expected at most {_MOST_FILES}"
        )
    found: dict[str, Recording] = {}
    for path in paths:
        recording = read(path)
        if recording.sha256 in found:
            raise InputError(
                f"{path.name} is a duplicate of {found[recording.sha256].file}; "
                "expected every file once: remove one"
            )
        found[recording.sha256] = recording
    return list(found.values())


def read(path: Path) -> Recording:
    """One CSV file. Raises InputError when it cannot be read, or see `parse`."""
    raw = untrusted.read_bytes(path, LARGEST, "a CSV in UTF-8")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path.name} is no text file; expected a CSV in UTF-8") from None
    return parse(path.name, text, hashlib.sha256(raw).hexdigest())


def parse(name: str, text: str, sha256: str = "") -> Recording:
    """A Recording from a file's name and contents.

    Raises InputError, each case in its own words: a name outside the convention, an empty file, a
    missing or unknown column, ragged rows, anything that is no finite number above 0, `avg` that is
    not the mean of the epochs, `iter_total` below their sum or in another unit, a run that stands
    twice, contents that do not have the runs and epochs of the name.

    >>> r = parse("torch-train-mps-n1-e2.csv", "epoch_0,epoch_1,avg,iter_total\\n1,3,2,4.5\\n")
    >>> r.arm, r.epoch_seconds, r.total_seconds
    ('pytorch gpu', ((1.0, 3.0),), (4.5,))
    """
    match = NAME.fullmatch(name)
    if match is None:
        raise InputError(
            f"{name}: the name does not say which arm it is; expected "
            f"<mlx|torch>-<train|test>-<device>-n<runs>[-e<epochs>][-vbatch].csv, as {EXAMPLE}"
        )
    device, label = _device(name, match["device"])
    try:
        rows = [row for row in csv.reader(io.StringIO(text)) if row]
    except csv.Error as error:
        raise InputError(f"{name} is no CSV ({error}); expected numbers and commas") from None
    if not rows:
        raise InputError(f"{name} is empty; expected a header and one row a run")
    columns = [column.strip() for column in rows[0]]
    epochs, sweep = _layout(name, columns, match["phase"])
    values = [
        _row(name, number, columns, row, epochs, sweep)
        for number, row in enumerate(rows[1:], start=1)
    ]
    _agree(name, "runs (n)", int(match["runs"]), len(values))
    _agree(name, "epochs (e)", int(match["epochs"] or 0), epochs)
    if bool(match["sweep"]) != sweep:
        raise InputError(f"{name}: a column batch_size and '-vbatch' in the name go together")
    _refuse_repeated(name, rows[1:], epochs)
    return Recording(
        file=name,
        framework=FRAMEWORKS[match["framework"]],
        phase=match["phase"],
        device=device,
        device_as_written=match["device"],
        label=label,
        epoch_seconds=tuple(
            tuple(row[f"epoch_{i}"] for i in range(epochs)) for row in values if epochs
        ),
        total_seconds=tuple(row["iter_total"] for row in values),
        batch_sizes=tuple(int(row["batch_size"]) for row in values if sweep),
        sha256=sha256 or hashlib.sha256(text.encode()).hexdigest(),
        text=text,
    )


def _device(name: str, written: str) -> tuple[str, str]:
    """('cpu', label) from 'cpu', 'DeviceType.cpu' or 'cpu.blas_mkl'."""
    parts = [part for part in written.split(".") if part != "DeviceType"]
    known = [part for part in parts if part in DEVICES]
    if not known:
        raise InputError(
            f"{name}: '{written}' names no device; expected one of {', '.join(DEVICES)}, "
            "perhaps with a label after a dot"
        )
    parts.remove(known[0])
    return DEVICES[known[0]], ".".join(parts)


def _layout(name: str, columns: Sequence[str], phase: str) -> tuple[int, bool]:
    """(epochs, has batch sizes). Refuses missing, doubled and unknown columns."""
    epochs = sum(1 for column in columns if re.fullmatch(r"epoch_\d+", column))
    expected = ["iter_total"]
    if phase == "train":
        first = [f"epoch_{i}" for i in range(max(epochs, 1))]
        expected = [*first, *(["batch_size"] if "batch_size" in columns else []), "avg", *expected]
    there, wanted_columns = set(columns), set(expected)
    missing = [column for column in expected if column not in there]
    unknown = [column for column in columns if column not in wanted_columns]
    if missing or unknown or len(columns) != len(there):
        what = (
            f"the column {missing[0]} is missing"
            if missing
            else f"unknown column '{shown(unknown[0])}'"
            if unknown
            else "a column stands twice"
        )
        wanted = (
            "iter_total" if phase == "test" else "epoch_0...epoch_k[, batch_size], avg, iter_total"
        )
        raise InputError(f"{name}: {what}; expected the columns {wanted}")
    return epochs, "batch_size" in columns


def _row(
    name: str, number: int, columns: Sequence[str], row: Sequence[str], epochs: int, sweep: bool
) -> dict[str, float]:
    where = f"{name}, run {number}"
    if len(row) != len(columns):
        raise InputError(
            f"{where}: {len(row)} values where the header has {len(columns)} columns; "
            "expected one value a column"
        )
    texts = dict(zip(columns, (cell.strip() for cell in row), strict=True))
    values = {column: _positive(where, column, text) for column, text in texts.items()}
    if sweep and not values["batch_size"].is_integer():
        raise InputError(
            f"{where}: batch_size is {shown(texts['batch_size'])}; expected a whole number"
        )
    if epochs:
        _check_sums(where, texts, values, epochs)
    return values


def _positive(where: str, column: str, text: str) -> float:
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not 0 < value < _MOST_SECONDS:  # false for NaN
        raise InputError(
            f"{where}: {column} is '{shown(text)}'; expected a finite number of seconds above 0"
        )
    return value


def _check_sums(where: str, texts: dict[str, str], values: dict[str, float], epochs: int) -> None:
    """avg and iter_total must follow from the epochs, as exactly as they are written."""
    names = [f"epoch_{i}" for i in range(epochs)]
    total = math.fsum(values[name] for name in names)
    grains = [_grain(texts[name]) for name in names]
    mean = total / epochs
    slack = _slack(max(grains) + _grain(texts["avg"]), mean)
    if abs(values["avg"] - mean) > slack:
        raise InputError(
            f"{where}: avg is {shown(texts['avg'])}, but the mean of its epochs is {mean:.9g}; "
            "expected the mean, in the same unit"
        )
    slack = _slack(sum(grains) + _grain(texts["iter_total"]), total)
    if values["iter_total"] < total - slack:
        raise InputError(
            f"{where}: iter_total is {shown(texts['iter_total'])}, less than its epochs together "
            f"({total:.9g}); expected the time of the whole run, in the same unit"
        )
    if values["iter_total"] > _OTHER_UNIT * total:
        raise InputError(
            f"{where}: iter_total is {shown(texts['iter_total'])}, {values['iter_total'] / total:.0f} times "
            "its epochs together; expected seconds in every column, this looks like milliseconds"
        )


def _slack(grain: float, value: float) -> float:
    """What rounding explains: of the written digits, but no more than 1 %; of sums of doubles."""
    return min(grain, _COARSE * value) + _ROUNDING * value


def _grain(text: str) -> float:
    """Half a unit in the last place that was written."""
    exponent = Decimal(text).as_tuple().exponent
    return 0.5 * 10.0 ** int(exponent) if isinstance(exponent, int) else 0.0


def _agree(name: str, what: str, said: int, found: int) -> None:
    if said != found:
        raise InputError(
            f"{name}: the name says {said} {what}, the file has {found}; "
            "expected the same: complete the file or correct its name"
        )


def _refuse_repeated(name: str, rows: Sequence[Sequence[str]], epochs: int) -> None:
    """A run copied within the file: all its digits again, too many for chance."""
    seen: dict[tuple[str, ...], int] = {}
    for number, row in enumerate(rows, start=1):
        if epochs and sum(character.isdigit() for cell in row for character in cell) >= _BY_CHANCE:
            earlier = seen.setdefault(tuple(row), number)
            if earlier != number:
                raise InputError(
                    f"{name}: run {number} repeats run {earlier} digit by digit; "
                    "expected every run once: remove the copy"
                )


def file_name(framework: str, phase: str, device: str, label: str, runs: int, epochs: int) -> str:
    """The name of a file by the convention; the label's other characters become '_'.

    >>> file_name("pytorch", "train", "cpu", "blas=mkl", 6, 3)
    'torch-train-cpu.blas_mkl-n6-e3.csv'
    """
    written = {ours: theirs for theirs, ours in FRAMEWORKS.items()}.get(framework, framework)
    plain = re.sub(r"[^A-Za-z0-9+]+", "_", label).strip("_")
    place = f"{device}.{plain}" if plain else device
    return f"{written}-{phase}-{place}-n{runs}" + (f"-e{epochs}" if epochs else "") + ".csv"


def text_of(epoch_seconds: Sequence[Sequence[float]], total_seconds: Sequence[float]) -> str:
    """The contents of a file; every number in the digits that read back to the same double.

    epoch_seconds: one sequence a run, empty for an inference file.

    >>> text_of([[1.0, 3.0]], [4.5])
    'epoch_0,epoch_1,avg,iter_total\\n1.0,3.0,2.0,4.5\\n'
    """
    if not epoch_seconds:
        return "\n".join(["iter_total", *(repr(float(total)) for total in total_seconds)]) + "\n"
    header = [f"epoch_{i}" for i in range(len(epoch_seconds[0]))]
    lines = [",".join([*header, "avg", "iter_total"])]
    for epochs, total in zip(epoch_seconds, total_seconds, strict=True):
        numbers = [*epochs, math.fsum(epochs) / len(epochs), total]
        lines.append(",".join(repr(float(number)) for number in numbers))
    return "\n".join(lines) + "\n"
