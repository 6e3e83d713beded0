"""Rollouts with a real MLflow, a server and callers: into production, out of it, and back when errors jump."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from models.manifest import MANIFEST_TAG
from models.specs import Rollout
from pipelines.adapters.exports import manifest_sha256
from pipelines.adapters.lake import Lake
from pipelines.adapters.registry import Registry
from pipelines.adapters.traffic import TRAFFIC_TAG
from pipelines.errors import PromotionError
from pipelines.predictions import job as shipping
from pipelines.predictions import table
from pipelines.promote import ledger
from pipelines.promote.job import VERDICT_TAG
from pipelines.promote.records import CHALLENGER, PRODUCTION, Action, State, story
from pipelines.rollout import job, outcomes
from pipelines.rollout.records import RolloutRef, Step
from pipelines.rollout.watcher import Watcher
from pipelines.settings import PREFIX, Settings
from serving.app import create_app
from tests.conftest import _free_port
from tests.killing import killed_at_call
from tests.serving.conftest import wait_until
from tests.serving.failing_model import write_failing_model
from tests.serving.running import running

pytestmark = pytest.mark.integration

PLAN = Rollout(steps=(10, 50), hold=timedelta(seconds=0.3), min_requests=40, latency=timedelta(seconds=5))
CALLS = (
    "pipelines.adapters.lake:Lake.append",
    "pipelines.adapters.registry:Registry.set_alias",
    "pipelines.adapters.registry:Registry.delete_alias",
    "pipelines.adapters.registry:Registry.set_version_tag",
    "pipelines.adapters.registry:Registry.delete_version_tag",
)

_numbers = itertools.count()


@pytest.fixture(scope="module")
def logged(
    mlflow_server: str,
    make_export: Callable[..., Path],
    register_export: Callable[..., str],
    signing_key: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, tuple[str, str]]:
    """Where MLflow has each export, and its digest: a version of it is one call."""
    folder = tmp_path_factory.mktemp("rollout")
    exports = {
        "champion": make_export(folder / "champion"),
        "better": make_export(folder / "better", slope=1.2),
        "worse": make_export(folder / "worse", slope=-1.0),
        "failing": write_failing_model(folder / "failing", signing_key),
    }
    found = {}
    with Registry(mlflow_server) as registry:
        for name, export in exports.items():
            number = register_export(mlflow_server, f"rollout-{name}", export)
            version = registry.version(f"rollout-{name}", number)
            assert version is not None
            found[name] = version.source, manifest_sha256(export)
    return found


@pytest.fixture
def model(mlflow_server: str, logged: dict[str, tuple[str, str]]) -> str:
    """Versions 1 (in production) to 4: champion, better, worse, failing; all have passed their gate."""
    name = f"rollout-{next(_numbers)}"
    with Registry(mlflow_server) as registry:
        registry.ensure_registered_model(name)
        for source, digest in logged.values():
            registry.create_version(
                name, source, run_id=None, tags={MANIFEST_TAG: digest, VERDICT_TAG: "pass"}
            )
        registry.set_alias(name, PRODUCTION, "1")
    return name


class Callers:
    """Ask one after another, about a hundred machines, and count what they see."""

    def __init__(self, url: str, name: str) -> None:
        self._address = f"{url}/models/{name}/predict"
        self.versions: list[str] = []
        self.failures: list[tuple[float, str]] = []
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(first,)) for first in range(2)]

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, first: int) -> None:
        with httpx.Client(trust_env=False) as http:
            for number in itertools.count(first, 2):
                if self._done.is_set():
                    return
                row = {"cpu": float(number * 7 % 100), "latency": 10.0, "cores": 4, "zone": "a"}
                key = {"X-Headrace-Sticky": f"m-{number % 100}"}
                answer = http.post(self._address, json={"records": [row]}, headers=key)
                if answer.status_code == 200:
                    self.versions.append(answer.json()["version"])
                else:
                    self.failures.append((time.monotonic(), answer.text))
                time.sleep(0.002)


@contextmanager
def asked(settings: Settings, name: str, workers: int = 1) -> Iterator[tuple[Settings, Callers]]:
    """A server of this one model, and its callers; the settings that reach it."""
    own = settings.model_copy(update={"serving_models": name, "serving_poll_seconds": 0.5})
    serving = running(create_app(own, Registry(own.tracking)), own) if workers == 1 else started(own, workers)
    with serving as url:
        wait_until(lambda: _is_ready(url))
        with Callers(url, name) as callers:
            yield own.model_copy(update={"serving_url": url}), callers


@contextmanager
def started(settings: Settings, workers: int) -> Iterator[str]:
    """``headrace serve`` with several processes, as the settings say."""
    port = _free_port()
    given = {
        "home": settings.home,
        "trusted_keys": settings.trusted_keys,
        "tracking_url": settings.tracking_url,
        "serving_models": settings.serving_models,
        "serving_poll_seconds": settings.serving_poll_seconds,
        "serving_workers": workers,
        "serving_port": port,
        "serving_grpc_port": 0,
    }
    environment = os.environ | {f"{PREFIX}{key.upper()}": str(value) for key, value in given.items()}
    settings.home.mkdir(parents=True, exist_ok=True)
    with (settings.home / "serving.log").open("wb") as output:
        process = subprocess.Popen([sys.executable, "-m", "serving"], env=environment, stderr=output)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=60)


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/v2/health/ready", trust_env=False).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


@pytest.fixture
def configured(settings: Settings, mlflow_server: str) -> Settings:
    return settings.model_copy(
        update={"tracking_url": mlflow_server, "prediction_log_segment_seconds": 0.5, "serving_replica": "r"}
    )


def now() -> datetime:
    return datetime.now(UTC)


def rolled(name: str, settings: Settings, plan: Rollout = PLAN) -> list[RolloutRef]:
    """Steps until the rollout is over; waits are left out."""
    taken: list[RolloutRef] = []
    deadline = time.monotonic() + 60
    while not (taken and taken[-1].over):
        assert time.monotonic() < deadline, taken
        found = job.step(name, "test", settings, now(), plan)
        if found.step is not Step.WAIT:
            taken.append(found)
        time.sleep(0.1)
    return taken


def alias(settings: Settings, name: str, which: str) -> str | None:
    with Registry(settings.tracking) as registry:
        found = registry.alias_version(name, which)
    return found.version if found else None


@pytest.mark.parametrize("workers", [1, 2])
def test_a_good_challenger_goes_from_the_shadow_into_production_and_no_client_notices(
    configured: Settings, model: str, workers: int
) -> None:
    with asked(configured, model, workers) as (settings, callers):
        begun = job.begin(model, "2", "test", "a new one", settings, now())
        assert (begun.challenger, begun.traffic) == ("2", "shadow")
        again = job.begin(model, None, "test", "killed, and run again", settings, now())
        assert (again.challenger, again.traffic) == ("2", "shadow")
        taken = rolled(model, settings)
        assert callers.failures == []
        assert set(callers.versions) == {"1", "2"}
    assert [(found.step, found.traffic) for found in taken] == [
        (Step.ADVANCE, "10"),
        (Step.ADVANCE, "50"),
        (Step.PROMOTE, ""),
    ]
    assert alias(settings, model, PRODUCTION) == "2"
    assert alias(settings, model, "previous") == "1"
    assert alias(settings, model, CHALLENGER) is None
    with Registry(settings.tracking) as registry:
        version = registry.version(model, "2")
    assert version is not None
    assert TRAFFIC_TAG not in version.tags
    rows = ledger.rows(Lake.of(settings), model)
    told = [(line.alias, line.action) for line in rows if line.state in {State.MOVED, State.DECIDED}]
    assert told == [
        (CHALLENGER, Action.CHALLENGE),
        (CHALLENGER, Action.ADVANCE),
        (CHALLENGER, Action.ADVANCE),
        (PRODUCTION, Action.MOVED_OUTSIDE),  # the fixture put version 1 there
        (PRODUCTION, Action.PROMOTE),
        (CHALLENGER, Action.WITHDRAW),
    ]
    assert job.step(model, "test", settings, now(), PLAN).step is Step.NOTHING


def test_a_challenger_that_fails_is_withdrawn_and_no_client_sees_an_error(
    configured: Settings, model: str
) -> None:
    with asked(configured, model) as (settings, callers):
        job.begin(model, "4", "test", "it fails on hot machines", settings, now())
        with Registry(settings.tracking) as registry:  # a person goes ahead in the MLflow UI
            registry.set_version_tag(model, "4", TRAFFIC_TAG, "50 %")
        wait_until(lambda: callers.versions.count("4") > 20)
        found = rolled(model, settings)[-1]
        assert callers.failures == []
    assert found.step is Step.WITHDRAW
    assert "failed on" in found.reason
    assert (found.challenger, found.production) == (None, "1")
    with Registry(settings.tracking) as registry:
        version = registry.version(model, "4")
    assert version is not None
    assert "failed on" in version.tags["headrace.withdrawn"]


def test_a_challenger_that_is_worse_is_withdrawn_by_the_outcomes_of_mirrored_answers(
    configured: Settings, model: str
) -> None:
    plan = PLAN.model_copy(update={"min_outcomes": 100})
    with asked(configured, model) as (settings, callers):
        job.begin(model, "3", "test", "its sign is wrong", settings, now())
        wait_until(lambda: len(callers.versions) > 1200)
        waiting = job.step(model, "test", settings, now(), plan)
        assert (waiting.step, waiting.traffic) == (Step.WAIT, "shadow")
        assert "the outcome of 0" in waiting.reason
        time.sleep(1.5)  # until a segment of the log is closed
        shipping.run(settings)
        rows = table.scan(Lake.of(settings), model).collect()
        assert set(rows.filter(rows["version"] == "3")["alias"]) == {"shadow"}
        assert set(rows.filter(rows["version"] == "1")["alias"]) == {"production"}
        known = [
            outcomes.Outcome(
                row["prediction_id"],
                row["version"],
                row["prediction_id"],
                row["answered_at"],
                (row["output__probability"] - (row["feature__cpu"] > 75)) ** 2,
                row["alias"] != "shadow",
            )
            for row in rows.to_dicts()
        ]
        assert outcomes.write(Lake.of(settings), model, known, "labels:1") == len(known)
        assert outcomes.write(Lake.of(settings), model, known, "labels:1") == 0
        found = job.step(model, "test", settings, now(), plan)
        assert callers.failures == []
    assert found.step is Step.WITHDRAW
    assert "its loss is +" in found.reason
    assert found.figures["outcomes"] > 300  # type: ignore[operator]
    assert alias(settings, model, CHALLENGER) is None


def test_errors_that_jump_after_a_switch_roll_it_back_within_ten_seconds(
    configured: Settings, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped = threading.Event()
    with asked(configured, model) as (settings, callers):
        watcher = threading.Thread(target=Watcher(settings).run, args=(stopped,))
        watcher.start()
        try:
            wait_until(lambda: len(callers.versions) > 300)
            time.sleep(1.5)  # the watcher has seen the champion by then
            with Registry(settings.tracking) as registry:  # as in the MLflow UI
                registry.set_alias(model, PRODUCTION, "4")
            switched = time.monotonic()
            wait_until(lambda: "4" in callers.versions)
            wait_until(lambda: alias(settings, model, PRODUCTION) == "1")
            moved_back = time.monotonic() - switched
            wait_until(lambda: callers.versions[-20:] == ["1"] * 20)
            answered_again = time.monotonic() - switched
            failed = len(callers.failures)
            time.sleep(1)
            assert len(callers.failures) == failed
        finally:
            stopped.set()
            watcher.join()
    with capsys.disabled():
        print(
            f"\nfrom the switch: alias back after {moved_back:.1f} s, version 1 answers again after "
            f"{answered_again:.1f} s; {failed} requests failed"
        )
    assert failed > 0
    assert answered_again <= 10
    line = ledger.read(Lake.of(settings), model)[-1]
    assert (line.action, line.actor, line.to_version) == (Action.ROLLBACK, "rollout watcher", "1")
    assert "requests failed since version 4" in line.reason


def test_a_rollout_that_is_killed_at_its_calls_and_run_again_ends_as_one_that_was_not(
    configured: Settings, model: str
) -> None:
    plan = PLAN.model_copy(update={"hold": timedelta(0), "min_requests": 20})
    with asked(configured, model) as (settings, callers):
        job.begin(model, "2", "test", "a new one", settings, now())
        # At an advance, at the one after it, twice on the way into production, and once on the way out of the trial.
        places = iter((2, 3, 2, 5, 1))
        place: int | None = next(places)
        while alias(settings, model, CHALLENGER) is not None and place is not None:
            if killed_at_call(place, CALLS, job.step, model, "test", settings, now(), plan, when="after"):
                place = next(places, None)
        assert place is None, f"the rollout was through before it could be killed at call {place}"
        rolled(model, settings, plan)
        assert callers.failures == []
    assert (alias(settings, model, PRODUCTION), alias(settings, model, "previous")) == ("2", "1")
    rows = ledger.rows(Lake.of(settings), model)
    promoted = [line for line in story(rows, PRODUCTION).moves if line.to_version == "2"]
    assert [line.action for line in promoted] == [Action.PROMOTE]
    assert [line.to_version for line in story(rows, CHALLENGER).moves] == ["2", None]


def test_what_may_not_be_rolled_out_is_said(configured: Settings, model: str) -> None:
    settings = configured
    with Registry(settings.tracking) as registry:
        registry.set_version_tag(model, "3", VERDICT_TAG, "fail")
    with pytest.raises(PromotionError, match="has not passed its gate"):
        job.begin(model, "3", "test", "why not", settings, now())
    with pytest.raises(PromotionError, match="in production already"):
        job.begin(model, "1", "test", "why not", settings, now())
    with pytest.raises(PromotionError, match="no version 9"):
        job.begin(model, "9", "test", "why not", settings, now())
    with pytest.raises(PromotionError, match="a name and a reason"):
        job.begin(model, "2", "test", " ", settings, now())
    assert job.begin(model, None, "test", "the newest", settings, now()).challenger == "4"
    with pytest.raises(PromotionError, match="withdraw it first"):
        job.begin(model, "2", "test", "another", settings, now())
    job.withdraw(model, "test", "not yet", settings)
    assert job.begin(model, "3", "test", "on my word", settings, now(), override=True).challenger == "3"
    unreachable = settings.model_copy(update={"serving_url": "http://127.0.0.1:9"})
    found = job.step(model, "test", unreachable, now(), PLAN)
    assert found.step is Step.WAIT
    assert "no server could be asked: http://127.0.0.1:9" in found.reason


def test_the_commands_begin_show_and_withdraw(
    configured: Settings, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from headrace.cli import app

    for name, value in (
        ("HOME", configured.home),
        ("TRACKING_URL", configured.tracking),
        ("TRUSTED_KEYS", configured.trusted_keys),
        ("SERVING_URL", "http://127.0.0.1:9"),
    ):
        monkeypatch.setenv(f"HEADRACE_{name}", str(value))
    monkeypatch.setenv("COLUMNS", "200")

    def headrace(*arguments: str, code: int = 0) -> str:
        done = CliRunner().invoke(app, ["rollout", *arguments])
        assert done.exit_code == code, (done.output, done.exception)
        return done.stdout

    assert "2, shadow" in headrace("begin", model, "2", "--reason", "a new one", "--who", "grace")
    told = RolloutRef.model_validate_json(headrace("status", model, "--json"))
    assert (told.challenger, told.traffic, told.step) == ("2", "shadow", Step.WAIT)
    assert "no server could be asked" in headrace("step", model)
    assert "on my word" in headrace("withdraw", model, "--reason", "on my word", "--who", "grace")
    assert "no version has the alias challenger" in headrace("step", model)
    line = ledger.read(Lake.of(configured), model, CHALLENGER)[-1]
    assert (line.actor, line.reason, line.to_version) == ("grace", "on my word", None)
