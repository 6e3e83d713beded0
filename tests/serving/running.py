"""The server under uvicorn, in a thread of the test."""

from __future__ import annotations

import socket
import threading

import uvicorn

from pipelines.settings import Settings
from serving.app import Server
from serving.clients import watched_protocol
from tests.serving.conftest import wait_until


class running:  # noqa: N801 - reads as a statement
    """The application under uvicorn, as :func:`serving.app.serve` configures it, in a thread."""

    def __init__(self, app: Server, settings: Settings) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(
            app,  # type: ignore[arg-type]
            http=watched_protocol(settings.serving_client_seconds),  # type: ignore[arg-type]
            log_config=None,
            ws="none",
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._listener],))

    def __enter__(self) -> str:
        self._thread.start()
        wait_until(lambda: self._server.started)
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=30)
