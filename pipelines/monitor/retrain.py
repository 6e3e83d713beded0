"""What train_<model> does about requests: take the open one, and close it with what came of it.

A request is made as soon as there is reason to, and waits to be taken until what changed can be learned: a
training that starts the day after a change has all that is new in its holdout, and can only fail.
Whoever starts one by hand, or the schedule, does not wait.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from pipelines.adapters.lake import Lake
from pipelines.errors import BrokenDataError
from pipelines.monitor import checks, page, requests
from pipelines.monitor.records import Outcome, Request, Trigger
from pipelines.references import Outcome as Verdict
from pipelines.references import Reference, VerdictRef
from pipelines.snapshot.steps import HORIZONS_TO_LEARN

if TYPE_CHECKING:
    from models.specs import ModelSpec
    from pipelines.settings import Settings


class TakenRef(Reference):
    """The request that a training run works for.

    Attributes:
        number: None: there is nothing to train for, as where an event came late or twice.
        changed_at: Since when things are otherwise, where that is why.
        newest: End of the newest evidence, where that lies ahead of this machine's clock, as where telemetry is
            simulated or replayed; None: the clocks agree.
        ahead: Seconds by which it does.
    """

    registered_name: str
    number: int | None
    reason: str
    changed_at: datetime | None = None
    newest: datetime | None = None
    ahead: float = 0.0

    def now(self, at: datetime) -> datetime:
        """A moment of this machine by the data's clock."""
        return at + timedelta(seconds=self.ahead)


#: A change may wait so long to be learned; where labels take longer, training begins at once and does what it can.
LONGEST_WAIT = timedelta(days=7)


def ripe_at(request: Request, horizon: timedelta) -> datetime | None:
    """From when on a training can learn what this request is about, and be judged by it; None: at any time."""
    changed = request.asked.changed_at
    wait = HORIZONS_TO_LEARN * horizon
    return None if changed is None or wait > LONGEST_WAIT else changed + wait


def unripe(request: Request, horizon: timedelta, now: datetime) -> str | None:
    """Why a pending request is not to be taken yet; None where it is."""
    ripe = ripe_at(request, horizon)
    if ripe is None or now >= ripe or request.state != "pending":
        return None
    return (
        f"request {request.number} waits until {ripe:%Y-%m-%d %H:%M}Z: things are otherwise since "
        f"{request.asked.changed_at:%Y-%m-%d %H:%M}Z, and labels take {horizon.total_seconds() / 3600:g} h; before, nothing could learn it and be "
        "judged by it. Start the training by hand to have it now"
    )


def take(
    model: str,
    source: str,
    run: str,
    by_event: bool,
    by_hand: bool,
    at: datetime,
    settings: Settings,
    alone: bool = True,
    until: datetime | None = None,
) -> TakenRef:
    """Hold the open request; a run that the schedule or a person started makes one where none is open.

    Args:
        run: Names the DAG run. The same run again holds the same request.
        by_event: Started by the drift asset: without an open request there is nothing to do.
        alone: Whether no other run of this model's training can be alive (:func:`pipelines.monitor.requests.take`).
        until: End of the window that will be trained on; a request whose evidence is later stays open. None: the newest.

    Raises:
        BrokenDataError: the newest check of the version in production found broken data, and no person
            started this run. The request stays open.
    """
    name, spec = _named(model, source, settings)
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
        return _taken(done, at)
    pending = requests.open_one(lake, name)
    if (
        by_event
        and pending is not None
        and (why := unripe(pending, spec.target.horizon, _clock(pending, at)))
    ):
        return TakenRef(registered_name=name, number=None, reason=why)
    if pending is not None and until is not None and pending.asked.at > until:
        why = f"the window ends before {pending.asked.at:%Y-%m-%d %H:%M}Z, when request {pending.number} was made: it stays open"
        return TakenRef(registered_name=name, number=None, reason=why)
    if not by_event and pending is None:
        trigger = Trigger.BY_HAND if by_hand else Trigger.SCHEDULE
        why = "a person started the training" if by_hand else "the schedule says so"
        requests.ask(lake, name, work=f"run:{run}", triggers=(trigger,), reason=why, evidence=run, at=at)
    pending = requests.open_one(lake, name)
    now = at if pending is None else _clock(pending, at)
    taken = requests.take(lake, name, run=run, at=now, alone=alone)
    if taken is not None:
        return _taken(taken, at)
    holder = pending.taken.run if pending is not None and pending.taken is not None else None
    why = f"another run holds the request: {holder}" if holder else "no request is open: it was done already"
    return TakenRef(registered_name=name, number=None, reason=why)


def _clock(request: Request, at: datetime) -> datetime:
    """Now by the data's clock: no request is taken before the moment that its evidence is of."""
    return max(at, *(row.at for row in request.rows))


def _taken(request: Request, at: datetime) -> TakenRef:
    now = _clock(request, at)
    return TakenRef(
        registered_name=request.asked.registered_name,
        number=request.number,
        reason=request.asked.reason,
        changed_at=request.asked.changed_at,
        newest=now if now > at else None,
        ahead=(now - at).total_seconds(),
    )


def close(
    taken: TakenRef,
    run: str,
    verdict: VerdictRef | None,
    promoted: bool,
    at: datetime,
    settings: Settings,
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
        passed = verdict.outcome is Verdict.PASS
        why = f"all {len(verdict.reasons)} checks passed" if passed else "; ".join(verdict.reasons)
        outcome, reason = Outcome.PROMOTED, f"version {verdict.candidate.version}: {why}"
    else:
        outcome, reason = Outcome.KEPT, f"{verdict.outcome.value}: {'; '.join(verdict.reasons)}"
    lake = Lake.of(settings)
    ended = requests.close(
        lake,
        taken.registered_name,
        run=run,
        outcome=outcome,
        reason=reason,
        at=taken.now(at),
        version=verdict.candidate.version if verdict else None,
        champion=verdict.champion if verdict else None,
        confirmed=_confirmed(lake, taken),
        evidence=(verdict.report_url or "") if verdict else "",
    )
    page.write(taken.registered_name, settings)
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


def _named(model: str, source: str, settings: Settings) -> tuple[str, ModelSpec]:
    from models.catalogue import find
    from pipelines.sources.profile import load_profile, registered_name

    profile = load_profile(source)
    spec: ModelSpec = profile.spec_of(find(model))
    return registered_name(spec, profile, settings.source), spec
