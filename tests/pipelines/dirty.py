"""A small source of telemetry in CSV files, sound or broken, for tests of ingest and validate."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from pipelines.references import Window

HEADER = ("machine_id", "event_time", "cpu_percent", "sectors", "kind", "stored_at")
FIRST = datetime(2026, 1, 1, tzinfo=UTC)
Line = tuple[str, ...]


def days(first: int, last: int) -> Window:
    """From the first to the end of the last day of January 2026."""
    return Window(start=FIRST + timedelta(days=first - 1), end=FIRST + timedelta(days=last))


def line(day: int, row: int, **changes: str) -> Line:
    """The n-th row of a day; ``changes`` replace texts by column."""
    at = FIRST + timedelta(days=day - 1, minutes=5 * row)
    sound = {
        "machine_id": f"m{row % 3}",
        "event_time": at.isoformat(),
        "cpu_percent": str(row % 100),
        "sectors": str(row),
        "kind": "ok",
        "stored_at": at.isoformat(),
    }
    return tuple((sound | changes)[name] for name in HEADER)


def day(number: int, rows: int = 40) -> list[Line]:
    return [line(number, row) for row in range(rows)]


def write_source(folder: Path, lines: Iterable[Line], **limits: Any) -> str:
    """Write ``telemetry.csv`` and its profile; returns the profile's path."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n".join(",".join(each) for each in (HEADER, *lines)) + "\n"
    (folder / "telemetry.csv").write_text(text)
    profile = {
        "name": "files",
        "description": "x",
        "origin": {
            "kind": "files",
            "tables": {"telemetry": [{"url": "telemetry.csv", "arrived": {"column": "stored_at"}}]},
        },
        "datasets": [
            {
                "name": "telemetry",
                "kind": "telemetry",
                "description": "x",
                "key": ["machine_id", "event_time"],
                "limits": limits,
                "columns": [
                    {"name": "machine_id", "type": "string", "role": "entity"},
                    {"name": "event_time", "type": "timestamp", "role": "event_time"},
                    {
                        "name": "cpu_percent",
                        "type": "float",
                        "role": "gauge",
                        "unit": "percent",
                        "minimum": 0,
                        "maximum": 100,
                        "nullable": True,
                    },
                    {"name": "sectors", "type": "integer", "role": "counter", "minimum": 0, "nullable": True},
                    {"name": "kind", "type": "string", "role": "category", "allowed": ["ok", "slow"]},
                ],
            }
        ],
    }
    path = folder / "files.yaml"
    path.write_text(yaml.safe_dump(profile))
    return str(path)
