"""The page of one model's pointer history. :func:`render` is pure: entries in, HTML out."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.pages import template
from pipelines.promote.history import Entry, entries, spoken
from pipelines.promote.records import State

if TYPE_CHECKING:
    from pipelines.settings import Settings

_TEMPLATE = Path(__file__).with_name("history.html")


def render(name: str, found: Sequence[Entry], now: datetime, tracking_url: str) -> str:
    """The page, complete in itself: it loads nothing.

    Args:
        found: Oldest first, as :func:`pipelines.promote.history.entries` gives them.
        tracking_url: MLflow's address, for the links to versions.
    """
    moves = [entry for entry in found if entry.moved]
    return template(_TEMPLATE, filters={"spoken": spoken}).render(
        name=name,
        now=now,
        newest_first=list(reversed(found)),
        current=moves[-1] if moves else None,
        # A version that served for a moment must be seen beside one that served for a year.
        bars=[
            (entry, max(entry.served.total_seconds(), 1) ** 0.5)
            for entry in moves
            if entry.served is not None
        ],
        version_page=lambda version: f"{tracking_url}/#/models/{name}/versions/{version}",
        answered=State.ANSWERED,
    )


def of_model(name: str, settings: Settings) -> str:
    """The page by what the ledger tells now."""
    from pipelines.adapters.lake import Lake
    from pipelines.promote import ledger

    now = datetime.now(UTC)
    return render(name, entries(ledger.rows(Lake.of(settings), name), now), now, settings.tracking)
