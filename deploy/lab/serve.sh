#!/usr/bin/env bash
# The lab server: MLflow with PostgreSQL, artifacts through it, and users. Settings: lab.env.example.
#   set -a; . /etc/mlflow-lab.env; set +a; deploy/lab/serve.sh
set -euo pipefail
umask 077
: "${LAB_DATABASE:?set it, see lab.env.example}" "${LAB_USERS_DATABASE:?set it}" "${LAB_ARTIFACTS:?set it}"
: "${LAB_FOLDER:?set it}" "${LAB_ADMIN:?set it}" "${MLFLOW_FLASK_SERVER_SECRET_KEY:?openssl rand -hex 32}"

mkdir -p "$LAB_FOLDER"
[[ $LAB_ARTIFACTS == *://* ]] || mkdir -p "$LAB_ARTIFACTS"

# libpq reads host, role and password from its own variables, so that no address holds them.
cat >"$LAB_FOLDER/auth.ini" <<INI
[mlflow]
default_permission = ${LAB_PERMISSION:-READ}
database_uri = postgresql+psycopg2:///$LAB_USERS_DATABASE
admin_username = $LAB_ADMIN
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = ${LAB_PASSWORD_SECONDS:-60}
INI
export MLFLOW_AUTH_CONFIG_PATH=$LAB_FOLDER/auth.ini
[[ -n ${MLFLOW_AUTH_ADMIN_PASSWORD:-} ]] || unset MLFLOW_AUTH_ADMIN_PASSWORD
export MLFLOW_BACKEND_STORE_URI=postgresql+psycopg2:///$LAB_DATABASE
export MLFLOW_SERVER_ALLOWED_HOSTS=${LAB_NAMES:-localhost:${LAB_PORT:-5000},127.0.0.1:${LAB_PORT:-5000}}
# Its job queue is for traces of language models, and its processes take 1.9 GB.
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true

cd "$LAB_FOLDER"
exec "${LAB_PYTHON:-python3}" -m mlflow server --app-name basic-auth \
    --host "${LAB_HOST:-127.0.0.1}" --port "${LAB_PORT:-5000}" --workers "${LAB_WORKERS:-4}" \
    --serve-artifacts --artifacts-destination "$LAB_ARTIFACTS"
