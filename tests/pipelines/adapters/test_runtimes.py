"""LightGBM's runtime: the same numbers as the library, missing values and categories as trained."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import lightgbm
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.encoding import encode
from pipelines.adapters.exports import load_export
from pipelines.adapters.runtimes import Predictor, to_column
from pipelines.errors import ArtifactError, InvalidRequestError


@pytest.fixture(scope="session")
def export(make_export: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_export(tmp_path_factory.mktemp("runtime") / "export", slope=1.7)


@pytest.fixture(scope="session")
def predictor(export: Path) -> Predictor:
    return load_export(export)


rows = st.lists(
    st.tuples(
        st.floats(0, 100),
        st.none() | st.floats(allow_nan=False, allow_infinity=False),
        st.integers(1, 64),
        st.sampled_from(["a", "b", "c", None]),
    ),
    min_size=1,
    max_size=20,
)


def columns(predictor: Predictor, values: list[tuple[object, ...]]) -> dict[str, np.ndarray]:
    return {
        field.name: to_column(field, [row[position] for row in values])
        for position, field in enumerate(predictor.manifest.inputs)
    }


@settings(max_examples=60, deadline=None)
@given(values=rows)
def test_predictions_are_those_of_the_library_with_platt_scaling(
    predictor: Predictor, export: Path, values: list[tuple[object, ...]]
) -> None:
    given_columns = columns(predictor, values)
    booster = lightgbm.Booster(model_file=str(export / "model.txt"))
    score = np.asarray(booster.predict(encode(given_columns, predictor.manifest.inputs), raw_score=True))
    outputs = predictor.predict(given_columns)
    np.testing.assert_allclose(
        outputs["probability"], 1 / (1 + np.exp(-(1.7 * score + 0.1))), rtol=0, atol=1e-12
    )
    np.testing.assert_array_equal(outputs["alarm"], outputs["probability"] >= 0.5)
    assert outputs["probability"].shape == (len(values),)


@settings(max_examples=30, deadline=None)
@given(values=rows)
def test_a_row_is_answered_the_same_alone_and_in_a_batch(
    predictor: Predictor, values: list[tuple[object, ...]]
) -> None:
    batch = predictor.predict(columns(predictor, values))["probability"]
    alone = [predictor.predict(columns(predictor, [row]))["probability"][0] for row in values]
    np.testing.assert_array_equal(batch, alone)


def test_an_unknown_category_counts_as_missing(predictor: Predictor) -> None:
    unknown, missing = predictor.predict(columns(predictor, [(90.0, 1.0, 4, "never"), (90.0, 1.0, 4, None)]))[
        "probability"
    ]
    assert unknown == missing


def test_absent_and_ragged_inputs_are_named(predictor: Predictor) -> None:
    full = columns(predictor, [(1.0, 1.0, 1, "a")])
    with pytest.raises(InvalidRequestError, match="absent") as absent:
        predictor.predict({name: full[name] for name in ("cpu", "latency", "zone")})
    assert absent.value.field == "cores"
    without = predictor.predict({name: full[name] for name in ("cpu", "cores")})
    missing = predictor.predict(
        full | {"latency": np.array([np.nan]), "zone": np.array([None], dtype=object)}
    )
    assert without == missing, "an optional input that is absent is one that is missing"
    with pytest.raises(InvalidRequestError, match="one length") as ragged:
        predictor.predict(full | {"cores": np.array([1.0, 2.0])})
    assert ragged.value.field == "cores"


def test_contributions_add_up_to_the_raw_answer(predictor: Predictor, export: Path) -> None:
    given_columns = columns(predictor, [(90.0, 1.0, 4, "a"), (5.0, None, 8, None)])
    booster = lightgbm.Booster(model_file=str(export / "model.txt"))
    score = np.asarray(booster.predict(encode(given_columns, predictor.manifest.inputs), raw_score=True))
    told = predictor.explain(given_columns)["booster"]
    assert told is not None
    assert set(told.inputs) == {"cpu", "latency", "cores", "zone"}
    np.testing.assert_allclose(told.base + sum(told.inputs.values()), score, atol=1e-9)


def test_a_file_that_is_no_model_is_refused(export: Path, predictor: Predictor, tmp_path: Path) -> None:
    from pipelines.adapters.runtimes import open_runtime

    (tmp_path / "model.txt").write_text("tree\nnonsense\n")
    with pytest.raises(ArtifactError, match="not a model of LightGBM"):
        open_runtime(predictor.manifest, tmp_path)


@pytest.mark.integration  # a process of its own
def test_an_export_loads_where_only_the_serving_extra_is_installed(export: Path) -> None:
    """Blocks what the extra does not bring: importing any of it fails, as where it is not installed."""
    code = """
import sys
class Blocked:
    names = {"pandas", "sklearn", "mlflow", "polars", "pyarrow", "feast", "airflow", "tensorflow", "keras",
             "matplotlib"}
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Blocked())
from pathlib import Path
from pipelines.adapters.exports import load_export
print(load_export(Path(sys.argv[1])).manifest.model)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(export)], capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.returncode) == ("tiny", 0), done.stderr
