"""promote: move the alias ``production`` to a proved version, keep ``previous``, write the ledger.

The moves are ordered so that a crash between any two leaves a champion, and the next run of the
same work finishes the story: ``previous`` is set first, ``production`` second, the ledger last.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pipelines.adapters.lake import Lake
from pipelines.errors import PromotionError
from pipelines.promote import ledger, steps
from pipelines.promote.ledger import Action, LedgerLine
from pipelines.references import PromotionRef, VerdictRef

if TYPE_CHECKING:
    from pipelines.adapters.registry import ModelVersion, Registry
    from pipelines.settings import Settings

PRODUCTION, PREVIOUS = "production", "previous"
ROLLED_BACK_TAG = "headrace.rolled_back"


def run(verdict: VerdictRef, actor: str, settings: Settings) -> PromotionRef:
    """Promote the candidate if its verdict is a pass; otherwise say why not, and move nothing.

    Args:
        actor: Who asks: an Airflow run, or a person at the command line.

    Raises:
        PromotionError: the champion is not the one that the verdict compared with.
    """
    from pipelines.adapters.registry import Registry

    registry = Registry(settings.tracking)
    candidate = verdict.candidate
    name, version = candidate.registered_name, candidate.version
    decision = steps.decide(
        verdict,
        serving=_alias(registry, name, PRODUCTION),
        rolled_back=_existing(registry, name, version).tags.get(ROLLED_BACK_TAG),
    )
    if not decision.promote:
        return _state(registry, name, moved=False, reason=decision.reason)
    work = f"promote:{name}:{version}:{candidate.run_id}"
    moved = _move(
        registry,
        Lake.of(settings),
        name,
        version,
        work,
        Action.PROMOTE,
        actor,
        decision.reason,
        verdict.outcome.value,
        verdict.report_url,
    )
    return _state(registry, name, moved=moved, reason=decision.reason if moved else "already in production")


def promote_by_hand(name: str, version: str, who: str, reason: str, settings: Settings) -> PromotionRef:
    """Put a version into production on a person's word; the name and the reason go to the ledger.

    Raises:
        PromotionError: no name or no reason was given, or there is no such version.
    """
    from pipelines.adapters.registry import Registry

    _require_words(who, reason)
    registry = Registry(settings.tracking)
    verdict = _existing(registry, name, version).tags.get("headrace.verdict")
    work = f"by-hand:{uuid.uuid4()}"
    moved = _move(
        registry, Lake.of(settings), name, version, work, Action.PROMOTE_BY_HAND, who, reason, verdict, None
    )
    return _state(registry, name, moved=moved, reason=reason)


def rollback(name: str, to: str | None, who: str, reason: str, settings: Settings) -> PromotionRef:
    """Put ``previous``, or the named version, back into production.

    The version that is left is tagged, so that no scheduled run promotes it again by itself.

    Raises:
        PromotionError: there is nothing to go back to, or no name or reason was given.
    """
    from pipelines.adapters.registry import Registry

    _require_words(who, reason)
    registry = Registry(settings.tracking)
    serving = _alias(registry, name, PRODUCTION)
    target = to or _alias(registry, name, PREVIOUS)
    if target is None or target == serving:
        raise PromotionError(
            f"{name}: version {serving} serves and there is no other version named 'previous'; "
            "name one: headrace rollback MODEL --to VERSION --reason …"
        )
    _existing(registry, name, target)
    if serving is not None:
        registry.set_version_tag(name, serving, ROLLED_BACK_TAG, reason)
    work = f"rollback:{uuid.uuid4()}"
    moved = _move(registry, Lake.of(settings), name, target, work, Action.ROLLBACK, who, reason, None, None)
    return _state(registry, name, moved=moved, reason=reason)


def history(name: str, settings: Settings) -> list[LedgerLine]:
    """The ledger's lines of one model, oldest first."""
    return ledger.read(Lake.of(settings), name)


def _move(
    registry: Registry,
    lake: Lake,
    name: str,
    version: str,
    work: str,
    action: Action,
    actor: str,
    reason: str,
    verdict: str | None,
    evidence_url: str | None,
) -> bool:
    """Set both aliases and write the ledger; finishes what a killed run began. False: all was done."""
    serving = _alias(registry, name, PRODUCTION)
    if serving != version:
        if serving is not None:
            registry.set_alias(name, PREVIOUS, serving)
        registry.set_alias(name, PRODUCTION, version)
    elif action is not Action.PROMOTE:
        return False
    # Where a run was killed after the alias had moved, 'previous' still tells where it moved from.
    left = serving if serving != version else _alias(registry, name, PREVIOUS)
    line = LedgerLine(
        at=datetime.now(UTC),
        registered_name=name,
        action=action,
        actor=actor,
        from_version=left,
        to_version=version,
        reason=reason,
        verdict=verdict,
        evidence_url=evidence_url,
    )
    return ledger.write(lake, work, line)


def _existing(registry: Registry, name: str, version: str) -> ModelVersion:
    found = registry.version(name, version)
    if found is None:
        known = [item.version for item in registry.versions(name)]
        raise PromotionError(f"{name} has no version {version}; it has {known or 'none'}")
    return found


def _alias(registry: Registry, name: str, alias: str) -> str | None:
    found = registry.alias_version(name, alias)
    return found.version if found else None


def _state(registry: Registry, name: str, *, moved: bool, reason: str) -> PromotionRef:
    return PromotionRef(
        registered_name=name,
        production=_alias(registry, name, PRODUCTION),
        previous=_alias(registry, name, PREVIOUS),
        moved=moved,
        reason=reason,
    )


def _require_words(who: str, reason: str) -> None:
    if not who.strip() or not reason.strip():
        raise PromotionError("a move by hand needs a name and a reason; both are written to the ledger")
