"""Grafana's dashboards as code: ``python infra/grafana/build.py`` writes the JSON files beside this one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
_SOURCE = {"type": "prometheus", "uid": "headrace-prometheus"}
_WIDTH = 24  # of Grafana's grid


@dataclass(frozen=True)
class Panel:
    """One panel: queries by their legends.

    Attributes:
        kind: Grafana's type of panel.
        unit: Grafana's name of it: s, reqps, percentunit, short, bytes, dateTimeFromNow.
        wide: Columns of 24 that it takes.
    """

    title: str
    queries: dict[str, str]
    about: str = ""
    kind: str = "timeseries"
    unit: str = "short"
    wide: int = 12


def _latency(quantile: float) -> str:
    rate = 'rate(headrace_request_seconds_bucket{model=~"$model"}[$__rate_interval])'
    return f"histogram_quantile({quantile}, sum by (model, le) ({rate}))"


SERVING = (
    Panel(
        "Answers with",
        {"{{model}} {{alias}}: version {{version}}": 'headrace_model_info{model=~"$model"}'},
        "Which version answers, by replica.",
        kind="table",
    ),
    Panel(
        "Behind the alias",
        {"{{model}} {{alias}} {{instance}}": 'headrace_alias_behind_seconds{model=~"$model"}'},
        "How long another version than the alias names has been answering.",
        unit="s",
    ),
    Panel(
        "Requests",
        {
            "{{model}} {{version}}": 'sum by (model, version) (rate(headrace_requests_total{model=~"$model"}[$__rate_interval]))'
        },
        unit="reqps",
    ),
    Panel(
        "Errors",
        {
            "{{model}} {{kind}}": 'sum by (model, kind) (rate(headrace_errors_total{model=~"$model"}[$__rate_interval]))',
            "all that failed": 'sum(rate(headrace_requests_total{code=~"5.."}[$__rate_interval]))',
        },
        "Refused requests too; only codes of 500 and above are the server's own.",
        unit="reqps",
    ),
    Panel(
        "Latency",
        {"p50 {{model}}": _latency(0.5), "p95 {{model}}": _latency(0.95), "p99 {{model}}": _latency(0.99)},
        unit="s",
    ),
    Panel(
        "Queues",
        {
            "in flight, {{transport}}": "sum by (transport) (headrace_requests_in_flight)",
            "waiting for a thread, {{transport}}": "sum by (transport) (headrace_requests_waiting)",
        },
    ),
    Panel(
        "Features looked up",
        {
            "p99 {{outcome}}": "histogram_quantile(0.99, sum by (outcome, le) "
            "(rate(headrace_feature_lookup_seconds_bucket[$__rate_interval])))"
        },
        "In the online store.",
        unit="s",
    ),
    Panel(
        "Prediction log",
        {
            "spool": "sum(headrace_prediction_log_spool_bytes)",
            "queued": "sum(headrace_prediction_log_queued_bytes)",
        },
        "What waits to reach the lake.",
        unit="bytes",
    ),
    Panel(
        "Registry",
        {"{{instance}}": "headrace_registry_up"},
        "1: MLflow answers.",
        wide=8,
    ),
    Panel(
        "Lost to the log",
        {
            "{{instance}}": "sum by (instance) (increase(headrace_prediction_log_dropped_rows_total[$__rate_interval]))"
        },
        wide=8,
    ),
    Panel(
        "Versions refused",
        {
            "{{model}} {{alias}}": "sum by (model, alias) (increase(headrace_load_failures_total[$__rate_interval]))"
        },
        "Named by an alias, and not served: download or verification failed.",
        wide=8,
    ),
)

MODELS = (
    Panel(
        "Drift score",
        {"{{model}} {{version}}": 'headrace_monitor_drift_score{model=~"$model"}'},
        "Share of the tested columns that drifted, weighted by importance.",
        unit="percentunit",
    ),
    Panel(
        "Drifted features",
        {
            "{{model}} all": 'headrace_monitor_drifted_columns{model=~"$model"}',
            "{{model}} important": 'headrace_monitor_important_drifted_columns{model=~"$model"}',
        },
    ),
    Panel(
        "Quality",
        {"{{model}} {{metric}} {{kind}}": 'headrace_monitor_quality{model=~"$model"}'},
        "Realised where labels came, estimated where they have not yet.",
    ),
    Panel(
        "What the last check found",
        {"{{model}}: {{cause}}": 'headrace_monitor_cause{model=~"$model"} == 1'},
        kind="table",
    ),
    Panel(
        "Freshness of features",
        {"{{model}}": 'time() - headrace_monitor_newest_row_timestamp_seconds{model=~"$model"}'},
        "Age of the newest row in the last checked window.",
        unit="s",
    ),
    Panel(
        "Freshness of checks",
        {"{{model}}": 'time() - headrace_monitor_check_timestamp_seconds{model=~"$model"}'},
        unit="s",
    ),
    Panel(
        "Pointer moves",
        {"{{model}} {{alias}} {{action}}": 'increase(headrace_pointer_moves_total{model=~"$model"}[1d])'},
        "Within a day, from the ledger.",
    ),
    Panel(
        "Open requests to train",
        {
            "{{model}}, {{state}}": 'time() - headrace_retrain_request_asked_timestamp_seconds{model=~"$model"}',
        },
        "Since when.",
        unit="s",
    ),
    Panel("Broken data", {"{{model}}": 'headrace_monitor_broken_findings{model=~"$model"}'}, wide=8),
    Panel(
        "Alarms", {"{{model}}": 'headrace_monitor_alarm{model=~"$model"}'}, "1: somebody should look.", wide=8
    ),
    Panel(
        "Airflow's queues",
        {"{{pool}} {{state}}": 'headrace_airflow_pool_slots{state=~"queued|running"}'},
        "Slots of pools; queued ones wait for a worker.",
        wide=8,
    ),
)


def dashboard(uid: str, title: str, metric: str, panels: tuple[Panel, ...]) -> dict[str, Any]:
    """Grafana's JSON model (schema 39).

    Args:
        metric: Whose label ``model`` gives the choices of the variable ``$model``.
    """
    choice = {
        "name": "model",
        "label": "Model",
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": f"label_values({metric}, model)", "refId": "models"},
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
        "refresh": 2,
    }
    return {
        "uid": uid,
        "title": title,
        "tags": ["headrace"],
        "schemaVersion": 39,
        "editable": False,
        "timezone": "utc",
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [choice]},
        "panels": _placed(panels),
    }


def _placed(panels: tuple[Panel, ...]) -> list[dict[str, Any]]:
    found, x, y = [], 0, 0
    for number, panel in enumerate(panels, start=1):
        if x + panel.wide > _WIDTH:
            x, y = 0, y + 8
        found.append(_panel(number, panel, x, y))
        x += panel.wide
    return found


def _panel(number: int, panel: Panel, x: int, y: int) -> dict[str, Any]:
    table = panel.kind == "table"
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": _SOURCE,
        "gridPos": {"x": x, "y": y, "w": panel.wide, "h": 8},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {}
        if table
        else {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {
                "refId": chr(ord("A") + place),
                "datasource": _SOURCE,
                "expr": query,
                "legendFormat": legend,
                "instant": table,
                "format": "table" if table else "time_series",
            }
            for place, (legend, query) in enumerate(panel.queries.items())
        ],
    }


DASHBOARDS = {
    "serving.json": dashboard("headrace-serving", "Headrace: the server", "headrace_requests_total", SERVING),
    "models.json": dashboard(
        "headrace-models",
        "Headrace: models and the pipeline",
        "headrace_monitor_check_timestamp_seconds",
        MODELS,
    ),
}


def main() -> None:
    for name, content in DASHBOARDS.items():
        (HERE / name).write_text(json.dumps(content, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
