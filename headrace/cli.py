"""The command `headrace`. Everything heavy is imported inside the commands: help must be quick."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace import (
    backup_cli,
    keys_cli,
    lineage_cli,
    maintain_cli,
    monitor_cli,
    rollout_cli,
    run_cli,
    score_cli,
    secrets_cli,
    simulate_cli,
    source_cli,
    trace_cli,
)
from headrace.errors import Exit, exit_code
from pipelines.errors import HeadraceError

if TYPE_CHECKING:
    from pipelines.references import PromotionRef, Window
    from pipelines.settings import Settings

app = typer.Typer(
    name="headrace",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="From raw telemetry to proved models in production, kept true.",
    epilog="Exit codes: 0 fine, 1 failed, 2 wrong usage, 3 not running or not reachable. "
    "`headrace settings` lists every HEADRACE_… variable.",
)

Model = Annotated[str, typer.Argument(help="A model of the catalogue, as 'failure'.")]
RegisteredName = Annotated[
    str, typer.Argument(metavar="MODEL", help="Name in the registry: the model's, or MODEL-SOURCE.")
]
AsJson = Annotated[bool, typer.Option("--json", help="For scripts.")]
Reason = Annotated[str, typer.Option(help="Why; it goes to the ledger with your name.")]
Who = Annotated[str, typer.Option(help="Your name. Default: that of the login.")]
Moment = Annotated[str, typer.Option(help="ISO 8601, UTC: 2026-01-31 or 2026-01-31T12:00.")]


def main() -> None:
    """Entry point: errors that a person can act on are one message, and an exit code."""
    try:
        app()
    except HeadraceError as error:
        _explain(error)
        sys.exit(exit_code(error))


def _explain(error: HeadraceError) -> None:
    from headrace.display import messages

    if os.environ.get("HEADRACE_LOG_LEVEL", "").upper() == "DEBUG":
        traceback.print_exception(error)
    messages().print(f"headrace: {error}", style="red", markup=False)


@app.command()
def up() -> None:
    """Start Airflow, MLflow and the server, and wait until they answer. What runs is left alone."""
    from headrace import local
    from headrace.display import output
    from headrace.status import look, services_table

    settings = _settings()
    local.up(settings)
    output().print(services_table(look(settings)))


@app.command()
def down() -> None:
    """Stop all of it. Nothing of this home survives, not even what an earlier crash left behind."""
    from headrace import local
    from headrace.display import messages

    settings = _settings()
    with messages().status("Stopping …"):
        swept = local.down(settings)
    more = f" {swept} processes that stood outside the tree were ended." if swept else ""
    messages().print(f"Nothing of {settings.home} runs any more.{more}")


@app.command()
def status(json: AsJson = False) -> None:
    """Is all well? Services, models, freshness, drift, requests, runs, and who waits. Exit code 3 if a service is down."""
    from headrace import status as page
    from headrace.display import output

    found = page.look(_settings())
    if json:
        _print_json(found.to_json())
    else:
        page.show(found, output())
    if not found.well:
        raise typer.Exit(Exit.NOT_RUNNING)


@app.command()
def doctor(json: AsJson = False) -> None:
    """Look at machine, clock, ports, versions, addresses and credentials, and say what to mend. Exit code 1 if anything must be."""
    from headrace import doctor as look
    from headrace.display import findings_table, messages, output

    with messages().status("Looking …"):
        found = look.examine(_settings())
    failed = any(each.state is look.State.FAIL for each in found)
    if json:
        _print_json({"fine": not failed, "findings": [each.to_json() for each in found]})
    else:
        output().print(findings_table(found))
    if failed:
        raise typer.Exit(Exit.FAILED)


@app.command()
def settings(json: AsJson = False) -> None:
    """Every setting with what it is for, its default and its value; secrets are masked."""
    from headrace.settings_page import show, to_json

    current = _settings()
    if json:
        _print_json(to_json(current))
    else:
        show(current)


@app.command()
def train(
    model: Model,
    source: Annotated[str | None, typer.Option(help="A source profile's name or path.")] = None,
    window_start: Annotated[str | None, typer.Option(help="First moment, ISO 8601, UTC.")] = None,
    window_end: Annotated[str | None, typer.Option(help="Moment after the last, ISO 8601, UTC.")] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Tuning trials.")] = None,
    json: AsJson = False,
) -> None:
    """Run the whole chain here, without Airflow: ingest, validate, features, snapshot, tune, train, judge, promote.

    The window's default is that of the source, where it is finite, or else the model's training
    window up to the last midnight (UTC).
    """
    from headrace.display import Board, messages, output
    from pipelines.chain import run_chain

    current = _settings()
    window = _training_window(model, source or current.source, window_start, window_end)
    with Board(messages(), f"Training {model} on {window}") as board:
        at_work = ""

        def report(stage: str, state: str, detail: str) -> None:
            nonlocal at_work
            if at_work not in {"", stage}:
                board.set(at_work, "done")
            at_work = "" if state == "done" else stage
            board.set(stage, state, detail)

        try:
            promotion = run_chain(model, source, window, current, _who(), trials, report)
        except HeadraceError:
            if at_work:
                board.set(at_work, "failed")
            raise
    if json:
        _print_json(promotion.to_xcom())
    else:
        _show_promotion(promotion)
        output().print(f"Runs and versions: {current.tracking}", style="dim")


@app.command()
def reload(
    dataset: Annotated[str, typer.Argument(help="A data set of the source, as 'telemetry'.")],
    window_start: Moment,
    window_end: Moment,
    source: Annotated[str | None, typer.Option(help="A source profile's name or path.")] = None,
) -> None:
    """Read a window of a data set again, after validation stopped its batch and the source was mended."""
    from headrace.display import output
    from pipelines.references import Window
    from pipelines.validate import reload as again

    current = _settings()
    window = Window.parse(window_start, window_end)
    found = again.run(source or current.source, dataset, window, current)
    output().print(
        f"{found.raw.table} holds {found.raw.rows_added} rows of {window} now: run validate again."
    )


@app.command()
def promote(model: RegisteredName, version: str, reason: Reason, who: Who = "", json: AsJson = False) -> None:
    """Put a version into production on your word. Without a passed verdict that is an override, and is called so."""
    from headrace.display import messages
    from pipelines.promote.job import promote_by_hand

    with messages().status("Promoting …") as board:
        moved = promote_by_hand(model, version, who or _who(), reason, _settings(), progress=board.update)
    _show_promotion(moved, json)


@app.command()
def rollback(
    model: RegisteredName,
    reason: Reason,
    to: Annotated[str | None, typer.Option(help="Version. Default: the one before.")] = None,
    who: Who = "",
    json: AsJson = False,
) -> None:
    """Put the version before, or a named one, back into production, and see that it answers again."""
    from headrace.display import messages
    from pipelines.promote import job

    with messages().status("Rolling back …") as board:
        moved = job.rollback(model, to, who or _who(), reason, _settings(), progress=board.update)
    _show_promotion(moved, json)


@app.command()
def sign(
    model: RegisteredName,
    version: str,
) -> None:
    """Sign a version that was registered without a signature, or with a key that is to be retired.

    Its files are verified by the digest that the registry names; that they are the right ones is your word.
    """
    from headrace.display import output
    from pipelines.promote.sign import run

    key = run(model, version, _settings())
    output().print(f"version {version} of {model} is signed with key {key}")


@app.command()
def predict(
    model: RegisteredName,
    entity: Annotated[
        list[str] | None, typer.Option(help="Whom to predict for; give it again for more.")
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(help="Moment to predict for, ISO 8601 with its zone; default: now. Only with --entity."),
    ] = None,
    json_file: Annotated[
        Path | None,
        typer.Option(help="JSON: a list of records with the model's inputs; '-' reads standard input."),
    ] = None,
    json: AsJson = False,
) -> None:
    """Ask the server for predictions: for entities, whose features it looks up, or for records with features."""
    from headrace.display import output
    from headrace.serving_api import ServingApi

    if (not entity) == (json_file is None):
        raise typer.BadParameter("give either --entity or --json-file")
    body: dict[str, Any] = {"entities": entity} if entity else {"records": _records(json_file)}
    body |= {"at": at} if at else {}
    answer = ServingApi(_settings()).predict(model, body)
    if json:
        _print_json(answer)
        return
    from rich.table import Table

    rows = answer["predictions"]
    columns = [name for name in rows[0] if name != "prediction_id"] if rows else []
    table = Table(*columns, box=None, padding=(0, 2))
    for row in rows:
        table.add_row(
            *(f"{row[name]:.4g}" if isinstance(row[name], float) else str(row[name]) for name in columns)
        )
    output().print(table, f"by version {answer['version']} of {answer['model']}")


@app.command()
def history(
    model: RegisteredName,
    json: AsJson = False,
    html: Annotated[Path | None, typer.Option(help="Write the page to this file instead.")] = None,
) -> None:
    """Who moved the production pointer, when, why, what was proved, and how long each served; oldest first."""
    from datetime import UTC, datetime

    from headrace.display import messages, output
    from headrace.history_table import history_table
    from pipelines.adapters.lake import Lake
    from pipelines.errors import RegistryError
    from pipelines.promote import history_page, ledger, reconcile
    from pipelines.promote.history import entries

    current = _settings()
    try:
        for busy in reconcile.run(current, model).busy:
            messages().print(busy, style="yellow", markup=False)
    except RegistryError as error:
        messages().print(
            f"Moves in the MLflow UI since the last look may be missing: {error}",
            style="yellow",
            markup=False,
        )
    now = datetime.now(UTC)
    found = entries(ledger.rows(Lake.of(current), model), now)
    if html is not None:
        html.write_text(history_page.render(model, found, now, current.tracking), "utf-8")
        messages().print(f"The history of {model} is in {html}", markup=False)
    elif json:
        _print_json([entry.to_json() for entry in found])
    else:
        output().print(history_table(found) if found else f"Nothing was ever promoted for {model}.")


@app.command()
def demo(
    entity: Annotated[
        str | None, typer.Option(help="Machine to predict for. Default: the first in the data.")
    ] = None,
) -> None:
    """From nothing to a promoted model that answers requests; the pages are left running."""
    from headrace.demo import demo as run

    run(_settings(), entity=entity)


@app.command("demo-drift")
def demo_drift() -> None:
    """After `demo`: the world changes, monitoring notices, a training is asked for, the server follows. Exit code 1 if not."""
    from headrace.demo_drift import demo_drift as run

    run(_settings())


@app.command()
def serve() -> None:
    """Run the server here, in the foreground. `headrace up` runs one in the background."""
    _settings()  # refused settings are better said before the server is there
    os.execv(sys.executable, [sys.executable, "-m", "serving"])


simulate_cli.register(app)
lineage_cli.register(app)
monitor_cli.register(app)
rollout_cli.register(app)
source_cli.register(app)
trace_cli.register(app)
keys_cli.register(app)
run_cli.register(app)
secrets_cli.register(app)
score_cli.register(app)
maintain_cli.register(app)
backup_cli.register(app)


def _settings() -> Settings:
    from pipelines.settings import load_settings

    return load_settings()


def _who() -> str:
    import getpass

    return getpass.getuser()


def _training_window(model: str, source: str, start: str | None, end: str | None) -> Window:
    from datetime import UTC, datetime

    from models.catalogue import CATALOGUE
    from pipelines.references import Window
    from pipelines.sources.profile import load_profile

    if model not in CATALOGUE:
        raise typer.BadParameter(f"no model {model!r}; the catalogue has {sorted(CATALOGUE)}")
    profile = load_profile(source)
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    last = end or (profile.window_end or midnight).isoformat()
    if start is None and profile.window_start is not None:
        first = profile.window_start.isoformat()
    else:
        length = profile.spec_of(CATALOGUE[model]).training_window
        first = start or (Window.parse("1970-01-01", last).end - length).isoformat()
    return Window.parse(first, last)


def _records(path: Path | None) -> list[Any]:
    import json

    try:
        text = sys.stdin.read() if str(path) == "-" else Path(str(path)).read_text("utf-8")
        content = json.loads(text)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"{path}: {error}", param_hint="--json-file") from error
    if isinstance(content, dict) and "records" in content:
        content = content["records"]
    return content if isinstance(content, list) else [content]


def _show_promotion(promotion: PromotionRef, json: bool = False) -> None:
    from headrace.display import output

    if json:
        _print_json(promotion.to_xcom())
        return
    state = "is now" if promotion.moved else "is still" if promotion.production else "is"
    production = f"version {promotion.production}" if promotion.production else "no version"
    output().print(f"{production} of {promotion.registered_name} {state} in production: {promotion.reason}")
    if promotion.proof:
        output().print(promotion.proof, markup=False)
    if promotion.previous:
        output().print(
            f"One step back: headrace rollback {promotion.registered_name} --reason …", style="dim"
        )


def _print_json(content: Any) -> None:
    import json

    print(json.dumps(content, indent=2, default=str))
