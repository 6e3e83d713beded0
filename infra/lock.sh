#!/usr/bin/env bash
# Compiles the lock files with hashes and without addresses. Usage: lock.sh UV
set -euo pipefail
uv=$1
compile() { "$uv" pip compile --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --quiet "$@"; }
compile pyproject.toml --extra serving --extra otel --extra pipeline --extra orchestration --extra train-cluster --extra train-dl --extra dev -o requirements-dev.lock
compile pyproject.toml --extra serving --extra pipeline --extra orchestration --extra train-dl -c requirements-dev.lock -o requirements.lock
compile pyproject.toml --extra serving --extra arrow --extra otel --extra pipeline --extra orchestration --extra kubernetes --extra train-cluster --extra train-dl -c requirements-dev.lock -o requirements-production.lock
compile pyproject.toml --extra serving -c requirements-dev.lock -o requirements-serving.lock
compile pyproject.toml --extra pipeline --extra train-dl -c requirements-dev.lock -o requirements-train-dl.lock
printf 'uv\nsetuptools>=77\n' | compile - -o requirements-bootstrap.lock
