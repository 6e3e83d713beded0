"""Bodies that clients send and get. Their content is checked against the model's inputs, not here."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator, model_validator


class InferTensor(BaseModel):
    """An input tensor of the Open Inference Protocol: one input of the model, n rows."""

    model_config = ConfigDict(extra="ignore")

    name: str
    shape: list[int] = Field(min_length=1, max_length=2, description="[n] or [n, 1].")
    datatype: str = Field(
        description="FP64, INT64, BYTES or BOOL, as the metadata says; FP32 and INT32 are taken too."
    )
    data: list[Any] | None = Field(
        None,
        description="n values, flat or nested; null where an optional value is missing. Left out where the data are binary.",
    )
    parameters: dict[str, Any] | None = Field(
        None, description="binary_data_size: bytes of this tensor behind the JSON header."
    )


class RequestedOutput(BaseModel):
    model_config = ConfigDict(extra="ignore")

    name: str
    parameters: dict[str, Any] | None = Field(
        None, description="binary_data: whether it is answered in binary."
    )


class InferRequest(BaseModel):
    """Body of ``/v2/models/{model}/infer``."""

    model_config = ConfigDict(
        extra="ignore",
        json_schema_extra={
            "examples": [
                {
                    "inputs": [
                        {"name": "cpu_percent_mean_3h", "shape": [1], "datatype": "FP64", "data": [71.5]}
                    ]
                }
            ]
        },
    )

    id: str | None = None
    inputs: list[InferTensor]
    outputs: list[RequestedOutput] | None = Field(None, description="Outputs to answer with. Default: all.")
    parameters: dict[str, Any] | None = Field(
        None, description="binary_data_output: whether all outputs are answered in binary."
    )


class PredictRequest(BaseModel):
    """Body of ``/models/{model}/predict``: either records, or entities."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"entities": ["m-001"]}, {"records": [{"cpu_percent_mean_3h": 71.5}]}]
        },
    )

    records: list[Any] | None = Field(None, description="One object per row, with a value per input.")
    entities: list[str] | None = Field(
        None, description="Keys of entities; their features come from the online store."
    )
    at: AwareDatetime | None = Field(
        None, description="Moment to predict for, with its zone (2026-01-31T12:00:00Z). Default: now."
    )

    given: list[dict[str, Any]] | None = Field(
        None,
        min_length=1,
        description="Goes with entities: inputs that are no features (how far ahead, a supposed load, a candidate). "
        "Each entity is answered once per object.",
    )

    @field_validator("at", mode="before")
    @classmethod
    def _is_text(cls, value: object) -> object:
        if not isinstance(value, str | None):
            raise ValueError("a time in ISO 8601 is wanted, as a string")
        return value

    @field_validator("at")
    @classmethod
    def _in_utc(cls, value: datetime | None) -> datetime | None:
        try:
            return value and value.astimezone(UTC)
        except OverflowError:
            raise ValueError("the time is before year 1 or after year 9999 in UTC") from None

    @model_validator(mode="after")
    def _one_kind(self) -> PredictRequest:
        if (self.records is None) == (self.entities is None):
            raise ValueError("give either 'records' or 'entities'")
        if self.at is not None and self.entities is None:
            raise ValueError("'at' goes with 'entities' only: records bring their own features")
        if self.given is not None and self.entities is None:
            raise ValueError("'given' goes with 'entities' only: records bring all their inputs")
        return self

    def moment(self, now: datetime) -> datetime:
        return self.at or now


class IndexRequest(BaseModel):
    """Body of ``/v2/repository/index``."""

    model_config = ConfigDict(extra="ignore")

    ready: bool = Field(False, description="Only what answers now.")


class Split(BaseModel):
    """A data frame as pandas writes it with ``orient="split"``."""

    model_config = ConfigDict(extra="forbid")

    columns: list[str]
    data: list[list[Any]]
    index: list[Any] | None = None


class InvocationsRequest(BaseModel):
    """Body of ``/models/{model}/invocations``: one of the shapes of MLflow's scoring server."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"dataframe_split": {"columns": ["cpu_percent_mean_3h"], "data": [[71.5]]}}]
        },
    )

    dataframe_split: Split | None = None
    dataframe_records: list[dict[str, Any]] | None = None
    instances: list[Any] | None = Field(None, description="Objects, or lists in the order of the inputs.")
    inputs: dict[str, Any] | list[Any] | None = Field(
        None, description="A list of values per input, or as instances."
    )


class ErrorReply(BaseModel):
    """What every refused request is answered with."""

    error: str = Field(description="What came, and what is wanted.")
    field: str | None = Field(None, description="The field that it is about.")


class OutputTensor(BaseModel):
    name: str
    datatype: str
    shape: list[int]
    data: list[Any] | None = Field(None, description="Left out where the data are binary.")
    parameters: dict[str, Any] | None = Field(None, description="binary_data_size, where they are.")


class InferReply(BaseModel):
    """Answer of ``/v2/models/{model}/infer``."""

    model_config = ConfigDict(protected_namespaces=())

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[OutputTensor]
    parameters: dict[str, Any] = Field(description="prediction_ids, one per row.")


class PredictReply(BaseModel):
    """Answer of ``/models/{model}/predict``."""

    model: str
    version: str
    predictions: list[dict[str, Any]] = Field(
        description="prediction_id and the outputs; the entity and what was given, if asked so; and the explanation."
    )
    unexplained: dict[str, str] | None = Field(
        None, description="Estimators whose answers cannot be explained, and why; with ?explain=true."
    )


class InvocationsReply(BaseModel):
    """Answer of ``/models/{model}/invocations``."""

    model_config = ConfigDict(protected_namespaces=())

    predictions: list[dict[str, Any]]
    model_version: str
    prediction_ids: list[str]
