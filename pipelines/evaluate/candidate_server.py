"""The candidate's own server: the real server's code in a process of its own, with one version alone.

That is ``python -m serving.single``; it ends with the process that asked for it.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from models.manifest import Manifest
from pipelines.errors import HeadraceError
from pipelines.evaluate.wire import Wire, answers, request

if TYPE_CHECKING:
    import httpx
    import psutil

    from pipelines.adapters.registry import ModelVersion
    from pipelines.settings import Settings

Found = TypeVar("Found")

_START_SECONDS = 120.0
_LOG_LINES = 12
_MIB = 2**20


class ServabilityError(HeadraceError):
    """The candidate's server did not start, ended, or refused what it must answer."""


@dataclass(frozen=True)
class Served:
    """A running server with one version."""

    client: httpx.Client
    process: psutil.Process
    name: str
    resident_bytes_before: int

    def infer(
        self, manifest: Manifest, rows: tuple[dict[str, Any], ...], wire: Wire = Wire.JSON
    ) -> dict[str, list[Any]]:
        """Outputs by name, one value per row.

        Raises:
            ServabilityError: the server answers with an error, or with another shape.
        """
        body = request(manifest.inputs, manifest.outputs, rows, wire)
        answer = self.client.post(f"/v2/models/{self.name}/infer", content=body.content, headers=body.headers)
        if answer.status_code != 200:
            raise ServabilityError(f"the server answered {answer.status_code}: {answer.text[:300]}")
        outputs = answers(answer.content, answer.headers)
        for name, values in outputs.items():
            if len(values) != len(rows):
                raise ServabilityError(
                    f"{len(rows)} rows were sent, {len(values)} values of {name} came back"
                )
        return outputs

    def gained_mb(self) -> float:
        return float(self.process.memory_info().rss - self.resident_bytes_before) / _MIB


@contextmanager
def served(export: Path, version: ModelVersion, settings: Settings) -> Iterator[Served]:
    """The real server, with this version alone, on a port of loopback; it is ended afterwards.

    Raises:
        ServabilityError: it does not become ready, or the body failed; with the end of its log.
    """
    import httpx
    import psutil

    with tempfile.TemporaryDirectory(prefix="headrace-candidate-") as folder:
        home, announce, log = (Path(folder) / name for name in ("home", "announce.json", "server.log"))
        named = Path(folder) / "version.json"
        named.write_text(version.model_dump_json(), "utf-8")
        command = [
            *(sys.executable, "-m", "serving.single", "--export", str(export)),
            *("--version", str(named), "--announce", str(announce), "--until-input-ends"),
        ]
        # A line for each of hundreds of requests would bury the task's log.
        requests = logging.getLogger("httpx")
        before = requests.level
        requests.setLevel(logging.WARNING)
        with log.open("wb") as output:
            # Its standard input closes when this process ends, however it ends: then the server ends too.
            process = subprocess.Popen(
                command, env=_environment(home, settings), stdin=subprocess.PIPE, stdout=output, stderr=output
            )
        try:
            until = time.monotonic() + _START_SECONDS
            told = _wait(lambda: _announced(announce), process, until, "did not start")
            with httpx.Client(base_url=str(told["url"]), trust_env=False, timeout=30.0) as client:
                _wait(lambda: _ready(client), process, until, "did not become ready")
                yield Served(client, psutil.Process(process.pid), version.name, int(told["resident_bytes"]))
        except ServabilityError as error:
            raise ServabilityError(f"{error}. The end of its log:\n{_tail(log)}") from error
        finally:
            _end(process)
            requests.setLevel(before)


def _environment(home: Path, settings: Settings) -> dict[str, str]:
    """The server's state is its own, its settings are the defaults; it trusts the keys that this process trusts."""
    from pipelines.adapters.signing import Trust

    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith("HEADRACE_")}
    return {
        **kept,
        "HEADRACE_HOME": str(home),
        "HEADRACE_TRUSTED_KEYS": ",".join(map(str, Trust.of(settings).files)),
        # Questions of the gate are no traffic, and the default port is that of the server which serves.
        "HEADRACE_PREDICTION_LOG": "false",
        "HEADRACE_SERVING_GRPC_PORT": "0",
        # It looks for the version once; what it would look for again never changes.
        "HEADRACE_SERVING_POLL_SECONDS": "60",
    }


def _wait(
    look: Callable[[], Found | None], process: subprocess.Popen[bytes], until: float, trouble: str
) -> Found:
    while True:
        if (found := look()) is not None:
            return found
        if process.poll() is not None:
            raise ServabilityError(f"the server {trouble}: it ended with code {process.returncode}")
        if time.monotonic() > until:
            raise ServabilityError(f"the server {trouble} within {_START_SECONDS:.0f} s")
        time.sleep(0.05)


def _announced(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text("utf-8")) if path.exists() else None


def _ready(client: httpx.Client) -> bool | None:
    """True once the version answers its own sample.

    Raises:
        ServabilityError: the server refused to load it; trying again would not help.
    """
    import httpx

    try:
        answer = client.get("/v2/health/ready")
    except httpx.TransportError:
        return None
    if answer.status_code == 200:
        return True
    states = [state for aliases in answer.json().get("models", {}).values() for state in aliases.values()]
    refused = [state["failure"] for state in states if state.get("failures")]
    if refused:
        raise ServabilityError(f"the server refused the version: {refused[0]}")
    return None


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdin is not None:
        process.stdin.close()


def _tail(log: Path) -> str:
    lines = log.read_text("utf-8", "replace").splitlines()[-_LOG_LINES:]
    return "\n".join(line[:300] for line in lines) or "(empty)"
