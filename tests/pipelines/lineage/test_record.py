"""Records are kept once, come back as they were, and say so where there is none."""

from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.adapters.lake import Lake
from pipelines.errors import LineageError
from pipelines.lineage import record
from pipelines.lineage.record import DagRun, dag_run
from tests.pipelines.lineage.records import a_record

words = st.text(st.characters(codec="utf-8"), max_size=12)
values = (
    st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53) | st.booleans() | words
)


@st.composite
def records(draw):
    return a_record(
        version=str(draw(st.integers(1, 10**6))),
        registered_name=draw(st.sampled_from(["failure", "failure-azure"])),
        trained_at=draw(st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1))).replace(tzinfo=UTC),  # noqa: DTZ001
        params=draw(st.dictionaries(words, values, max_size=4)),
        tables=draw(st.dictionaries(words, st.integers(0, 2**40), max_size=3)),
        features=draw(st.dictionaries(words, words, max_size=4)),
        seed=draw(st.integers(0, 2**40)),
        dag_run=draw(st.none() | st.builds(DagRun, dag_id=words, run_id=words)),
    )


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kept=st.lists(records(), max_size=3, unique_by=lambda each: (each.registered_name, each.version)))
def test_records_come_back_as_they_were_kept_however_often(tmp_path_factory, kept):
    lake = Lake(str(tmp_path_factory.mktemp("lake")))

    added = [record.keep(lake, each) for each in (*kept, *kept)]

    assert added == [True] * len(kept) + [False] * len(kept)
    found = record.read(lake)
    assert found == sorted(kept, key=lambda each: each.training.trained_at)
    for each in kept:
        assert record.find(lake, each.registered_name, each.version) == each
        restored = record.find(lake, each.registered_name, each.version).training.params
        assert {name: type(value) for name, value in restored.items()} == {
            name: type(value) for name, value in each.training.params.items()
        }


def test_a_version_without_a_record_is_said_to_have_none(tmp_path):
    lake = Lake(str(tmp_path))
    with pytest.raises(LineageError, match="there is that of none"):
        record.find(lake, "failure", "7")
    record.keep(lake, a_record("3"))
    with pytest.raises(LineageError, match=r"version 7 of failure; there is that of \['3'\]"):
        record.find(lake, "failure", "7")


def test_a_task_of_airflow_knows_its_run(monkeypatch):
    assert dag_run() is None
    monkeypatch.setenv("AIRFLOW_CTX_DAG_ID", "train_failure")
    monkeypatch.setenv("AIRFLOW_CTX_DAG_RUN_ID", "manual__1")
    assert dag_run() == DagRun(dag_id="train_failure", run_id="manual__1")
