"""Requests to train again, in the lake: durable, one open at a time, whoever dies on the way.

Each row is one atomic append that names its work (decision record 0002). A number is given out by the
append ``retrain:<model>:<number>``, which only one process can win; a request is taken by the append
``…:taken:<attempt>`` and closed by ``…:closed``, likewise. So events may be lost, doubled or merged.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from pipelines.adapters.lake import Lake
from pipelines.errors import MonitorError
from pipelines.monitor.records import Event, Outcome, Request, RequestRow, Trigger, requests

TABLE = "monitor/requests"

#: After so long without an end, a training that does not run in the same DAG is given up for dead.
LEASE = timedelta(hours=12)

_ATTEMPTS = 8


def read(lake: Lake, registered_name: str | None = None) -> list[Request]:
    """All requests of a model by number; of all models one model after the other."""
    import polars as pl

    if not lake.exists(TABLE):
        return []
    rows = lake.scan(TABLE)
    if registered_name is not None:
        rows = rows.filter(pl.col("registered_name") == registered_name)
    found: dict[str, list[RequestRow]] = {}
    for text in rows.collect()["record"]:
        row = RequestRow.model_validate_json(text)
        found.setdefault(row.registered_name, []).append(row)
    return [request for name in sorted(found) for request in requests(found[name])]


def open_one(lake: Lake, registered_name: str) -> Request | None:
    """The request that is pending or in training."""
    return next((each for each in reversed(read(lake, registered_name)) if each.closed is None), None)


def ask(
    lake: Lake,
    registered_name: str,
    *,
    work: str,
    triggers: tuple[Trigger, ...],
    reason: str,
    evidence: str,
    at: datetime,
    changed_at: datetime | None = None,
) -> Request:
    """Make a request, or add this evidence to the one that is open; the same work again changes nothing.

    Args:
        work: Names the evidence, such as a check.
        evidence: Address or text.
        changed_at: Since when things are changed, where that is known.
    """
    for _ in range(_ATTEMPTS):
        known = read(lake, registered_name)
        mine = next((each for each in known if any(row.work == work for row in each.rows)), None)
        if mine is not None:
            return mine
        pending = next((each for each in reversed(known) if each.closed is None), None)
        number = pending.number if pending else 1 + max((each.number for each in known), default=0)
        row = RequestRow(
            at=at,
            registered_name=registered_name,
            number=number,
            event=Event.JOINED if pending else Event.ASKED,
            work=work,
            triggers=triggers,
            reason=reason,
            evidence=evidence,
            changed_at=changed_at,
        )
        key = _key(registered_name, number)
        _write(lake, f"{key}:joined:{work}" if pending else key, row)
        # Who lost the number reads anew, and joins the winner's request.
    raise MonitorError(f"{registered_name}: others keep making requests to train; try again")


def take(lake: Lake, registered_name: str, *, run: str, at: datetime, alone: bool = False) -> Request | None:
    """Hold the open request for a training run; None: there is none, or another run holds it.

    Args:
        run: Names the run; the same run takes its own request again.
        alone: The caller knows that no other run of this model's training is alive, as Airflow does that
            runs one at a time; a request that another one holds was then left by a dead run.
    """
    for _ in range(_ATTEMPTS):
        request = open_one(lake, registered_name)
        if request is None:
            return None
        holder = request.taken
        if holder is not None and holder.run == run:
            return request
        if holder is not None and not alone and at - holder.at < LEASE:
            return None
        attempt = holder.attempt + 1 if holder else 1
        why = f"taken over from {holder.run}, which ended without a word" if holder else "training begins"
        row = RequestRow(
            at=at,
            registered_name=registered_name,
            number=request.number,
            event=Event.TAKEN,
            work=run,
            reason=why,
            run=run,
            attempt=attempt,
        )
        _write(lake, f"{_key(registered_name, request.number)}:taken:{attempt}", row)
    raise MonitorError(f"{registered_name}: others keep taking the request to train; try again")


def close(
    lake: Lake,
    registered_name: str,
    *,
    run: str,
    outcome: Outcome,
    reason: str,
    at: datetime,
    version: str | None = None,
    champion: str | None = None,
    confirmed: bool | None = None,
    evidence: str = "",
) -> bool:
    """End the request that a run holds; returns whether it was ended now. Closed ones stay as they are."""
    held = [each for each in read(lake, registered_name) if each.taken is not None and each.taken.run == run]
    if not held or held[-1].closed is not None:
        return False
    request = held[-1]
    began = next(row.at for row in request.rows if row.event is Event.TAKEN and row.run == run)
    row = RequestRow(
        at=at,
        registered_name=registered_name,
        number=request.number,
        event=Event.CLOSED,
        work=run,
        reason=reason,
        evidence=evidence,
        run=run,
        outcome=outcome,
        version=version,
        champion=champion,
        seconds=(at - began).total_seconds(),
        confirmed=confirmed,
    )
    return _write(lake, f"{_key(registered_name, request.number)}:closed", row)


def _write(lake: Lake, work: str, row: RequestRow) -> bool:
    import polars as pl

    frame = pl.DataFrame(
        {
            "at": [row.at],
            "registered_name": [row.registered_name],
            "number": [row.number],
            "event": [row.event.value],
            "record": [row.model_dump_json()],
        },
        schema_overrides={"at": pl.Datetime("us", "UTC"), "number": pl.Int64},
    )
    return lake.append(TABLE, frame, work=[work]).rows_added > 0


def _key(registered_name: str, number: int) -> str:
    return f"retrain:{registered_name}:{number}"
