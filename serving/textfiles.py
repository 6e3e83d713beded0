"""Gauges that other programs of this machine leave in files, shown beside the server's own.

As the textfile collector of Prometheus' node exporter does it: whoever runs now and then, as monitor
does, cannot be scraped itself.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.core import Metric
from prometheus_client.parser import text_fd_to_metric_families

_SUFFIX = "*.prom"

log = logging.getLogger(__name__)


class TextFiles:
    """Reads the files of a folder at each scrape.

    Gauges only: of a server with several processes each reads the same files, and counts would be
    added up. A file that is no text format is left out and said in the log, once.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._told: set[Path] = set()

    def describe(self) -> Iterator[Metric]:
        """Nothing: what the files name is not known before."""
        yield from ()

    def collect(self) -> Iterator[Metric]:
        found: dict[str, Metric] = {}
        for path in sorted(self._folder.glob(_SUFFIX)):
            for family in self._read(path):
                if family.type not in {"gauge", "unknown"}:
                    self._tell(path, f"{family.name} is a {family.type}; gauges are wanted")
                elif family.name in found:
                    found[family.name].samples += family.samples
                else:
                    found[family.name] = family
        yield from found.values()

    def _read(self, path: Path) -> list[Metric]:
        try:
            with path.open(encoding="utf-8") as file:
                return list(text_fd_to_metric_families(file))
        except (OSError, ValueError) as error:
            self._tell(path, str(error))
            return []

    def _tell(self, path: Path, problem: str) -> None:
        if path not in self._told:
            self._told.add(path)
            log.warning("%s is not shown in the metrics: %s", path, problem)
