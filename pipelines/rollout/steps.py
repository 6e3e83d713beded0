"""Whether a challenger advances, waits or is withdrawn. Pure: what is known in, what is done out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from models.specs import Rollout
from pipelines.rollout.records import Evidence, Side, Standing, Step
from pipelines.rollout.sequential import cautious_share, evidence_against

SHADOW = "shadow"
_TESTS = 3  # errors, latency, quality: each has its part of the error rate


@dataclass(frozen=True)
class Decision:
    """What is done next, and why.

    Attributes:
        traffic: What the challenger is given, where it advances.
    """

    step: Step
    reason: str
    traffic: str = ""


def decide(plan: Rollout, latency: timedelta, now: Standing, seen: Evidence, at: datetime) -> Decision:
    """Weigh what was seen of a challenger.

    It is withdrawn for what is shown beyond doubt, and advances for what is shown too; in between it
    waits, until the plan's time is over.

    Args:
        latency: That one answer may take.
        at: The present, UTC.
    """
    if now.challenger is None:
        return Decision(Step.NOTHING, "no version has the alias challenger")
    if now.production is None:
        return Decision(Step.NOTHING, "no version is in production, so there is nothing to compare with")
    if now.challenger == now.production:
        return Decision(Step.FINISH, f"version {now.challenger} is in production")
    for against in (_errors_against, _latency_against, _quality_against):
        if reason := against(plan, latency, seen):
            return Decision(Step.WITHDRAW, reason)
    if now.begun is not None and at - now.begun > plan.within:
        lacks = _lacks(plan, now, seen, at) or "it was looked at too late"
        return Decision(Step.WITHDRAW, f"it is not through after {plan.within}: {lacks}")
    if not now.traffic:
        return Decision(Step.WAIT, now.problem)
    if lacks := _lacks(plan, now, seen, at):
        return Decision(Step.WAIT, lacks)
    shown = _shown(seen)
    following = _after(plan, now.traffic)
    if following is None:
        return Decision(Step.PROMOTE, f"its rollout is through; {shown}")
    return Decision(Step.ADVANCE, f"{now.traffic} → {following}: {shown}", following)


def _after(plan: Rollout, traffic: str) -> str | None:
    """The traffic of the next step; None: production."""
    percent = 0.0 if traffic == SHADOW else float(traffic)
    return next((f"{step:g}" for step in plan.steps if step > percent), None)


def _level(plan: Rollout) -> float:
    """Evidence from which on a fault is beyond doubt."""
    return _TESTS / plan.error_rate


def alpha_of_quality(plan: Rollout) -> float:
    """Error probability of the interval that :class:`Evidence` has."""
    return plan.error_rate / _TESTS


def _errors_against(plan: Rollout, latency: timedelta, seen: Evidence) -> str:
    return _more_often(
        plan, seen, plan.max_errors, lambda side: (side.errors, side.requests), "failed on", "requests"
    )


def _latency_against(plan: Rollout, latency: timedelta, seen: Evidence) -> str:
    word = f"took longer than {latency.total_seconds() * 1e3:g} ms for"
    return _more_often(plan, seen, plan.max_slow, lambda side: (side.slow, side.answers), word, "answers")


def _quality_against(plan: Rollout, latency: timedelta, seen: Evidence) -> str:
    quality = seen.quality
    if quality is None or quality.lower <= plan.margin:
        return ""
    return (
        f"its loss is {quality.mean:+.4f} beside the champion's, at least {quality.lower:+.4f} (margin {plan.margin:g}, "
        f"{quality.count} outcomes)"
    )


def _more_often(
    plan: Rollout,
    seen: Evidence,
    allowed: float,
    counted: Callable[[Side], tuple[int, int]],
    word: str,
    what: str,
) -> str:
    """Why the challenger's faults are too many beyond doubt; empty: they are not."""
    events, trials = counted(seen.challenger)
    of_champion, asked = counted(seen.champion)
    tolerated = min(allowed + (cautious_share(of_champion, asked) if of_champion else 0.0), 0.999)
    if events == 0 or evidence_against(events, trials, tolerated) < _level(plan):
        return ""
    return f"it {word} {events} of {trials} {what}, the champion {of_champion} of {asked}; {tolerated:.2%} are tolerated"


def _lacks(plan: Rollout, now: Standing, seen: Evidence, at: datetime) -> str:
    """What is not shown yet; empty: it may advance."""
    if seen.servers == 0:
        return f"no server could be asked: {seen.unreachable}"
    held = at - now.since if now.since is not None else timedelta(0)
    if held < plan.hold:
        return f"it has had {now.traffic} for {_whole(held)}, {_whole(plan.hold)} are wanted"
    if seen.challenger.requests < plan.min_requests:
        return f"it was asked {seen.challenger.requests} requests with {now.traffic}, {plan.min_requests} are wanted"
    for events, trials, of_champion, asked, allowed, word in (
        (
            seen.challenger.errors,
            seen.challenger.requests,
            seen.champion.errors,
            seen.champion.requests,
            plan.max_errors,
            "errors",
        ),
        (
            seen.challenger.slow,
            seen.challenger.answers,
            seen.champion.slow,
            seen.champion.answers,
            plan.max_slow,
            "slow answers",
        ),
    ):
        if trials and events / trials > allowed + (of_champion / asked if asked else 0.0):
            return f"{events} of {trials} are {word}, the champion's are {of_champion} of {asked}"
    known = seen.quality.count if seen.quality else 0
    if known < plan.min_outcomes:
        return f"the outcome of {known} of its answers is known, {plan.min_outcomes} are wanted"
    if plan.min_outcomes and seen.quality is not None and seen.quality.upper > plan.margin:
        return (
            f"its loss may be up to {seen.quality.upper:+.4f} beyond the champion's, {plan.margin:g} is tolerated "
            f"({seen.quality.count} outcomes)"
        )
    return ""


def _shown(seen: Evidence) -> str:
    told = (
        f"{seen.challenger.requests} requests, {seen.challenger.errors} errors, {seen.challenger.slow} slow (champion: "
        f"{seen.champion.requests}, {seen.champion.errors}, {seen.champion.slow})"
    )
    if seen.quality is None:
        return f"{told}; no outcomes are known"
    quality = seen.quality
    return f"{told}; loss {quality.mean:+.4f} [{quality.lower:+.4f}, {quality.upper:+.4f}] of {quality.count} outcomes"


def _whole(span: timedelta) -> timedelta:
    return timedelta(seconds=round(span.total_seconds()))
