"""Questions and answers of a batch: each row once, in order, with an answer or the reason why there is none."""

from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest

from models.heads import FieldType, OutputField
from models.manifest import InputField
from models.targets import STEPS_AHEAD
from pipelines.errors import ScoringError
from pipelines.score import steps

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
HEAT = InputField(name="heat", type=FieldType.DOUBLE, required=False)
LOAD = InputField(name="load", type=FieldType.DOUBLE)


def rows(**columns):
    return pl.DataFrame(columns).with_columns(
        pl.lit(NOON).dt.cast_time_unit("us").dt.convert_time_zone("UTC").alias("event_time")
    )


def test_each_step_ahead_is_asked_where_the_table_names_none():
    ahead = InputField(name=STEPS_AHEAD, type=FieldType.DOUBLE, minimum=1, maximum=3)
    asked = steps.asked(rows(unit=["a", "b"]), [HEAT, ahead], ["heat"])
    assert list(zip(asked["unit"], asked[STEPS_AHEAD], strict=True)) == [
        (unit, step) for unit in "ab" for step in (1.0, 2.0, 3.0)
    ]
    told = rows(unit=["a"], **{STEPS_AHEAD: [2.0]})
    assert steps.asked(told, [HEAT, ahead], ["heat"]).height == 1


def test_an_input_that_only_the_caller_knows_must_be_a_column():
    with pytest.raises(ScoringError, match=r"\['load'\].*callers suppose"):
        steps.asked(rows(unit=["a"]), [HEAT, LOAD], ["heat"])


def test_rows_without_features_or_without_a_required_input_are_refused_with_the_reason():
    table = rows(heat=[1.0, None, 2.0], load=[1.0, 1.0, None])
    assert steps.refusals(table, [HEAT, LOAD], ["heat"]).to_list() == [
        None,
        steps.NO_FEATURES,
        "input load is missing",
    ]


def test_answers_stand_beside_their_questions_and_refusals_between_them():
    outputs = (
        OutputField(name="probability", type=FieldType.DOUBLE),
        OutputField(name="alarm", type=FieldType.BOOLEAN),
        OutputField(name="why", type=FieldType.STRING),
    )
    found = steps.answered(
        rows(unit=["a", "b", "c"], ticket=[7, 8, 9]),
        pl.Series([None, "no", None], dtype=pl.String),
        {
            "probability": np.array([0.25, np.nan]),
            "alarm": np.array([False, True]),
            "why": np.array(["x", None], dtype=object),
        },
        outputs,
        entity="unit",
        version="3",
        keep=["ticket"],
        at=NOON,
    )
    assert found.select("entity", "version", "refused", "ticket").rows() == [
        ("a", "3", None, 7),
        ("b", "3", "no", 8),
        ("c", "3", None, 9),
    ]
    assert found["output__probability"].to_list() == [0.25, None, None]
    assert found["output__alarm"].to_list() == [False, None, True]
    assert found["output__why"].to_list() == ["x", None, None]
    assert found["day"].to_list() == [NOON.date()] * 3


def test_a_batch_of_refusals_alone_has_the_types_of_answers():
    outputs = (OutputField(name="probability", type=FieldType.DOUBLE),)
    found = steps.answered(
        rows(unit=["a"]), pl.Series(["no"]), {}, outputs, entity="unit", version="1", keep=(), at=NOON
    )
    assert found.schema["output__probability"] == pl.Float64
    assert found["output__probability"].to_list() == [None]
