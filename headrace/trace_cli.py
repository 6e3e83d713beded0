"""Commands about the prediction log: `trace`, and `ship-predictions`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pipelines.lineage.record import Lineage
    from pipelines.predictions.job import ShipmentRef
    from pipelines.predictions.trace import Traced
    from pipelines.settings import Settings

_Json = Annotated[bool, typer.Option("--json", help="For scripts.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(trace)
    app.command("ship-predictions")(ship_predictions)


def trace(
    prediction_id: Annotated[str, typer.Argument(help="As the server answered it.")], json: _Json = False
) -> None:
    """One prediction: which version made it, when, of what features. Exit code 1 if the log does not hold it."""
    from pipelines.predictions import trace as job

    settings = _settings()
    try:
        found = job.trace(prediction_id, settings)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="PREDICTION_ID") from error
    lineage = _lineage(found, settings)
    links = _links(found, lineage, settings)
    if json:
        _print_json(_as_json(found, lineage, links))
    else:
        _show(found, lineage, links)


def ship_predictions(
    every: Annotated[
        float | None,
        typer.Option(
            min=1,
            help="Seconds; goes on until it is stopped. For servers whose spool Airflow's workers cannot see.",
        ),
    ] = None,
    json: _Json = False,
) -> None:
    """Take what servers of this machine logged from their spool to the lake, as the DAG `predictions` does."""
    import time

    from pipelines.predictions import job

    settings = _settings()
    _show_shipment(job.run(settings), json)
    while every is not None:
        time.sleep(every)
        _show_shipment(job.run(settings), json)


def _lineage(found: Traced, settings: Settings) -> Lineage | None:
    """Where the version came from; None where that was not kept, as for versions of other makers."""
    from pipelines.adapters.lake import Lake
    from pipelines.errors import LineageError
    from pipelines.lineage import record

    try:
        return record.find(Lake.of(settings), found.model, found.facts["version"])
    except LineageError:
        return None


def _links(found: Traced, lineage: Lineage | None, settings: Settings) -> dict[str, str | None]:
    """Pages of MLflow; that of the run is left out where MLflow does not answer."""
    from pipelines.adapters.registry import Registry
    from pipelines.errors import RegistryError

    with Registry(settings.tracking, timeout_seconds=3) as registry:
        links: dict[str, str | None] = {
            "version": registry.version_page(found.model, found.facts["version"]),
            "run": None,
        }
        try:
            run = registry.run(lineage.training.run_id) if lineage else None
        except RegistryError:
            return links
        return links | {"run": registry.run_page(run) if run else None}


def _as_json(found: Traced, lineage: Lineage | None, links: dict[str, str | None]) -> dict[str, Any]:
    return {
        "model": found.model,
        **found.facts,
        "features": found.features,
        "outputs": found.outputs,
        "place": found.place,
        "links": links,
        "lineage": lineage.model_dump(mode="json") if lineage else None,
    }


def _show(found: Traced, lineage: Lineage | None, links: dict[str, str | None]) -> None:
    from rich.table import Table
    from rich.text import Text

    from headrace.display import output

    facts = found.facts
    version = f"{found.model} version {facts['version']}"
    rows = [
        (
            "answered",
            f"{facts['answered_at']:%Y-%m-%d %H:%M:%S.%f} UTC in {facts['latency_seconds'] * 1e3:.2f} ms",
        ),
        ("by", f"{version}, {facts['alias'] or 'asked for by its number'}, replica {facts['replica']}"),
        ("through", f"{facts['transport']}, a batch of {facts['batch_rows']}"),
        ("entity", _or_none(facts["entity"])),
        ("about", f"{facts['event_time']:%Y-%m-%d %H:%M:%S} UTC" if facts["event_time"] else "not said"),
        ("request", _or_none(facts["request_id"])),
        *(
            ("output" if n == 0 else "", f"{name} = {value}")
            for n, (name, value) in enumerate(found.outputs.items())
        ),
        *(
            ("features" if n == 0 else "", f"{name} = {'missing' if value is None else value}")
            for n, (name, value) in enumerate(found.features.items())
        ),
        *_training(lineage),
        *((f"{name} page", url) for name, url in links.items() if url),
        ("found in", found.place),
    ]
    table = Table(box=None, padding=(0, 2), show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows:
        table.add_row(name, Text(text))
    output().print(f"Prediction {facts['prediction_id']}", style="bold")
    output().print(table)


def _training(lineage: Lineage | None) -> list[tuple[str, str]]:
    if lineage is None:
        return [("lineage", "none was kept of this version")]
    training = lineage.training
    return [
        (
            "trained",
            f"{training.trained_at:%Y-%m-%d %H:%M} UTC, on {training.snapshot.source}, {training.window}",
        ),
        ("snapshot", training.snapshot.sha256),
        ("lineage", f"headrace lineage {lineage.registered_name} {lineage.version}"),
    ]


def _or_none(text: str | None) -> str:
    return text or "none was given"


def _show_shipment(shipped: ShipmentRef, json: bool) -> None:
    from headrace.display import output

    if json:
        _print_json(shipped.model_dump(mode="json"))
        return
    torn = f", {shipped.torn_bytes} bytes were torn by crashes" if shipped.torn_bytes else ""
    damaged = f", {shipped.damaged} records are damaged" if shipped.damaged else ""
    output().print(f"{shipped.rows} predictions of {shipped.segments} segments shipped{torn}{damaged}.")


def _settings() -> Settings:
    from pipelines.settings import load_settings

    return load_settings()


def _print_json(content: Any) -> None:
    import json

    print(json.dumps(content, indent=2, default=lambda moment: moment.isoformat()))
