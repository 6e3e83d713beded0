"""Bodies that clients send and get. Their content is checked against the model's inputs, not here."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from pipelines.adapters.spool.ids import parse_id


def _text(value: object) -> object:
    if not isinstance(value, str | None):
        raise ValueError("a time in ISO 8601 is wanted, as a string")
    return value


def _in_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("the time is before year 1 or after year 9999 in UTC") from None


#: A moment with its zone, in UTC.
Moment = Annotated[AwareDatetime, BeforeValidator(_text), AfterValidator(_in_utc)]


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
    at: Moment | None = Field(
        None, description="Moment to predict for, with its zone (2026-01-31T12:00:00Z). Default: now."
    )

    given: list[dict[str, Any]] | None = Field(
        None,
        min_length=1,
        description="Goes with entities: inputs that are no features (how far ahead, a supposed load, a candidate). "
        "Each entity is answered once per object.",
    )

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


class Label(BaseModel):
    """What came of one prediction, which it names by its id, or by whom and when it was about."""

    model_config = ConfigDict(extra="forbid")

    prediction_id: str | None = Field(None, description="Of the answer to it.")
    entity: str | None = Field(None, min_length=1, max_length=1_000)
    event_time: Moment | None = Field(
        None, description="Goes with entity: moment that the features are of, with its zone."
    )
    target: str | None = Field(None, description="Needed where the model has several.")
    value: float = Field(
        allow_inf_nan=False,
        description="The truth, in the target's unit; of an event 1: it happened, 0: not.",
    )
    labelled_at: Moment | None = Field(
        None, description="When that was found out. The newest word counts. Default: now."
    )

    @field_validator("prediction_id")
    @classmethod
    def _is_an_id(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parse_id(value)
        return str(UUID(value))  # as the prediction log writes it

    @field_validator("value", mode="before")
    @classmethod
    def _is_a_number(cls, value: object) -> object:
        if not isinstance(value, int | float):
            raise ValueError("a number is wanted")
        return value

    @model_validator(mode="after")
    def _has_one_key(self) -> Label:
        by_moment = self.entity is not None or self.event_time is not None
        if (self.prediction_id is None) != by_moment:
            raise ValueError("give either 'prediction_id', or 'entity' and 'event_time'")
        if by_moment and (self.entity is None or self.event_time is None):
            raise ValueError("'entity' and 'event_time' go together")
        return self


class LabelsRequest(BaseModel):
    """Body of ``/models/{model}/labels``."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "labels": [
                        {"prediction_id": "019438f1-2a80-7c3e-8f00-5b7a1c000001", "value": 1},
                        {"entity": "m-001", "event_time": "2026-01-31T12:00:00Z", "value": 0},
                    ]
                }
            ]
        },
    )

    labels: list[Label] = Field(min_length=1)


class LabelsReply(BaseModel):
    """Answer of ``/models/{model}/labels``."""

    model: str
    accepted: int
    batch: str = Field(description="Name of this request in the spool.")


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
