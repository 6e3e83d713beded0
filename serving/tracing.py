"""Traces by OpenTelemetry, where they are configured. Without, nothing of it is imported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipelines.errors import SettingsError
from pipelines.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span

_SERVICE = "headrace-serving"


class Tracer:
    """Makes spans and sends them, off the requests' path.

    A request's span goes on with the trace of its caller (W3C ``traceparent``), and is sampled where that
    is; otherwise by the ratio.

    Args:
        exporter: Takes finished spans.
        ratio: Share of traces that begin here and are kept.
    """

    def __init__(self, exporter: SpanExporter, ratio: float, replica: str) -> None:
        from opentelemetry.propagate import extract
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
        from opentelemetry.trace import SpanKind, StatusCode

        self._extract, self._kind, self._error = extract, SpanKind.SERVER, StatusCode.ERROR
        resource = Resource.create({"service.name": _SERVICE, "service.instance.id": replica})
        self._provider = TracerProvider(sampler=ParentBasedTraceIdRatio(ratio), resource=resource)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer(_SERVICE)

    @classmethod
    def of(cls, settings: Settings) -> Tracer | None:
        """By the settings; None where they name no address. Call it in the process that serves: it starts a thread.

        Raises:
            SettingsError: the extra ``otel`` is not installed.
        """
        if not settings.serving_traces_url:
            return None
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        except ImportError as error:
            raise SettingsError(
                f"HEADRACE_SERVING_TRACES_URL is set, but {error.name} is not installed: pip install 'headrace[otel]'"
            ) from error
        exporter = OTLPSpanExporter(endpoint=settings.serving_traces_url)
        return cls(exporter, settings.serving_traces_ratio, settings.replica)

    @contextmanager
    def request(
        self, name: str, carrier: Mapping[str, str], attributes: Mapping[str, str | int]
    ) -> Iterator[Span]:
        """The span of one request; spans that are begun inside are its children.

        Args:
            carrier: Headers or metadata by lower-case name.
        """
        # What a client did wrong is no failure of ours: who knows says so by `failed`.
        with self._tracer.start_as_current_span(
            name,
            self._extract(carrier),
            kind=self._kind,
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            yield span

    @contextmanager
    def part(self, name: str, **attributes: Any) -> Iterator[None]:
        """A part of the request that is being answered."""
        with self._tracer.start_as_current_span(name, attributes=attributes):
            yield

    def failed(self, span: Span, about: str) -> None:
        """Mark a span as failed through the server's fault."""
        span.set_status(self._error, about)

    def stop(self) -> None:
        """Send what waits."""
        self._provider.shutdown()
