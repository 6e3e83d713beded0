"""Labels through the server's door: what is refused, what is kept, and that it comes to the lake once."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from pipelines.adapters.exports import manifest_sha256
from pipelines.adapters.label_spool import LabelSpool, SpoolFullError, waiting
from pipelines.adapters.lake import Lake
from pipelines.adapters.registry import Registry
from pipelines.adapters.signing import Trust
from pipelines.monitor import label_door
from pipelines.monitor.labels import resolve
from pipelines.settings import Settings, load_settings
from serving import keys
from serving.app import create_app
from serving.cache import Served, VersionCache
from serving.keys import Scope
from tests.killing import killed_at_commit
from tests.serving.conftest import NOBODY, wait_until

ID = "019438f1-2a80-7c3e-8f00-5b7a1c000001"
NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def start(
    make_export: Callable[..., Path], trusted_keys: str, tmp_path: Path
) -> Iterator[Callable[..., tuple[TestClient, Settings]]]:
    """``start(**settings)``: a server of ``failure`` (of the catalogue) and ``tiny`` (of no catalogue)."""
    opened = []

    def begin(**how: Any) -> tuple[TestClient, Settings]:
        settings = load_settings({}, home=tmp_path / "home", trusted_keys=trusted_keys, **how)
        folder, served = settings.home / "serving", []
        for name in ("failure", "tiny"):
            export = make_export(folder / name / "1", model=name)
            served.append(
                Served(name=name, alias="production", version="1", manifest_sha256=manifest_sha256(export))
            )
        VersionCache(folder, Trust.of(settings)).note(served)
        client = TestClient(create_app(settings, Registry(NOBODY)), raise_server_exceptions=False)
        client.__enter__()
        opened.append(client)
        wait_until(lambda: client.get("/v2/health/ready").status_code == 200)
        return client, settings

    yield begin
    for client in opened:
        client.__exit__(None, None, None)


def send(client: TestClient, *labels: dict[str, Any], model: str = "failure", **how: Any) -> Any:
    return client.post(f"/models/{model}/labels", json={"labels": list(labels)}, **how)


def in_lake(settings: Settings, model: str = "failure") -> list[dict[str, Any]]:
    return Lake.of(settings).scan(label_door.table_of(model)).collect().to_dicts()


def test_labels_are_on_the_disk_when_they_are_acknowledged_and_come_to_the_lake_once(
    start: Callable[..., tuple[TestClient, Settings]],
) -> None:
    client, settings = start()
    answer = send(
        client,
        {"prediction_id": ID.upper(), "value": 1},
        {"entity": "m1", "event_time": "2026-02-01T01:00:00+01:00", "value": 0, "labelled_at": "2026-02-03T00:00:00Z"},
    )  # fmt: skip
    assert answer.status_code == 202
    assert answer.json()["accepted"] == 2
    [kept] = waiting(settings.label_spool)
    assert kept.path.stem == answer.json()["batch"]

    assert label_door.ship(settings) == label_door.ShippedRef(requests=1, rows=2)
    assert label_door.ship(settings) == label_door.ShippedRef(requests=0, rows=0)
    by_id, by_moment = sorted(in_lake(settings), key=lambda row: row["entity"] or "")
    assert (by_id["prediction_id"], by_id["value"], by_id["target"]) == (ID, 1.0, "event")
    assert by_id["labelled_at"] == kept.arrived_at
    assert (by_moment["entity"], by_moment["event_time"]) == ("m1", datetime(2026, 2, 1, tzinfo=UTC))
    assert 'headrace_label_rows_total{model="failure",outcome="taken"} 2.0' in client.get("/metrics").text


REFUSED = [
    ({"value": 1}, "labels.0"),
    ({"prediction_id": ID}, "labels.0.value"),
    ({"prediction_id": "7", "value": 1}, "labels.0.prediction_id"),
    ({"prediction_id": ID, "value": "1"}, "labels.0.value"),
    ({"prediction_id": ID, "value": None}, "labels.0.value"),
    ({"prediction_id": ID, "value": 0.5}, "labels.0.value"),
    ({"prediction_id": ID, "value": 10**400}, "labels.0.value"),
    ({"prediction_id": ID, "value": 1, "target": "load"}, "labels.0.target"),
    ({"prediction_id": ID, "value": 1, "weight": 2}, "labels.0.weight"),
    ({"prediction_id": ID, "value": 1, "entity": "m1"}, "labels.0"),
    ({"entity": "m1", "value": 1}, "labels.0"),
    ({"entity": "m1", "event_time": "2026-02-01T00:00:00", "value": 1}, "labels.0.event_time"),
    ({"entity": "m1", "event_time": 1700000000, "value": 1}, "labels.0.event_time"),
    ({"prediction_id": ID, "value": 1, "labelled_at": "2999-01-01T00:00:00Z"}, "labels.0.labelled_at"),
]


def test_what_is_no_label_is_refused_with_its_field_and_nothing_of_it_is_kept(
    start: Callable[..., tuple[TestClient, Settings]],
) -> None:
    client, settings = start()
    for label, field in REFUSED:
        content = json.dumps({"labels": [label, {"prediction_id": ID, "value": 0}]})
        answer = client.post("/models/failure/labels", content=content)
        assert (answer.status_code, answer.json().get("field")) == (422, field), (label, answer.text)
    assert list(waiting(settings.label_spool)) == []


def test_other_refusals(start: Callable[..., tuple[TestClient, Settings]]) -> None:
    client, _ = start(serving_max_rows=2)
    fine = {"prediction_id": ID, "value": 1}
    assert send(client, fine, model="nobody").status_code == 404
    assert "catalogue" in send(client, fine, model="tiny").json()["error"]
    assert send(client, fine, fine, fine).status_code == 413
    assert client.post("/models/failure/labels", content=b"{").status_code == 400
    assert client.get("/models/failure/labels").status_code == 405
    assert send(client).json()["field"] == "labels"


def test_a_full_spool_refuses_and_says_so(start: Callable[..., tuple[TestClient, Settings]]) -> None:
    client, settings = start(label_spool_bytes=2**16)
    fine = {"prediction_id": ID, "value": 1}
    codes = [send(client, *[fine] * 100).status_code for _ in range(10)]
    assert codes[0] == 202
    assert codes[-1] == 503
    assert send(client, *[fine] * 100).headers["retry-after"]
    label_door.ship(settings)
    wait_until(lambda: send(client, fine).status_code == 202)  # it looks at the disk once a second
    assert len(in_lake(settings)) == 100 * codes.count(202)


def test_who_may_label_is_a_matter_of_its_own(
    start: Callable[..., tuple[TestClient, Settings]], tmp_path: Path
) -> None:
    file, now = tmp_path / "home" / "secrets" / "serving_keys.json", datetime.now(UTC)
    of = {
        name: {"Authorization": f"Bearer {keys.new(file, name, now=now, scopes=scopes, models=models)[1]}"}
        for name, scopes, models in (
            ("asks", (Scope.PREDICT,), ("*",)),
            ("labels", (Scope.LABEL,), ("failure",)),
            ("admin", (Scope.ADMIN,), ("*",)),
        )
    }
    client, _ = start(serving_keys="required")
    fine = {"prediction_id": ID, "value": 1}
    assert send(client, fine).status_code == 401
    assert send(client, fine, headers=of["asks"]).status_code == 403
    assert send(client, fine, headers=of["labels"]).status_code == 202
    assert send(client, fine, model="tiny", headers=of["labels"]).status_code == 403
    assert send(client, fine, headers=of["admin"]).status_code == 202
    assert (
        client.post("/models/failure/predict", json={"records": []}, headers=of["labels"]).status_code == 403
    )


def test_the_description_has_the_door(start: Callable[..., tuple[TestClient, Settings]]) -> None:
    client, _ = start()
    described = client.get("/openapi.json").json()
    door = described["paths"]["/models/{name}/labels"]["post"]
    assert door["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/LabelsRequest")
    assert {"202", "422", "503"} <= set(door["responses"])
    assert "Label" in described["components"]["schemas"]


# The spool and its shipping, without a server.


def row(value: float, key: str = ID, at: datetime = NOW) -> dict[str, Any]:
    return {"prediction_id": key, "entity": None, "event_time": None, "target": "event", "value": value, "labelled_at": at}  # fmt: skip


@pytest.mark.integration
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_shipper_that_is_killed_at_a_commit_loses_and_doubles_nothing(
    settings: Settings, when: Any
) -> None:
    spool = LabelSpool.of(settings)
    for number, model in enumerate(("failure", "cost", "failure")):
        spool.keep(model, [row(1.0)], f"request-{number}", NOW)
    n = 1
    while killed_at_commit(n, label_door.ship, settings, when=when):
        n += 1
    assert n > 1
    assert (len(in_lake(settings)), len(in_lake(settings, "cost"))) == (2, 1)
    assert list(waiting(settings.label_spool)) == []


def test_labels_that_come_late_twice_and_in_contradiction(settings: Settings) -> None:
    spool = LabelSpool.of(settings)
    other = "019438f1-2a80-7c3e-8f00-5b7a1c000002"
    late = NOW + timedelta(days=300)
    spool.keep("failure", [row(0.0), row(0.0), row(1.0, other)], "first", NOW)
    spool.keep("failure", [row(1.0, at=late)], "second", late)
    label_door.ship(settings)
    said = resolve(Lake.of(settings).scan(label_door.table_of("failure")).collect())
    assert dict(said.rows.select("prediction_id", "value").rows()) == {ID: 1.0, other: 1.0}
    assert (said.duplicates, said.contradictions) == (1, 1)


def test_what_a_dead_server_left_half_written_is_no_label_and_what_is_damaged_is_set_aside(
    settings: Settings,
) -> None:
    spool = LabelSpool.of(settings)
    spool.keep("failure", [row(1.0)], "whole", NOW)
    half = spool.folder / "half.part"
    half.write_bytes(b'{"model": "failure", "lab')
    (spool.folder / "torn.labels").write_bytes(b'{"model": "failure"')
    assert label_door.ship(settings).rows == 1
    assert half.exists()  # its writer may be alive
    assert (spool.folder / "torn.damaged").exists()
    os.utime(half, (0, 0))
    label_door.ship(settings)
    assert not half.exists()


def test_the_spool_is_bounded_by_bytes(tmp_path: Path) -> None:
    spool = LabelSpool(tmp_path / "replica", max_bytes=1_000)
    spool.keep("failure", [row(1.0)], "a", NOW)
    with pytest.raises(SpoolFullError, match="predictions"):
        spool.keep("failure", [row(1.0)] * 10, "b", NOW)
    assert [sent.path.stem for sent in waiting(tmp_path)] == ["a"]


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 3), st.integers(0, 1)), min_size=1, max_size=8
    )
)
@examples(max_examples=25)
def test_whatever_is_said_in_whatever_order_one_word_counts(said: list[tuple[str, int, int]]) -> None:
    import polars as pl

    from pipelines.monitor.labels import checked
    from pipelines.times import TIME

    rows = [
        {"prediction_id": key, "value": value, "labelled_at": (NOW + timedelta(days=day)).isoformat()}
        for key, day, value in said
    ]
    forward, back = (
        resolve(checked(pl.DataFrame(each), ("event",), pl.lit(NOW, TIME))) for each in (rows, rows[::-1])
    )
    wanted = {}
    for key in {key for key, _, _ in said}:
        last = max(day for name, day, _ in said if name == key)
        wanted[key] = float(max(value for name, day, value in said if (name, day) == (key, last)))
    assert dict(forward.rows.select("prediction_id", "value").rows()) == wanted
    assert dict(back.rows.select("prediction_id", "value").rows()) == wanted
    assert (forward.duplicates, forward.contradictions) == (back.duplicates, back.contradictions)
