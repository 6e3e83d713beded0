"""Several processes of one server: who answers, what is counted, and what clients see when one is killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import grpc
import httpx
import psutil
import pytest

from pipelines.adapters.exports import manifest_sha256
from pipelines.adapters.signing import Trust
from pipelines.adapters.spool.records import Damage, decode
from pipelines.adapters.spool.segments import streams
from pipelines.settings import Settings
from serving.cache import Served, VersionCache
from serving.grpc.messages import REQUESTS, RESPONSES, SERVICE
from tests.serving.small_models import write_small_model

pytestmark = pytest.mark.integration  # processes

BODY = {"records": [{"cpu": 1, "cores": 1}]}
PATH = "/models/tiny/predict"
MODELS = ("tiny", "interval")
WORKERS = 2


class Started:
    """A server with several processes."""

    def __init__(self, process: subprocess.Popen[str], url: str, grpc_port: int, log: Path) -> None:
        self.process, self.url, self.grpc_port, self.log = process, url, grpc_port, log

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def ask(self, path: str = PATH) -> int:
        """Over a connection of its own."""
        return httpx.post(f"{self.url}{path}", json=BODY, trust_env=False, timeout=10).status_code

    def metrics(self) -> str:
        return httpx.get(f"{self.url}/metrics", trust_env=False, timeout=10).text

    def counted(self, transport: str = "rest") -> float:
        line = (
            rf'headrace_requests_total{{code="200",model="tiny",transport="{transport}",version="1"}} (\S+)'
        )
        found = re.search(line, self.metrics())
        return float(found[1]) if found else 0.0


@pytest.fixture
def start(
    settings: Settings, fill_cache: Callable[..., Path], wait_until: Callable[..., None], tmp_path: Path
) -> Callable[..., object]:
    @contextmanager
    def started(ports: tuple[int, int], *, wait: bool = True, **more: str) -> Iterator[Started]:
        fill_cache(settings, {"production": "1"})
        folder = settings.home / "serving"
        # One of ONNX Runtime beside that of LightGBM: both libraries are imported before the processes part.
        write_small_model("interval", folder / "interval" / "1", settings.signing_key)
        VersionCache(folder, Trust.of(settings)).note(
            Served(
                name=name,
                alias="production",
                version="1",
                manifest_sha256=manifest_sha256(folder / name / "1"),
            )
            for name in MODELS
        )
        port, grpc_port = ports
        environment = os.environ | {
            "HEADRACE_HOME": str(settings.home),
            "HEADRACE_TRUSTED_KEYS": settings.trusted_keys,
            "HEADRACE_SERVING_PORT": str(port),
            "HEADRACE_SERVING_GRPC_PORT": str(grpc_port),
            "HEADRACE_TRACKING_URL": "http://127.0.0.1:9",
            "HEADRACE_SERVING_WORKERS": str(WORKERS),
            **more,
        }
        log = tmp_path / "server.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "serving"], env=environment, stderr=output, text=True
            )
        server = Started(process, f"http://127.0.0.1:{port}", grpc_port, log)

        def all_ready() -> bool:
            assert process.poll() is None, log.read_text("utf-8")
            try:
                return 'alias="production"' in server.metrics() and log.read_text("utf-8").count(
                    "answers from the cache"
                ) >= WORKERS * len(MODELS)
            except httpx.TransportError:
                return False

        try:
            if wait:
                wait_until(all_ready)
            yield server
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)

    return started


@pytest.fixture
def ports() -> tuple[int, int]:
    from tests.conftest import _free_port

    return _free_port(), _free_port()


def grpc_infer(port: int) -> bytes:
    request = REQUESTS["ModelInfer"](model_name="tiny")
    for name, value in (("cpu", 1.0), ("cores", 1)):
        tensor = request.inputs.add(name=name, datatype="FP64" if name == "cpu" else "INT64", shape=[1])
        if name == "cpu":
            tensor.contents.fp64_contents.append(value)
        else:
            tensor.contents.int64_contents.append(int(value))
    with grpc.insecure_channel(
        f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)]
    ) as channel:
        call = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        return call(request.SerializeToString(), timeout=10)


def test_figures_are_those_of_all_processes_whoever_is_asked(
    start: Callable[..., object], ports: tuple[int, int]
) -> None:
    with start(ports) as server:  # type: ignore[attr-defined]
        seen: list[float] = []
        for asked in range(1, 41):
            assert server.ask() == 200
            if asked % 4 == 0:
                seen.append(server.counted())
        interval = {"records": [{"load": 3.0}, {"load": 4.0}]}
        with httpx.Client(trust_env=False) as http:
            for _ in range(8):
                assert http.post(f"{server.url}/models/interval/predict", json=interval).status_code == 200
        # A scrape shows all that was answered before, but for what another process counted within the last second.
        assert seen == sorted(seen)
        deadline = time.monotonic() + 5
        while server.counted() < 40:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        for _ in range(8):
            assert RESPONSES["ModelInfer"].FromString(grpc_infer(ports[1])).model_version == "1"
        while server.counted("grpc") < 8:
            assert time.monotonic() < deadline + 5
            time.sleep(0.1)
        text = server.metrics()
        assert f"headrace_workers {WORKERS}.0" in text
        assert text.count("# TYPE headrace_requests_total counter") == 1
        assert 'headrace_requests_in_flight{transport="rest"}' in text


def test_who_is_told_that_it_is_ready_meets_no_process_that_is_not(
    start: Callable[..., object], ports: tuple[int, int]
) -> None:
    with start(ports, wait=False) as server:  # type: ignore[attr-defined]
        deadline = time.monotonic() + 30
        while not _says_ready(server):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert Counter(server.ask() for _ in range(200)) == {200: 200}
        while len(_listening(server)) < WORKERS:  # the others come when they have loaded
            assert server.ask() == 200
            assert time.monotonic() < deadline


def _says_ready(server: Started) -> bool:
    try:
        return httpx.get(f"{server.url}/v2/health/ready", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def _listening(server: Started) -> set[int]:
    """Processes that listen for predictions."""
    port = int(server.url.rpartition(":")[2])
    return {
        worker.pid
        for worker in server.workers()
        if any(
            each.status == psutil.CONN_LISTEN and each.laddr.port == port
            for each in worker.net_connections("tcp")
        )
    }


def test_a_killed_worker_costs_its_own_connections_and_comes_back(
    start: Callable[..., object], ports: tuple[int, int], settings: Settings, wait_until: Callable[..., None]
) -> None:
    with start(ports) as server:  # type: ignore[attr-defined]
        stop = threading.Event()
        outcomes: Counter[str] = Counter()

        def caller() -> None:
            with httpx.Client(trust_env=False, timeout=10) as http:
                while not stop.is_set():
                    try:
                        outcomes[str(http.post(f"{server.url}{PATH}", json=BODY).status_code)] += 1
                    except httpx.TransportError as error:
                        outcomes[type(error).__name__] += 1

        callers = [threading.Thread(target=caller) for _ in range(4)]
        for thread in callers:
            thread.start()
        time.sleep(1.5)
        before = server.counted()
        killed = server.workers()[0]
        killed.kill()
        time.sleep(2.0)
        stop.set()
        for thread in callers:
            thread.join()
        # Each caller had one request under way, and one connection to lose.
        assert set(outcomes) <= {"200", "RemoteProtocolError", "ReadError", "WriteError"}, outcomes
        assert sum(count for name, count in outcomes.items() if name != "200") <= 4, outcomes
        assert len(server.workers()) == WORKERS
        assert killed.pid not in {worker.pid for worker in server.workers()}
        text = server.metrics()
        assert 'headrace_worker_ends_total{how="signal SIGKILL"} 1.0' in text
        assert server.counted() >= before  # what the killed one had counted stays
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(timeout=60)
    # Both processes had a spool of their own; the killed one's lacks the last moments at most.
    logged = sum(
        1
        for stream in streams(settings.prediction_spool)
        for segment in stream.segments
        for _ in decode(segment.path.read_bytes(), Damage())
    )
    assert outcomes["200"] - 100 < logged <= outcomes["200"] + 4


def test_a_moved_alias_wakes_all_of_them(
    start: Callable[..., object], ports: tuple[int, int], wait_until: Callable[..., None]
) -> None:
    """A webhook reaches one; it tells the parent by SIGUSR1, and the parent tells all."""
    asked: list[float] = []

    class Registry(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(time.monotonic())
            self.send_error(503)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Registry) as registry:
        threading.Thread(target=registry.serve_forever, daemon=True).start()
        settings = {
            "HEADRACE_TRACKING_URL": f"http://127.0.0.1:{registry.server_port}",
            "HEADRACE_SERVING_POLL_SECONDS": "60",
        }
        with start(ports, **settings) as server:  # type: ignore[attr-defined]
            wait_until(lambda: len(asked) >= WORKERS)
            time.sleep(0.5)
            looked = len(asked)
            server.process.send_signal(signal.SIGUSR1)
            wait_until(lambda: len(asked) >= looked + WORKERS, 10)
        registry.shutdown()


def test_all_end_with_the_parent(
    start: Callable[..., object], ports: tuple[int, int], wait_until: Callable[..., None]
) -> None:
    with start(ports) as server:  # type: ignore[attr-defined]
        workers = server.workers()
        assert len(workers) == WORKERS
        server.process.kill()
        server.process.wait()
        _, alive = psutil.wait_procs(workers, timeout=15)
        assert not alive
        assert "Traceback" not in server.log.read_text("utf-8")


def test_it_stops_clean_and_answers_what_is_under_way(
    start: Callable[..., object], ports: tuple[int, int]
) -> None:
    with start(ports) as server:  # type: ignore[attr-defined]
        workers = server.workers()
        with httpx.Client(trust_env=False, timeout=20) as http:

            def slowly() -> Iterator[bytes]:
                yield b'{"records": [{"cpu": 1,'
                time.sleep(1.0)  # until it was taken: under way is what a process has begun to read
                server.process.send_signal(signal.SIGTERM)
                time.sleep(0.5)
                yield b' "cores": 1}]}'

            assert http.post(f"{server.url}{PATH}", content=slowly()).status_code == 200
        assert server.process.wait(timeout=30) == 0
        assert not psutil.wait_procs(workers, timeout=5)[1]
        assert "Traceback" not in server.log.read_text("utf-8")


def test_what_is_wrong_is_said_once_and_ends_it(
    settings: Settings, ports: tuple[int, int], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("", "utf-8")
    environment = os.environ | {
        "HEADRACE_HOME": str(settings.home),
        "HEADRACE_SERVING_PORT": str(ports[0]),
        "HEADRACE_SERVING_GRPC_PORT": str(ports[1]),
        "HEADRACE_SERVING_WORKERS": "2",
        "HEADRACE_TRACKING_URL": "http://127.0.0.1:9",
    }
    for more, said in (
        ({"HEADRACE_BIND_HOST": "0.0.0.0"}, "headrace keys new"),
        ({"HEADRACE_PREDICTION_LOG_FOLDER": str(tmp_path / "file")}, "cannot write the prediction log"),
        (
            {
                "HEADRACE_SERVING_TLS_CERTIFICATE": str(tmp_path / "file"),
                "HEADRACE_SERVING_TLS_KEY": str(tmp_path / "file"),
            },
            "TLS",
        ),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "serving"],
            env=environment | more,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 1, done.stderr
        assert said in done.stderr
