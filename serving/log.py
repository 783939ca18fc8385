"""One trial's trained model -> one MLflow model of its run, cheap enough for every trial."""

from __future__ import annotations

import tempfile
from importlib import metadata
from pathlib import Path

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Metric, Run
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec

import models
from measurement import settings
from measurement.errors import InputError
from serving import exported, mlx_flavor, trained
from tracking import private
from tracking.store import once, reachable


def log_model(run_id: str, framework: str, workload: str, folder: Path) -> str:
    """Log the model that a trial saved in `folder` (weights.safetensors, config.json) to its run,
    after the run's metrics, so that the model carries them too. Returns its URI, `models:/m-...`.
    Of a framework that nothing here serves, the two files become artifacts: `runs:/.../model`.

    MLflow's own `log_model` infers requirements and tries the inputs out, which takes seconds; here
    requirements are given and the weights are checked against the configuration. Raises InputError
    when the folder does not hold that trial's whole model or the store cannot be used. Called again,
    after it was cut off anywhere, it completes the same model.
    """
    spec = trained.read(folder)
    if (spec.framework, spec.workload) != (framework, workload):
        raise InputError(
            f"{folder} holds a {spec.framework} model of '{spec.workload}', expected {framework}"
            f" of '{workload}'; give that trial's own folder"
        )
    # In the supervisor's process, whose next worker must find the variables that the last one found.
    with reachable(), settings.same_variables():
        if framework not in trained.SERVED:
            for name in (trained.WEIGHTS_FILE, trained.CONFIG_FILE):
                MlflowClient().log_artifact(run_id, str(folder / name), trained.ARTIFACT)
            return f"runs:/{run_id}/{trained.ARTIFACT}"
        return _log(MlflowClient(), run_id, spec, folder)


def _log(client: MlflowClient, run_id: str, spec: trained.Trained, folder: Path) -> str:
    run = client.get_run(run_id)
    logged = _opened(client, run, f"{spec.workload}_{spec.framework}")
    listed = {model.model_id for model in run.outputs.model_outputs} if run.outputs else set()
    if logged.status == LoggedModelStatus.READY and logged.model_id in listed:
        return f"models:/{logged.model_id}"
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "model"
        description = Model(
            artifact_path=logged.artifact_location,
            run_id=run_id,
            model_uuid=logged.model_id,
            model_id=logged.model_id,
        )
        try:
            save_model(folder, path, description)
        except BaseException:
            client.finalize_logged_model(logged.model_id, LoggedModelStatus.FAILED)
            raise
        with private.publishable(path) as clean:
            client.log_model_artifacts(logged.model_id, str(clean))
    if logged.model_id not in listed:
        client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    client.log_batch(run_id, metrics=_metrics(run, logged.model_id))
    client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    return f"models:/{logged.model_id}"


def _opened(client: MlflowClient, run: Run, name: str) -> LoggedModel:
    """The run's model of that name: one that was cut off goes on, others than the first are removed."""
    wanted = f"name = '{name}' AND source_run_id = '{run.info.run_id}'"
    experiment = run.info.experiment_id

    def found() -> list[LoggedModel]:
        listed = [*client.search_logged_models([experiment], wanted)]
        return sorted(listed, key=lambda model: (model.creation_timestamp, model.model_id))

    if not found():
        # Not Model.log: without an active run it files the model under the experiment "Default".
        with once():
            client.create_logged_model(
                experiment,
                name=name,
                source_run_id=run.info.run_id,
                params=private.cleaned(run.data.params),
                model_type="classifier",
            )
    first, *others = found()
    for model in others:
        client.delete_logged_model(model.model_id)
    return first


def save_model(folder: Path, path: Path, description: Model | None = None) -> None:
    """Write a trial's model as an MLflow model to `path`: in the MLX flavour of this package, or in
    PyTorch's own as an exported graph, which needs no project code. Neither is loaded through a
    pickle that could run anything: `serving.inspection` says what is in a model of somebody else's."""
    spec = trained.read(folder)
    example, answer = spec.config.example(), models.setting(spec.workload, "ANSWER")
    signature = ModelSignature(
        inputs=Schema([TensorSpec(example.dtype, (-1, *example.shape[1:]))]),
        outputs=Schema([TensorSpec(np.dtype(np.int64), (-1, *answer))]),
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
