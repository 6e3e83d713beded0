"""Promotion, rollback, override and reconciling crash between every pair of their calls to a real MLflow and the lake."""

from __future__ import annotations

import itertools
import math
from datetime import UTC, datetime
from pathlib import PurePosixPath

import pytest

from models.manifest import MANIFEST_TAG, SIGNATURE_FILE
from pipelines.adapters.exports import manifest_sha256
from pipelines.adapters.lake import Lake
from pipelines.adapters.registry import Registry
from pipelines.errors import ArtifactError, PromotionError
from pipelines.promote import job, ledger, pointers, reconcile, sign
from pipelines.promote.pointers import Move, Pointer
from pipelines.promote.records import PRODUCTION, Action, ApprovalRef, Override, story
from pipelines.references import CandidateRef, Outcome, SnapshotRef, VerdictRef
from tests.pipelines.promote.crashing import Crash, dying

pytestmark = pytest.mark.integration

SHA = {version: version * 64 for version in "123"}


@pytest.fixture
def configured(settings, mlflow_server, free_port):
    """No server runs there: what is put into production is proved in this process."""
    return settings.model_copy(update={"tracking_url": mlflow_server, "serving_port": free_port})


@pytest.fixture(scope="module")
def source(mlflow_server, make_export, register_export, tmp_path_factory):
    """Where MLflow keeps one logged export, and its digest: versions of it cost one call each."""
    export = make_export(tmp_path_factory.mktemp("crashes") / "export")
    number = register_export(mlflow_server, "crash-source", export)
    with Registry(mlflow_server) as registry:
        return registry.version("crash-source", number).source, manifest_sha256(export)


@pytest.fixture
def registry(mlflow_server):
    with Registry(mlflow_server) as registry:
        yield registry


_numbers = itertools.count()


@pytest.fixture
def new_model(registry, source):
    """``new_model()`` registers a model with versions 1 to 3, each of a snapshot of its own; all passed their gate."""

    def make(verdict="pass"):
        name = f"crash-{next(_numbers)}"
        registry.ensure_registered_model(name)
        for number in "123":
            tags = {MANIFEST_TAG: source[1], job.SNAPSHOT_TAG: SHA[number], job.VERDICT_TAG: verdict}
            registry.create_version(name, source[0], run_id=None, tags=tags)
        return name

    return make


@pytest.fixture(autouse=True)
def crashed_processes_are_gone(monkeypatch):
    """The process that crashes in these tests is their own, and lives on."""
    monkeypatch.setattr(pointers, "_is_gone", lambda process, since: True)


def passed(name, version, champion, sha256=None):
    snapshot = SnapshotRef(
        model="failure", source="simulated", sha256=sha256 or SHA[version], url="", rows={}, positives={}
    )
    candidate = CandidateRef(
        model="failure", registered_name=name, version=version, run_id=f"run-{version}", snapshot=snapshot
    )
    return VerdictRef(candidate=candidate, champion=champion, outcome=Outcome.PASS, reasons=("proved",))


def two_moves(name, settings):
    """Version 1, then 2, in production."""
    with Registry(settings.tracking) as registry:
        pointer = Pointer(registry, Lake.of(settings), name)
        for version in "12":
            pointer.move(Move(f"setup:{version}", version, Action.PROMOTE, "test", "better", "pass"))


def check(name, settings, registry):
    """One champion, one story."""
    serving = registry.alias_version(name, PRODUCTION).version
    previous = registry.alias_version(name, "previous").version
    told = story(ledger.rows(Lake.of(settings), name), PRODUCTION)
    assert told.current == serving
    assert told.intention is None
    ends = [None, *(line.to_version for line in told.moves)]
    assert [line.from_version for line in told.moves] == ends[:-1]
    assert previous == told.before(serving) is not None
    return told


JOBS = {
    "promote": (lambda name, settings: job.run(passed(name, "3", "2"), "test", settings), "3"),
    "rollback": (lambda name, settings: job.rollback(name, "1", "ada", "bad", settings), "1"),
    "override": (
        lambda name, settings: job.promote_by_hand(name, "3", "ada", "now", settings, work="w"),
        "3",
    ),
}


@pytest.mark.parametrize("what", list(JOBS))
@pytest.mark.parametrize("repair", ["the same again", "reconciling"])
def test_a_crash_between_any_two_calls_leaves_a_champion_and_what_the_next_run_repairs(
    what, repair, configured, registry, new_model
):
    run, goal = JOBS[what]
    for call in itertools.count(1):
        name = new_model(verdict="fail" if what == "override" else "pass")
        two_moves(name, configured)
        try:
            with dying(call) as counter:
                run(name, configured)
        except Crash:
            pass
        else:
            assert counter.calls > 8, "there was something to crash at"
            check(name, configured, registry)
            break
        serving = registry.alias_version(name, PRODUCTION)
        assert serving is not None, f"no champion after a crash at call {call}"
        assert serving.version in {"2", goal}
        if repair == "reconciling":
            reconcile.run(configured, name)
            told = check(name, configured, registry)
            assert told.current == serving.version, "a repair moves nothing that serves"
            assert reconcile.run(configured, name).told == ()
            continue
        run(name, configured)
        told = check(name, configured, registry)
        assert told.current == goal
        assert [line.to_version for line in told.moves] == ["1", "2", goal], "told once"
        if what == "rollback":
            assert pointers.ROLLED_BACK_TAG in registry.version(name, "2").tags
        if what == "override":
            assert registry.version(name, "3").tags[pointers.OVERRIDE_TAG] == "ada: now"


def test_reconciling_itself_may_crash_anywhere(configured, registry, new_model):
    for call in itertools.count(1):
        name = new_model()
        two_moves(name, configured)
        registry.set_alias(name, PRODUCTION, "1")  # by hand, in the MLflow page
        try:
            with dying(call):
                reconcile.run(configured, name)
        except Crash:
            reconcile.run(configured, name)
        else:
            call = math.inf
        told = check(name, configured, registry)
        assert [line.to_version for line in told.moves] == ["1", "2", "1"]
        last = told.moves[-1]
        assert (last.action, last.actor) == (Action.ROLLED_BACK_OUTSIDE, "MLflow UI or API")
        if call == math.inf:
            break


def test_a_rollback_in_the_page_is_noticed_once_and_not_undone_by_the_next_run(
    configured, registry, new_model
):
    name = new_model()
    two_moves(name, configured)
    registry.set_alias(name, PRODUCTION, "1")
    assert len(reconcile.run(configured, name).told) == 1
    assert reconcile.run(configured, name).told == ()
    assert registry.alias_version(name, "previous").version == "2"
    for version, said in (("2", "version 2 was rolled back"), ("3", "same snapshot")):
        again = job.run(passed(name, version, "1", sha256=SHA["2"]), "schedule", configured)
        assert not again.moved
        assert said in again.reason
    assert job.run(passed(name, "3", "1"), "schedule", configured).moved, "newer rows are new evidence"


def test_one_look_at_all_models_finds_those_that_were_moved(mlflow_server, configured, registry, new_model):
    names = [new_model(), new_model()]
    for name in names:
        two_moves(name, configured)
    assert not [text for text in reconcile.run(configured).told if text.startswith(tuple(names))]
    registry.set_alias(names[1], PRODUCTION, "3")
    (told,) = [text for text in reconcile.run(configured).told if text.startswith(tuple(names))]
    assert told.startswith(f"{names[1]}, production: 2 → 3 moved")


def test_an_alias_that_was_removed_is_told_and_nothing_puts_it_back(configured, registry, new_model):
    name = new_model()
    two_moves(name, configured)
    registry.delete_alias(name, PRODUCTION)
    reconcile.run(configured, name)
    assert registry.alias_version(name, PRODUCTION) is None
    assert job.history(name, configured)[-1].to_version is None
    back = job.rollback(name, None, "ada", "it was a slip", configured)
    assert back.production == "1"


def test_a_challenger_s_moves_are_told_too(configured, registry, new_model):
    name = new_model()
    two_moves(name, configured)
    registry.set_alias(name, "challenger", "3")
    assert "challenger: nothing → 3" in " ".join(reconcile.run(configured, name).told)
    registry.delete_alias(name, "challenger")
    assert "challenger: 3 → nothing" in " ".join(reconcile.run(configured, name).told)
    check(name, configured, registry)


def test_rollbacks_go_further_back_and_say_when_there_is_nothing_left(configured, registry, new_model):
    name = new_model()
    two_moves(name, configured)
    job.run(passed(name, "3", "2"), "test", configured)
    first = job.rollback(name, None, "ada", "bad", configured)
    assert (first.production, first.previous) == ("2", "3")
    assert "no server runs" in (first.proof or "")
    assert "3 stored predictions are reproduced" in (first.proof or "")
    second = job.rollback(name, None, "ada", "bad too", configured)
    assert second.production == "1"
    with pytest.raises(PromotionError, match="--to VERSION"):
        job.rollback(name, None, "ada", "and now", configured)


def test_the_approval_that_a_model_asks_for_is_in_the_ledger(configured, registry, new_model):
    asking = configured.model_copy(update={"approval_models": "failure"})
    name = new_model()
    nobody = job.run(passed(name, "1", None), "schedule", asking)
    assert not nobody.moved
    assert "approval" in nobody.reason
    answer = ApprovalRef(approved=True, by="grace", at=datetime.now(UTC))
    assert job.run(passed(name, "1", None), "schedule", asking, answer).moved
    line = job.history(name, asking)[-1]
    assert (line.approved_by, line.approved_at) == ("grace", answer.at)


@pytest.fixture
def own_copy(mlflow_server, make_export, register_export, tmp_path, request):
    """A model of one version whose files may be changed."""
    name = f"own-{request.node.name[:40]}-{next(_numbers)}".replace("[", "-").replace("]", "")
    export = make_export(tmp_path / "own")
    return name, register_export(mlflow_server, name, export)


def overwrite(registry, name, version, file, content):
    """Replaces a file of a version where MLflow keeps it, as whoever has the artifact store can."""
    found = registry.version(name, version)
    root = registry._root(found)
    paths = [str(path) for path in registry._list(root, PurePosixPath())]
    path = next(path for path in paths if path.endswith(f"/{file}"))
    registry.upload(found, path, content)


@pytest.mark.parametrize("door", ["schedule", "by hand"])
@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("model.txt", b"another model", "it was changed, or is incomplete"),
        (SIGNATURE_FILE, b"", "not a signature"),
        (SIGNATURE_FILE, b'{"payload": "", "payloadType": "x", "signatures": []}', "signed with no key"),
        ("manifest.json", b"{}", "changed after it was registered"),
    ],
)
def test_a_tampered_version_is_promoted_through_no_door(
    door, file, content, said, configured, registry, own_copy
):
    name, version = own_copy
    overwrite(registry, name, version, file, content)
    doors = {
        "schedule": lambda: job.run(passed(name, version, None), "test", configured),
        "by hand": lambda: job.promote_by_hand(name, version, "ada", "I insist", configured),
    }
    with pytest.raises(ArtifactError, match=said):
        doors[door]()
    assert registry.alias_version(name, PRODUCTION) is None
    assert job.history(name, configured) == []


def test_a_version_signed_by_nobody_we_trust_is_not_promoted(configured, registry, own_copy, tmp_path):
    name, version = own_copy
    stranger = configured.model_copy(update={"trusted_keys": "", "home": tmp_path / "other"})
    with pytest.raises(ArtifactError, match="HEADRACE_TRUSTED_KEYS"):
        job.run(passed(name, version, None), "test", stranger)
    assert registry.alias_version(name, PRODUCTION) is None


def test_a_version_from_before_signatures_is_refused_until_somebody_signs_it(
    configured, registry, make_export, register_export, mlflow_server, tmp_path
):
    name = f"unsigned-{next(_numbers)}"
    export = make_export(tmp_path / "unsigned")
    (export / SIGNATURE_FILE).unlink()
    version = register_export(mlflow_server, name, export)
    with pytest.raises(ArtifactError, match="headrace sign MODEL VERSION"):
        job.run(passed(name, version, None), "test", configured)
    sign.run(name, version, configured)
    assert job.run(passed(name, version, None), "test", configured).moved
    overwrite(registry, name, version, "model.txt", b"another model")
    with pytest.raises(ArtifactError, match="changed"):
        sign.run(name, version, configured)


def test_an_override_in_a_run_is_loud_and_told_once(configured, registry, new_model):
    name = new_model(verdict="fail")
    failed = passed(name, "1", None).model_copy(update={"outcome": Outcome.FAIL, "reasons": ("2 rows",)})
    refused = job.run(failed, "airflow: r", configured)
    assert not refused.moved
    assert "2 rows" in refused.reason
    word = Override.of(" grace ", "the old one is on fire")
    moved = job.run(failed, "airflow: r", configured, override=word)
    assert moved.production == "1"
    assert "override by grace" in moved.reason
    job.run(failed, "airflow: r", configured, override=word)
    (line,) = job.history(name, configured)
    assert (line.action, line.actor, line.verdict) == (Action.OVERRIDE, "grace (airflow: r)", "fail")
    assert "2 rows" in line.reason
    assert "on fire" in registry.version(name, "1").tags[pointers.OVERRIDE_TAG]


@pytest.mark.parametrize(("by", "reason"), [("ada", None), (None, "because"), ("ada", "  ")])
def test_half_an_override_is_refused(by, reason):
    with pytest.raises(PromotionError, match="name and a reason"):
        Override.of(by, reason)


def test_the_page_of_the_history_is_written_at_each_move(configured, registry, new_model):
    name = new_model()
    job.run(passed(name, "1", None), "test", configured)
    page = (configured.home / "reports" / "history" / f"{name}.html").read_text()
    assert "the gate was passed" in page
    job.promote_by_hand(name, "2", "ada", "a better one", configured)
    page = (configured.home / "reports" / "history" / f"{name}.html").read_text()
    assert "a better one" in page
    assert "no server runs" in page
