"""Where a rollout stands, as the registry has it: aliases, and tags of the challenger's version."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pipelines.adapters.traffic import TRAFFIC_TAG, parse_traffic
from pipelines.errors import InvalidRequestError
from pipelines.promote.records import CHALLENGER, PRODUCTION
from pipelines.rollout.records import BEGUN_TAG, SINCE_TAG, Standing

if TYPE_CHECKING:
    from pipelines.adapters.registry import Registry


def read(registry: Registry, name: str) -> Standing:
    """One look at the aliases and at the challenger's tags."""
    challenger = registry.alias_version(name, CHALLENGER)
    production = registry.alias_version(name, PRODUCTION)
    serving = production.version if production else None
    if challenger is None:
        return Standing(None, serving)
    try:
        traffic, problem = parse_traffic(challenger.tags.get(TRAFFIC_TAG)).text, ""
    except InvalidRequestError as error:
        traffic, problem = "", str(error)
    of, _, since = challenger.tags.get(SINCE_TAG, "").partition(" ")
    return Standing(
        challenger.version,
        serving,
        traffic,
        problem,
        since=_moment(since) if of == traffic else None,
        begun=_moment(challenger.tags.get(BEGUN_TAG, "")),
    )


def _moment(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        return None  # a person wrote there: as if it began now


def note_times(registry: Registry, name: str, standing: Standing, at: datetime) -> Standing:
    """Traffic that a person gave in the MLflow UI, or that a killed job gave: its time begins now."""
    version = standing.challenger or ""
    if standing.begun is None:
        registry.set_version_tag(name, version, BEGUN_TAG, at.isoformat())
    if standing.since is None:
        registry.set_version_tag(name, version, SINCE_TAG, f"{standing.traffic} {at.isoformat()}")
    return read(registry, name)


def give(registry: Registry, name: str, version: str, traffic: str, at: datetime) -> None:
    """Traffic first: where a kill comes between, its time begins anew."""
    registry.set_version_tag(name, version, TRAFFIC_TAG, traffic)
    registry.set_version_tag(name, version, SINCE_TAG, f"{traffic} {at.isoformat()}")
