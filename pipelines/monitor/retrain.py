"""What train_<model> does about requests: take the open one, and close it with what came of it."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from pipelines.adapters.lake import Lake
from pipelines.errors import BrokenDataError
from pipelines.monitor import checks, requests
from pipelines.monitor.records import Outcome, Trigger
from pipelines.references import Reference, VerdictRef

if TYPE_CHECKING:
    from models.specs import ModelSpec
    from pipelines.settings import Settings


class TakenRef(Reference):
    """The request that a training run works for.

    Attributes:
        number: None: an event that tells of a request came late or twice; there is nothing to train for.
    """

    registered_name: str
    number: int | None
    reason: str


def take(
    model: str, source: str, run: str, by_event: bool, by_hand: bool, at: datetime, settings: Settings
) -> TakenRef:
    """Hold the open request; a run that the schedule or a person started makes one where none is open.

    Args:
        run: Names the DAG run. The same run again holds the same request.
        by_event: Started by the drift asset: without an open request there is nothing to do.

    Raises:
        BrokenDataError: the newest check of the version in production found broken data, and no person
            started this run. The request stays open.
    """
    name = _name(model, source, settings)
    lake = Lake.of(settings)
    newest = next(iter(reversed(checks.read(lake, name))), None)
    if newest is not None and newest.broken and not by_hand:
        raise BrokenDataError(
            f"{name} is not trained: the check of {newest.window} found broken data: {'; '.join(newest.broken)}. Mend "
            "them and let a check pass, or start this DAG by hand"
        )
    done = next(
        (
            each
            for each in requests.read(lake, name)
            if each.closed is not None and each.taken is not None and each.taken.run == run
        ),
        None,
    )
    if done is not None:  # a cleared run that had ended: its request keeps its outcome
        return TakenRef(registered_name=name, number=done.number, reason=done.asked.reason)
    if not by_event and requests.open_one(lake, name) is None:
        trigger = Trigger.BY_HAND if by_hand else Trigger.SCHEDULE
        why = "a person started the training" if by_hand else "the schedule says so"
        requests.ask(lake, name, work=f"run:{run}", triggers=(trigger,), reason=why, evidence=run, at=at)
    taken = requests.take(lake, name, run=run, at=at, alone=True)
    if taken is None:
        return TakenRef(registered_name=name, number=None, reason="no request is open: it was done already")
    return TakenRef(registered_name=name, number=taken.number, reason=taken.asked.reason)


def close(
    taken: TakenRef, run: str, verdict: VerdictRef | None, promoted: bool, at: datetime, settings: Settings
) -> Outcome | None:
    """End the request by what the run's stages left behind; None: it held none, or had ended it.

    Args:
        verdict: Of the candidate; None: no stage came so far.
        promoted: Whether the alias moved to the candidate.
    """
    if taken.number is None:
        return None
    if verdict is None:
        outcome, reason = Outcome.FAILED, "the training ended before there was a verdict; its log says where"
    elif promoted:
        outcome, reason = (
            Outcome.PROMOTED,
            f"version {verdict.candidate.version}: {'; '.join(verdict.reasons)}",
        )
    else:
        outcome, reason = Outcome.KEPT, f"{verdict.outcome.value}: {'; '.join(verdict.reasons)}"
    lake = Lake.of(settings)
    ended = requests.close(
        lake,
        taken.registered_name,
        run=run,
        outcome=outcome,
        reason=reason,
        at=at,
        version=verdict.candidate.version if verdict else None,
        champion=verdict.champion if verdict else None,
        confirmed=_confirmed(lake, taken),
        evidence=(verdict.report_url or "") if verdict else "",
    )
    return outcome if ended else None


def _confirmed(lake: Lake, taken: TakenRef) -> bool | None:
    """Whether labels bore the alarm out: a realised figure below its floor in a check since the change."""
    request = next(
        (each for each in requests.read(lake, taken.registered_name) if each.number == taken.number), None
    )
    if request is None or not set(request.triggers) - {Trigger.SCHEDULE, Trigger.BY_HAND}:
        return None
    since = request.asked.changed_at or request.asked.at
    looks = [
        check
        for check in checks.read(lake, taken.registered_name)
        if check.window.end > since and check.realised.values
    ]
    return any(check.realised.below for check in looks) if looks else None


def _name(model: str, source: str, settings: Settings) -> str:
    from models.catalogue import find
    from pipelines.sources.profile import load_profile, registered_name

    profile = load_profile(source)
    spec: ModelSpec = profile.spec_of(find(model))
    return registered_name(spec, profile, settings.source)
