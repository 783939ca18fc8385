"""One trial's trained model -> one MLflow model of its run, cheap enough for every trial."""

from __future__ import annotations

import tempfile
from importlib import metadata
from pathlib import Path

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, LoggedModelStatus, Metric, Run
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec

from measurement.errors import InputError
from serving import exported, mlx_flavor, trained
from tracking.store import reachable


def log_model(run_id: str, framework: str, workload: str, folder: Path) -> str:
    """Log the model that a trial saved in `folder` (weights.safetensors, config.json) to its run,
    after the run's metrics, so that the model carries them too. Returns its URI, `models:/m-...`.
    Of a framework that nothing here serves, the two files become artifacts: `runs:/.../model`.

    MLflow's own `log_model` infers requirements and tries the inputs out, which takes seconds; here
    requirements are given and the weights are checked against the configuration. Raises InputError
    when the folder does not hold that trial's whole model or the store cannot be used.
    """
    spec = trained.read(folder)
    if (spec.framework, spec.workload) != (framework, workload):
        raise InputError(
            f"{folder} holds a {spec.framework} model of '{spec.workload}', expected {framework}"
            f" of '{workload}'; give that trial's own folder"
        )
    with reachable():
        if framework not in trained.SERVED:
            for name in (trained.WEIGHTS_FILE, trained.CONFIG_FILE):
                MlflowClient().log_artifact(run_id, str(folder / name), trained.ARTIFACT)
            return f"runs:/{run_id}/{trained.ARTIFACT}"
        return _log(MlflowClient(), run_id, spec, folder)


def _log(client: MlflowClient, run_id: str, spec: trained.Trained, folder: Path) -> str:
    run = client.get_run(run_id)
    # Not Model.log: without an active run it files the model under the experiment "Default".
    logged = client.create_logged_model(
        run.info.experiment_id,
        name=f"{spec.workload}_{spec.framework}",
        source_run_id=run_id,
        params=run.data.params,
        model_type="classifier",
    )
    try:
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "model"
            description = Model(
                artifact_path=logged.artifact_location,
                run_id=run_id,
                model_uuid=logged.model_id,
                model_id=logged.model_id,
            )
            save_model(folder, path, description)
            client.log_model_artifacts(logged.model_id, str(path))
        client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
        client.log_batch(run_id, metrics=_metrics(run, logged.model_id))
    except BaseException:
        client.finalize_logged_model(logged.model_id, LoggedModelStatus.FAILED)
        raise
    client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    return f"models:/{logged.model_id}"


def save_model(folder: Path, path: Path, description: Model | None = None) -> None:
    """Write a trial's model as an MLflow model to `path`: in the MLX flavour of this package, or in
    PyTorch's own as an exported graph, which needs no project code. Neither holds a pickle."""
    spec = trained.read(folder)
    example = spec.config.example()
    signature = ModelSignature(
        inputs=Schema([TensorSpec(example.dtype, (-1, *example.shape[1:]))]),
        outputs=Schema([TensorSpec(np.dtype(np.int64), (-1,))]),
    )
    if spec.framework == "mlx":
        mlx_flavor.save_model(folder, path, description, signature=signature, input_example=example)
        return
    adapter, twin, model = trained.build(spec, "cpu")  # an exported graph stays on its device
    # Imported here: it imports PyTorch, 2 s and 190 MB that the MLX half can do without.
    from mlflow import pytorch as pytorch_flavor

    pytorch_flavor.save_model(
        adapter.servable(model, twin.answer),
        str(path),
        mlflow_model=description,
        signature=signature,
        input_example=example,  # more than one item, or the export would fix the batch at one
        # "+cpu" names a build that the package index does not hold.
        pip_requirements=[f"torch=={metadata.version('torch').split('+')[0]}"],
        serialization_format="pt2",
    )
    for file in path.rglob("*.pt2"):
        exported.without_traces(file)


def _metrics(run: Run, model_id: str) -> list[Metric]:
    """The run's last values again, now tied to the model."""
    return [
        Metric(m.key, m.value, m.timestamp, m.step, model_id=model_id, run_id=run.info.run_id)
        for m in run.to_proto().data.metrics
    ]
