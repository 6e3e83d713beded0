"""The reference of what runs: DAGs, metrics, and the server's doors."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docs.site.reference import FROM_CODE, table

if TYPE_CHECKING:
    from serving.app import Server

ROOT = Path(__file__).parents[2]
#: What a name of a metric begins with.
METRIC = re.compile(r"headrace_[a-z0-9_]+")
_ENDINGS = {"counter": "_total", "histogram": "", "gauge": ""}


def dags_page() -> str:
    """Each DAG of the embedded default with its manual, its parameters and its tasks, by kind."""
    parts = [
        "# DAGs",
        "As they are on the embedded default; a source of your own has an `ingest_<dataset>` for each of its data sets, and "
        "`features_<source>`. The manual below is what Airflow shows under *Docs* of the DAG. Where DAGs differ by model or "
        "data set alone, one is shown in full.",
        FROM_CODE,
    ]
    for kind, dags in _kinds().items():
        first = dags[0]
        params = [
            (
                f"`{name}`",
                _param_type(param),
                "" if param.value is None else f"`{param.value}`",
                param.description or "",
            )
            for name, param in ((name, first.params.get_param(name)) for name in first.params)
        ]
        listed = [(f"`{dag.dag_id}`", dag.description or "", _schedule(dag)) for dag in dags]
        parts += [f"## {kind}", table(("DAG", "", "runs"), listed)]
        if len(dags) > 1:
            parts.append(f"The manual of `{first.dag_id}`:")
        # Headings of a manual are not those of this page.
        manual = re.sub(r"^#+ (.*)$", r"**\1**", (first.doc_md or "").strip(), flags=re.MULTILINE)
        parts += [manual, f"Tasks: {_tasks(first)}."]
        if params:
            parts.append(table(("parameter", "values", "default", ""), params))
    return "\n\n".join(parts)


def _kinds() -> dict[str, list[Any]]:
    """DAGs by what their names begin with."""
    from airflow.sdk import DAG

    found: dict[str, list[Any]] = {}
    for path in sorted((ROOT / "dags").glob("[a-z]*.py")):
        values = vars(import_module(f"dags.{path.stem}")).values()
        for dag in {value.dag_id: value for value in values if isinstance(value, DAG)}.values():
            head, _, rest = dag.dag_id.partition("_")
            found.setdefault(f"{head}_…" if rest else head, []).append(dag)
    return {kind: sorted(dags, key=lambda dag: str(dag.dag_id)) for kind, dags in found.items()}


def _schedule(dag: Any) -> str:
    cron = getattr(getattr(dag.timetable, "timetable", dag.timetable), "expression", None)
    assets = getattr(dag.timetable, "asset_condition", None)
    found = [f"`{cron}`"] if cron else []
    found += [f"on the asset `{asset.name}`" for asset in getattr(assets, "objects", [])]
    return ", ".join(found) or "when triggered"


def _tasks(dag: Any) -> str:
    return " → ".join(f"`{task.task_id}`" for task in dag.topological_sort() if hasattr(task, "task_id"))


def _param_type(param: Any) -> str:
    schema = param.schema
    kinds = schema.get("type", "any")
    names = [kind for kind in ([kinds] if isinstance(kinds, str) else kinds) if kind != "null"]
    return ", ".join(schema.get("format", name) for name in names)


def metrics_page() -> str:
    """What `/metrics` of the server shows, and what monitoring leaves for it."""
    rows = [
        (
            f"`{name}{_ENDINGS[kind]}`",
            "<br>".join([about, f"*{kind}* " + ", ".join(f"`{label}`" for label in labels)]),
        )
        for name, (kind, labels, about) in sorted(metrics().items())
    ]
    return "\n\n".join(
        [
            "# Metrics",
            "What Prometheus reads at `/metrics` of the server; beside these, the process's own (`process_…`). A histogram "
            "has `_bucket`, `_sum` and `_count`.",
            FROM_CODE,
            table(("metric", ""), rows),
        ]
    )


def metrics() -> dict[str, tuple[str, tuple[str, ...], str]]:
    """Kind, labels and meaning of each metric, by name."""
    from pipelines.monitor.gauges import _HELP

    found = {name: ("gauge", ("model", "version"), about) for name, about in _HELP.items()}
    # What only shows at times (several workers, a registry that was seen) is read from the source.
    found |= dict(_written())
    # Families and metrics keep their label names to themselves; a registry tells no more than values.
    for collector in list(_server().metrics.registry._collector_to_names):
        for family in [collector] if hasattr(collector, "_labelnames") else collector.collect():
            name = getattr(family, "name", None) or family._name
            about = getattr(family, "documentation", None) or family._documentation
            if METRIC.fullmatch(name):
                kind = getattr(family, "type", None) or family._type
                found[name] = (kind, tuple(family._labelnames), about)
    return found


def _written() -> Iterator[tuple[str, tuple[str, tuple[str, ...], str]]]:
    """Families whose name, meaning and labels are literals of the server's source."""
    for path in sorted((ROOT / "serving").rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and len(call.args) > 1):
                continue
            kind = re.fullmatch(r"(Counter|Gauge|Histogram)(MetricFamily)?", call.func.id)
            name, about, *more = call.args
            if kind and isinstance(name, ast.Constant) and METRIC.fullmatch(str(name.value)):
                labels = more[:1] + [each.value for each in call.keywords if each.arg == "labels"]
                there = labels[0].elts if labels and isinstance(labels[0], ast.Tuple) else []
                names = tuple(str(each.value) for each in there if isinstance(each, ast.Constant))
                yield str(name.value), (kind[1].lower(), names, str(ast.literal_eval(about)))


def api_page() -> str:
    """The server's doors: REST as its own description has them, and the methods of gRPC."""
    from serving.grpc.messages import SERVICE

    described = _description()
    parts = [
        "# API",
        'A running server shows the same at `/docs`, to try. Errors are `{"error": …, "field": …}`; what each status means: '
        "[serving](../serving.md#errors).",
        FROM_CODE,
        "## REST",
    ]
    rows = [
        (
            f"`{method.upper()} {path}`",
            operation.get("summary", ""),
            _body(operation),
            ", ".join(operation["responses"]),
        )
        for path, methods in sorted(described["paths"].items())
        for method, operation in methods.items()
    ]
    parts.append(table(("", "", "body", "answers with"), rows))
    parts += ["## gRPC", f"Service `{SERVICE}`, with reflection and `grpc.health.v1`."]
    parts.append(table(("method", "request", "response"), _methods()))
    parts.append("## Bodies")
    for name, schema in sorted(described["components"]["schemas"].items()):
        required = schema.get("required", ())
        fields = [
            (f"`{field}`", _schema(about), "yes" if field in required else "", about.get("description", ""))
            for field, about in schema.get("properties", {}).items()
        ]
        parts += [
            f"### {name}",
            schema.get("description", ""),
            table(("field", "values", "needed", ""), fields),
        ]
    return "\n\n".join(part for part in parts if part)


def _body(operation: dict[str, Any]) -> str:
    names = []
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        schema = content.get("schema", {})
        names.append(_schema(schema) if "$ref" in schema else f"`{kind}`")
    return ", ".join(dict.fromkeys(names))


def _schema(schema: dict[str, Any]) -> str:
    """A JSON Schema in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if options := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(_schema(each) for each in options if each.get("type") != "null"))
    if schema.get("type") == "array":
        return f"list of {_schema(schema.get('items', {}))}"
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    return str(schema.get("type", "any"))


def _methods() -> Iterator[tuple[str, str, str]]:
    from serving.grpc.messages import METHODS, REQUESTS, RESPONSES

    for name in METHODS:
        sent, answered = (
            ", ".join(f"`{field.name}`" for field in kinds[name].DESCRIPTOR.fields)
            for kinds in (REQUESTS, RESPONSES)
        )
        yield f"`{name}`", sent, answered


@cache
def _server() -> Server:
    """The server put together and not started."""
    from pipelines.adapters.registry import Registry
    from pipelines.settings import load_settings
    from serving.app import create_app

    settings = load_settings()
    return create_app(settings, Registry(settings.tracking))


def _description() -> dict[str, Any]:
    from starlette.testclient import TestClient

    # No context: it would start the server.
    return dict(TestClient(_server()).get("/openapi.json").json())
