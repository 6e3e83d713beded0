"""promote: move the alias ``production`` to a proved version, or back, and tell the ledger.

Each job first settles the ledger with the registry, so that it decides by what serves now; the
order of a move, and what a crash between any two of its calls leaves, is in :mod:`pointers`.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from pipelines.adapters.lake import Lake
from pipelines.errors import PromotionError
from pipelines.promote import history_page, ledger, proof, steps
from pipelines.promote.pointers import Move, Pointer
from pipelines.promote.records import PREVIOUS, PRODUCTION, Action, ApprovalRef, LedgerLine, Override, State
from pipelines.references import Outcome, PromotionRef, VerdictRef

if TYPE_CHECKING:
    from models.specs import ModelSpec
    from pipelines.adapters.registry import ModelVersion, Registry
    from pipelines.settings import Settings

SNAPSHOT_TAG = "headrace.snapshot_sha256"
VERDICT_TAG = "headrace.verdict"


def run(
    verdict: VerdictRef,
    actor: str,
    settings: Settings,
    approval: ApprovalRef | None = None,
    override: Override | None = None,
) -> PromotionRef:
    """Promote the candidate if its verdict is a pass; otherwise say why not, and move nothing.

    Args:
        actor: Who asks: an Airflow run, or a person at the command line.
        approval: What a person answered, where the model asks for one.
        override: A person's word, which counts where the decision is no; the ledger says whose.

    Raises:
        PromotionError: the champion is not the one that the verdict compared with.
        ArtifactError: the version is not signed by a trusted key, or its files are not those that
            were registered.
        PointerBusyError: somebody else moves the alias at this moment.
    """
    from pipelines.adapters.registry import Registry
    from pipelines.promote.approval import needed

    candidate = verdict.candidate
    name, version = candidate.registered_name, candidate.version
    with Registry(settings.tracking) as registry:
        pointer = Pointer(registry, Lake.of(settings), name)
        work = f"promote:{name}:{version}:{candidate.run_id}"
        settled = pointer.settle(work)
        registered = _existing(registry, name, version)
        decision = steps.decide(
            verdict,
            serving=settled.story.current,
            blocked=steps.rolled_back_evidence(
                version, candidate.snapshot.sha256, settled.story, _snapshots(registry, name)
            ),
            approval_needed=needed(_spec_of(verdict), settings),
            approval=approval,
        )
        if not decision.promote and override is not None:
            reason = f"{override.reason} (against: {decision.reason})"
            who, work = f"{override.by} ({actor})", f"override:{name}:{version}:{actor}"
            return promote_by_hand(name, version, who, reason, settings, work)
        if not decision.promote:
            return _state(registry, name, moved=False, reason=decision.reason)
        if settled.story.current != version:
            proof.verify(registry, registered, settings)
        move = Move(
            work,
            version,
            Action.PROMOTE,
            actor,
            decision.reason,
            verdict.outcome.value,
            verdict.report_url,
            approval,
        )
        moved = pointer.move(move) is not None or any(line.work == work for line in settled.added)
        publish(name, settings)
        return _state(
            registry, name, moved=moved, reason=decision.reason if moved else "already in production"
        )


def promote_by_hand(
    name: str,
    version: str,
    who: str,
    reason: str,
    settings: Settings,
    work: str | None = None,
    progress: proof.Progress = lambda text: None,
) -> PromotionRef:
    """Put a version into production on a person's word; the name and the reason go to the ledger.

    Without a passed verdict this is an *override*: it is named so in the ledger, on the version
    and in what is returned. Neither overrides the signature: the server would refuse it too.

    Args:
        work: Names it, where it may be run again; None: each call is a move of its own.

    Raises:
        PromotionError: no name or no reason was given, there is no such version, or the server
            does not answer with it.
        ArtifactError: the version is not signed by a trusted key, or its files were changed.
    """
    from pipelines.adapters.registry import Registry

    _require_words(who, reason)
    with Registry(settings.tracking) as registry:
        registered = _existing(registry, name, version)
        verdict = registered.tags.get(VERDICT_TAG)
        passed = verdict == Outcome.PASS.value
        move = Move(
            work or f"by-hand:{uuid.uuid4()}",
            version,
            Action.PROMOTE_BY_HAND if passed else Action.OVERRIDE,
            who,
            reason,
            verdict or "no verdict",
        )
        told = reason if passed else f"{reason} (override by {who}: {verdict or 'there is no verdict'})"
        return _by_hand(registry, registered, move, told, settings, progress)


def promote_challenger(
    name: str,
    version: str,
    who: str,
    reason: str,
    settings: Settings,
    work: str,
    progress: proof.Progress = lambda text: None,
) -> PromotionRef:
    """Put a challenger into production that its rollout has proved on live requests.

    Args:
        work: Names the rollout: the same one again finds itself done, or goes on where it was cut short.

    Raises:
        PromotionError: there is no such version, or the server does not answer with it.
        ArtifactError: the version is not signed by a trusted key, or its files were changed.
    """
    from pipelines.adapters.registry import Registry

    with Registry(settings.tracking) as registry:
        registered = _existing(registry, name, version)
        move = Move(work, version, Action.PROMOTE, who, reason, registered.tags.get(VERDICT_TAG))
        return _by_hand(registry, registered, move, reason, settings, progress)


def rollback(
    name: str,
    to: str | None,
    who: str,
    reason: str,
    settings: Settings,
    progress: proof.Progress = lambda text: None,
) -> PromotionRef:
    """Put ``previous``, or the named version, back into production, and see that it answers.

    No scheduled run promotes the version that is left again without new evidence.

    Raises:
        PromotionError: there is nothing to go back to, no name or reason was given, or the server
            does not answer with the version; the alias is moved all the same, and what served goes
            on serving.
        ArtifactError: the version to go back to is not signed by a trusted key, or its files were
            changed; nothing is moved.
    """
    from pipelines.adapters.registry import Registry

    _require_words(who, reason)
    with Registry(settings.tracking) as registry:
        pointer = Pointer(registry, Lake.of(settings), name)
        settled = pointer.settle()
        serving = settled.story.current
        cut_short = next((line for line in settled.added if line.action is Action.ROLLBACK), None)
        if cut_short and cut_short.state is State.MOVED and to in {None, cut_short.to_version}:
            # Who repeats a rollback that died after the alias had moved does not ask for two steps back.
            return _finished(
                registry, _existing(registry, name, serving or ""), cut_short, settings, progress
            )
        target = to or steps.one_step_back(settled.story, serving, _alias(registry, name, PREVIOUS))
        if target is None:
            raise PromotionError(
                f"{name}: version {serving} serves and there is no other one to go back to that served before and was "
                "not rolled back itself; name one: headrace rollback MODEL --to VERSION --reason …"
            )
        move = Move(f"rollback:{uuid.uuid4()}", target, Action.ROLLBACK, who, reason)
        return _by_hand(registry, _existing(registry, name, target), move, reason, settings, progress)


def history(name: str, settings: Settings) -> list[LedgerLine]:
    """The moves of one model's alias ``production``, oldest first."""
    return ledger.read(Lake.of(settings), name)


def publish(name: str, settings: Settings) -> str:
    """Write the page of one model's history into the home; returns its path."""
    from urllib.parse import quote

    folder = settings.home / "reports" / "history"
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / f"{quote(name, safe='')}.html"
    part = page.with_name(f".{page.name}.{uuid.uuid4().hex}")
    part.write_text(history_page.of_model(name, settings), "utf-8")
    part.replace(page)
    return str(page)


def _by_hand(
    registry: Registry,
    registered: ModelVersion,
    move: Move,
    told: str,
    settings: Settings,
    progress: proof.Progress,
) -> PromotionRef:
    """Verify, move, and see that the version answers."""
    name, version = registered.name, registered.version
    pointer = Pointer(registry, Lake.of(settings), name)
    progress(f"version {version} is fetched and verified")
    loaded = proof.verify(registry, registered, settings)
    progress(f"the alias {PRODUCTION} is moved")
    line = pointer.move(move)
    if line is None:
        publish(name, settings)
        return _state(registry, name, moved=False, reason="already in production")
    state = _proved(registry, pointer, line, loaded, settings, progress)
    return state.model_copy(update={"reason": told})


def _finished(
    registry: Registry,
    registered: ModelVersion,
    line: LedgerLine,
    settings: Settings,
    progress: proof.Progress,
) -> PromotionRef:
    """See that the version of a move answers which had died before it looked."""
    loaded = proof.verify(registry, registered, settings)
    pointer = Pointer(registry, Lake.of(settings), registered.name)
    state = _proved(registry, pointer, line, loaded, settings, progress)
    told = f"{line.reason} (the rollback of {line.at:%H:%M:%S}Z, which was cut short after it had moved the alias)"
    return state.model_copy(update={"reason": told})


def _proved(
    registry: Registry,
    pointer: Pointer,
    line: LedgerLine,
    loaded: str,
    settings: Settings,
    progress: proof.Progress,
) -> PromotionRef:
    """Wait for the version of a move to answer, and write down what was seen.

    Raises:
        PromotionError: it does not.
    """
    name, version = line.registered_name, line.to_version or ""
    seen = proof.answers(name, version, settings, loaded, progress)
    pointer.prove(line, seen.answered, seen.detail)
    publish(name, settings)
    if not seen.answered:
        raise PromotionError(f"{name}: the alias {PRODUCTION} names version {version} now, but {seen.detail}")
    state = _state(registry, name, moved=True, reason=line.reason)
    return state.model_copy(update={"proof": seen.detail})


def _spec_of(verdict: VerdictRef) -> ModelSpec:
    from models.catalogue import find
    from pipelines.sources.profile import load_profile

    return load_profile(verdict.candidate.snapshot.source).spec_of(find(verdict.candidate.model))


def _snapshots(registry: Registry, name: str) -> dict[str, str | None]:
    return {found.version: found.tags.get(SNAPSHOT_TAG) for found in registry.versions(name)}


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
