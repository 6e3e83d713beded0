#!/usr/bin/env bash
# One database and one role for each part that keeps state in PostgreSQL; the image runs this once, on an empty volume.
# By hand on a server that is there already: PGHOST=… PGUSER=… SECRETS=folder bash databases.sh (again: sets the passwords).
set -euo pipefail
secrets=${SECRETS:-/run/secrets}
for part in airflow mlflow features tuning; do
  role="headrace_$part"
  password=$(cat "$secrets/postgres_${part}_password")
  # By standard input: an argument would show in `ps`.
  psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "${PGUSER:-${POSTGRES_USER:-postgres}}" --dbname postgres <<SQL
SELECT 'CREATE ROLE $role LOGIN' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '$role') \gexec
ALTER ROLE $role PASSWORD '$password';
SELECT 'CREATE DATABASE $role OWNER $role' WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = '$role') \gexec
REVOKE CONNECT, TEMPORARY ON DATABASE $role FROM PUBLIC;
SQL
done
