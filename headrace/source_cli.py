"""`headrace source`: a first profile for a file, and what a profile is good for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.errors import Exit

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from pipelines.sources.check import Fit, Sample

source = typer.Typer(no_args_is_help=True, help="Your own telemetry: draft a source profile, and check one.")


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.add_typer(source, name="source")


@source.command()
def draft(
    file: Annotated[
        Path, typer.Argument(help="Telemetry: *.csv, *.csv.gz or *.parquet, a row per entity and time.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Write the profile to this file (*.yaml). Default: print it.")
    ] = None,
) -> None:
    """Draft a source profile from a file: which column is the time, the machine, a gauge, a counter. Then read it."""
    from headrace.display import messages
    from pipelines.sources import draft as drafts

    if out is None:
        print(drafts.draft(file), end="")
        return
    if out.suffix not in {".yaml", ".yml"}:
        raise typer.BadParameter(f"{out}: the name must end in .yaml", param_hint="--out")
    if out.exists():
        raise typer.BadParameter(f"{out} is there already: remove it, or name another", param_hint="--out")
    text = drafts.draft(file, os.path.relpath(file, out.parent))
    out.write_text(text, "utf-8")
    messages().print(f"{out} is drafted. Read it, then: headrace source check {out}", markup=False)


@source.command()
def check(
    profile: Annotated[
        str | None, typer.Argument(metavar="[PROFILE]", help="Name or path. Default: the configured source.")
    ] = None,
    day: Annotated[
        str | None, typer.Option(help="Day to read (ISO, UTC). Default: the source's first, or yesterday.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """Read one day, sift it, and say which models this source can train. Nothing is stored. Exit code 1: not readable."""
    from dataclasses import asdict

    from headrace.display import messages, output
    from pipelines.references import Window
    from pipelines.settings import load_settings
    from pipelines.sources import check as checks
    from pipelines.sources.profile import load_profile

    settings = load_settings()
    found = load_profile(profile or settings.source)
    start = Window.parse(day, "9999-12-31").start if day else None
    with messages().status("Reading one day …"):
        samples, fits = list(checks.samples(found, start, settings)), list(checks.fits(found))
    if json:
        _print_json(
            {"samples": [asdict(each) for each in samples], "models": [asdict(each) for each in fits]}
        )
    else:
        for sample in samples:
            output().print(*_in_words(sample), sep="\n")
        output().print("", _fits_table(fits), sep="\n")
    if any(each.error for each in samples):
        raise typer.Exit(Exit.FAILED)


def _in_words(sample: Sample) -> Iterator[Text]:
    """What a day of one data set holds, a line each."""
    from rich.text import Text

    where = f"{sample.dataset}, {sample.window.start:%Y-%m-%d} to {sample.window.end:%Y-%m-%d}: "
    if sample.error:
        yield Text(where + sample.error, style="red")
        return
    if not sample.rows:
        yield Text(where + "no rows. Name a day that the files hold (--day)", style="yellow")
        return
    yield Text(
        f"{where}{sample.rows:,} rows of {sample.entities:,} entities; quarantine would take {sample.quarantined:,}"
    )
    for reason, rows in sample.reasons:
        yield Text(f"  {rows:,} rows: {reason}", style="yellow")
    if sample.absent:
        yield Text(f"  missing throughout, for no file has it: {', '.join(sample.absent)}", style="yellow")


def _fits_table(fits: list[Fit]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table("model", "can it be trained?", "", box=None, padding=(0, 2))
    for each in sorted(fits, key=lambda fit: bool(fit.lacks)):
        answer = Text("no", style="dim") if each.lacks else Text("yes", style="green")
        told = f"lacks {'; '.join(each.lacks)}" if each.lacks else each.question
        table.add_row(each.model, answer, Text(told, style="dim" if each.lacks else ""))
    return table


def _print_json(content: object) -> None:
    import json

    print(json.dumps(content, indent=2, default=str))
