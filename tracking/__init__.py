"""The only place that knows MLflow, with serving/."""

import os

# A dead server must not hold a finished measurement for minutes: MLflow's default is seven retries
# of up to two minutes, and a server may ask for an hour. The user's own settings win.
_QUICK = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
}
OURS = frozenset(name for name in _QUICK if name not in os.environ)
"""Settings that the user has left to us."""
for _name in OURS:
    os.environ[_name] = _QUICK[_name]
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# Bars over files of a few kilobytes drown what a command says.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
