"""`headrace demo-drift`: the world changes, monitoring notices, a training is asked for and done, the server follows.

The world is the simulator's, and so is its time: days pass as fast as they are ingested. All else is real: requests to
the server, checks and a training in Airflow, the gate, the alias in MLflow. Nothing here decides or moves anything;
where the champion stays, or a request fails, the story ends so, with exit code 1.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from headrace import demo_ending
from headrace.airflow_api import AirflowApi, DagRun
from headrace.credentials import AIRFLOW_USER, credentials
from headrace.demo import begin, failure_of, follow, wait_until_parsed
from headrace.demo_traffic import Callers, Told, records
from headrace.display import duration, messages, output, poll
from headrace.local import up
from headrace.serving_api import ServingApi
from pipelines.adapters.registry import ALIAS_PRODUCTION, Registry
from pipelines.errors import ProcessError
from pipelines.references import Layer, Outcome, PromotionRef, VerdictRef, Window

if TYPE_CHECKING:
    from rich.console import Console

    from models.specs import ModelSpec
    from pipelines.adapters.lake import Lake
    from pipelines.adapters.registry import ModelVersion
    from pipelines.monitor.job import CheckRef
    from pipelines.monitor.observe import Observed
    from pipelines.settings import Settings
    from pipelines.sources.profile import SourceProfile
    from pipelines.sources.simulated.regimes import Regime

MODEL = "failure"
DAY = timedelta(days=1)
BEFORE = 3 * DAY  # of the old world that callers ask about
#: Monitoring looks so long after the change. The first look notices; the second has labels of a week of the new world,
#: and alarms; by the last one the loss has lasted, and enough of the new world is known to be learned and judged.
LOOKS = (1 * DAY, 8 * DAY, 10 * DAY)
AFTER = 3 * DAY  # of the new world that the new version answers about; what came of them is known a day later
HIDDEN, COOLER = 1.0, -6.0
_EVENT_SECONDS = 120
_CHECK_SECONDS = 300
_SWITCH_SECONDS = 15


class Story:
    """What happens, one line per event with the time since the beginning, on standard error."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def tell(self, text: str, link: str = "", style: str = "") -> None:
        minutes, seconds = divmod(int(self.seconds), 60)
        parts = [
            (f"{minutes}:{seconds:02d}  ", "dim"),
            (text, style),
            *([("  " + link, "dim")] if link else []),
        ]
        self._console.print(Text.assemble(*parts))

    @contextmanager
    def busy(self, doing: str) -> Iterator[Callable[[str], None]]:
        """While something takes long; gives a function that says what it is at."""
        with self._console.status(doing) as status:
            yield status.update


@dataclass(frozen=True)
class World:
    """The simulated world of this home, and who answers in it.

    Attributes:
        champion: The version in production when the story begins.
        known_until: End of the window that it was trained on.
        changed_at: When the world changes: a midnight, up to which nothing of the new days is ingested.
    """

    profile: SourceProfile
    spec: ModelSpec
    champion: ModelVersion
    known_until: datetime
    changed_at: datetime


def demo_drift(settings: Settings) -> None:
    """Change the simulated world, and follow what comes of it until a new version answers.

    Raises:
        ProcessError: there is no version to begin with, this world has changed before, a run failed, the
            champion stayed, a request was not answered, or the quality did not come back; the text says which.
        HeadraceError: a part of the system does not work.
    """
    story = Story(messages())
    up(settings)
    world = find_world(settings)
    old = world.champion.version
    callers = Callers(ServingApi(settings, timeout_seconds=30.0), world.champion.name)
    story.tell(
        f"Version {old} of {MODEL} is in production; it learned from telemetry up to {world.known_until:%Y-%m-%d}.",
        f"{settings.tracking}/#/models/{world.champion.name}/versions/{old}",
    )
    story.tell(
        f"The server answers: {settings.serving}  Airflow: {settings.airflow}  MLflow: {settings.tracking}"
    )
    _pass(world, world.changed_at - BEFORE, world.changed_at, settings, story)
    ask(callers, world, world.changed_at - BEFORE, world.changed_at, settings, story)
    change(world, settings, story)

    with AirflowApi(settings.airflow, AIRFLOW_USER, credentials(settings).airflow_password) as airflow:
        known = {run.run_id for run in trainings(airflow) if run.finished}
        with watching(airflow):
            looks = _looked(airflow, world, callers, settings, story)
        verdict, promotion = _retrained(airflow, known, looks[-1], callers, world, settings, story)
    switched_at = world.changed_at + LOOKS[-1]
    promoted = promotion.production if promotion else None
    if promoted:
        _follows(callers, promoted, promotion.proof if promotion else None, settings, story)
    _pass(world, switched_at, switched_at + AFTER + world.spec.target.horizon, settings, story)
    observed = ask(callers, world, switched_at, switched_at + AFTER, settings, story)
    end = _ending(callers, observed if promoted else None, world, settings)
    events = {look.window.end: "alarm" for look in looks if look.alarm}
    events |= {world.changed_at: "the world changes"}
    events |= {switched_at: f"version {promoted} answers"} if promoted else {}
    file = _show(end, callers, world, events, settings)
    if wrong := what_went_wrong(end, callers, verdict, promotion):
        raise ProcessError("The story did not end well. " + " ".join(wrong))
    story.tell(f"{_told(end)} The plot: {file}", file.as_uri(), style="green")
    story.tell(
        f"All in {duration(story.seconds)}. What is known of it: headrace monitor {MODEL}; stop it: make down"
    )


def find_world(settings: Settings) -> World:
    """What there is to begin with.

    Raises:
        ProcessError: no version is in production, the source is not the simulator, or its world has changed
            before and what serves knows of it.
    """
    from models.catalogue import find
    from pipelines.adapters.lake import Lake
    from pipelines.lineage import record as lineage
    from pipelines.sources.profile import SimulatedOrigin, load_profile, registered_name

    profile = load_profile(settings.source)
    if not isinstance(profile.origin, SimulatedOrigin) or profile.origin.regimes is not None:
        raise ProcessError(
            f"the world of source {profile.name} is not this home's to change: demo-drift wants the bundled "
            "simulator, HEADRACE_SOURCE=simulated"
        )
    spec: ModelSpec = profile.spec_of(find(MODEL))
    name = registered_name(spec, profile, settings.source)
    with Registry(settings.tracking) as registry:
        champion = registry.alias_version(name, ALIAS_PRODUCTION)
    if champion is None:
        raise ProcessError(
            f"no version of {name} is in production, so nothing can be lost: run `make demo` first"
        )
    lake = Lake.of(settings)
    known_until = lineage.find(lake, name, champion.version).training.window.end
    newest = newest_row(lake, profile, spec)
    changed_at = when_it_changes(settings, known_until, newest)
    return World(profile, spec, champion, known_until, changed_at)


def newest_row(lake: Lake, profile: SourceProfile, spec: ModelSpec) -> datetime | None:
    """End of the newest slice that was ingested of the model's first data set."""
    dataset = profile.dataset(spec.datasets[0])
    table = profile.table(Layer.CLEAN, dataset.name)
    if not lake.exists(table):
        return None
    newest = lake.scan(table).select("slice_start").max().collect().item()
    return newest + dataset.slice if isinstance(newest, datetime) else None


def when_it_changes(settings: Settings, known_until: datetime, newest: datetime | None) -> datetime:
    """The midnight of the change: one that an interrupted demo has set, or the first with nothing ingested after it.

    Raises:
        ProcessError: the home's regime script holds another change, or one that the champion has learned.
    """
    from pipelines.sources.base import home_regimes
    from pipelines.sources.simulated.regimes import load_regimes

    script = home_regimes(settings)
    if script.exists() and (present := load_regimes(script)):
        begun = present[0].start
        if present == regimes(begun) and begun >= known_until:
            return begun
        raise ProcessError(
            f"the world of this home has changed before ({script}), and there is nothing left to notice. "
            f"To see it again, start anew: make down, remove {settings.home}, make demo"
        )
    first = max(known_until, newest or known_until)
    return datetime.fromtimestamp(-(-first.timestamp() // DAY.total_seconds()) * DAY.total_seconds(), UTC)


def regimes(at: datetime) -> tuple[Regime, ...]:
    """The change: a new firmware, which hides decay and turns the fans up."""
    from pipelines.sources.simulated.regimes import parse_regime

    start = at.isoformat()
    return (
        parse_regime({"kind": "hidden_signs", "from": start, "share": HIDDEN}),
        parse_regime({"kind": "metric_shift", "from": start, "column": "temperature_c", "add": COOLER}),
    )


def change(world: World, settings: Settings, story: Story) -> None:
    """Write the change into the home's regime script, once."""
    from pipelines.sources.base import home_regimes
    from pipelines.sources.simulated.regimes import append_regime

    script = home_regimes(settings)
    if not script.exists():
        for regime in regimes(world.changed_at):
            append_regime(script, regime)
    story.tell(
        f"The world changes on {world.changed_at:%Y-%m-%d}: new firmware hides the signs of decay, and throttles a machine "
        f"that decays instead; and it cools all of them by {-COOLER:g} °C.",
        script.as_uri(),
        style="bold yellow",
    )


def _pass(world: World, start: datetime, end: datetime, settings: Settings, story: Story) -> None:
    """Days pass: what they brought is ingested, sifted, and made into features. What is there already is left alone."""
    from pipelines.features import job as features
    from pipelines.ingest import job as ingest
    from pipelines.validate import job as validate

    window = Window(start=max(start, world.known_until), end=end) if end > world.known_until else None
    if window is None:
        return
    with story.busy(f"Days pass until {end:%Y-%m-%d} …") as now:
        for dataset in world.spec.datasets:
            now(f"Days pass until {end:%Y-%m-%d}: {dataset} …")
            validate.run(ingest.run(settings.source, dataset, window, settings), settings)
        now(f"Days pass until {end:%Y-%m-%d}: features …")
        features.run(settings.source, window, settings, grids=[world.spec.grid])


def ask(
    callers: Callers, world: World, start: datetime, end: datetime, settings: Settings, story: Story
) -> Observed:
    """Callers ask about each machine at each hour of a stretch; returns what they asked with."""
    from pipelines.monitor.observe import observe

    before = len(callers.told)
    with story.busy(f"Callers ask about the hours until {end:%Y-%m-%d} …"):
        observed = observe(world.spec, world.profile, Window(start=start, end=end), settings)
        callers.ask(observed.rows, observed.entity, observed.features)
    told = callers.told[before:]
    alarms, versions = sum(each.alarm for each in told), sorted({each.version for each in told})
    story.tell(
        f"{start:%Y-%m-%d} to {end:%Y-%m-%d}: callers ask about {observed.rows[observed.entity].n_unique()} machines hour by "
        f"hour: {len(told):,} answers by version {', '.join(versions) or 'none'}, {alarms:,} alarms."
    )
    return observed


@contextmanager
def watching(airflow: AirflowApi) -> Iterator[None]:
    """The monitoring DAG runs meanwhile; afterwards it is paused again where it was, for no more days come by themselves."""
    dag = f"monitor_{MODEL}"
    wait_until_parsed(airflow, dag)
    paused = airflow.paused(dag)
    try:
        yield
    finally:
        if paused:
            airflow.pause(dag)


def _looked(
    airflow: AirflowApi, world: World, callers: Callers, settings: Settings, story: Story
) -> list[CheckRef]:
    """Days pass, and monitoring looks again and again.

    While one is under way the next days pass already: a look reads nothing from after its window.
    """
    looks: list[CheckRef] = []
    under_way: DagRun | None = None
    ends = [world.changed_at + after for after in LOOKS]
    for start, end in zip([world.changed_at, *ends], ends, strict=False):
        _pass(world, start, end, settings, story)
        ask(callers, world, start, end, settings, story)
        if under_way is not None:
            looks.append(found(airflow, under_way, story))
        dag = f"monitor_{MODEL}"
        conf = {"window_end": end.date().isoformat()}
        under_way = begin(airflow, dag, f"demo-drift__{conf['window_end']}", conf)
    assert under_way is not None
    return [*looks, found(airflow, under_way, story)]


def found(airflow: AirflowApi, run: DagRun, story: Story) -> CheckRef:
    """What a check in Airflow found, once it has ended.

    Raises:
        ProcessError: it failed, or takes too long.
    """
    from pipelines.monitor.job import CheckRef

    page = airflow.run_page(run.dag_id, run.run_id)
    latest = run

    def over() -> bool:
        nonlocal latest
        latest = airflow.run(run.dag_id, run.run_id) or latest
        return latest.finished

    with story.busy(f"{run.dag_id} looks …"):
        if not poll(over, _CHECK_SECONDS, every=0.5):
            raise ProcessError(f"the check {run.run_id} has not ended in {_CHECK_SECONDS} s: {page}")
    if latest.state != "success":
        raise ProcessError(failure_of(airflow, latest, airflow.tasks(run.dag_id, run.run_id)))
    check = CheckRef.from_xcom(airflow.result(run.dag_id, run.run_id, "check"))
    noticed = "ALARM" if check.alarm else check.cause.value
    story.tell(
        f"Monitoring looks at {check.window.end - DAY:%Y-%m-%d}: {noticed}. {check.reason}", page,
        style="bold red" if check.alarm else "",
    )  # fmt: skip
    if check.report_url:
        story.tell("What it saw, drawn by Evidently:", check.report_url)
    return check


def trainings(airflow: AirflowApi) -> list[DagRun]:
    """Recent runs of the model's training, the newest first."""
    return [run for run in airflow.recent_runs(limit=50) if run.dag_id == f"train_{MODEL}"]


def _retrained(
    airflow: AirflowApi, known: set[str], look: CheckRef, callers: Callers, world: World, settings: Settings, story: Story
) -> tuple[VerdictRef | None, PromotionRef | None]:  # fmt: skip
    """The training that the request woke, followed to its end while callers go on asking.

    Raises:
        ProcessError: none was asked for, none began, or it failed.
    """
    if look.request is None:
        raise ProcessError(f"no training was asked for: {look.reason}")
    dag = f"train_{MODEL}"
    airflow.unpause(dag)  # `make demo` has, but who knows what was done since
    begun: list[DagRun] = []

    def woken() -> bool:
        begun[:] = [run for run in trainings(airflow) if run.run_id not in known]
        return bool(begun)

    with story.busy(f"Request {look.request} is open; Airflow wakes {dag} …"):
        if not poll(woken, _EVENT_SECONDS, every=0.5):
            raise ProcessError(
                f"the event of request {look.request} has woken no run of {dag} in {_EVENT_SECONDS} s: {settings.airflow}"
            )
    run = begun[-1]
    story.tell(f"Request {look.request} woke a training in Airflow.", airflow.run_page(dag, run.run_id))
    with callers.steadily(_newest(world, settings)):
        run = follow(airflow, run, MODEL)
        tasks = airflow.tasks(dag, run.run_id)
        if run.state != "success":
            raise ProcessError(failure_of(airflow, run, tasks))
        results = {name: airflow.result(dag, run.run_id, name) for name in ("evaluate", "promote")}
        verdict = VerdictRef.from_xcom(results["evaluate"]) if results["evaluate"] else None
        promotion = PromotionRef.from_xcom(results["promote"]) if results["promote"] else None
        promoted = promotion.production if promotion else None
        if promoted:  # the callers' steady stream goes over the switch
            poll(lambda: callers.answered.get(promoted, 0) > 0, _SWITCH_SECONDS)
    if verdict is not None:
        story.tell(f"The gate: {verdict.outcome.value}. {told_of(verdict)}", verdict.report_url or "")
    return verdict, promotion


def told_of(verdict: VerdictRef) -> str:
    """The comparison with the champion where the gate was passed; else what decided against the candidate."""
    if verdict.outcome is Outcome.PASS:
        beside = [reason for reason in verdict.reasons if "over champion" in reason]
        return f"All {len(verdict.reasons)} checks. {'; '.join(beside)}".strip()
    return "; ".join(verdict.reasons)


def _newest(world: World, settings: Settings) -> list[dict[str, object]]:
    """What to ask steadily: every machine at the last hour that is known."""
    from pipelines.monitor.observe import observe

    end = world.changed_at + LOOKS[-1]
    observed = observe(world.spec, world.profile, Window(start=end - timedelta(hours=1), end=end), settings)
    return records(observed.rows, observed.features)


def _follows(callers: Callers, promoted: str, proof: str | None, settings: Settings, story: Story) -> None:
    """See that the server answers with the version that was promoted."""
    name = MODEL
    server = ServingApi(settings, timeout_seconds=30.0)
    if not poll(lambda: server.version(name) == promoted, _SWITCH_SECONDS):
        problems = "; ".join(server.readiness())
        raise ProcessError(f"the server does not answer with version {promoted} of {name}: {problems}")
    by = ", ".join(f"{count:,} by version {version}" for version, count in sorted(callers.answered.items()))
    story.tell(
        f"The alias moved to version {promoted}, and the server answers with it: {callers.requests:,} requests so far, {by}, "
        f"{len(callers.failures)} failed." + (f" {proof}" if proof else ""),
        f"{settings.tracking}/#/models/{name}/versions/{promoted}",
        style="bold green",
    )


def _ending(
    callers: Callers, observed: Observed | None, world: World, settings: Settings
) -> demo_ending.Ending:
    """What all answers were worth; ``observed`` is what the new version was asked with."""
    until = world.changed_at + LOOKS[-1] + AFTER + world.spec.target.horizon
    known = demo_ending.with_truths(callers.told, world.spec, world.profile, until, settings)
    instead = None
    if observed is not None:
        stayed = _had_it_stayed(world, observed, settings)
        instead = demo_ending.with_truths(stayed, world.spec, world.profile, until, settings)
    return demo_ending.ending(known, instead, world.changed_at, world.spec, world.champion.version)


def _had_it_stayed(world: World, observed: Observed, settings: Settings) -> list[Told]:
    """What the version before would have said, asked the same, loaded as the server loads it."""
    from pipelines.monitor.champion import loaded

    columns = observed.columns()
    with Registry(settings.tracking) as registry, tempfile.TemporaryDirectory(prefix="headrace-") as folder:
        predictor = loaded(registry, world.champion, Path(folder), settings)
        answers = predictor.predict({field.name: columns[field.name] for field in predictor.manifest.inputs})
    rows = zip(
        observed.rows[observed.entity], observed.rows["event_time"], answers["probability"], answers["alarm"], strict=True
    )  # fmt: skip
    return [Told(str(who), at, world.champion.version, float(p), bool(alarm)) for who, at, p, alarm in rows]


def _show(
    end: demo_ending.Ending, callers: Callers, world: World, events: dict[datetime, str], settings: Settings
) -> Path:
    """The table and the plot; returns where the plot is."""
    # What happens at a midnight shows in the day that begins then.
    marks: dict[date, str] = {moment.date(): f"← {words}" for moment, words in events.items()}
    bound = world.spec.gate.bounds.get(demo_ending.METRIC)
    file = settings.home / "reports" / "demo-drift.png"
    demo_ending.draw(end, events, bound.minimum if bound else None, file)
    output().print("", demo_ending.table(end, marks), "", sep="\n")
    by = ", ".join(f"{count:,} by version {version}" for version, count in sorted(callers.answered.items()))
    output().print(f"{callers.requests:,} requests: {by}; {len(callers.failures)} failed.")
    return file


def _told(end: demo_ending.Ending) -> str:
    """Average precision before, after the change, and after the training."""
    later = ""
    if end.after is not None and end.stayed is not None:
        later = (
            f", and {end.after.average_precision:.2f} with the new version (the one before would have come to "
            f"{end.stayed.average_precision:.2f} on the same days)"
        )
    return (
        f"Average precision: {end.before.average_precision:.2f} before the change, {end.lost.average_precision:.2f} after it"
        f"{later}."
    )


def what_went_wrong(
    end: demo_ending.Ending, callers: Callers, verdict: VerdictRef | None, promotion: PromotionRef | None
) -> list[str]:
    """Sentences for everything that should not have been; none where all went well."""
    wrong = []
    if promotion is None:
        why = told_of(verdict) if verdict else "the training ended before there was a verdict"
        wrong.append(f"The champion stays: {why}.")
    if callers.failures:
        shown = "; ".join(callers.failures[:3])
        wrong.append(
            f"{len(callers.failures)} of {callers.requests:,} requests were not answered as they should be: {shown}."
        )
    if promotion is not None and not end.recovered:
        wrong.append(f"The quality did not come back. {_told(end)}")
    return wrong
