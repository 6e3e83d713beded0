"""The server, put together and run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from pipelines.adapters.registry import Registry
from pipelines.adapters.signing import Trust
from pipelines.settings import Settings
from serving import webhook
from serving.access import Access
from serving.cache import VersionCache
from serving.dataplane import DataPlane
from serving.features import FeatureLookup, OnlineStore, WatchedLookup
from serving.follower import Follower, Pointer
from serving.labels import LabelBook
from serving.limits import RateLimits
from serving.metrics import ServingMetrics
from serving.page import Places
from serving.prediction_log import PredictionLog
from serving.recent import EVERY_SECONDS, Recent
from serving.repository import Repository
from serving.rest.bodies import Bodies
from serving.rest.dispatch import Dispatcher
from serving.rest.doors import Door
from serving.rest.infer import InferDoor
from serving.rest.invocations import InvocationsDoor
from serving.rest.labels import router as labels_router
from serving.rest.pages import Pages
from serving.rest.predict import PredictDoor
from serving.rollout import Rollouts
from serving.rollout.mirror import Mirror
from serving.shards import Shards
from serving.textfiles import TextFiles
from serving.tracing import Tracer
from serving.versions import VersionTable

_PUBLISH_SECONDS = 1.0


class Transport(Protocol):
    """Another way to the data plane than HTTP, in the same process."""

    def start(self) -> None: ...

    def stop(self) -> None: ...


@dataclass(frozen=True)
class Shared:
    """What the processes of one server have in common; the default is that of a process alone.

    Attributes:
        limits: Rates of the API keys.
        shards: Figures of all processes.
        wake: Called where an alias moved, so that the other processes look at the registry too.
        loaded: Called once, when this process has loaded what it should.
        admitted: Returns when this process may listen; None: it listens from its start.
    """

    limits: RateLimits = field(default_factory=RateLimits)
    shards: Shards | None = None
    wake: Callable[[], None] = lambda: None
    loaded: Callable[[], None] = lambda: None
    admitted: Callable[[], None] | None = None


class Server(Dispatcher):
    """The server as an ASGI application.

    Attributes:
        follower: Keeps what it answers with.
        plane, repository, metrics: What transports ask, and where they are counted.
        access, tracer: As transports need them.
        transports: Started and stopped with the application.
    """

    follower: Follower
    plane: DataPlane
    repository: Repository
    metrics: ServingMetrics
    access: Access | None
    tracer: Tracer | None
    transports: list[Transport]


def create_app(
    settings: Settings,
    registry: Registry,
    features: FeatureLookup | None = None,
    shared: Shared | None = None,
) -> Server:
    """The server. It follows the registry from its start-up to its shutdown.

    Args:
        features: Where features of entities come from; default is Feast's online store.
        shared: With other processes of the same server.

    Raises:
        SettingsError: callers need keys and there are none; or a part that the settings ask for is not installed.
    """
    shared = shared or Shared()
    access, tracer = Access.of(settings, shared.limits), Tracer.of(settings)
    table, metrics = VersionTable(), ServingMetrics(shared.shards)
    predictions = PredictionLog.of(settings)
    metrics.registry.register(predictions.metrics())
    metrics.registry.register(TextFiles(settings.home / "metrics"))
    book = LabelBook.of(settings)
    metrics.registry.register(book)
    mirror = Mirror(predictions, settings.serving_mirror_queue_bytes)
    rollouts = Rollouts(table, mirror)
    metrics.registry.register(rollouts)
    recent = Recent(metrics.counted)

    def switched(pointer: Pointer, seconds: float) -> None:
        metrics.switched(pointer, seconds)
        if (live := table.at(*pointer)) is not None:
            recent.switched(pointer.name, pointer.alias, live.version, seconds)

    follower = Follower(
        registry,
        VersionCache(settings.home / "serving", Trust.of(settings)),
        table,
        poll_seconds=settings.serving_poll_seconds,
        names=[name.strip() for name in settings.serving_models.split(",") if name.strip()],
        rollouts=rollouts,
        on_failure=metrics.load_failed,
        on_switch=switched,
    )
    metrics.follow(follower, table)
    plane = DataPlane(
        table,
        follower,
        WatchedLookup(features or OnlineStore(settings), metrics.looked_up, tracer),
        metrics,
        predictions,
        rollouts,
        default_source=settings.source,
        max_rows=settings.serving_max_rows,
    )
    bodies = Bodies(
        settings.serving_max_body_bytes, settings.serving_max_held_bytes, settings.serving_client_seconds
    )
    repository = Repository(table, follower, settings.serving_admin_token, shared.wake)
    pages = Pages(
        plane,
        repository,
        metrics,
        bodies,
        recent=recent,
        places=Places(registry.version_page, registry.url, settings.airflow, settings.evidently),
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        predictions.start()
        mirror.start()
        follower.start()
        for transport in server.transports:
            transport.start()
        background = [asyncio.create_task(_look(recent))]
        if shared.shards is not None:
            background.append(asyncio.create_task(_publish(metrics)))
        yield
        for each in background:
            each.cancel()
        for transport in server.transports:
            await run_in_threadpool(transport.stop)
        follower.stop()
        registry.close()
        server.close()
        mirror.stop()
        predictions.stop()  # late: it keeps what was answered until now
        if tracer is not None:
            await run_in_threadpool(tracer.stop)
        metrics.publish()

    doors: dict[str, Door] = {
        "infer": InferDoor(plane),
        "predict": PredictDoor(plane),
        "invocations": InvocationsDoor(plane, settings.serving_max_rows),
    }

    def wake() -> None:
        follower.wake()
        shared.wake()

    application = pages.application(lifespan)
    application.include_router(webhook.router(settings, wake))
    application.include_router(labels_router(plane, book, bodies))
    server = Server(
        plane,
        doors,
        bodies,
        application,
        access=access,
        tracer=tracer,
        admin_port=settings.serving_admin_port,
        logs_requests=settings.serving_access_log,
    )
    metrics.watch("rest", lambda: server.under_way, lambda: server.waiting)
    server.follower, server.plane, server.transports = follower, plane, []
    server.repository, server.metrics = repository, metrics
    server.access, server.tracer = access, tracer
    return server


async def _look(recent: Recent) -> None:
    """For the page's lines."""
    while True:
        await run_in_threadpool(recent.look, time.monotonic())
        await asyncio.sleep(EVERY_SECONDS)


async def _publish(metrics: ServingMetrics) -> None:
    """Show the other processes this one's figures, which also says that its event loop turns."""
    while True:
        await run_in_threadpool(metrics.publish)
        await asyncio.sleep(_PUBLISH_SECONDS)
