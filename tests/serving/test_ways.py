"""The short way through a version's plan and the general way make the same rows and the same answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.manifest import FieldType, InputField
from pipelines.adapters.exports import open_export
from pipelines.adapters.runtimes import Predictor, Rows, to_column
from pipelines.errors import InvalidRequestError
from serving.plan import DATATYPES, Plan
from serving.tensors import Tensor, bytes_of_texts, columns_of_tensors
from serving.validation import columns_of_records
from tests.serving.small_models import SMALL_MODELS, write_small_model

INPUTS = (
    InputField(name="cpu", type=FieldType.DOUBLE, minimum=0, maximum=100),
    InputField(name="latency", type=FieldType.DOUBLE, required=False),
    InputField(name="cores", type=FieldType.LONG, minimum=1),
    InputField(name="zone", type=FieldType.STRING, required=False, categories=("a", "b")),
)
PLANS = {"mixed": Plan(INPUTS), "numbers": Plan(INPUTS[:3]), "one": Plan(INPUTS[1:2])}

odd = st.sampled_from([None, True, "a", "1", float("inf"), 10**400, -1, 0, 1.5, 3, [], {}, float("nan")])
good = {
    "cpu": st.floats(0, 100) | st.integers(0, 100),
    "latency": st.floats(-1e9, 1e9) | st.none(),
    "cores": st.integers(1, 64) | st.just(3.0),
    "zone": st.sampled_from(["a", "b", "c", None]),
}


@pytest.fixture(scope="session")
def tiny(make_export: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return open_export(make_export(tmp_path_factory.mktemp("ways") / "tiny")).predictor


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Predictor]:
    folder = tmp_path_factory.mktemp("small")
    return {
        name: open_export(write_small_model(name, folder / name / "1")).predictor for name in SMALL_MODELS
    }


def same(one: Rows, other: Rows) -> bool:
    return np.array_equal(one.matrix, other.matrix, equal_nan=True) and {
        name: list(texts) for name, texts in one.texts.items()
    } == {name: list(texts) for name, texts in other.texts.items()}


def generally(make: Callable[[], dict[str, NDArray]], plan: Plan) -> Rows | None:
    try:
        return plan.of_columns(make())
    except InvalidRequestError:
        return None


@st.composite
def records_of(draw: st.DrawFn, plan: Plan) -> list[Any]:
    names = [field.name for field in plan.inputs]
    record = st.fixed_dictionaries({name: good[name] | odd for name in names})
    fine = st.fixed_dictionaries({name: good[name] for name in names})
    less = st.fixed_dictionaries({}, optional={name: good[name] for name in (*names, "cpu")})
    return draw(
        st.lists(fine | fine | record | less | st.sampled_from([3, "x", None, []]), min_size=1, max_size=4)
    )


@pytest.mark.parametrize("name", PLANS)
@settings(max_examples=150)
@given(data=st.data())
def test_records_are_read_alike(name: str, data: st.DataObject) -> None:
    plan = PLANS[name]
    records = data.draw(records_of(plan))
    short = plan.of_records(records)
    general = generally(lambda: columns_of_records(plan.inputs, records), plan)
    if short is not None:
        assert general is not None, "the short way took what the general way refuses"
        assert same(short, general)


@pytest.mark.parametrize("name", PLANS)
@settings(max_examples=150)
@given(data=st.data())
def test_tensors_in_json_are_read_alike(name: str, data: st.DataObject) -> None:
    plan = PLANS[name]
    records = data.draw(
        st.lists(
            st.fixed_dictionaries({field.name: good[field.name] | odd for field in plan.inputs}),
            min_size=1,
            max_size=3,
        )
    )
    sent = [
        {
            "name": data.draw(st.sampled_from([field.name] * 9 + ["cpu", "x"])),
            "datatype": data.draw(st.sampled_from([DATATYPES[field.type]] * 9 + ["FP64", "BYTES"])),
            "shape": data.draw(st.sampled_from([[len(records)]] * 5 + [[len(records), 1], [1], []])),
            "data": [record[field.name] for record in records],
        }
        for field in data.draw(st.permutations(plan.inputs))
    ]
    short = plan.of_tensors(sent)
    general = generally(lambda: columns_of_tensors(plan, [Tensor(**tensor) for tensor in sent], 100), plan)
    if short is not None:
        assert general is not None
        assert same(short, general)


@settings(max_examples=100)
@given(values=st.lists(st.tuples(*[st.floats(width=64)] * 2), min_size=1, max_size=4), swap=st.booleans())
def test_doubles_in_binary_are_read_alike(values: list[tuple[float, float]], swap: bool) -> None:
    plan, matrix = Plan(INPUTS[:2]), np.array(values)
    columns = {"cpu": matrix[:, 0], "latency": matrix[:, 1]}
    order = ["latency", "cpu"] if swap else ["cpu", "latency"]
    size = 8 * len(values)
    sent = [
        {"name": name, "datatype": "FP64", "shape": [len(values)], "parameters": {"binary_data_size": size}}
        for name in order
    ]
    blob = b"".join(columns[name].astype("<f8").tobytes() for name in order)
    short = plan.of_doubles(sent, blob)
    tensors = [
        Tensor(name, "FP64", [len(values)], blob[place * size : (place + 1) * size])
        for place, name in enumerate(order)
    ]
    general = generally(lambda: columns_of_tensors(plan, tensors, 100), plan)
    assert (short is None) == (general is None), "every such request is one for the short way, or wrong"
    if short is not None and general is not None:
        assert same(short, general)


def test_what_is_as_it_should_be_goes_the_short_way() -> None:
    record = {"cpu": 1, "latency": None, "cores": 4, "zone": "a"}
    assert PLANS["mixed"].of_records([record]) is not None
    assert PLANS["mixed"].of_records([record, record | {"latency": 2.0}]) is not None
    numbers = {name: record[name] for name in ("cpu", "latency", "cores")}
    assert PLANS["numbers"].of_table(tuple(numbers), [list(numbers.values())] * 2) is not None


@pytest.mark.parametrize("name", ["tiny", *SMALL_MODELS])
@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 6))
def test_rows_and_columns_are_answered_alike(
    name: str, seed: int, rows: int, tiny: Predictor, small: dict[str, Predictor]
) -> None:
    predictor = tiny if name == "tiny" else small[name]
    fields = predictor.manifest.inputs
    random = np.random.default_rng(seed)
    columns = (
        SMALL_MODELS[name].columns(random, rows)
        if name != "tiny"
        else {
            "cpu": random.uniform(0, 100, rows),
            "latency": np.where(random.random(rows) < 0.3, np.nan, 7.0),
            "cores": random.integers(1, 9, rows).astype(np.float64),
            "zone": to_column(fields[3], [random.choice([None, "a", "b", "c"]) for _ in range(rows)]),
        }
    )
    general = predictor.predict(columns)
    made = Plan(fields).of_columns(columns)
    for answers in (
        predictor.predict_rows(made),
        predictor.predict_rows(_through_records(fields, columns)),
    ):
        for output, expected in general.items():
            np.testing.assert_array_equal(answers[output], expected, err_msg=output)


def _through_records(fields: tuple[InputField, ...], columns: dict[str, NDArray]) -> Rows:
    """The rows as a client would write them, by the short way."""
    named = {
        name: [None if value != value else value for value in values.tolist()]
        for name, values in columns.items()
    }
    records = [dict(zip(named, row, strict=True)) for row in zip(*named.values(), strict=True)]
    rows = Plan(fields).of_records(orjson.loads(orjson.dumps(records)))
    assert rows is not None
    return rows


@given(texts=st.lists(st.text(max_size=5), min_size=1, max_size=4))
def test_strings_survive_their_binary_form(texts: list[str]) -> None:
    plan = Plan((InputField(name="zone", type=FieldType.STRING),))
    tensor = Tensor("zone", "BYTES", [len(texts)], bytes_of_texts(texts))
    assert plan.of_columns(columns_of_tensors(plan, [tensor], 10)).texts["zone"] == texts
