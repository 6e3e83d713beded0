"""Figures of all processes of one server, shown by whichever of them is asked.

Each process writes its own to a file, once a second and whenever it is asked, and shows the sum of all
files. What a process counted stays when it is gone, or the sums would fall, which Prometheus takes for a
restart; its gauges go with it. (The client library's own way for several processes keeps every
counter in a mapped file, and knows nothing of collectors that read at the time of the scrape.)
"""

from __future__ import annotations

import json
import logging
import operator
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from threading import Lock
from typing import Any

from prometheus_client.core import Metric
from prometheus_client.samples import Sample

_GONE = "gone.json"
_SUFFIX = ".shard.json"
_COUNTED = frozenset({"counter", "histogram", "summary"})
_SUMMED = frozenset(
    {
        "headrace_requests_in_flight",
        "headrace_requests_waiting",
        "headrace_prediction_log_queued_bytes",
        "headrace_trial_mirror_queued_bytes",
        "process_virtual_memory_bytes",
        "process_resident_memory_bytes",
        "process_open_fds",
        "headrace_workers",
    }
)
_LEAST = frozenset({"headrace_registry_up", "process_start_time_seconds", "process_max_fds"})

Families = dict[str, dict[str, Any]]

log = logging.getLogger(__name__)


class Shards:
    """The files of one server.

    Args:
        folder: For this run of the server only.
        name: Of this process, without a dot; never used again in this run.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._path = folder / f"{name}{_SUFFIX}"
        self._writing = Lock()

    @property
    def path(self) -> Path:
        """This process's own file; its age is that of the last figures."""
        return self._path

    def write(self, metrics: Iterable[Metric]) -> None:
        """Replace this process's figures. A reader sees the old ones or the new ones.

        Args:
            metrics: Collected one by one, so that of two threads the later does not write older figures.
        """
        with self._writing:
            _replace(self._path, {"families": _families(metrics)})

    def collect(self) -> Iterator[Metric]:
        """All figures, put together: counts are added up; of gauges see the tables above."""
        gone = _read(self._folder / _GONE) or {"names": [], "families": {}}
        merged: Families = {}
        _merge(merged, gone["families"])
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            # One that was just buried may lie there still.
            if path.name not in gone["names"] and (found := _read(path)) is not None:
                _merge(merged, found["families"])
        for name, family in merged.items():
            metric = Metric(name, family["help"], family["type"])
            metric.samples = [
                Sample(sample, dict(labels), value) for (sample, labels), value in family["samples"].items()
            ]
            yield metric

    def bury(self) -> None:
        """Keep what this process counted, now that it is gone. Only the parent of all calls this."""
        gone = _read(self._folder / _GONE) or {"names": [], "families": {}}
        found = _read(self._path)
        if found is None or self._path.name in gone["names"]:
            return
        merged: Families = {}
        _merge(merged, gone["families"])
        _merge(
            merged,
            {name: family for name, family in found["families"].items() if family["type"] in _COUNTED},
        )
        # The name first, then the file: whoever reads between the two counts it once.
        _replace(
            self._folder / _GONE,
            {"names": [*gone["names"][-100:], self._path.name], "families": _listed(merged)},
        )
        self._path.unlink(missing_ok=True)


def _families(metrics: Iterable[Metric]) -> dict[str, Any]:
    families: Families = {}
    for metric in metrics:
        family = families.setdefault(
            metric.name, {"help": metric.documentation, "type": metric.type, "samples": {}}
        )
        for sample in metric.samples:
            family["samples"][sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    return _listed(families)


def _listed(families: Families) -> dict[str, Any]:
    """As JSON has it."""
    return {
        name: family
        | {"samples": [[sample, labels, value] for (sample, labels), value in family["samples"].items()]}
        for name, family in families.items()
    }


def _merge(into: Families, families: dict[str, Any]) -> None:
    for name, family in families.items():
        kept = into.setdefault(name, {"help": family["help"], "type": family["type"], "samples": {}})
        together = _how(name, family["type"])
        samples = kept["samples"]
        for sample, labels, value in family["samples"]:
            key = (sample, tuple((label, text) for label, text in labels))
            before = samples.get(key)
            if before is None:
                samples[key] = value
            else:
                samples[key] = min(before, value) if sample.endswith("_created") else together(before, value)


def _how(name: str, kind: str) -> Any:
    if kind in _COUNTED or name in _SUMMED:
        return operator.add
    return min if name in _LEAST else max


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.error("cannot read the figures in %s: %s", path, error)
        return None
    return content


def _replace(path: Path, content: dict[str, Any]) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(json.dumps(content), "utf-8")
    part.replace(path)
