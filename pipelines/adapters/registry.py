"""MLflow's registry and runs over its REST API 2.0, without importing MLflow (which takes seconds).

The paths and shapes are those of MLflow 3.17; its client sends the same requests. Artifacts are
fetched through the tracking server (``mlflow-artifacts:``), so no key of the object store is needed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlsplit

from feature_repo.datasets import Frozen
from pipelines.adapters.mlflow_rest import MLflowRest
from pipelines.adapters.mlflow_rest import RegistryRefusedError as RegistryRefusedError
from pipelines.adapters.mlflow_rest import RegistryUnreachableError as RegistryUnreachableError
from pipelines.errors import RegistryError

ALIAS_PRODUCTION = "production"
ALIAS_PREVIOUS = "previous"
ALIAS_CHALLENGER = "challenger"

_API = "/api/2.0/mlflow"
_ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
_PROXIED = "mlflow-artifacts"
_PAGE_SIZE = 1000
_WEBHOOKS = 100  # MLflow refuses to list more at once


class ModelVersion(Frozen):
    """A registered version, as MLflow has it."""

    name: str
    version: str
    source: str
    run_id: str | None
    status: str
    description: str
    tags: dict[str, str]
    aliases: tuple[str, ...]
    created_at: datetime


class RegisteredModel(Frozen):
    """A registered model with what its aliases name."""

    name: str
    description: str
    tags: dict[str, str]
    aliases: dict[str, str]


class Run(Frozen):
    """A run with its tags, parameters and latest metrics."""

    run_id: str
    experiment_id: str
    status: str
    started_at: datetime
    ended_at: datetime | None
    artifact_uri: str
    tags: dict[str, str]
    params: dict[str, str]
    metrics: dict[str, float]


class Registry:
    """Client of one MLflow server. Safe to use from several threads.

    Every method raises :class:`RegistryUnreachableError` where there is no answer, and
    :class:`RegistryRefusedError` where MLflow answers with an error that the method does not name.

    Args:
        tracking_url: Address of the server, without a path.
        timeout_seconds: Longest wait for a connection, and for each piece of an answer.
    """

    def __init__(self, tracking_url: str, timeout_seconds: float = 10.0) -> None:
        self._rest = MLflowRest(tracking_url, timeout_seconds)
        self.url = self._rest.url

    def close(self) -> None:
        self._rest.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Registered models

    def registered_models(self) -> tuple[RegisteredModel, ...]:
        """All registered models with their aliases, in one request per thousand."""
        pages = self._rest.pages("GET", f"{_API}/registered-models/search", {"max_results": _PAGE_SIZE})
        return tuple(_model(item) for page in pages for item in page.get("registered_models", ()))

    def registered_model(self, name: str) -> RegisteredModel | None:
        answer = self._rest.find("GET", f"{_API}/registered-models/get", {"name": name})
        return None if answer is None else _model(answer["registered_model"])

    def ensure_registered_model(
        self, name: str, description: str = "", tags: Mapping[str, str] | None = None
    ) -> bool:
        """Create the registered model where it is missing. Returns whether it was created."""
        try:
            self._rest.call(
                "POST",
                f"{_API}/registered-models/create",
                {"name": name, "description": description, "tags": _pairs(tags or {})},
            )
        except RegistryRefusedError as error:
            if error.code == "RESOURCE_ALREADY_EXISTS":
                return False
            raise
        return True

    def set_model_description(self, name: str, description: str) -> None:
        """Markdown that the MLflow page of the registered model shows."""
        body = {"name": name, "description": description}
        self._rest.call("PATCH", f"{_API}/registered-models/update", body)

    def set_model_tag(self, name: str, key: str, value: str) -> None:
        body = {"name": name, "key": key, "value": value}
        self._rest.call("POST", f"{_API}/registered-models/set-tag", body)

    # Versions

    def version(self, name: str, version: str) -> ModelVersion | None:
        answer = self._rest.find("GET", f"{_API}/model-versions/get", {"name": name, "version": version})
        return None if answer is None else _version(answer["model_version"])

    def versions(
        self, name: str, *, tags: Mapping[str, str] | None = None, run_id: str | None = None
    ) -> tuple[ModelVersion, ...]:
        """Versions of a model, newest first; with tags or a run, those that carry all of them.

        MLflow's search leaves aliases out of its results: ``aliases`` is empty here.
        """
        parts = [f"name = {_quoted(name)}"]
        parts += [f"tags.`{key}` = {_quoted(value)}" for key, value in (tags or {}).items()]
        parts += [f"run_id = {_quoted(run_id)}"] if run_id else []
        query = {
            "filter": " AND ".join(parts),
            "max_results": _PAGE_SIZE,
            "order_by": "version_number DESC",
        }
        pages = self._rest.pages("GET", f"{_API}/model-versions/search", query)
        return tuple(_version(item) for page in pages for item in page.get("model_versions", ()))

    def create_version(
        self,
        name: str,
        source: str,
        *,
        run_id: str | None,
        tags: Mapping[str, str] | None = None,
        description: str = "",
    ) -> ModelVersion:
        """Register a logged model as a new version.

        MLflow gives a new number each time. A job that may run again looks first with
        :meth:`versions` for one with its own tag.

        Args:
            source: The logged model's URI, ``models:/m-…``.
        """
        model_id = source.removeprefix("models:/") if source.startswith("models:/m-") else None
        body = {"name": name, "source": source, "tags": _pairs(tags or {}), "description": description}
        # MLflow does not derive the logged model from the source: without its id, the UI shows no link.
        body |= {"model_id": model_id} if model_id else {}
        body |= {"run_id": run_id} if run_id else {}
        return _version(self._rest.call("POST", f"{_API}/model-versions/create", body)["model_version"])

    def set_version_tag(self, name: str, version: str, key: str, value: str) -> None:
        body = {"name": name, "version": version, "key": key, "value": value}
        self._rest.call("POST", f"{_API}/model-versions/set-tag", body)

    def delete_version_tag(self, name: str, version: str, key: str) -> None:
        """Remove a tag of a version; no error where there is none."""
        self._rest.find(
            "DELETE", f"{_API}/model-versions/delete-tag", {"name": name, "version": version, "key": key}
        )

    def set_version_description(self, name: str, version: str, description: str) -> None:
        """Markdown that the MLflow page of the version shows."""
        body = {"name": name, "version": version, "description": description}
        self._rest.call("PATCH", f"{_API}/model-versions/update", body)

    # Aliases

    def alias_version(self, name: str, alias: str) -> ModelVersion | None:
        """The version that an alias names; None where the model or the alias is missing."""
        query = {"name": name, "alias": alias}
        try:
            answer = self._rest.find("GET", f"{_API}/registered-models/alias", query)
        except RegistryRefusedError as error:
            # MLflow answers so for an alias that is not set on a model that exists.
            if error.code == "INVALID_PARAMETER_VALUE" and error.detail.endswith(f"alias {alias} not found."):
                return None
            raise
        return None if answer is None else _version(answer["model_version"])

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """Point an alias at a version: one atomic call, whatever it pointed at before."""
        body = {"name": name, "alias": alias, "version": version}
        self._rest.call("POST", f"{_API}/registered-models/alias", body)

    def delete_alias(self, name: str, alias: str) -> None:
        """Remove an alias; no error where it is not set."""
        self._rest.call("DELETE", f"{_API}/registered-models/alias", {"name": name, "alias": alias})

    # Webhooks

    def ensure_webhook(self, name: str, url: str, entity: str, actions: Iterable[str], secret: str) -> bool:
        """Let MLflow tell an address of events; replaces a webhook of that name for another address.

        Args:
            entity: What the events are of, as ``MODEL_VERSION_ALIAS``.
            actions: As ``CREATED``.

        Returns:
            Whether one was made; one of the same address and secret is left.
        """
        # MLflow does not hand secrets out; a digest tells whether it has this one.
        mark = f"secret {hashlib.sha256(secret.encode()).hexdigest()[:12]}"
        pages = self._rest.pages("GET", f"{_API}/webhooks", {"max_results": _WEBHOOKS})
        for found in [item for page in pages for item in page.get("webhooks", ()) if item["name"] == name]:
            if (found["url"], found.get("description")) == (url, mark):
                return False
            self._rest.call("DELETE", f"{_API}/webhooks/{quote(found['webhook_id'])}", {})
        body = {
            "name": name,
            "url": url,
            "description": mark,
            "events": [{"entity": entity, "action": action} for action in actions],
            "secret": secret,
        }
        self._rest.call("POST", f"{_API}/webhooks", body)
        return True

    # Artifacts

    def download(self, version: ModelVersion, folder: Path) -> None:
        """Fetch all files of a version into a folder, with their paths below it.

        The folder holds everything only once this returns: use one of your own, and rename it.

        Raises:
            RegistryError: the artifacts are not proxied by the server, or a path leads out of the folder.
        """
        root = self._root(version)
        files = list(self._list(root, PurePosixPath()))
        if not files:
            raise RegistryError(f"version {version.version} of {version.name} has no files at {root}")
        for path in files:
            self._rest.fetch(f"{_ARTIFACTS}/{quote(f'{root}/{path}')}", folder / path)

    def upload(self, version: ModelVersion, path: str, content: bytes) -> None:
        """Store one more file beside those of a version, or another in its place.

        Args:
            path: Below the version's folder, as :meth:`download` has it.
        """
        self._rest.put(f"{_ARTIFACTS}/{quote(f'{self._root(version)}/{path}')}", content)

    def _root(self, version: ModelVersion) -> str:
        """Path of a version's files in the proxied artifact store."""
        query = {"name": version.name, "version": version.version}
        uri = str(self._rest.call("GET", f"{_API}/model-versions/get-download-uri", query)["artifact_uri"])
        parts = urlsplit(uri)
        if parts.scheme != _PROXIED:
            raise RegistryError(
                f"version {version.version} of {version.name} lies at {uri}, which MLflow does not hand out. "
                "Start the MLflow server with --serve-artifacts (its default) and train again"
            )
        return parts.path.strip("/")

    def _list(self, root: str, below: PurePosixPath) -> Iterator[PurePosixPath]:
        """Paths of all files below a folder of the artifact store, relative to ``root``."""
        answer = self._rest.call("GET", _ARTIFACTS, {"path": str(PurePosixPath(root) / below)})
        for item in answer.get("files", ()):
            name = str(item["path"])
            if name in {"", ".", ".."} or "/" in name or "\\" in name:
                raise RegistryError(f"MLflow lists {name!r} under {root}/{below}: not a plain file name")
            if item.get("is_dir"):
                yield from self._list(root, below / name)
            else:
                yield below / name

    # Runs

    def experiment_id(self, name: str) -> str | None:
        answer = self._rest.find("GET", f"{_API}/experiments/get-by-name", {"experiment_name": name})
        return None if answer is None else str(answer["experiment"]["experiment_id"])

    def run(self, run_id: str) -> Run | None:
        answer = self._rest.find("GET", f"{_API}/runs/get", {"run_id": run_id})
        return None if answer is None else _run(answer["run"])

    def search_runs(
        self,
        experiment: str,
        filter_string: str = "",
        *,
        limit: int = 100,
        order_by: str = "attributes.start_time DESC",
    ) -> tuple[Run, ...]:
        """Runs of an experiment by its name, newest first; none where there is no such experiment."""
        experiment_id = self.experiment_id(experiment)
        if experiment_id is None:
            return ()
        body = {
            "experiment_ids": [experiment_id],
            "filter": filter_string,
            "max_results": limit,
            "order_by": [order_by],
        }
        answer = self._rest.call("POST", f"{_API}/runs/search", body)
        return tuple(_run(item) for item in answer.get("runs", ()))

    # Pages for people

    def version_page(self, name: str, version: str) -> str:
        return f"{self.url}/#/models/{quote(name, safe='')}/versions/{quote(version, safe='')}"

    def run_page(self, run: Run) -> str:
        return f"{self.url}/#/experiments/{run.experiment_id}/runs/{run.run_id}"


def _quoted(text: str) -> str:
    """A string in MLflow's filter language, which knows no escape for the quote that it uses."""
    if "'" not in text:
        return f"'{text}'"
    if '"' not in text:
        return f'"{text}"'
    raise RegistryError(f"cannot search MLflow for {text!r}: it holds both kinds of quotes")


def _pairs(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in tags.items()]


def _mapping(pairs: list[dict[str, Any]] | None) -> dict[str, Any]:
    return {pair["key"]: pair.get("value", "") for pair in pairs or ()}


def _moment(milliseconds: int | str) -> datetime:
    return datetime.fromtimestamp(int(milliseconds) / 1000, UTC)


def _model(item: dict[str, Any]) -> RegisteredModel:
    return RegisteredModel(
        name=item["name"],
        description=item.get("description", ""),
        tags=_mapping(item.get("tags")),
        aliases={alias["alias"]: alias["version"] for alias in item.get("aliases", ())},
    )


def _version(item: dict[str, Any]) -> ModelVersion:
    return ModelVersion(
        name=item["name"],
        version=item["version"],
        source=item.get("source", ""),
        run_id=item.get("run_id") or None,
        status=item.get("status", ""),
        description=item.get("description", ""),
        tags=_mapping(item.get("tags")),
        aliases=tuple(item.get("aliases", ())),
        created_at=_moment(item["creation_timestamp"]),
    )


def _run(item: dict[str, Any]) -> Run:
    info, data = item["info"], item.get("data", {})
    return Run(
        run_id=info["run_id"],
        experiment_id=info["experiment_id"],
        status=info["status"],
        started_at=_moment(info["start_time"]),
        ended_at=_moment(info["end_time"]) if info.get("end_time") else None,
        artifact_uri=info["artifact_uri"],
        tags=_mapping(data.get("tags")),
        params=_mapping(data.get("params")),
        metrics=_mapping(data.get("metrics")),
    )
