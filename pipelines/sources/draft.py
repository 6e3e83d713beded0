"""A first source profile for a file, as YAML for a person to read and change."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path

from pipelines.sources.guess import Found, Known, look

_SPOKEN = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}


def draft(path: Path, url: str = "") -> str:
    """The profile's text, named after the file.

    Args:
        url: How the profile is to name the file, relative to itself; default is its path.

    Raises:
        SourceError: the file cannot be read, or has no column of times, or no numbers.
    """
    name = re.sub(r"[^a-z0-9]+", "_", path.stem.lower()).strip("_")
    name = name if re.match(r"[a-z]", name) else f"source_{name}"
    return _text(name, path.name, url or str(path), look(path))


def _text(name: str, file: str, url: str, found: Found) -> str:
    machine, time = found.of_role("entity")[0], found.of_role("event_time")[0]
    start = found.first.replace(hour=0, minute=0, second=0, microsecond=0)
    end = found.last.replace(hour=0, minute=0, second=0, microsecond=0)
    end += timedelta(days=1)  # windows are half open, and the last row belongs to one
    counts = f", counts: {found.counts}" if found.counts else ""
    theirs = (
        [f"          event_time: {{column: {_quoted(time.theirs)}{counts}}}"]
        if (time.theirs, counts) != ("event_time", "")
        else []
    )
    if not machine.theirs:
        theirs.append(f"          {machine.ours}: {{constant: {name}}}  # no column tells machines apart")
    elif machine.theirs != machine.ours:
        theirs.append(f"          {machine.ours}: {{column: {_quoted(machine.theirs)}}}")
    measured = found.of_role("gauge", "counter")
    theirs += [
        f"          {each.ours}: {{column: {_quoted(each.theirs)}}}"
        for each in measured
        if each.theirs != each.ours
    ]
    mapping = ["        columns:  # ours: theirs", *theirs] if theirs else []
    lines = [
        f"# Drafted from {file}. Read every line: what a column means cannot be seen from its values alone.",
        "# What may stand here: docs/add-a-source.md. Whether it holds: headrace source check THIS_FILE",
        f"name: {name}",
        f"description: Telemetry from {file}.",
        "# The days that the file holds. Files that grow: take window_end out, and set the three schedules (cron, UTC).",
        f"window_start: {start:%Y-%m-%dT%H:%M:%SZ}",
        f"window_end: {end:%Y-%m-%dT%H:%M:%SZ}",
        "origin:",
        "  kind: files",
        "  tables:",
        "    telemetry:",
        f"      - url: {_quoted(url)}  # relative to this profile; may be a glob, or s3://…",
        *mapping,
        "default_grid: recent",
        "features:",
        *_grids(found.step),
        "features_schedule: null",
        *_models(found),
        "datasets:",
        "  - name: telemetry",
        "    kind: telemetry",
        f"    description: Samples each {_words_of(found.step)}.",
        f"    key: [{machine.ours}, event_time]",
        "    schedule: null",
        "    columns:",
        f"      - {{name: {machine.ours}, type: string, role: entity, description: Whom the row is about.}}",
        "      - {name: event_time, type: timestamp, role: event_time, description: When it was measured.}",
        *(f"      - {_column(each)}" for each in measured),
    ]
    return "\n".join(lines) + "\n"


def _grids(step: timedelta) -> list[str]:
    """The two grids that models of the catalogue ask for by name and that fit any telemetry."""
    hour = max(timedelta(hours=1), step * 4)
    steps = "[1, 3, 6, 12]"
    return [
        f"  # Each sample with the {_words_of(step * 12)} before it: for what comes next (bandwidth, scaling).",
        f"  recent: {{every: {_iso(step)}, windows: [{_iso(hour)}], ttl: {_iso(2 * hour)}, families: [basic, calendar], lags: 12, differences: {steps}}}",
        "  # A longer look, less often (failure, performance).",
        f"  hourly: {{every: {_iso(hour)}, windows: [{_iso(3 * hour)}, {_iso(24 * hour)}], ttl: {_iso(6 * hour)}}}",
    ]


def _models(found: Found) -> list[str]:
    """What the catalogue's models must be told of this file; more may be changed for a source."""
    ours = [each.ours for each in found.of_role("gauge", "counter")]
    # A counter's own value is nothing to foretell.
    network = [each.ours for each in found.of_role("gauge") if each.ours.startswith("network_")]
    step = found.step
    lines = []
    there = [head for head in ("cpu_", "memory_", "disk_") if any(name.startswith(head) for name in ours)]
    # Traffic is foretold from what CPU and memory did; disks help where there are any.
    if network and there[:2] == ["cpu_", "memory_"]:
        takes = [f"{head}*__lag_*" for head in there]
        lines += [
            "  bandwidth:",
            f"    target: {{columns: [{', '.join(network)}], ahead: {_iso(3 * step)}, width: {_iso(step)}}}",
            f"    inputs: [{', '.join(_quoted(each) for each in [*takes, 'network_*__lag_*', 'network_*__mean_*', 'network_*__std_*'])}]",
            f"    observe_every: {_iso(max(6 * step, timedelta(minutes=30)))}",
            "    schedule: null",
        ]
    if "requests_per_second" in ours:
        lines += [
            "  scaling:",
            f"    target: {{ahead: {_iso(2 * step)}, width: {_iso(step)}}}",
            "    schedule: null",
        ]
    return ["models:", *lines] if lines else []


def _column(each: Known) -> str:
    limits = (
        "minimum: 0, maximum: 100, " if each.unit == "percent" else "minimum: 0, " if each.lowest >= 0 else ""
    )
    seen = f"mostly {each.lowest:.4g} to {each.highest:.4g}"
    unit = f"unit: {each.unit}, " if each.unit else ""
    about = _quoted(f"{each.theirs}, {seen}.")
    return f"{{name: {each.ours}, type: {each.type}, role: {each.role}, {unit}{limits}nullable: true, description: {about}}}"


def _iso(duration: timedelta) -> str:
    minutes = int(duration.total_seconds() // 60)
    days, rest = divmod(minutes, 1440)
    if days and not rest:
        return f"P{days}D"
    return f"PT{minutes // 60}H" if minutes % 60 == 0 else f"PT{minutes}M"


def _words_of(duration: timedelta) -> str:
    minutes = int(duration.total_seconds() // 60)
    return f"{minutes // 60} h" if minutes % 60 == 0 else f"{minutes} min"


def _quoted(text: str) -> str:
    """A YAML scalar: plain where that is safe."""
    return (
        text
        if re.fullmatch(r"[A-Za-z_./][\w./-]*", text) and text.lower() not in _SPOKEN
        else json.dumps(text, ensure_ascii=not text.isprintable())
    )
