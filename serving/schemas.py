"""Bodies that clients send. Their content is checked against the model's inputs, not here."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator, model_validator


class Tensor(BaseModel):
    """An input tensor of the Open Inference Protocol: one input of the model, n rows."""

    model_config = ConfigDict(extra="ignore")

    name: str
    shape: list[int] = Field(min_length=1, max_length=2, description="[n] or [n, 1].")
    datatype: str = Field(
        description="FP64, INT64, BYTES or BOOL, as the metadata says; FP32 and INT32 are taken too."
    )
    data: list[Any] = Field(description="n values, flat or nested; null where an optional value is missing.")


class RequestedOutput(BaseModel):
    model_config = ConfigDict(extra="ignore")

    name: str


class InferRequest(BaseModel):
    """Body of ``/v2/models/{model}/infer``."""

    model_config = ConfigDict(extra="ignore")

    id: str | None = None
    inputs: list[Tensor]
    outputs: list[RequestedOutput] | None = Field(None, description="Outputs to answer with. Default: all.")


class PredictRequest(BaseModel):
    """Body of ``/models/{model}/predict``: either records, or entities."""

    model_config = ConfigDict(extra="forbid")

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
