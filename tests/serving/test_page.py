"""The server's own page: what it shows, what it asks a browser to keep to, and its form."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser

import pytest
from fastapi.testclient import TestClient
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

from serving.recent import Recent
from serving.sparkline import sparkline

RECORD = {"cpu": 95.0, "latency": 40.0, "cores": 16, "zone": "b"}


class _Page(HTMLParser):
    """Tags that are open at the end, addresses, and the text."""

    _VOID = frozenset({"meta", "link", "input", "line", "polyline", "circle", "rect"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attributes if name in {"href", "src", "action"}]
        assert not any(name == "style" or name.startswith("on") for name, _ in attributes)
        if tag not in self._VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self._VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.texts)


def test_the_page_shows_versions_by_alias_and_asks_nothing_of_the_network(client: TestClient) -> None:
    answer = client.get("/")
    page = _Page(answer.text)
    assert answer.status_code == 200
    assert page.open == []
    assert "version 2 answers" in page.text
    for alias in ("production", "challenger"):
        assert alias in page.text
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "<script" not in answer.text
    assert "src=" not in answer.text


def test_a_prediction_is_tried_by_the_form_and_explained(client: TestClient) -> None:
    told = client.post("/models/tiny/predict?explain=true", json={"records": [RECORD]}).json()
    before = _counted(client)
    answer = client.post("/models/tiny/try", data={"records": json.dumps(RECORD)})
    page = _Page(answer.text)
    assert answer.status_code == 200
    assert page.open == []
    assert f"{told['predictions'][0]['probability']:.5g}" in page.text
    for name in told["predictions"][0]["explanation"]["booster"]["contributions"]:
        assert name in page.text
    assert re.search(r"headrace trace \S+", page.text)
    assert _counted(client) == before + 1, "a prediction by the form counts as any other"


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"records": '{"cpu": 101, "cores": 1}'}, "cpu"),
        ({"records": "{"}, "no JSON"),
        ({"records": '<script>alert("x")</script>'}, "no JSON"),
        ({"entity": "m1", "at": "yesterday"}, "at"),
    ],
)
def test_what_does_not_fit_is_said_on_the_page(client: TestClient, form: dict[str, str], words: str) -> None:
    answer = client.post("/models/tiny/try", data=form)
    page = _Page(answer.text)
    assert answer.status_code == 200
    assert words in page.text
    assert "<script" not in answer.text
    assert page.open == []


def test_a_form_of_another_site_and_unknown_fields_are_refused(client: TestClient) -> None:
    form = {"records": json.dumps(RECORD)}
    other = client.post("/models/tiny/try", data=form, headers={"sec-fetch-site": "cross-site"})
    assert other.status_code == 403
    own = client.post("/models/tiny/try", data=form, headers={"sec-fetch-site": "same-origin"})
    assert own.status_code == 200
    assert client.post("/models/tiny/try", data={"other": "1"}).status_code == 400
    assert client.get("/models/tiny/try").status_code == 405
    assert client.post("/models/other/try", data=form).status_code == 404


def test_rates_and_percentiles_are_those_between_two_looks() -> None:
    counts = {"ok": 10.0, "refused": 0.0, "failed": 0.0, "fast": 10.0}

    def collect() -> Iterator[Metric]:
        requests = CounterMetricFamily("headrace_requests", "", labels=("model", "code"))
        for code, name in (("200", "ok"), ("422", "refused"), ("500", "failed")):
            requests.add_metric(("m", code), counts[name])
        yield requests
        seconds = HistogramMetricFamily("headrace_request_seconds", "", labels=("model",))
        buckets = [("0.01", counts["fast"]), ("0.1", counts["ok"]), ("+Inf", counts["ok"])]
        seconds.add_metric(("m",), buckets=buckets, sum_value=0.0)
        yield seconds

    recent = Recent(collect)
    recent.look(100.0)
    counts |= {"ok": 110.0, "refused": 5.0, "failed": 1.0, "fast": 60.0}
    recent.look(110.0)
    recent.look(120.0)
    course = recent.course("m")
    assert course.requests == pytest.approx([10.6, 0.0])
    assert (course.refused, course.failed) == ([0.5, 0.0], [0.1, 0.0])
    first, then = course.seconds
    # 100 answers: 50 within 10 ms, 50 within 100 ms; the 95th lies at nine tenths of the second bucket.
    assert first == pytest.approx(0.01 + 0.09 * 0.9)
    assert then is None, "nobody asked"
    assert recent.course("unknown").requests == [0.0, 0.0]


def test_a_line_stays_within_its_picture_and_has_gaps_where_nothing_was_measured() -> None:
    drawn = sparkline([1.0, 3.0, None, 2.0, 2.5], "Latency", "2.5 ms")
    assert drawn.count("<polyline") == 2
    numbers = [
        float(text) for points in re.findall(r'points="([^"]+)"', drawn) for text in re.split("[ ,]", points)
    ]
    assert all(0 <= number <= 240 for number in numbers)
    assert 'aria-label="Latency: now 2.5 ms"' in drawn
    assert "<polyline" not in sparkline([], "Latency", "none")
    assert "<circle" in sparkline([None, 4.0], "Latency", "4 ms")


def _counted(client: TestClient) -> float:
    lines = client.get("/metrics").text.splitlines()
    return sum(
        float(line.rpartition(" ")[2])
        for line in lines
        if line.startswith("headrace_requests_total") and 'model="tiny"' in line and 'code="200"' in line
    )
