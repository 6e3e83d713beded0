"""The runtimes' fast paths for one row: the same numbers as a batch, bit for bit, from any thread."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lightgbm
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.manifest import Estimator
from pipelines.adapters.runtimes.base import EstimatorRuntime
from pipelines.adapters.runtimes.lightgbm import LightGBMRuntime
from pipelines.adapters.runtimes.onnx import OnnxRuntime
from tests.serving.small_models import write_graph

NAMES = ("a", "b", "c")


def boosted(folder: Path, classes: int) -> EstimatorRuntime:
    random = np.random.default_rng(1)
    matrix = random.normal(size=(300, len(NAMES)))
    target = np.digitize(matrix[:, 0] + matrix[:, 1], [-0.5, 0.5]) if classes > 1 else matrix[:, 0]
    objective = (
        {"objective": "multiclass", "num_class": classes} if classes > 1 else {"objective": "regression"}
    )
    data = lightgbm.Dataset(matrix, target, feature_name=list(NAMES))
    booster = lightgbm.train(objective | {"num_leaves": 7, "verbosity": -1, "num_threads": 1}, data, 15)
    booster.save_model(str(folder / "model.txt"))
    return LightGBMRuntime(
        Estimator(name="trees", runtime="lightgbm", file="model.txt", inputs=NAMES), folder
    )


def graph(folder: Path, outputs: int) -> EstimatorRuntime:
    write_graph(folder / "net.onnx", len(NAMES), outputs)
    return OnnxRuntime(Estimator(name="net", runtime="onnx", file="net.onnx", inputs=NAMES), folder)


def named(case: tuple[Callable[[Path, int], EstimatorRuntime], int]) -> str:
    make, width = case
    return f"{make.__name__}-{width}"


@pytest.fixture(scope="module", params=[(boosted, 1), (boosted, 3), (graph, 1), (graph, 4)], ids=named)
def runtime(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> EstimatorRuntime:
    make: Callable[[Path, int], EstimatorRuntime]
    make, width = request.param
    return make(tmp_path_factory.mktemp("runtime"), width)


@settings(max_examples=60)
@given(
    matrix=arrays(np.float64, (12, len(NAMES)), elements=st.floats(-5, 5, width=32) | st.just(float("nan")))
)
def test_rows_alone_and_few_are_answered_as_in_a_batch(runtime: EstimatorRuntime, matrix: np.ndarray) -> None:
    batch = runtime.raw(matrix)
    for place in range(len(matrix)):
        np.testing.assert_array_equal(runtime.raw(matrix[place : place + 1]), batch[place : place + 1])
    for rows in range(2, len(matrix)):
        np.testing.assert_array_equal(runtime.raw(matrix[:rows]), batch[:rows])


def test_answers_are_of_their_own_memory(runtime: EstimatorRuntime) -> None:
    """The next row goes through the same buffers: what was answered must not change with it."""
    first = runtime.raw(np.zeros((1, len(NAMES))))
    kept = first.copy()
    runtime.raw(np.full((1, len(NAMES)), 3.0))
    np.testing.assert_array_equal(first, kept)


def test_threads_do_not_mix_their_rows(runtime: EstimatorRuntime) -> None:
    matrix = np.random.default_rng(2).normal(size=(400, len(NAMES)))
    expected = runtime.raw(matrix)
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda place: runtime.raw(matrix[place : place + 1]), range(len(matrix))))
    np.testing.assert_array_equal(np.concatenate(answers), expected)


def test_a_row_of_another_width_is_refused_before_the_library_reads_beyond_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\(3,\) are wanted"):
        boosted(tmp_path, 1).raw(np.zeros((1, 2)))
