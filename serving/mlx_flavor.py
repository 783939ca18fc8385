"""An MLflow flavour for MLX, which MLflow lacks: safetensors and JSON, no pickle.

A saved model holds `data/weights.safetensors`, `data/config.json` and, in `code/`, the few project
files that rebuild it, so that it loads and serves where this project is not. Saving needs no MLX.
It leans on internal helpers of MLflow, as every flavour outside MLflow must: mlflow >=3.17,<4.
"""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import yaml
from mlflow import pyfunc
from mlflow.models import Model, ModelSignature
from mlflow.models.model import MLMODEL_FILE_NAME, ModelInfo
from mlflow.models.utils import _save_example
from mlflow.utils.environment import _process_pip_requirements, _PythonEnv
from mlflow.utils.file_utils import get_total_file_size
from mlflow.utils.model_utils import _validate_and_prepare_target_save_path

from measurement import blas
from measurement.errors import InputError
from measurement.untrusted import shown
from serving import sources, trained

FLAVOR_NAME = "mlx"
_DATA = "data"
_CODE = "code"


def get_default_pip_requirements() -> list[str]:
    """Pinned to what is installed. The extra `cpu` brings the Linux backend and nothing on a Mac."""
    packages = ("mlx[cpu]", "numpy", "safetensors")
    return [f"{name}=={metadata.version(name.split('[')[0])}" for name in packages]


def save_model(
    folder: str | Path,
    path: str | Path,
    mlflow_model: Model | None = None,
    signature: ModelSignature | None = None,
    input_example: np.ndarray | None = None,
    pip_requirements: list[str] | None = None,
    **_ignored: Any,
) -> None:
    """Write the model that a trial saved in `folder` as an MLflow model to `path`.

    Raises InputError when the folder does not hold a whole MLX model.
    """
    spec = trained.read(Path(folder))
    path = Path(path).absolute()
    _validate_and_prepare_target_save_path(str(path))
    (path / _DATA).mkdir()
    for name in (trained.CONFIG_FILE, trained.WEIGHTS_FILE):
        shutil.copyfile(Path(folder) / name, path / _DATA / name)
    sources.copy(_roots(spec.workload), path / _CODE)

    model = mlflow_model if mlflow_model is not None else Model()
    _save_example(model, input_example, str(path))
    model.signature = signature
    pyfunc.add_to_model(
        model,
        loader_module=__name__,
        data=_DATA,
        code=_CODE,
        conda_env="conda.yaml",
        python_env="python_env.yaml",
        model_config={"device": "cpu", "blas": "auto"},
    )
    model.add_flavor(FLAVOR_NAME, mlx_version=metadata.version("mlx"), data=_DATA, code=_CODE)
    model.model_size_bytes = get_total_file_size(str(path))
    model.save(str(path / MLMODEL_FILE_NAME))

    conda, requirements, _ = _process_pip_requirements(
        None, pip_requirements or get_default_pip_requirements()
    )
    (path / "conda.yaml").write_text(yaml.safe_dump(conda, default_flow_style=False))
    (path / "requirements.txt").write_text("\n".join(requirements))
    _PythonEnv.current().to_yaml(str(path / "python_env.yaml"))


def log_model(folder: str | Path, name: str, **options: Any) -> ModelInfo:
    """Log the model of a trial's `folder` to the active run; `options` as for `save_model`."""
    return Model.log(
        artifact_path=None, name=name, flavor=sys.modules[__name__], folder=folder, **options
    )


def load_model(model_uri: str, device: str = "cpu") -> Any:
    """The native MLX module with its trained weights, ready to call."""
    path = Path(mlflow.artifacts.download_artifacts(model_uri))
    conf = Model.load(str(path)).flavors.get(FLAVOR_NAME)
    if conf is None:
        raise mlflow.MlflowException.invalid_parameter_value(
            f"{model_uri} has no '{FLAVOR_NAME}' flavour; load it with mlflow.pyfunc.load_model"
        )
    _, _, model = trained.build(trained.read(path / _DATA), device)
    return model


def _load_pyfunc(path: str, model_config: dict[str, Any] | None = None) -> Classifier:
    """Called by mlflow.pyfunc; `model_config={"device": "gpu"}` moves the model, {"blas": "shipped"}
    keeps to the BLAS of MLX's wheel."""
    given = model_config or {}
    return Classifier(Path(path), str(given.get("device", "cpu")), str(given.get("blas", "auto")))


class Classifier:
    """Items in, as the configuration's example has them; answers (n,) or (n, ...) int64 out.

    MLX's streams belong to the thread that made them, and a server predicts in another thread than
    it loads in: one thread of our own does both, one request at a time.
    """

    def __init__(self, folder: Path, device: str, choice: str = "shipped") -> None:
        """choice: of a BLAS; auto is a tuned one where this process may still load one."""
        _load_blas(choice, device)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mlx")
        self._thread.submit(self._build, folder, device).result()

    def predict(self, items: Any, params: dict[str, Any] | None = None) -> np.ndarray:
        """`items`: anything NumPy takes for an array: array, DataFrame, nested list."""
        return self._thread.submit(self._predict, np.asarray(items, dtype=self._dtype)).result()

    def get_raw_model(self) -> Any:
        """The native MLX module, as mlflow.pyfunc's models of other flavours give theirs."""
        return self._model

    def _build(self, folder: Path, device: str) -> None:
        spec = trained.read(folder)
        self._dtype = spec.config.example().dtype
        self._adapter, self._twin, self._model = trained.build(spec, device)
        _ending.call = _AtEnd(self._twin.mx.clear_streams)

    def _predict(self, items: np.ndarray) -> np.ndarray:
        with self._adapter.inference():
            answers = self._twin.answer(self._model, self._adapter.put(items))
        return self._adapter.read(answers).astype(np.int64)


def _load_blas(choice: str, device: str) -> None:
    """On a Linux CPU the wheel's reference BLAS takes 7 to 30 times as long as a tuned one."""
    if choice not in ("auto", *blas.CHOICES):  # a path would be a library that a model's file names
        raise InputError(
            f"blas='{shown(choice)}' of a served model; expected auto, {', '.join(blas.CHOICES)}"
        )
    imported = {"torch", "mlx.core"} & sys.modules.keys()
    if choice == "shipped" or (choice == "auto" and (device != "cpu" or imported)):
        return  # nothing to do, too late, or nothing to gain
    if found := blas.better() if choice == "auto" else choice:
        blas.load(found)


class _AtEnd:
    """Calls when it is dropped. In a thread-local that is in the thread, as its last act."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call

    def __del__(self) -> None:
        self._call()


# A thread that used MLX and ends with its streams aborts a process that is about to exit, about
# every third time ("terminate called without an active exception", MLX 0.32.4 on Linux).
_ending = threading.local()


def _roots(workload: str) -> list[str]:
    """What the registries load by name, and this file."""
    twin = [f"models/{workload}/{part}.py" for part in ("config", "mlx")]
    return ["serving/mlx_flavor.py", "frameworks/mlx.py", *twin]
