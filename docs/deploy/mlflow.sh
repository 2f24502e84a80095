#!/usr/bin/env bash
# An MLflow server with a login, for a machine without Docker:  docs/deploy/mlflow.sh FOLDER
# FOLDER keeps its passwords (files that only you can read), files and, unless told otherwise, runs.
#
# Change by environment variables:
#   MLFLOW_HOST      the address to listen on, 127.0.0.1; on a cluster, this node's name inside it
#   MLFLOW_PORT      5000
#   MLFLOW_DATABASE  a PostgreSQL instead of FOLDER/mlflow.db: postgresql+psycopg://USER@HOST/NAME
#                    (its password in PGPASSWORD or ~/.pgpass)
set -euo pipefail
[ $# -eq 1 ] || { echo "usage: $0 FOLDER" >&2; exit 2; }
umask 077
mkdir -p "$1"
folder=$(cd "$1" && pwd)
host=${MLFLOW_HOST:-127.0.0.1} port=${MLFLOW_PORT:-5000}

secret() { # FILE: what it holds; made at first
    [ -s "$folder/$1" ] || python -c 'import secrets; print(secrets.token_urlsafe(24))' > "$folder/$1"
    cat "$folder/$1"
}
MLFLOW_AUTH_ADMIN_PASSWORD=$(secret admin-password)
MLFLOW_FLASK_SERVER_SECRET_KEY=$(secret secret-key)
export MLFLOW_AUTH_ADMIN_PASSWORD MLFLOW_FLASK_SERVER_SECRET_KEY
export MLFLOW_AUTH_CONFIG_PATH=$folder/basic_auth.ini
export MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
cat > "$MLFLOW_AUTH_CONFIG_PATH" << INI
[mlflow]
default_permission = READ
database_uri = sqlite:///$folder/users.db
admin_username = admin
INI

echo "http://$host:$port, user admin, password in $folder/admin-password"
exec mlflow server --app-name basic-auth --host "$host" --port "$port" --workers 2 \
    --allowed-hosts "$host:$port,localhost:$port,127.0.0.1:$port" \
    --backend-store-uri "${MLFLOW_DATABASE:-sqlite:///$folder/mlflow.db}" \
    --serve-artifacts --artifacts-destination "$folder/artifacts"
