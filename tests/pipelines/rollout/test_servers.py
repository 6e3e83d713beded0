"""Which servers are asked for their figures."""

from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from pipelines.rollout.evidence import Servers
from pipelines.settings import load_settings


class _Metrics(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'headrace_requests_total{model="m"} 3\n')

    def log_message(self, *_):
        pass


@pytest.fixture
def port():
    server = HTTPServer(("127.0.0.1", 0), _Metrics)
    Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def test_a_name_stands_for_all_that_it_resolves_to(tmp_path, port):
    named = f"dns+http://127.0.0.1:{port}, dns+http://no-such-name.invalid:1, http://127.0.0.1:{port}"
    servers = Servers(load_settings({}, home=tmp_path, rollout_servers=named))
    scrape = servers.scrape()
    servers.close()
    assert [sample.value for figures in scrape.servers for sample in figures] == [3.0, 3.0]
    assert "no-such-name.invalid" in scrape.unreachable
