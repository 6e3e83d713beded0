"""Commands about where versions came from and what was proved: `lineage`, `reproduce`, `in-use`, `report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace.errors import Exit

if TYPE_CHECKING:
    from pipelines.lineage.in_use import Endangered, InUse
    from pipelines.lineage.record import Lineage
    from pipelines.lineage.reproduce import Reproduction
    from pipelines.lineage.trace import Use
    from pipelines.settings import Settings

_Json = Annotated[bool, typer.Option("--json", help="For scripts.")]
_VERSION_NEEDED = "name a MODEL, or ask back with --table or --feature"


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(lineage)
    app.command()(reproduce)
    app.command("in-use")(in_use)
    app.command()(report)


def lineage(
    model: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL]", help="Name in the registry: the model's, or MODEL-SOURCE."),
    ] = None,
    version: Annotated[
        str | None, typer.Argument(metavar="[VERSION]", help="Default: the one in production.")
    ] = None,
    table: Annotated[
        str | None,
        typer.Option(
            help="Which versions used these rows? A table and its version: raw/simulated/telemetry@12."
        ),
    ] = None,
    feature: Annotated[
        str | None, typer.Option(help="Which versions take this feature? A name, or a pattern as 'cpu_*'.")
    ] = None,
    json: _Json = False,
) -> None:
    """Where a version came from: data, features, code, parameters; or, backwards, what came of a table or a feature."""
    settings = _settings()
    if sum(given is not None for given in (model, table, feature)) != 1:
        raise typer.BadParameter(_VERSION_NEEDED)
    if model is not None:
        found = _find(model, version, settings)
        if json:
            _print_json(found.model_dump(mode="json"))
        else:
            _show_lineage(found)
        return
    uses = _uses(table, feature, settings)
    if json:
        _print_json([use.model_dump(mode="json") for use in uses])
    else:
        _show_uses(uses, f"feature {feature}" if table is None else table)


def reproduce(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name in the registry.")],
    version: str,
    rebuild: Annotated[
        bool, typer.Option(help="Build the training set again even where the stored one is there.")
    ] = False,
    json: _Json = False,
) -> None:
    """Train a version again from its lineage; are its predictions the same? Exit code 1 if they are not."""
    from headrace.display import messages
    from pipelines.lineage.reproduce import Sameness
    from pipelines.lineage.reproduce import reproduce as again

    with messages().status("") as shown:
        found = again(
            model,
            version,
            _settings(),
            lambda step: shown.update(f"Reproducing {model} version {version}: {step} …"),
            rebuild=rebuild,
        )
    if json:
        _print_json(found.model_dump(mode="json"))
    else:
        _show_reproduction(found)
    if found.sameness is Sameness.DIFFERENT:
        raise typer.Exit(Exit.FAILED)


def in_use(
    protect: Annotated[
        bool,
        typer.Option(
            help="Bring back runs in use that were deleted in MLflow, before `mlflow gc` takes them."
        ),
    ] = False,
    json: _Json = False,
) -> None:
    """Versions that aliases name or that wait, and the runs, snapshots and tables that must be kept for them."""
    from pipelines.lineage import in_use as job

    settings = _settings()
    endangered = job.protect(settings) if protect else ()
    found = job.in_use(settings)
    if json:
        _print_json(
            {
                "versions": [each.model_dump(mode="json") for each in found.versions],
                "runs": sorted(found.runs),
                "snapshots": sorted(found.snapshots),
                "tables": {table: sorted(versions) for table, versions in found.tables.items()},
                "endangered": [each.model_dump(mode="json") for each in endangered],
            }
        )
    else:
        _show_in_use(found, endangered)
    if any(not each.restored for each in endangered):
        raise typer.Exit(Exit.FAILED)


def report(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name in the registry.")],
    version: Annotated[
        str | None, typer.Argument(metavar="[VERSION]", help="Default: the one in production.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Save the page here; it can be read offline.")] = None,
) -> None:
    """Where the gate's report on a version is; with --out, the page itself."""
    from headrace.display import messages, output
    from pipelines.evaluate.report import fetch

    settings = _settings()
    found = fetch(model, version or _in_production(model, settings), settings, page=out is not None)
    if out is None:
        output().print(found.url, markup=False, soft_wrap=True)
        return
    out.write_text(found.page, "utf-8")
    messages().print(f"The report on version {found.version} of {model} is in {out}", markup=False)


def _find(model: str, version: str | None, settings: Settings) -> Lineage:
    from pipelines.adapters.lake import Lake
    from pipelines.lineage import record

    return record.find(Lake.of(settings), model, version or _in_production(model, settings))


def _in_production(model: str, settings: Settings) -> str:
    from pipelines.adapters.registry import ALIAS_PRODUCTION, Registry

    with Registry(settings.tracking) as registry:
        serving = registry.alias_version(model, ALIAS_PRODUCTION)
    if serving is None:
        raise typer.BadParameter(f"no version of {model} is in production: name one", param_hint="VERSION")
    return serving.version


def _uses(table: str | None, feature: str | None, settings: Settings) -> tuple[Use, ...]:
    from pipelines.adapters.lake import Lake
    from pipelines.lineage import record, trace

    records = record.read(Lake.of(settings))
    if table is None:
        return trace.using_feature(records, str(feature))
    return trace.using_table(records, *trace.parse_table(table), settings)


def _show_lineage(found: Lineage) -> None:
    from rich.table import Table

    from headrace.display import output

    training = found.training
    rows: list[tuple[str, str]] = [
        ("trained at", f"{training.trained_at:%Y-%m-%d %H:%M:%S} UTC"),
        ("snapshot", f"{training.snapshot.sha256}\n{training.snapshot.url}"),
        ("rows", ", ".join(f"{count} {part}" for part, count in training.snapshot.rows.items())),
        ("source, window", f"{training.snapshot.source}, {training.window}"),
        (
            "tables",
            "\n".join(f"{path}@{number}" for path, number in training.tables.items()) or "not recorded",
        ),
        ("inputs", _inputs(training.features)),
        ("parameters", "\n".join(f"{name} = {value}" for name, value in training.params.items())),
        ("seed", str(training.seed)),
        ("code", training.code.named()),
        ("sources", training.code.source_sha256),
        (
            "lock files",
            "\n".join(f"{name}  {digest[:16]}" for name, digest in training.code.locks.items()) or "none",
        ),
        (
            "environment",
            f"Python {training.environment.python}, {len(training.environment.packages)} packages",
        ),
        ("run", training.run_id),
        ("study", training.study),
    ]
    if training.dag_run:
        rows.append(("DAG run", f"{training.dag_run.dag_id}, {training.dag_run.run_id}"))
    table = Table(box=None, padding=(0, 2), show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, value)
    output().print(f"{found.registered_name} version {found.version}", style="bold", highlight=False)
    output().print(table, highlight=False)


def _inputs(features: dict[str, str]) -> str:
    by_view: dict[str, int] = {}
    for view in features.values():
        by_view[view or "given by the caller"] = by_view.get(view or "given by the caller", 0) + 1
    return "\n".join(f"{count} of {view}" for view, count in by_view.items()) + "\n(all names: --json)"


def _show_uses(uses: tuple[Use, ...], what: str) -> None:
    from rich.table import Table

    from headrace.display import output

    if not uses:
        output().print(f"No registered version used {what}.", markup=False)
        return
    table = Table("model", "version", "how", box=None, padding=(0, 2))
    for use in uses:
        table.add_row(use.registered_name, use.version, use.how)
    output().print(table)


def _show_reproduction(found: Reproduction) -> None:
    from rich.table import Table

    from headrace.display import output

    table = Table("output", "largest difference", "rows that differ", box=None, padding=(0, 2))
    for each in found.outputs:
        table.add_row(each.output, f"{each.largest:.3g}", f"{each.differing} of {found.rows}")
    console = output()
    console.print(
        f"{found.registered_name} version {found.version}: predictions are [bold]{found.sameness.value}[/bold] on "
        f"{found.rows} rows (tolerance {found.tolerance:g})"
    )
    console.print(table)
    same = "the same rows" if found.snapshot_identical else "OTHER ROWS"
    console.print(f"Training set: {found.snapshot}, {same}.", markup=False)
    for names, word in (
        (found.same_files, "the same, byte by byte"),
        (found.other_files, "not the same bytes"),
    ):
        if names:
            console.print(f"Model files: {', '.join(names)}: {word}.", markup=False)
    for line in (*found.code, *found.environment):
        console.print(f"  differs: {line}", markup=False)
    if not found.code and not found.environment:
        console.print("Code, lock files and environment are those of then.")


def _show_in_use(found: InUse, endangered: tuple[Endangered, ...]) -> None:
    from rich.table import Table

    from headrace.display import messages, output

    table = Table("model", "version", "why", "run", "snapshot", box=None, padding=(0, 2))
    for each in found.versions:
        digest = (each.snapshot_url or "no lineage").rsplit("/", 2)
        snapshot = digest[-2][:12] if len(digest) == 3 else digest[-1]
        table.add_row(
            each.registered_name, each.version, ", ".join(each.why), (each.run_id or "none")[:12], snapshot
        )
    output().print(table if found.versions else "No version is in use.")
    for path, versions in found.tables.items():
        output().print(f"{path}: versions {', '.join(map(str, sorted(versions)))}", style="dim", markup=False)
    for lost in endangered:
        word = "restored" if lost.restored else "NOT RESTORED"
        messages().print(
            f"{word}: {lost.what}, which version {lost.version} of {lost.registered_name} needs",
            style="yellow" if lost.restored else "red",
            markup=False,
        )


def _settings() -> Settings:
    from pipelines.settings import load_settings

    return load_settings()


def _print_json(content: Any) -> None:
    import json

    print(json.dumps(content, indent=2))
