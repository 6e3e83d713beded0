"""``python -m serving.single``: the server on one export folder, without a registry.

For the gate, which asks a candidate its questions before any alias names it, and for a look at an
export by hand. It is :func:`serving.app.create_app` itself, with the same follower, verification,
table, data plane and transports; only what the registry would hand out comes from a folder.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import sys
import threading
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

import psutil

from models.manifest import MANIFEST_FILE, MANIFEST_TAG, Manifest
from pipelines.adapters.exports import manifest_sha256
from pipelines.adapters.registry import ALIAS_PRODUCTION, ModelVersion, RegisteredModel, Registry
from pipelines.errors import HeadraceError
from pipelines.settings import LOOPBACK, load_settings
from serving.app import create_app
from serving.process import add_grpc
from serving.process import serve as serve_app

# No request ever goes there: what the follower asks is answered from the folder.
_NOWHERE = "http://127.0.0.1:9"


class OneExport(Registry):
    """A registry of one version, in production, whose files lie in a folder."""

    def __init__(self, export: Path, version: ModelVersion) -> None:
        super().__init__(_NOWHERE)
        self._export = export
        self._version = version

    def registered_models(self) -> tuple[RegisteredModel, ...]:
        found = self._version
        aliases = {ALIAS_PRODUCTION: found.version}
        return (RegisteredModel(name=found.name, description="", tags={}, aliases=aliases),)

    def version(self, name: str, version: str) -> ModelVersion | None:
        return self._version if (name, version) == (self._version.name, self._version.version) else None

    def download(self, version: ModelVersion, folder: Path) -> None:
        shutil.copytree(self._export, folder / "model")


def as_version(export: Path) -> ModelVersion:
    """An export as the registry would name it, on nobody's word but its own."""
    manifest = Manifest.model_validate_json((export / MANIFEST_FILE).read_bytes())
    return ModelVersion(
        name=manifest.model,
        version="1",
        source=str(export),
        run_id=None,
        status="READY",
        description="",
        tags={MANIFEST_TAG: manifest_sha256(export)},
        aliases=(ALIAS_PRODUCTION,),
        created_at=datetime.now(UTC),
    )


def serve(
    export: Path,
    version: ModelVersion,
    host: str,
    port: int,
    announce: Path | None,
    *,
    grpc_port: int = 0,
    until_input_ends: bool = False,
) -> None:
    """Serve one export until SIGTERM or SIGINT.

    Args:
        port: 0 is any that is free.
        announce: Where ``{"url": …, "pid": …, "resident_bytes": …}`` is written once the port is
            taken: the memory of this process with the libraries that the export needs, and
            without the export.
        grpc_port: 0: it does not answer over gRPC.
        until_input_ends: End also when standard input does: when the process that holds its other
            end is gone, even killed.
    """
    if host not in LOOPBACK:
        raise HeadraceError(f"{host} is not loopback: one export without a registry is for this machine only")
    manifest = Manifest.model_validate_json((export / MANIFEST_FILE).read_bytes())
    for library in sorted({estimator.runtime for estimator in manifest.estimators}):
        import_module({"lightgbm": "lightgbm", "onnx": "onnxruntime"}[library])
    # Whoever keeps the door of the server that others reach: this one is reached from here, over plain HTTP.
    settings = load_settings(
        bind_host=host,
        serving_keys="off",
        serving_tls_certificate=None,
        serving_tls_key=None,
        serving_admin_port=0,
        serving_traces_url="",
        serving_grpc_port=grpc_port,
    )
    app = create_app(settings, OneExport(export, version))
    add_grpc(app, settings)
    listener = socket.create_server((host, port))
    told = {
        "url": f"http://{host}:{listener.getsockname()[1]}",
        "pid": os.getpid(),
        "resident_bytes": psutil.Process().memory_info().rss,
    }
    if announce is not None:
        part = announce.with_name(f".{announce.name}.part")
        part.write_text(json.dumps(told), "utf-8")
        part.replace(announce)
    print(f"serving {version.name} version {version.version} of {export} on {told['url']}", flush=True)
    if until_input_ends:
        threading.Thread(target=_end_with_input, name="input", daemon=True).start()
    serve_app(app, settings, listener)


def _end_with_input() -> None:
    # The descriptor, not the stream: a thread in the stream's read would block the interpreter's end.
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)  # as anybody else would end it: what is under way is finished


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m serving.single", description=__doc__)
    parser.add_argument("--export", type=Path, required=True, help="Folder with manifest.json.")
    parser.add_argument("--version", type=Path, help="JSON of the version as the registry has it.")
    parser.add_argument("--host", default="127.0.0.1", help="An address of loopback.")
    parser.add_argument("--port", type=int, default=0, help="Default: any that is free.")
    parser.add_argument("--grpc-port", type=int, default=0, help="Default: it does not answer over gRPC.")
    parser.add_argument("--announce", type=Path, help="File to which address and process are written.")
    parser.add_argument("--until-input-ends", action="store_true", help="End when standard input ends.")
    given = parser.parse_args()
    try:
        named = given.version and ModelVersion.model_validate_json(given.version.read_bytes())
        serve(
            given.export,
            named or as_version(given.export),
            given.host,
            given.port,
            given.announce,
            grpc_port=given.grpc_port,
            until_input_ends=given.until_input_ends,
        )
    except (HeadraceError, OSError, ValueError) as error:
        sys.exit(f"headrace: {error}")


if __name__ == "__main__":
    main()
