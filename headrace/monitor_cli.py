"""`headrace monitor`: what was seen of a model, what was decided, and whether it was worth it; and by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace.errors import Exit

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pipelines.monitor.records import Check, Request
    from pipelines.monitor.worth import Off, Worth
    from pipelines.settings import Settings

_Json = Annotated[bool, typer.Option("--json", help="For scripts.")]
SHOWN = 5


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(monitor)


def monitor(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Of the catalogue.")],
    check: Annotated[
        bool, typer.Option("--check", help="Look now, at the windows that end with yesterday or --until.")
    ] = False,
    until: Annotated[
        str | None, typer.Option(help="Day after the last that --check looks at (ISO, UTC).")
    ] = None,
    ask: Annotated[
        str | None, typer.Option(metavar="REASON", help="Ask for a training by hand; train_MODEL takes it.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="Source profile; default: the configured one.")] = None,
    json: _Json = False,
) -> None:
    """What monitoring saw of MODEL and what came of it. Exit code 1 where --check finds broken data or an alarm."""
    from pipelines.adapters.lake import Lake
    from pipelines.monitor import checks, page, requests
    from pipelines.monitor.worth import off, worth

    settings = _settings()
    name = _registered(model, source, settings)
    lake = Lake.of(settings)
    if ask is not None:
        _ask(name, ask, lake)
    alarm = _check(model, until, source, settings) if check else False
    seen, asked = checks.read(lake, name), requests.read(lake, name)
    figures, estimates = worth(seen, asked), off(seen)
    if json:
        _print_json(_as_json(name, seen, asked, figures, estimates))
    else:
        place = page.path_of(settings, name)
        shown = {
            metric: each for metric, each in estimates.items() if metric in _bounded(model, source, settings)
        }
        _show(name, seen, asked, figures, shown, place if place.exists() else None)
    if alarm:
        raise typer.Exit(Exit.FAILED)


def _ask(name: str, reason: str, lake: Any) -> None:
    import getpass

    from headrace.display import messages
    from pipelines.monitor import requests
    from pipelines.monitor.records import Trigger

    now = datetime.now(UTC)
    made = requests.ask(
        lake,
        name,
        work=f"by hand:{getpass.getuser()}:{now.isoformat()}",
        triggers=(Trigger.BY_HAND,),
        reason=f"{getpass.getuser()}: {reason}",
        evidence="by hand",
        at=now,
    )
    messages().print(
        f"Request {made.number} is {made.state}; train_{name} takes it at its next run.", markup=False
    )


def _check(model: str, until: str | None, source: str | None, settings: Settings) -> bool:
    """Whether there is an alarm.

    Raises:
        BrokenDataError: data are broken.
    """
    from headrace.display import messages
    from pipelines.monitor import job
    from pipelines.references import Window

    now = datetime.now(UTC)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    end = Window.parse((midnight - timedelta(days=1)).isoformat(), until or midnight.isoformat()).end
    with messages().status(f"Looking at {model} until {end:%Y-%m-%d %H:%M}Z …"):
        return job.run(model, end, settings, source).alarm


def _registered(model: str, source: str | None, settings: Settings) -> str:
    from models.catalogue import find
    from pipelines.sources.profile import load_profile, registered_name

    profile = load_profile(source or settings.source)
    try:
        return registered_name(find(model), profile, settings.source)
    except KeyError as error:
        raise typer.BadParameter(str(error.args[0]), param_hint="MODEL") from error


def _bounded(model: str, source: str | None, settings: Settings) -> frozenset[str]:
    """Metrics that the model is held against; the others are in --json."""
    from models.catalogue import find
    from pipelines.sources.profile import load_profile

    spec = load_profile(source or settings.source).spec_of(find(model))
    return frozenset(spec.monitor.floors or spec.gate.bounds)


def _as_json(
    name: str, seen: list[Check], asked: list[Request], figures: Worth, estimates: Mapping[str, Off]
) -> dict[str, Any]:
    from dataclasses import asdict

    champion = figures.to_champion
    return {
        "registered_name": name,
        "worth": {
            "checks": figures.checks,
            "alarms": figures.alarms,
            "alarms_judged": figures.judged,
            "alarms_confirmed": figures.confirmed,
            "alarm_precision": figures.alarm_precision,
            "requests": figures.requests,
            "trainings": figures.trainings,
            "promoted": figures.promoted,
            "retrain_yield": figures.retrain_yield,
            "training_hours": figures.training_hours,
            "change_to_champion_hours": None if champion is None else champion.total_seconds() / 3600,
        },
        "estimates": {metric: asdict(each) for metric, each in estimates.items()},
        "checks": [check.model_dump(mode="json") for check in seen],
        "requests": [
            {"number": request.number, "state": request.state, "rows": [row.model_dump(mode="json") for row in request.rows]}
            for request in asked
        ],
    }  # fmt: skip


def _show(
    name: str,
    seen: list[Check],
    asked: list[Request],
    figures: Worth,
    estimates: Mapping[str, Off],
    page: Path | None,
) -> None:
    from rich.table import Table

    from headrace.display import output

    console = output()
    if not seen:
        console.print(f"{name} was not looked at yet: monitor_{name} does so, or --check.", markup=False)
    else:
        looks = Table("checked until (UTC)", "version", "found", "drift", "why", box=None, padding=(0, 2))
        for check in seen[-SHOWN:]:
            score = "" if check.drift_score is None else f"{check.drift_score:.2f}"
            style = "red" if check.alarm else None
            looks.add_row(
                f"{check.window.end:%Y-%m-%d %H:%M}", check.version, check.cause.value, score, check.reason, style=style
            )  # fmt: skip
        console.print(looks)
        if seen[-1].blind:
            console.print(
                f"\nBlind for a shift of one standard deviation, for lack of independent rows: {', '.join(seen[-1].blind)}",
                markup=False,
            )
        if seen[-1].report_url:
            console.print(f"\nReport: {seen[-1].report_url}", markup=False, soft_wrap=True)
    if page is not None:
        console.print(f"Page: {page.as_uri()}", markup=False, soft_wrap=True)
    if asked:
        table = Table("request", "state", "asked for", "outcome", "what came of it", box=None, padding=(0, 2))
        for request in asked[-SHOWN:]:
            closed = request.closed
            table.add_row(
                str(request.number),
                request.state,
                ", ".join(trigger.value for trigger in request.triggers),
                closed.outcome.value if closed and closed.outcome else "",
                closed.reason if closed else request.asked.reason,
            )
        console.print()
        console.print(table)
    console.print()
    for line in (*_sentences(figures), *_of_estimates(estimates)):
        console.print(line, markup=False)


def _sentences(figures: Worth) -> list[str]:
    def share(figure: float | None, counted: str) -> str:
        return f"{figure:.0%} ({counted})" if figure is not None else "nothing to say yet"

    hours = figures.to_champion
    return [
        f"{figures.checks} checks, {figures.alarms} alarms",
        "alarm precision: "
        + share(figures.alarm_precision, f"{figures.confirmed} of {figures.judged} that labels could judge"),
        "retrain yield: "
        + share(figures.retrain_yield, f"{figures.promoted} of {figures.trainings}, {figures.training_hours:.1f} h in all"),
        "from change to new champion: "
        + (f"{hours.total_seconds() / 3600:.1f} h (median)" if hours is not None else "nothing to say yet"),
    ]  # fmt: skip


def _of_estimates(estimates: Mapping[str, Off]) -> list[str]:
    return [
        f"estimated {metric}: off by {each.absolute:.3g} on average, {each.bias:+.3g} in the mean, in {each.checks} checks "
        "that labels caught up with"
        for metric, each in estimates.items()
    ]


def _settings() -> Settings:
    from pipelines.settings import load_settings

    return load_settings()


def _print_json(content: Any) -> None:
    import json

    print(json.dumps(content, indent=2))
