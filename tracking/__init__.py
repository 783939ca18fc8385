"""The only place that knows MLflow, with serving/."""

import os

# A dead server must not hold a finished measurement for minutes: MLflow's default is seven retries
# of up to two minutes. The user's own settings win.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# Bars over files of a few kilobytes drown what a command says.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
