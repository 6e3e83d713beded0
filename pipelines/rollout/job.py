"""rollout: begin with a challenger, look at it and take the next step, or withdraw it.

State lives in the registry, where the servers read it too: the alias ``challenger``, and on its version
the tag ``headrace.traffic``. A job that is killed at any line and run again finds there what is done;
what the ledger lacks of it then, the next move settles (:mod:`pipelines.promote.pointers`).
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from models.specs import Budgets, Rollout
from pipelines.adapters.lake import Lake
from pipelines.adapters.traffic import SHADOW, TRAFFIC_TAG
from pipelines.errors import PromotionError
from pipelines.promote import job as promotion
from pipelines.promote import ledger, proof
from pipelines.promote.pointers import Move, Pointer
from pipelines.promote.records import CHALLENGER, PRODUCTION, Action, LedgerLine, State, story
from pipelines.promote.steps import rolled_back
from pipelines.references import Outcome
from pipelines.rollout import outcomes, state, steps
from pipelines.rollout.evidence import Servers, of_trial
from pipelines.rollout.records import (
    BEGUN_TAG,
    SINCE_TAG,
    WITHDRAWN_TAG,
    Evidence,
    RolloutRef,
    Standing,
    Step,
)

if TYPE_CHECKING:
    from pipelines.adapters.registry import ModelVersion, Registry
    from pipelines.settings import Settings


def begin(
    name: str,
    version: str | None,
    who: str,
    reason: str,
    settings: Settings,
    at: datetime,
    *,
    override: bool = False,
) -> RolloutRef:
    """Make a version the challenger, in the shadow. One that is the challenger already goes on as it is.

    Args:
        version: None: the newest that passed its gate, is newer than the one in production, and was
            not rolled back.
        at: The present, UTC.
        override: Take a version also without a passed gate, and one that was rolled back.

    Raises:
        PromotionError: it may not be; or another rollout of the model is under way; or nothing serves.
        ArtifactError: the version is not signed by a trusted key, or its files were changed.
        PointerBusyError: somebody else moves the alias at this moment.
    """
    from pipelines.adapters.registry import Registry

    if not who.strip() or not reason.strip():
        raise PromotionError("a rollout needs a name and a reason; both are written to the ledger")
    with Registry(settings.tracking) as registry:
        standing = state.read(registry, name)
        if standing.production is None:
            raise PromotionError(
                f"{name}: no version is in production, so there is nothing to roll out beside: "
                f"headrace promote {name} VERSION --reason …"
            )
        bad = rolled_back(story(ledger.rows(Lake.of(settings), name), PRODUCTION))
        # A run that was killed and begins again without a version goes on with the one that it chose.
        version = version or (standing.challenger if standing.challenger != standing.production else None)
        chosen = _chosen(registry, name, version, standing.production, set(bad))
        if standing.challenger not in {None, chosen.version}:
            raise PromotionError(
                f"{name}: version {standing.challenger} is the challenger; withdraw it first: "
                f"headrace rollout withdraw {name} --reason …"
            )
        if chosen.version == standing.production:
            raise PromotionError(f"{name}: version {chosen.version} is in production already")
        if standing.challenger == chosen.version and standing.traffic:
            return _ref(name, Step.WAIT, "it is the challenger already", standing)
        verdict = chosen.tags.get(promotion.VERDICT_TAG)
        if not override and verdict != Outcome.PASS.value:
            raise PromotionError(
                f"{name}: version {chosen.version} has not passed its gate ({verdict or 'there is no verdict'}); "
                "a person may override that"
            )
        if not override and (line := bad.get(chosen.version)) is not None:
            raise PromotionError(
                f"{name}: version {chosen.version} was rolled back by {line.actor}: {line.reason}; a person may override that"
            )
        proof.verify(registry, chosen, settings)
        # The tags first: with the alias, what an earlier rollout left there would count.
        registry.delete_version_tag(name, chosen.version, WITHDRAWN_TAG)
        registry.set_version_tag(name, chosen.version, BEGUN_TAG, at.isoformat())
        state.give(registry, name, chosen.version, SHADOW, at)
        work = f"challenge:{name}:{chosen.version}:{at.isoformat()}"
        move = Move(work, chosen.version, Action.CHALLENGE, who, reason, verdict or "no verdict")
        Pointer(registry, Lake.of(settings), name, CHALLENGER).move(move)
        return _ref(name, Step.ADVANCE, reason, state.read(registry, name))


def step(
    name: str,
    who: str,
    settings: Settings,
    at: datetime,
    plan: Rollout | None = None,
    progress: proof.Progress = lambda text: None,
) -> RolloutRef:
    """Look at a rollout once, and take the step that is due.

    Args:
        at: The present, UTC.
        plan: None: that of the model's spec.

    Raises:
        RegistryError: MLflow does not answer; nothing was done, or the next look goes on with it.
        PromotionError: the challenger was put into production, and the server does not answer with it.
    """
    from pipelines.adapters.registry import Registry

    with Registry(settings.tracking) as registry:
        standing, seen, decision = _looked(registry, name, settings, at, plan, noting=True)
        figures = _figures(seen)
        match decision.step:
            case Step.ADVANCE:
                _tell(Lake.of(settings), name, standing, decision, who, at)
                state.give(registry, name, standing.challenger or "", decision.traffic, at)
            case Step.WITHDRAW:
                _withdraw(registry, name, standing.challenger or "", who, decision.reason, settings)
            case Step.PROMOTE:
                _promote(registry, name, standing, who, decision.reason, settings, progress)
            case Step.FINISH:
                _withdraw(
                    registry, name, standing.challenger or "", who, decision.reason, settings, bad=False
                )
        over = decision.step not in {Step.WAIT, Step.ADVANCE}
        if decision.step is Step.WAIT:
            return _ref(name, decision.step, decision.reason, standing, figures)
        return _ref(name, decision.step, decision.reason, state.read(registry, name), figures, over=over)


def withdraw(name: str, who: str, reason: str, settings: Settings) -> RolloutRef:
    """Take the challenger's traffic away, on a person's word.

    Raises:
        PromotionError: no name or no reason was given.
    """
    from pipelines.adapters.registry import Registry

    if not who.strip() or not reason.strip():
        raise PromotionError("a withdrawal needs a name and a reason; both are written to the ledger")
    with Registry(settings.tracking) as registry:
        standing = state.read(registry, name)
        if standing.challenger is None:
            return _ref(name, Step.NOTHING, "no version has the alias challenger", standing, over=True)
        bad = standing.challenger != standing.production
        _withdraw(registry, name, standing.challenger, who, reason, settings, bad=bad)
        return _ref(name, Step.WITHDRAW, reason, state.read(registry, name), over=True)


def look(name: str, settings: Settings, at: datetime, plan: Rollout | None = None) -> RolloutRef:
    """What the next step would be; nothing is done."""
    from pipelines.adapters.registry import Registry

    with Registry(settings.tracking) as registry:
        standing, seen, decision = _looked(registry, name, settings, at, plan)
        return _ref(name, decision.step, decision.reason, standing, _figures(seen))


def _looked(
    registry: Registry,
    name: str,
    settings: Settings,
    at: datetime,
    plan: Rollout | None,
    *,
    noting: bool = False,
) -> tuple[Standing, Evidence, steps.Decision]:
    """Where the rollout stands, what was seen, and what is due.

    Args:
        noting: Write down that traffic which nobody timed begins now.
    """
    standing = state.read(registry, name)
    own, budgets = _plan(registry, name, standing)
    plan = plan or own
    latency = plan.latency or budgets.latency
    running = standing.challenger is not None and standing.challenger != standing.production
    if noting and running and standing.traffic and None in {standing.since, standing.begun}:
        standing = state.note_times(registry, name, standing, at)
    seen = _evidence(name, standing, plan, latency, settings) if running else Evidence()
    return standing, seen, steps.decide(plan, latency, standing, seen, at)


def _evidence(
    name: str, standing: Standing, plan: Rollout, latency: timedelta, settings: Settings
) -> Evidence:
    servers = Servers(settings)
    try:
        seen = of_trial(servers.scrape(), name, standing, latency)
    finally:
        servers.close()
    if standing.begun is None or standing.challenger is None or standing.production is None:
        return seen
    versions = standing.production, standing.challenger
    known = outcomes.read(Lake.of(settings), name, *versions, standing.begun)
    return replace(seen, quality=outcomes.compare(known, *versions, steps.alpha_of_quality(plan)))


def _promote(
    registry: Registry,
    name: str,
    standing: Standing,
    who: str,
    reason: str,
    settings: Settings,
    progress: proof.Progress,
) -> None:
    version = standing.challenger or ""
    begun = standing.begun.isoformat() if standing.begun else ""
    work = f"rollout:{name}:{version}:{begun}"
    promotion.promote_challenger(name, version, who, reason, settings, work, progress)
    _withdraw(registry, name, version, who, f"version {version} is in production", settings, bad=False)


def _withdraw(
    registry: Registry,
    name: str,
    version: str,
    who: str,
    reason: str,
    settings: Settings,
    *,
    bad: bool = True,
) -> None:
    """The alias first, in one atomic call: with it goes all traffic."""
    if bad:
        registry.set_version_tag(name, version, WITHDRAWN_TAG, f"{who}: {reason}"[:4000])
    work = f"withdraw:{name}:{version}"
    Pointer(registry, Lake.of(settings), name, CHALLENGER).move(
        Move(work, None, Action.WITHDRAW, who, reason)
    )
    for tag in (TRAFFIC_TAG, SINCE_TAG, BEGUN_TAG):
        registry.delete_version_tag(name, version, tag)


def _tell(
    lake: Lake, name: str, standing: Standing, decision: steps.Decision, who: str, at: datetime
) -> None:
    """One line in the ledger for more traffic: no alias moves, and yet what clients get does."""
    line = LedgerLine(
        at=at,
        registered_name=name,
        alias=CHALLENGER,
        state=State.DECIDED,
        action=Action.ADVANCE,
        actor=who,
        from_version=standing.challenger,
        to_version=standing.challenger,
        reason=decision.reason,
    )
    begun = standing.begun.isoformat() if standing.begun else ""
    ledger.write(lake, f"rollout:{name}:{standing.challenger}:{begun}:{decision.traffic}", line)


def _chosen(
    registry: Registry, name: str, version: str | None, production: str, bad: set[str]
) -> ModelVersion:
    if version is not None:
        found = registry.version(name, version)
        if found is None:
            known = [each.version for each in registry.versions(name)]
            raise PromotionError(f"{name} has no version {version}; it has {known or 'none'}")
        return found
    for each in registry.versions(name, tags={promotion.VERDICT_TAG: Outcome.PASS.value}):
        if int(each.version) > int(production) and each.version not in bad:
            return each
    raise PromotionError(
        f"{name}: no version newer than {production}, which is in production, has passed its gate; name one"
    )


def _plan(registry: Registry, name: str, standing: Standing) -> tuple[Rollout, Budgets]:
    """Of the model's spec, as its source has it; the defaults for a model that is in no catalogue."""
    from models.catalogue import CATALOGUE
    from pipelines.sources.profile import load_profile

    found = registry.version(name, standing.challenger) if standing.challenger else None
    source = found.tags.get("headrace.source") if found else None
    spec = CATALOGUE.get(name.removesuffix(f"-{source}") if source else name)
    if spec is None:
        return Rollout(), Budgets()
    if source:
        spec = load_profile(source).spec_of(spec)
    return spec.rollout, spec.budgets


def _figures(seen: Evidence) -> dict[str, float | int | str]:
    figures: dict[str, float | int | str] = {"servers": seen.servers, "mirrors_dropped": seen.dropped}
    for role, side in (("champion", seen.champion), ("challenger", seen.challenger)):
        for what in ("requests", "errors", "slow"):
            figures[f"{role}_{what}"] = getattr(side, what)
    if seen.quality is not None:
        figures |= {
            "outcomes": seen.quality.count,
            "loss_difference": seen.quality.mean,
            "loss_difference_lower": seen.quality.lower,
            "loss_difference_upper": seen.quality.upper,
        }
    return figures | ({"unreachable": seen.unreachable} if seen.unreachable else {})


def _ref(
    name: str,
    step: Step,
    reason: str,
    standing: Standing,
    figures: dict[str, float | int | str] | None = None,
    *,
    over: bool = False,
) -> RolloutRef:
    return RolloutRef(
        registered_name=name,
        step=step,
        reason=reason,
        challenger=standing.challenger,
        production=standing.production,
        traffic=standing.traffic,
        over=over,
        figures=figures or {},
    )
