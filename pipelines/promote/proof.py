"""Proof that a version answers: asked of the running server, or else of the same code in this process."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import httpx

from pipelines.adapters.serving_client import client
from pipelines.errors import PromotionError

if TYPE_CHECKING:
    from pipelines.adapters.registry import ModelVersion, Registry
    from pipelines.settings import Settings

# Called with what is being waited for.
Progress = Callable[[str], None]

SECONDS_TO_SWITCH = 30.0
_ASK_EVERY_SECONDS = 0.1


@dataclass(frozen=True)
class Proof:
    """Whether a version answers, and how that was seen; by whom is part of the text."""

    answered: bool
    detail: str


def verify(registry: Registry, version: ModelVersion, settings: Settings) -> str:
    """Load a version as the server does: signature, each byte, and its own sample.

    Returns:
        What was seen, for people.

    Raises:
        PromotionError: it has no digest, so that nothing of it can be verified.
        ArtifactError: the signature is missing or wrong, a file was changed, or the sample is not
            reproduced.
    """
    from pipelines.adapters.exports import MANIFEST_TAG, find_export, open_export
    from pipelines.adapters.signing import Trust

    digest = version.tags.get(MANIFEST_TAG)
    if not digest:
        raise PromotionError(
            f"{version.name} version {version.version} has no tag {MANIFEST_TAG}, so its files cannot be verified: "
            "train it again"
        )
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="headrace-") as folder:
        registry.download(version, Path(folder))
        opened = open_export(find_export(Path(folder)), digest, Trust.of(settings))
    rows = len(opened.sample.rows)
    return f"loaded here in {time.monotonic() - began:.1f} s; {rows} stored predictions are reproduced"


def answers(name: str, version: str, settings: Settings, loaded: str, progress: Progress) -> Proof:
    """Wait until the running server answers with a version and reproduces its sample.

    Args:
        loaded: What :func:`verify` saw: the proof that there is where no server runs.
    """
    began = time.monotonic()
    seen = "nothing"
    path = f"/v2/models/{quote(name, safe='')}"
    progress(f"the server at {settings.serving} is asked for version {version}")
    with client(settings, timeout_seconds=5.0) as http:
        while time.monotonic() - began < SECONDS_TO_SWITCH:
            try:
                seen = _serving(http, path)
            except httpx.ConnectError:
                return Proof(
                    True,
                    f"no server runs at {settings.serving}, so none was asked; version {version} was {loaded}",
                )
            except (httpx.HTTPError, ValueError, KeyError) as error:
                seen = f"{type(error).__name__}: {error}"
            if seen == version and (problem := _ready(http, path, version)) is None:
                return Proof(
                    True,
                    f"the server at {settings.serving} answers with version {version} after "
                    f"{time.monotonic() - began:.1f} s, and reproduces its stored predictions",
                )
            if seen == version:
                seen = f"version {version}, which is not ready: {problem}"
            time.sleep(_ASK_EVERY_SECONDS)
    return Proof(
        False,
        f"the server at {settings.serving} does not answer with version {version} after {SECONDS_TO_SWITCH:.0f} s; "
        f"it says {seen}. {settings.serving}/v2/health/ready and its log say why",
    )


def _serving(http: httpx.Client, path: str) -> str:
    answer = http.get(path)
    if answer.status_code == httpx.codes.NOT_FOUND:
        return "that the model is not served"
    answer.raise_for_status()
    return str(answer.json()["parameters"]["version"])


def _ready(http: httpx.Client, path: str, version: str) -> str | None:
    """Why the server cannot answer with the version it has; None: its sample is reproduced."""
    try:
        answer = http.get(f"{path}/versions/{version}/ready")
        return None if answer.status_code == httpx.codes.OK else answer.text[:300]
    except httpx.HTTPError as error:
        return f"{type(error).__name__}: {error}"
