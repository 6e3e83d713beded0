"""Commands about the server's API keys: `headrace keys new`, `list`, `revoke`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from serving.keys import Key

keys = typer.Typer(
    no_args_is_help=True,
    help="API keys of the server. It reads their file again when it changes: no restart is needed.",
)

_Json = Annotated[bool, typer.Option("--json", help="For scripts.")]
_SCOPES = ("predict", "label", "observe", "admin")


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.add_typer(keys, name="keys")


@keys.command()
def new(
    name: Annotated[str, typer.Argument(help="Who will use it, as 'billing'; for you, to find it again.")],
    model: Annotated[
        list[str] | None, typer.Option(help="Registered model that it may ask; again for more. Default: all.")
    ] = None,
    scope: Annotated[
        list[str] | None,
        typer.Option(
            help="predict, label (say what came of predictions), observe (metrics, overview) or admin; again for more. "
            "Default: predict."
        ),
    ] = None,
    requests_per_second: Annotated[
        float | None, typer.Option("--rate", help="Requests a second that it may send. Default: no limit.")
    ] = None,
    burst: Annotated[
        int | None, typer.Option(min=1, help="Requests at once beyond that. Default: those of a second.")
    ] = None,
    days: Annotated[float | None, typer.Option(help="Days that it counts. Default: until revoked.")] = None,
    json: _Json = False,
) -> None:
    """Make a key and print it: it is shown this once, the file keeps its hash only."""
    from datetime import UTC, datetime, timedelta

    from headrace.display import messages
    from pipelines.settings import load_settings
    from serving import keys as ring

    asked = tuple(scope or _SCOPES[:1])
    for each in asked:
        if each not in _SCOPES:
            raise typer.BadParameter(
                f"{each!r} is no scope; there are {', '.join(_SCOPES)}", param_hint="--scope"
            )
    for value, hint in ((requests_per_second, "--rate"), (days, "--days")):
        if value is not None and not value > 0:
            raise typer.BadParameter(f"{value:g}: more than 0 is wanted", param_hint=hint)
    if burst is not None and requests_per_second is None:
        raise typer.BadParameter("goes with --rate only", param_hint="--burst")
    settings, now = load_settings(), datetime.now(UTC)
    key, text = ring.new(
        settings.serving_key_file,
        name,
        now=now,
        models=tuple(model or (ring.ANY,)),
        scopes=tuple(ring.Scope(each) for each in asked),
        requests_per_second=requests_per_second,
        burst=burst,
        expires_at=None if days is None else now + timedelta(days=days),
    )
    if json:
        _print_json(_told(key) | {"key": text})
        return
    print(text)
    messages().print(
        f"Key {key.id} of {key.name}: {_may(key)}. It is shown this once; callers send it as "
        "'Authorization: Bearer <key>'.",
        markup=False,
    )


@keys.command("list")
def list_(json: _Json = False) -> None:
    """Every key: what it may, and whether it counts."""
    from datetime import UTC, datetime

    from rich.table import Table

    from headrace.display import output
    from pipelines.settings import load_settings
    from serving import keys as ring

    path, now = load_settings().serving_key_file, datetime.now(UTC)
    found = ring.read(path).keys
    if json:
        _print_json([_told(key) | {"counts": key.dead(now) is None} for key in found])
        return
    if not found:
        output().print(f"{path} has no API key; `headrace keys new NAME` makes one.", markup=False)
        return
    table = Table("key", "name", "may", "made", "state", box=None, padding=(0, 2))
    for key in found:
        state = key.dead(now) or (
            f"until {key.expires_at:%Y-%m-%d %H:%M} UTC" if key.expires_at else "counts"
        )
        table.add_row(key.id, key.name, _may(key), f"{key.created_at:%Y-%m-%d}", state)
    output().print(table)


@keys.command()
def revoke(
    key: Annotated[str, typer.Argument(metavar="KEY", help="Its eight digits, as `headrace keys list` has.")],
) -> None:
    """Let a key count no more; servers that run know within a second."""
    from datetime import UTC, datetime

    from headrace.display import messages
    from pipelines.settings import load_settings
    from serving import keys as ring

    revoked = ring.revoke(load_settings().serving_key_file, key, datetime.now(UTC))
    messages().print(f"Key {revoked.id} of {revoked.name} counts no more.", markup=False)


def _may(key: Key) -> str:
    rate = (
        ""
        if key.requests_per_second is None
        else f", {key.requests_per_second:g} requests a second, {key.burst} at once"
    )
    return f"{', '.join(key.scopes)} for {', '.join(key.models)}{rate}"


def _told(key: Key) -> dict[str, Any]:
    return key.model_dump(mode="json", exclude={"sha256"})


def _print_json(content: Any) -> None:
    import json

    print(json.dumps(content, indent=2))
