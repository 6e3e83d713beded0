"""Callers of `headrace demo-drift`: they ask the real server through its own door, and keep what they were told.

By the hour of the simulated days, about every machine at once; and steadily, one machine after the other, while a
training runs and the alias moves. A request that is not answered as it should be is counted, never asked again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pipelines.errors import HeadraceError

if TYPE_CHECKING:
    import polars as pl

    from headrace.serving_api import ServingApi

STEADY_SECONDS = 0.1  # between two requests of the steady caller

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Told:
    """What a caller was told of one machine at one hour."""

    entity: str
    at: datetime
    version: str
    probability: float
    alarm: bool
    prediction_id: str = ""


class Callers:
    """All who ask one model, from several threads.

    Attributes:
        told: Answers about machines and hours, in the order of asking; the steady caller's are not among them.
        requests: Sent so far.
        failures: What was wrong with those that were not answered as they should have been.
        answered: Requests by the version that answered them.
    """

    def __init__(self, server: ServingApi, model: str) -> None:
        self._server, self._model = server, model
        self._lock = threading.Lock()
        self.told: list[Told] = []
        self.requests = 0
        self.failures: list[str] = []
        self.answered: dict[str, int] = {}

    def ask(self, rows: pl.DataFrame, entity: str, features: Sequence[str]) -> None:
        """One request per hour, with the features of every machine as they were known then.

        Args:
            rows: Columns ``entity``, ``event_time`` (UTC) and the features.
            entity: Name of the entity's column.
        """
        for hour in rows.sort("event_time", entity).partition_by("event_time", maintain_order=True):
            answer = self._request(records(hour, features))
            if answer is None:
                continue
            asked = zip(hour[entity], hour["event_time"], answer["predictions"], strict=True)
            self.told += [
                Told(
                    entity=str(who),
                    at=at,
                    version=str(answer["version"]),
                    probability=float(row["probability"]),
                    alarm=bool(row["alarm"]),
                    prediction_id=str(row["prediction_id"]),
                )
                for who, at, row in asked
            ]

    @contextmanager
    def steadily(self, asked: Sequence[Record]) -> Iterator[None]:
        """Meanwhile ask about these one after the other, again and again."""
        ended = threading.Event()

        def call() -> None:
            turn = 0
            while not ended.wait(STEADY_SECONDS):
                self._request([asked[turn % len(asked)]])
                turn += 1

        caller = threading.Thread(target=call, name="demo-caller")
        caller.start()
        try:
            yield
        finally:
            ended.set()
            caller.join()

    def _request(self, asked: Sequence[Record]) -> dict[str, Any] | None:
        """The answer, or None where there was none that holds what was asked for; both are counted."""
        try:
            answer = self._server.predict(self._model, {"records": list(asked)})
            wrong = _wrong(answer, len(asked))
        except HeadraceError as error:
            answer, wrong = {}, str(error)
        with self._lock:
            self.requests += 1
            if wrong:
                self.failures.append(f"{time.strftime('%H:%M:%S', time.gmtime())}Z: {wrong}")
                return None
            version = str(answer["version"])
            self.answered[version] = self.answered.get(version, 0) + 1
        return answer


def records(rows: pl.DataFrame, features: Sequence[str]) -> list[dict[str, Any]]:
    """Rows as the server takes them: what is missing is left out."""
    return [
        {name: value for name, value in row.items() if value is not None and value == value}
        for row in rows.select(features).iter_rows(named=True)
    ]


def _wrong(answer: Mapping[str, Any], rows: int) -> str:
    """What is wrong with an answer to so many rows; empty where nothing is."""
    predictions = answer.get("predictions", ())
    if len(predictions) != rows:
        return f"{len(predictions)} predictions for {rows} records"
    if not answer.get("version"):
        return "an answer of no version"
    names = {"prediction_id", "probability", "alarm"}
    return next(
        (f"a prediction without {sorted(names - set(row))}" for row in predictions if names - set(row)), ""
    )
