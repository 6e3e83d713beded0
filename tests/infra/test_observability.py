"""Dashboards and alerts against what the server and the exporter really export, by a real Prometheus that scrapes both."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import prometheus_client
import pytest
import yaml

from headrace.exporter import Exporter
from pipelines.adapters.lake import Lake
from pipelines.monitor import checks, requests
from pipelines.monitor.records import Cause, Check, Figures, Trigger
from pipelines.promote import ledger
from pipelines.promote.records import Action, LedgerLine
from pipelines.references import Window
from pipelines.settings import load_settings

pytestmark = pytest.mark.integration

INFRA = Path(__file__).parents[2] / "infra"
RULES = sorted((INFRA / "prometheus").glob("*.rules.yml"))
NOW = datetime.now(UTC)
# Of Airflow's API: tests/e2e/test_services.py sees it.
OF_AIRFLOW = {"headrace_airflow_pool_slots"}


def _tool(name):
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: apt-get install prometheus")
    return found


def _wait(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.2)
    pytest.fail("what was waited for did not happen")


def _free_port():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def home(tmp_path_factory, make_export, trusted_keys):
    """A server's home with a version in its cache, and a lake with a check, a rollback and a request to train."""
    from pipelines.adapters.exports import manifest_sha256
    from pipelines.adapters.signing import Trust
    from serving.cache import Served, VersionCache

    settings = load_settings({}, home=tmp_path_factory.mktemp("home"), trusted_keys=trusted_keys)
    folder = settings.home / "serving"
    export = make_export(folder / "tiny" / "1")
    served = Served(name="tiny", alias="production", version="1", manifest_sha256=manifest_sha256(export))
    VersionCache(folder, Trust.of(settings)).note([served])

    lake = Lake.of(settings)
    figures = Figures(values={"average_precision": 0.7}, rows=100)
    checks.keep(
        lake,
        Check(
            registered_name="tiny",
            model="tiny",
            version="1",
            window=Window(start=NOW - timedelta(days=1), end=NOW),
            at=NOW,
            cause=Cause.DRIFT,
            drift_score=0.4,
            alarm=True,
            newest_row=NOW - timedelta(hours=2),
            realised=figures,
            estimated=figures,
        ),
    )
    for number, action in enumerate((Action.PROMOTE, Action.ROLLBACK), start=1):
        line = LedgerLine(
            at=NOW, registered_name="tiny", sequence=number, action=action, actor="ada", reason="a test"
        )
        ledger.write(lake, f"move {number}", line)
    requests.ask(lake, "tiny", work="w", triggers=(Trigger.BY_HAND,), reason="r", evidence="", at=NOW)
    return settings


@pytest.fixture(scope="module")
def server(home):
    """The real server, two processes of it, that has answered and refused."""
    port = _free_port()
    environment = os.environ | {
        "HEADRACE_HOME": str(home.home),
        "HEADRACE_TRUSTED_KEYS": home.trusted_keys,
        "HEADRACE_SERVING_PORT": str(port),
        "HEADRACE_SERVING_GRPC_PORT": "0",
        "HEADRACE_SERVING_WORKERS": "2",
        "HEADRACE_TRACKING_URL": "http://127.0.0.1:9",
    }
    process = subprocess.Popen([sys.executable, "-m", "serving"], env=environment, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"

    def ready():
        try:
            return httpx.get(f"{url}/v2/health/ready", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    try:
        _wait(ready)
        yield url
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def exporter(home):
    registry = prometheus_client.CollectorRegistry()
    registry.register(Exporter(home, fresh_seconds=0.5))
    http, thread = prometheus_client.start_http_server(0, "127.0.0.1", registry)
    yield f"http://127.0.0.1:{http.server_port}"
    http.shutdown()
    thread.join()


@pytest.fixture(scope="module")
def dashboards():
    return {path.name: json.loads(path.read_text()) for path in sorted((INFRA / "grafana").glob("*.json"))}


def _queries(dashboards):
    """Of every panel, with Grafana's variables filled in as Grafana does."""
    return {
        f"{name}: {panel['title']} {target['refId']}": target["expr"]
        .replace("$__rate_interval", "1m")
        .replace("$model", ".*")
        for name, dashboard in dashboards.items()
        for panel in dashboard["panels"]
        for target in panel["targets"]
    }


def _alerts():
    return {
        rule["alert"]: rule["expr"]
        for path in RULES
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
    }


def _metrics(expressions):
    return {name for text in expressions for name in re.findall(r"\bheadrace_[a-z_]+", text)}


def _exported(url):
    """Names of samples that there are or, by the metric's type, can be."""
    found = set()
    for line in httpx.get(f"{url}/metrics", trust_env=False).text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            endings = {"histogram": ("_bucket", "_sum", "_count")}.get(kind, ("",))
            found |= {name + ending for ending in endings}
    return found


def _ask(server):
    assert httpx.post(
        f"{server}/models/tiny/predict", json={"records": [{"cpu": 1, "cores": 1}]}, trust_env=False
    ).is_success
    assert httpx.post(
        f"{server}/models/tiny/predict", json={"records": [{"cpu": -1}]}, trust_env=False
    ).is_error


def test_dashboards_are_what_their_code_says(dashboards):
    from infra.grafana import build

    assert dashboards == build.DASHBOARDS
    for dashboard in dashboards.values():
        ids = [panel["id"] for panel in dashboard["panels"]]
        assert len(set(ids)) == len(ids)
        assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in dashboard["panels"])


def test_every_metric_of_a_dashboard_or_an_alert_is_exported(server, exporter, dashboards):
    _ask(server)
    exported = _exported(server) | _exported(exporter) | OF_AIRFLOW
    wanted = _metrics([*_queries(dashboards).values(), *_alerts().values()])
    assert wanted - exported == set()
    assert len(wanted) > 20


def test_alert_rules_hold_and_do_what_their_tests_say():
    promtool = _tool("promtool")
    for words in (["check", "rules", *map(str, RULES)], ["test", "rules", "tests.yml"]):
        done = subprocess.run(
            [promtool, *words], cwd=INFRA / "prometheus", capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_scrapes_and_every_panel_and_alert_works(server, exporter, dashboards, tmp_path):
    program, port = _tool("prometheus"), _free_port()
    config = yaml.safe_load((INFRA / "compose/prometheus/prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(path) for path in RULES]
    targets = {"headrace-serving": server, "headrace-exporter": exporter}
    config["scrape_configs"] = [
        {"job_name": name, "static_configs": [{"targets": [url.removeprefix("http://")]}]}
        for name, url in targets.items()
    ]
    path = tmp_path / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    command = [
        *(program, f"--config.file={path}", f"--storage.tsdb.path={tmp_path / 'data'}"),
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    api = f"http://127.0.0.1:{port}/api/v1"

    def asked(query):
        answer = httpx.get(f"{api}/query", params={"query": query}, trust_env=False).json()
        assert answer["status"] == "success", f"{query}: {answer}"
        return answer["data"]["result"]

    def scraped():
        try:
            return len(asked("up == 1")) == len(targets)
        except httpx.TransportError:
            return False

    try:
        _wait(scraped)
        for _ in range(5):
            _ask(server)
            time.sleep(1)
        empty = {name for name, query in _queries(dashboards).items() if not asked(query)}
        # There are no labels and no failures here, one model, and no Airflow.
        assert {name.partition(": ")[2] for name in empty} <= {
            "Errors B",
            "Features looked up A",
            "Versions refused A",
            "Airflow's queues A",
        }
        for name, query in _alerts().items():
            asked(query)
            assert name
        groups = httpx.get(f"{api}/rules", trust_env=False).json()["data"]["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        assert {rule["name"] for rule in rules} == set(_alerts())
        assert {rule["health"] for rule in rules} <= {"ok", "unknown"}, rules
        # The registry is away, which is true.
        firing = {rule["name"] for rule in rules if rule["state"] in {"pending", "firing"}}
        assert "HeadraceRegistryAway" in firing
    finally:
        process.terminate()
        process.wait(30)


def test_a_part_that_cannot_be_read_is_said_and_the_others_are_shown(home, tmp_path):
    (tmp_path / "airflow_passwords.json").write_text('{"admin": "x"}')
    away = load_settings({}, home=home.home, secrets_folder=tmp_path, airflow_url="http://127.0.0.1:9")
    families = {family.name: family for family in Exporter(away).collect()}
    up = {sample.labels["part"]: sample.value for sample in families["headrace_exporter_up"].samples}
    assert up == {"monitor": 1.0, "ledger": 1.0, "requests": 1.0, "airflow": 0.0}
    (drift,) = families["headrace_monitor_drift_score"].samples
    assert (drift.labels["model"], drift.value) == ("tiny", 0.4)
    moves = {sample.labels["action"]: sample.value for sample in families["headrace_pointer_moves"].samples}
    assert moves == {"promote": 1.0, "rollback": 1.0}
