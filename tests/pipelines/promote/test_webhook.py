"""MLflow tells a real server of a moved alias, and the ledger has the time of the move, not of its notice."""

from __future__ import annotations

import threading
import time

import pytest
import uvicorn
from fastapi import FastAPI

from pipelines.adapters import webhooks
from pipelines.adapters.registry import Registry
from pipelines.promote import job, reconcile
from serving.webhook import router

pytestmark = pytest.mark.integration


@pytest.fixture
def mlflow(start_mlflow, monkeypatch):
    """As `headrace up` starts it: it may call addresses of this machine, and keeps secrets for all its workers."""
    from cryptography.fernet import Fernet

    monkeypatch.setenv("MLFLOW_WEBHOOK_ALLOWED_SCHEMES", "http,https")
    monkeypatch.setenv("MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS", "true")
    monkeypatch.setenv("MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY", Fernet.generate_key().decode())
    return start_mlflow()


def test_a_move_in_the_page_wakes_the_server_and_is_told_with_its_own_time(
    mlflow, settings, free_port, make_export, register_export, tmp_path
):
    configured = settings.model_copy(update={"tracking_url": mlflow.url, "serving_port": free_port})
    woken = threading.Event()
    app = FastAPI()
    app.include_router(router(configured, woken.set))
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=free_port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        export = make_export(tmp_path / "export")
        register_export(mlflow.url, "hooked", export)
        register_export(mlflow.url, "hooked", export)
        assert "tells" in reconcile.run(configured).webhook
        with Registry(mlflow.url) as registry:
            registry.set_alias("hooked", "production", "1")
            assert woken.wait(30), "MLflow did not tell of it"
            reconcile.run(configured)
            woken.clear()
            registry.set_alias("hooked", "production", "2")
            assert woken.wait(30)
        moved = time.time()
        time.sleep(2)
        noticed = time.time()
        reconcile.run(configured)
        line = job.history("hooked", configured)[-1]
        assert (line.from_version, line.to_version) == ("1", "2")
        assert line.at.timestamp() <= moved < noticed
        assert "MLflow told of it at this time" in line.reason
        left = [event.alias for event in webhooks.kept(configured).values()]
        assert "production" not in left, "what was used is removed; that of 'previous' is on its way still"
        with Registry(mlflow.url) as registry:
            assert not registry.ensure_webhook(
                webhooks.NAME,
                f"{configured.serving}{webhooks.PATH}",
                webhooks.ENTITY.upper(),
                [],
                webhooks.secret(configured),
            ), "asked again, it is there"
    finally:
        server.should_exit = True
        thread.join(10)
