"""How MLflow loads a version of ours: ``mlflow.pyfunc.load_model`` on top of the serving export.

Log a model with ``mlflow.pyfunc.log_model(loader_module="pipelines.adapters.mlflow_flavor",
data_path=<export folder>, …)``. Nothing is pickled: MLflow keeps the export as it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.manifest import FieldType, InputField
from pipelines.adapters.exports import load_export
from pipelines.adapters.runtimes import Predictor

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray


class ExportedModel:
    """An export behind pyfunc's interface."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    def predict(self, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """One row of outputs per row of inputs, with the same index.

        Args:
            model_input: A column per input of the manifest; optional ones may be absent.
            params: Not used; pyfunc hands it over.
        """
        import pandas as pd

        columns = {field.name: _column(field, model_input) for field in self.predictor.manifest.inputs}
        return pd.DataFrame(self.predictor.predict(columns), index=model_input.index)


def _column(field: InputField, frame: pd.DataFrame) -> NDArray:
    import numpy as np

    if field.name not in frame and not field.required:
        missing: Any = None if field.type is FieldType.STRING else np.nan
        return np.full(len(frame), missing, dtype=object if field.type is FieldType.STRING else np.float64)
    series = frame[field.name]
    if field.type is FieldType.STRING:
        values: NDArray = series.astype(object).where(series.notna(), None).to_numpy(dtype=object)
        return values
    numbers: NDArray = series.to_numpy(dtype=np.float64, na_value=np.nan)
    return numbers


def _load_pyfunc(data_path: str) -> ExportedModel:
    """Called by MLflow with the path of the export inside the downloaded model."""
    return ExportedModel(load_export(Path(data_path)))
