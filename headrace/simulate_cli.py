"""Commands about the fleet simulator: `headrace simulate rows`, `regime`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

simulate = typer.Typer(
    no_args_is_help=True, help="The fleet simulator: its rows, and what it is told to do otherwise."
)

_Moment = Annotated[str, typer.Option(help="ISO 8601, UTC: 2026-01-31 or 2026-01-31T12:00.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.add_typer(simulate, name="simulate")


@simulate.command()
def rows(
    dataset: Annotated[str, typer.Argument(help="A data set of the source, as 'telemetry'.")],
    start: _Moment,
    end: _Moment,
    source: Annotated[str, typer.Option(help="Profile with a simulated origin: name or path.")] = "simulated",
    out: Annotated[
        Path | None, typer.Option(help="*.parquet or *.csv. Default: show the first rows.")
    ] = None,
) -> None:
    """Rows that the simulator yields for a window: always the same for the same window and seed."""
    from headrace.display import messages
    from pipelines.references import Window
    from pipelines.settings import load_settings
    from pipelines.sources.base import open_source
    from pipelines.sources.profile import load_profile

    if out is not None and out.suffix not in {".parquet", ".csv"}:
        raise typer.BadParameter(f"{out}: the name must end in .parquet or .csv", param_hint="--out")
    profile = load_profile(source)
    frame = open_source(profile, load_settings()).read(profile.dataset(dataset), Window.parse(start, end))
    if out is None:
        print(frame)
        return
    if out.suffix == ".parquet":
        frame.write_parquet(out)
    else:
        frame.write_csv(out)
    messages().print(f"{frame.height} rows of {dataset} in {out}", markup=False)


@simulate.command()
def regime(
    script: Annotated[Path, typer.Argument(help="YAML script; it is made if there is none.")],
    kind: Annotated[
        str,
        typer.Argument(
            help="load_scale, metric_shift, noise, failure_rate, hidden_signs, unit_change, stuck_sensor, "
            "new_machines or missing_column."
        ),
    ],
    start: Annotated[str, typer.Option("--from", help="When it begins, ISO 8601, UTC.")],
    until: Annotated[str | None, typer.Option(help="When it ends. Default: never.")] = None,
    factor: Annotated[
        float | None, typer.Option(help="Of load_scale, noise, failure_rate, unit_change.")
    ] = None,
    column: Annotated[str | None, typer.Option(help="Metric that is touched.")] = None,
    add: Annotated[float | None, typer.Option(help="Of metric_shift: added.")] = None,
    multiply: Annotated[float | None, typer.Option(help="Of metric_shift: first multiplied.")] = None,
    count: Annotated[int | None, typer.Option(help="Of new_machines: how many.")] = None,
    share: Annotated[
        float | None, typer.Option(help="Of missing_column: share of values; of hidden_signs: of the signs.")
    ] = None,
    machine: Annotated[list[str] | None, typer.Option(help="Only these machines.")] = None,
    service: Annotated[list[str] | None, typer.Option(help="Only machines of these services.")] = None,
    zone: Annotated[list[str] | None, typer.Option(help="Only machines in these zones.")] = None,
) -> None:
    """Add a lasting change of the fleet to a regime script, which a profile names as origin.regimes."""
    from headrace.display import messages
    from pipelines.sources.simulated.regimes import append_regime, load_regimes, parse_regime

    given = {
        "kind": kind,
        "from": start,
        "until": until,
        "factor": factor,
        "column": column,
        "add": add,
        "multiply": multiply,
        "count": count,
        "share": share,
        "machines": machine or None,
        "services": service or None,
        "zones": zone or None,
    }
    append_regime(script, parse_regime({name: value for name, value in given.items() if value is not None}))
    messages().print(f"{script} holds {len(load_regimes(script))} regimes now", markup=False)
