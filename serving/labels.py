"""Labels that callers send: held against the model's targets, and kept on the disk before they are acknowledged."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING, Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from models.specs import Classification
from pipelines.adapters.label_spool import LabelSpool, SpoolFullError
from pipelines.adapters.spool.ids import IdSource
from pipelines.errors import InvalidRequestError
from pipelines.settings import Settings
from serving.errors import BusyError, ModelNotFoundError, TooLargeError
from serving.validation import shown
from serving.versions import LoadedVersion

if TYPE_CHECKING:
    from models.specs import ModelSpec
    from serving.schemas import Label, LabelsRequest


class LabelBook:
    """Takes labels for the versions that a server has loaded. Safe to call from several threads."""

    def __init__(self, spool: LabelSpool, default_source: str, max_rows: int) -> None:
        self._spool = spool
        self._default_source = default_source
        self._max_rows = max_rows
        self._ids = IdSource()
        self._lock = Lock()
        self._taken: dict[str, int] = {}
        self._refused: dict[str, int] = {}

    @classmethod
    def of(cls, settings: Settings) -> LabelBook:
        return cls(LabelSpool.of(settings), settings.source, settings.serving_max_rows)

    def take(self, version: LoadedVersion, request: LabelsRequest, now: datetime) -> str:
        """Keep the labels of a request, all of them or none.

        Returns:
            Name of the request in the spool.

        Raises:
            InvalidRequestError: a label does not fit the model; its field is named.
            TooLargeError: there are too many.
            BusyError: the spool is full; the same request may be sent again later.
        """
        try:
            if len(request.labels) > self._max_rows:
                raise TooLargeError(
                    f"{len(request.labels)} labels; at most {self._max_rows} are taken at once"
                )
            spec = _spec_of(version, self._default_source)
            rows = [_row(label, place, spec, now) for place, label in enumerate(request.labels)]
            name = self._ids.take()[0]
            try:
                self._spool.keep(version.name, rows, name, now)
            except SpoolFullError as error:
                raise BusyError(str(error)) from error
        except Exception:
            self._count(self._refused, version.name, len(request.labels))
            raise
        self._count(self._taken, version.name, len(rows))
        return name

    def collect(self) -> Iterator[Metric]:
        """For Prometheus."""
        with self._lock:
            taken, refused = dict(self._taken), dict(self._refused)
        rows = CounterMetricFamily(
            "headrace_label_rows", "Labels that callers sent, taken or refused.", labels=("model", "outcome")
        )
        for outcome, counts in (("taken", taken), ("refused", refused)):
            for model, count in counts.items():
                rows.add_metric((model, outcome), count)
        yield rows
        files, size = self._spool.size()
        yield GaugeMetricFamily(
            "headrace_label_spool_files", "Requests with labels that wait to be shipped.", value=files
        )
        yield GaugeMetricFamily("headrace_label_spool_bytes", "Their size.", value=size)

    def _count(self, counts: dict[str, int], model: str, rows: int) -> None:
        with self._lock:
            counts[model] = counts.get(model, 0) + rows


def _spec_of(version: LoadedVersion, default_source: str) -> ModelSpec:
    manifest = version.predictor.manifest
    return _spec(manifest.model, manifest.lineage.get("source", default_source))


@lru_cache(maxsize=64)
def _spec(model: str, source: str) -> ModelSpec:
    from models.catalogue import find
    from pipelines.sources.profile import load_profile

    try:
        spec = find(model)
    except KeyError as error:
        raise ModelNotFoundError(
            f"{model} is no model of this server's catalogue, so what its labels mean is not known"
        ) from error
    return load_profile(source).spec_of(spec)


def _row(label: Label, place: int, spec: ModelSpec, now: datetime) -> dict[str, Any]:
    targets = spec.target.names
    at = f"labels.{place}"
    if label.target is None and len(targets) > 1:
        raise InvalidRequestError(
            f"{at}.target: is missing; {spec.name} has several: {', '.join(targets)}", f"{at}.target"
        )
    if label.target is not None and label.target not in targets:
        raise InvalidRequestError(
            f"{at}.target: {spec.name} has no target {shown(label.target)}; it has {', '.join(targets)}",
            f"{at}.target",
        )
    if isinstance(spec.task, Classification) and label.value not in {0.0, 1.0}:
        raise InvalidRequestError(
            f"{at}.value: {label.value:g}; what {spec.name} predicts happens (1) or does not (0)",
            f"{at}.value",
        )
    if label.labelled_at is not None and label.labelled_at > now:
        # The newest word counts: one from the future could not be corrected any more.
        raise InvalidRequestError(
            f"{at}.labelled_at: {label.labelled_at.isoformat()} lies in the future", f"{at}.labelled_at"
        )
    return {
        "prediction_id": label.prediction_id,
        "entity": label.entity,
        "event_time": label.event_time,
        "target": label.target or targets[0],
        "value": label.value,
        "labelled_at": label.labelled_at or now,
    }
