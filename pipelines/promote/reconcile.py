"""reconcile: tell the ledger what people moved in the MLflow UI, and end what a crash cut short.

Cheap, idempotent, and never moves ``production``: the registry is right. It runs every few minutes
in Airflow, and at the start of each job of this stage.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.adapters import webhooks
from pipelines.adapters.lake import Lake
from pipelines.adapters.serving_client import address
from pipelines.errors import PointerBusyError
from pipelines.promote import ledger
from pipelines.promote.pointers import Pointer
from pipelines.promote.records import CHALLENGER, PRODUCTION, LedgerLine, story
from pipelines.references import Reference

if TYPE_CHECKING:
    from pipelines.adapters.registry import Registry
    from pipelines.settings import Settings


class ReconcileRef(Reference):
    """What was told anew, and whose move was under way; texts for people."""

    told: tuple[str, ...]
    busy: tuple[str, ...]
    webhook: str = ""  # whether MLflow tells of moves at once


def run(settings: Settings, name: str | None = None) -> ReconcileRef:
    """Settle the ledger with the registry, for one registered model or for all.

    Raises:
        RegistryError: MLflow does not answer.
    """
    from pipelines.adapters.registry import Registry
    from pipelines.promote.job import publish

    told: list[str] = []
    busy: list[str] = []
    lake = Lake.of(settings)
    events = webhooks.kept(settings)
    with Registry(settings.tracking) as registry:
        webhook = _listen(registry, settings) if name is None else ""
        for each, alias in _to_settle(registry, lake) if name is None else _aliases_of(name):
            try:
                settled = Pointer(registry, lake, each, alias, events.values()).settle()
            except PointerBusyError as error:
                busy.append(str(error))
                continue
            told += [
                f"{each}, {alias}: {line.from_version or 'nothing'} → {line.to_version or 'nothing'} "
                f"{line.state.value} ({line.action.value} by {line.actor})"
                for line in settled.added
            ]
            if settled.added:
                publish(each, settings)
    for path, event in events.items():
        if name in {None, event.name} and not busy:
            path.unlink(missing_ok=True)
    return ReconcileRef(told=tuple(told), busy=tuple(busy), webhook=webhook)


def _listen(registry: Registry, settings: Settings) -> str:
    """Let MLflow tell the server of moved aliases at once. Without it they are found by looking."""
    from pipelines.adapters.registry import RegistryRefusedError

    url = address(settings, admin=True) + webhooks.PATH
    try:
        registry.ensure_webhook(
            webhooks.NAME,
            url,
            webhooks.ENTITY.upper(),
            [action.upper() for action in webhooks.EVENTS],
            webhooks.secret(settings),
        )
    except RegistryRefusedError as error:
        return f"MLflow does not tell {url} of moves, they are found by looking: {error}"
    return f"MLflow tells {url} of moves"


def _to_settle(registry: Registry, lake: Lake) -> list[tuple[str, str]]:
    """Models and aliases of which ledger and registry do not tell the same: by one look at each."""
    rows: dict[str, list[LedgerLine]] = {}
    for line in ledger.rows(lake):
        rows.setdefault(line.registered_name, []).append(line)
    named = {model.name: model.aliases for model in registry.registered_models()}
    found = []
    for name in sorted({*rows, *named}):
        for _, alias in _aliases_of(name):
            told = story(rows.get(name, ()), alias)
            if told.intention is not None or told.current != named.get(name, {}).get(alias):
                found.append((name, alias))
    return found


def _aliases_of(name: str) -> list[tuple[str, str]]:
    return [(name, PRODUCTION), (name, CHALLENGER)]
