"""What can be seen of the server: metrics, lines of the log, request ids, traces."""

from __future__ import annotations

import io
import json
import logging
import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from pipelines.adapters.registry import Registry
from pipelines.settings import Settings
from serving import logs
from serving.app import Server, create_app
from serving.features import FeatureLookup
from serving.grpc.messages import REQUESTS, SERVICE
from serving.grpc.server import GrpcServer
from serving.metrics import ServingMetrics
from serving.shards import Shards

NOBODY = "http://127.0.0.1:9"
PATH = "/models/tiny/predict"
BODY = {"records": [{"cpu": 1, "cores": 1}]}


class Store(FeatureLookup):
    """One machine; whoever asks for another learns that there is none."""

    def online(self, source: str, entities: Any, at: datetime, grid: str | None = None) -> list[Any]:
        return [
            {"cpu": 1.0, "latency": None, "cores": 2, "zone": "a"} if name == "m-1" else None
            for name in entities
        ]


@dataclass
class Watched:
    app: Server
    http: TestClient
    grpc: grpc.Channel

    def metrics(self) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
        """Samples by name and labels; parsed, so what is shown must be in order."""
        found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
        families = list(text_string_to_metric_families(self.http.get("/metrics").text))
        assert len({family.name for family in families}) == len(families)
        for family in families:
            for sample in family.samples:
                found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
        return found

    def infer(self, content: bytes, **metadata: str) -> grpc.Call:
        call = self.grpc.unary_unary(f"/{SERVICE}/ModelInfer")
        try:
            return call.with_call(content, metadata=tuple(metadata.items()), timeout=10)[1]
        except grpc.RpcError as error:
            return error


@pytest.fixture
def start(
    settings: Settings, fill_cache: Callable[..., Path], wait_until: Callable[..., None]
) -> Iterator[Callable[..., Watched]]:
    opened: list[Any] = []

    def started(**given: Any) -> Watched:
        fill_cache(settings, {"production": "1"})
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        wanted = settings.model_copy(update={"serving_grpc_port": port} | given)
        app = create_app(wanted, Registry(NOBODY), Store())
        app.transports.append(
            GrpcServer(app.plane, app.repository, wanted, app.metrics, access=app.access, tracer=app.tracer)
        )
        http = TestClient(app, raise_server_exceptions=False)
        http.__enter__()
        opened.append(http)
        wait_until(lambda: http.get("/v2/health/ready").status_code == 200)
        channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        opened.append(channel)
        return Watched(app, http, channel)

    yield started
    for each in reversed(opened):
        each.close() if isinstance(each, grpc.Channel) else each.__exit__(None, None, None)


def tensors(**values: float) -> bytes:
    request = REQUESTS["ModelInfer"](model_name="tiny")
    for name, value in values.items():
        tensor = request.inputs.add(name=name, datatype="INT64" if name == "cores" else "FP64", shape=[1])
        kept = tensor.contents.int64_contents if name == "cores" else tensor.contents.fp64_contents
        kept.append(int(value) if name == "cores" else value)
    return request.SerializeToString()  # type: ignore[no-any-return]


def labels(**given: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(given.items()))


# Metrics


def test_both_transports_are_counted_alike(start: Callable[..., Watched]) -> None:
    server = start()
    three = {"records": [{"cpu": 1, "cores": 1}] * 3}
    assert server.http.post(PATH, json=BODY).status_code == 200
    assert server.http.post(PATH, json=three).status_code == 200
    assert server.http.post(PATH, json={"records": [{"cpu": "hot", "cores": 1}]}).status_code == 422
    assert server.http.post(PATH, content=b"{").status_code == 400
    assert server.http.post("/models/none/predict", json=BODY).status_code == 404
    assert server.infer(tensors(cpu=1, cores=1)).code() is grpc.StatusCode.OK
    assert server.infer(tensors(cpu=1000, cores=1)).code() is grpc.StatusCode.INVALID_ARGUMENT

    seen = server.metrics()
    requests, errors = seen["headrace_requests_total"], seen["headrace_errors_total"]
    of_rest = {"transport": "rest", "model": "tiny", "version": "1"}
    of_grpc = of_rest | {"transport": "grpc"}
    assert requests[labels(**of_rest, code="200")] == 2
    assert requests[labels(**of_rest, code="422")] == 1
    assert requests[labels(**of_grpc, code="200")] == 1
    assert requests[labels(**of_grpc, code="400")] == 1
    for transport, model, kind in (
        ("rest", "tiny", "invalid_request"),
        ("rest", "tiny", "malformed"),
        ("rest", "", "model_not_found"),
        ("grpc", "tiny", "invalid_request"),
    ):
        assert errors[labels(transport=transport, model=model, kind=kind)] == 1
    for named, latencies, batches in ((of_rest, 4, 2), (of_grpc, 2, 1)):
        assert seen["headrace_request_seconds_count"][labels(**named)] == latencies
        assert seen["headrace_batch_rows_count"][labels(**named)] == batches
    assert seen["headrace_batch_rows_sum"][labels(**of_rest)] == 4
    assert seen["headrace_batch_rows_bucket"][labels(**of_rest, le="1.0")] == 1
    assert seen["headrace_batch_rows_bucket"][labels(**of_rest, le="5.0")] == 2
    assert seen["headrace_predictions_total"][labels(**of_rest)] == 4
    for name in ("headrace_requests_in_flight", "headrace_requests_waiting"):
        assert seen[name] == {labels(transport="rest"): 0, labels(transport="grpc"): 0}


def test_looks_for_features_are_counted_by_outcome(start: Callable[..., Watched]) -> None:
    server = start()
    assert server.http.post(PATH, json={"entities": ["m-1"]}).status_code == 200
    assert server.http.post(PATH, json={"entities": ["m-2"]}).status_code == 404
    seen = server.metrics()["headrace_feature_lookup_seconds_count"]
    assert seen == {labels(outcome="found"): 1, labels(outcome="unknown"): 1}


def test_what_one_process_counted_stays_in_the_sum_when_it_is_gone(tmp_path: Path) -> None:
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

    def process(name: str, asked: int) -> Shards:
        registry = CollectorRegistry()
        Counter("asked", "Asked.", ("model",), registry=registry).labels("m").inc(asked)
        Histogram("took", "Took.", buckets=(1.0,), registry=registry).observe(asked)
        Gauge("headrace_requests_in_flight", "Now.", registry=registry).set(asked)
        Gauge("headrace_registry_up", "Up.", registry=registry).set(asked == 1)
        Gauge("headrace_alias_behind_seconds", "Lag.", registry=registry).set(asked)
        shards = Shards(tmp_path, name)
        shards.write(registry.collect())
        return shards

    one, two = process("one", 1), process("two", 5)

    def value(sample: str) -> float:
        text = generate_latest(one).decode()  # type: ignore[arg-type]
        found = re.search(rf"^{re.escape(sample)} (\S+)$", text, re.MULTILINE)
        assert found, text
        return float(found[1])

    for _ in range(2):  # as it is read, and again after one that is gone was buried
        assert value('asked_total{model="m"}') == 6
        assert value('took_bucket{le="1.0"}') == 1
        assert value("took_sum") == 6
        two.bury()
        two.bury()
    assert value("headrace_requests_in_flight") == 1
    assert value("headrace_alias_behind_seconds") == 1
    assert value("headrace_registry_up") == 1
    process("three", 2)
    assert value('asked_total{model="m"}') == 8
    assert value("headrace_requests_in_flight") == 3
    assert value("headrace_registry_up") == 0


def test_figures_that_the_disk_does_not_take_are_said_once_and_break_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    metrics = ServingMetrics(Shards(folder, "one"))
    metrics.answered("m", "1", 200, 1, 0.001, "rest")
    assert 'model="m"' in metrics.text().decode()
    folder.rename(tmp_path / "elsewhere")
    for _ in range(3):
        metrics.text()
    assert caplog.text.count("cannot write this process's figures") == 1
    (tmp_path / "elsewhere").rename(folder)
    assert 'model="m"' in metrics.text().decode()


def test_gauges_that_others_leave_in_files_are_shown_and_broken_files_are_not(
    start: Callable[..., Watched], settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    folder = settings.home / "metrics"
    folder.mkdir(parents=True)
    for name in ("a", "b"):
        text = f'# HELP headrace_monitor_drift Drift.\n# TYPE headrace_monitor_drift gauge\nheadrace_monitor_drift{{model="{name}"}} 0.5\n'
        (folder / f"{name}.prom").write_text(text, "utf-8")
    (folder / "c.prom").write_text("# TYPE counted_total counter\ncounted_total 1\n", "utf-8")
    (folder / "d.prom").write_text("no metrics at all {{{\n", "utf-8")
    server = start()
    for _ in range(2):
        seen = server.metrics()
        assert seen["headrace_monitor_drift"] == {labels(model="a"): 0.5, labels(model="b"): 0.5}
        assert "counted_total" not in seen
    for name in ("c.prom", "d.prom"):
        assert caplog.text.count(name) == 1


# Request ids and the log


def test_request_ids_are_taken_and_given_back(start: Callable[..., Watched]) -> None:
    server = start()
    for path, method in ((PATH, "POST"), ("/v2/health/live", "GET"), ("/nowhere", "GET"), (PATH, "GET")):
        given = server.http.request(method, path, json=BODY, headers={"X-Request-Id": "abc-1"})
        assert given.headers["x-request-id"] == "abc-1", path
        made = {server.http.request(method, path, json=BODY).headers["x-request-id"] for _ in range(3)}
        assert len(made) == 3
        assert all(re.fullmatch(r"[0-9a-f]{12}-[0-9a-f]+", text) for text in made)
    long = server.http.post(PATH, json=BODY, headers={"X-Request-Id": "x" * 129}).headers["x-request-id"]
    assert len(long) < 40
    for content in (tensors(cpu=1, cores=1), b"\xff"):
        call = server.infer(content, **{"x-request-id": "abc-2"})
        assert dict(call.trailing_metadata())["x-request-id"] == "abc-2"


@pytest.fixture
def lines() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """Everything that is logged meanwhile, as JSON lines."""
    text, root = io.StringIO(), logging.getLogger()
    before, level = root.handlers[:], root.level
    logs.set_up("INFO", "json")
    root.handlers[0].stream = text  # type: ignore[attr-defined]
    yield lambda: [json.loads(line) for line in text.getvalue().splitlines()]
    root.handlers[:], root.level = before, level
    root.setLevel(level)


def test_each_request_is_a_line_where_it_is_asked_for(
    start: Callable[..., Watched], lines: Callable[[], list[dict[str, Any]]]
) -> None:
    server = start(serving_access_log=True)
    server.http.post(PATH, json=BODY, headers={"X-Request-Id": "r-1"})
    server.http.get("/v2", headers={"X-Request-Id": "r-2"})
    server.infer(tensors(cpu=1, cores=1), **{"x-request-id": "r-3"})
    found = {
        line["request_id"]: line
        for line in lines()
        if line["logger"] == "serving.access" and "request_id" in line
    }
    assert found["r-1"]["message"] == f"POST {PATH} 200"
    assert (found["r-1"]["transport"], found["r-1"]["status"], found["r-1"]["client"]) == (
        "rest",
        200,
        "testclient",
    )
    assert 0 < found["r-1"]["seconds"] < 10
    assert found["r-2"]["status"] == 200
    assert (found["r-3"]["message"], found["r-3"]["transport"]) == ("ModelInfer 200", "grpc")


def test_a_failure_names_its_request_and_carries_the_traceback(
    start: Callable[..., Watched], lines: Callable[[], list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start()

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("of no meaning")

    monkeypatch.setattr(server.app.plane, "predict", broken)
    reply = server.http.post(PATH, json=BODY, headers={"X-Request-Id": "r-9"})
    assert reply.status_code == 500
    assert "of no meaning" not in reply.text
    (line,) = [line for line in lines() if line.get("request_id") == "r-9"]
    assert (line["level"], line["logger"]) == ("ERROR", "serving.rest.dispatch")
    assert "RuntimeError: of no meaning" in line["exception"]
    seen = server.metrics()["headrace_errors_total"]
    assert seen[labels(transport="rest", model="tiny", kind="internal")] == 1


def test_text_for_people_names_the_request_too() -> None:
    record = logging.makeLogRecord({"name": "serving", "msg": "said", "levelname": "INFO", "model": "tiny"})
    token = logs.REQUEST_ID.set("r-5")
    try:
        said = logs._Text().format(record)
    finally:
        logs.REQUEST_ID.reset(token)
    assert said.endswith("INFO serving: said [request_id=r-5 model=tiny]")


# Traces


@pytest.mark.integration  # a process of its own
def test_without_an_address_nothing_of_opentelemetry_is_imported() -> None:
    import subprocess
    import sys

    code = (
        "import sys\nfrom pipelines.settings import load_settings\nfrom serving.tracing import Tracer\n"
        "print(Tracer.of(load_settings({})), [name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "None []"


def test_a_request_goes_on_with_its_callers_trace(
    start: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    export = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    from serving.tracing import Tracer

    spans = export.InMemorySpanExporter()
    # The exporter over HTTP is the library's; what is ours is which spans there are.
    monkeypatch.setattr(Tracer, "of", classmethod(lambda cls, settings: cls(spans, 0.0, "one")))
    server = start()
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    sampled = {"traceparent": f"00-{trace}-{parent}-01"}
    server.http.post(PATH, json={"entities": ["m-1"]}, headers=sampled | {"X-Request-Id": "r-1"})
    server.http.post(PATH, json={"records": [1]}, headers=sampled)
    server.http.post(PATH, json=BODY)  # nobody samples it
    server.infer(tensors(cpu=1, cores=1), **sampled)
    server.infer(tensors(cpu=1000, cores=1), **sampled)
    server.app.tracer._provider.force_flush()  # type: ignore[union-attr]
    found = {
        (
            span.name,
            span.attributes.get("http.response.status_code", span.attributes.get("rpc.grpc.status_code")),
        ): span
        for span in spans.get_finished_spans()
    }
    assert set(found) == {
        ("POST predict", 200),
        ("POST predict", 422),
        ("features.online", None),
        ("ModelInfer", 0),
        ("ModelInfer", 3),
    }
    assert all(span.status.is_unset for span in found.values())  # what clients do wrong is no failure of ours
    asked = found["POST predict", 200]
    assert f"{asked.context.trace_id:032x}" == trace
    assert f"{asked.parent.span_id:016x}" == parent
    assert asked.attributes["headrace.request_id"] == "r-1"
    looked = found["features.online", None]
    assert looked.parent.span_id == asked.context.span_id
    assert f"{found['ModelInfer', 0].context.trace_id:032x}" == trace
