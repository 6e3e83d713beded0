"""`headrace rollout`: a challenger beside the champion, from the shadow into production, or out of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from headrace.errors import Exit

if TYPE_CHECKING:
    from pipelines.rollout.records import RolloutRef
    from pipelines.settings import Settings

rollout = typer.Typer(
    no_args_is_help=True, help="A challenger beside the champion: shadow, 10 %, 50 %, production, or out."
)

_Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="Name in the registry: the model's, or MODEL-SOURCE.")
]
_Reason = Annotated[str, typer.Option(help="Why; it goes to the ledger with your name.")]
_Who = Annotated[str, typer.Option(help="Your name. Default: that of the login.")]
_Json = Annotated[bool, typer.Option("--json", help="For scripts.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.add_typer(rollout, name="rollout")


@rollout.command()
def begin(
    model: _Model,
    reason: _Reason,
    version: Annotated[
        str | None, typer.Argument(metavar="[VERSION]", help="Default: the newest that passed its gate.")
    ] = None,
    who: _Who = "",
    override: Annotated[
        bool, typer.Option(help="Also a version that did not pass its gate, or that was rolled back.")
    ] = False,
    json: _Json = False,
) -> None:
    """Make a version the challenger: the server mirrors requests to it, and answers with the champion."""
    from datetime import UTC, datetime

    from pipelines.rollout import job

    _show(
        job.begin(model, version, who or _name(), reason, _settings(), datetime.now(UTC), override=override),
        json,
    )


@rollout.command()
def step(
    model: _Model,
    every: Annotated[
        float | None,
        typer.Option(min=1, help="Seconds; goes on until the rollout is over. Default: one look."),
    ] = None,
    who: _Who = "",
    json: _Json = False,
) -> None:
    """Take the step that is due, as the DAG `rollout_MODEL` does. Exit code 1 if the challenger is withdrawn."""
    import time
    from datetime import UTC, datetime

    from headrace.display import messages
    from pipelines.rollout import job

    settings = _settings()
    while True:
        with messages().status("Looking …") as board:
            found = job.step(model, who or _name(), settings, datetime.now(UTC), progress=board.update)
        _show(found, json)
        if found.step.value == "withdraw":
            raise typer.Exit(Exit.FAILED)
        if every is None or found.over:
            return
        time.sleep(every)


@rollout.command()
def status(model: _Model, json: _Json = False) -> None:
    """Where the rollout stands, what was seen, and what the next step would be; nothing is done."""
    from datetime import UTC, datetime

    from pipelines.rollout import job

    _show(job.look(model, _settings(), datetime.now(UTC)), json)


@rollout.command()
def withdraw(model: _Model, reason: _Reason, who: _Who = "", json: _Json = False) -> None:
    """Take all traffic from the challenger at once."""
    from pipelines.rollout import job

    _show(job.withdraw(model, who or _name(), reason, _settings()), json)


@rollout.command()
def watch() -> None:
    """Roll a new champion back whose errors jump, until interrupted. `headrace up` runs one in the background."""
    from pipelines.rollout.watcher import main

    main()


def _show(found: RolloutRef, json: bool) -> None:
    if json:
        print(found.model_dump_json(indent=2))
        return
    from rich.table import Table

    from headrace.display import output

    table = Table(box=None, padding=(0, 2), show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("in production", found.production or "none")
    table.add_row(
        "challenger", f"{found.challenger}, {found.traffic or 'no traffic'}" if found.challenger else "none"
    )
    table.add_row("step", f"{found.step.value}: {found.reason}")
    for role in ("champion", "challenger"):
        if f"{role}_requests" in found.figures and found.challenger:
            asked, errors, slow = (found.figures[f"{role}_{what}"] for what in ("requests", "errors", "slow"))
            table.add_row(f"{role} was asked", f"{asked} requests, {errors} errors, {slow} slow answers")
    if "outcomes" in found.figures:
        ends = "loss_difference", "loss_difference_lower", "loss_difference_upper"
        mean, lower, upper = (float(found.figures[name]) for name in ends)
        table.add_row(
            "loss beyond", f"{mean:+.4f} [{lower:+.4f}, {upper:+.4f}], {found.figures['outcomes']} outcomes"
        )
    if "unreachable" in found.figures:
        table.add_row("not asked", str(found.figures["unreachable"]))
    output().print(table, highlight=False)


def _settings() -> Settings:
    from pipelines.settings import load_settings

    return load_settings()


def _name() -> str:
    import getpass

    return getpass.getuser()
