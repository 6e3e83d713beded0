"""Decides what a request is answered with. Knows nothing of HTTP: each transport translates."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from numpy.typing import NDArray

from models.manifest import FieldType, InputField
from pipelines.adapters.feature_store import STALE_VIEWS, age_name
from pipelines.adapters.registry import ALIAS_PRODUCTION
from pipelines.errors import ArtifactError, InvalidRequestError
from serving.errors import EntityNotFoundError, FeaturesUnavailableError
from serving.features import FeatureLookup
from serving.follower import Follower, PointerStatus
from serving.schemas import InferRequest, Tensor
from serving.validation import check_rows, column_of, columns_of_records, refuse_unknown
from serving.versions import LoadedVersion, VersionTable

DATATYPES = {
    FieldType.DOUBLE: "FP64",
    FieldType.LONG: "INT64",
    FieldType.STRING: "BYTES",
    FieldType.BOOLEAN: "BOOL",
}
_INTEGERS = frozenset({"INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"})
_TAKEN = {
    FieldType.DOUBLE: frozenset({"FP64", "FP32", "FP16"}) | _INTEGERS,
    FieldType.LONG: _INTEGERS,
    FieldType.STRING: frozenset({"BYTES"}),
    FieldType.BOOLEAN: frozenset({"BOOL"}),
}


@dataclass(frozen=True)
class Answer:
    """Predictions of one version.

    Attributes:
        outputs: Arrays of shape (n,) by name, those that were asked for, in that order.
        prediction_ids: One per row.
    """

    version: LoadedVersion
    outputs: Mapping[str, NDArray]
    prediction_ids: tuple[str, ...]


@dataclass(frozen=True)
class Readiness:
    """Whether requests will be answered, and all that stands against it.

    Attributes:
        reasons: Why not ready; empty when ready.
        warnings: What is wrong though requests are answered.
        models: State of each alias, by model.
    """

    ready: bool
    reasons: tuple[str, ...]
    warnings: tuple[str, ...]
    models: Mapping[str, Mapping[str, PointerStatus]]


class DataPlane:
    """Predictions and readiness, from the versions in the table."""

    def __init__(
        self,
        table: VersionTable,
        follower: Follower,
        features: FeatureLookup,
        *,
        default_source: str,
        max_rows: int,
    ) -> None:
        self.table = table
        self._follower = follower
        self._features = features
        self._default_source = default_source
        self._max_rows = max_rows

    def infer(self, version: LoadedVersion, request: InferRequest) -> Answer:
        """Predict from tensors.

        Raises:
            InvalidRequestError: the tensors do not fit the model.
        """
        inputs = version.predictor.manifest.inputs
        columns = self._columns_of_tensors(inputs, request.inputs)
        names = [field.name for field in version.predictor.manifest.outputs]
        if request.outputs:
            asked = [output.name for output in request.outputs]
            for name in asked:
                if name not in names:
                    raise InvalidRequestError(
                        f"the model has no output {name[:40]!r}; it has {names}", "outputs"
                    )
            names = asked
        return _predict(version, columns, names)

    def predict_records(self, version: LoadedVersion, records: Sequence[Any]) -> Answer:
        """Predict from JSON objects.

        Raises:
            InvalidRequestError: a record does not fit the model.
        """
        check_rows(len(records), self._max_rows, "records")
        return _predict(version, columns_of_records(version.predictor.manifest.inputs, records))

    def predict_entities(
        self,
        version: LoadedVersion,
        entities: Sequence[str],
        at: datetime,
        given: Sequence[Mapping[str, Any]] = ({},),
    ) -> Answer:
        """Predict from the features that the online store holds for entities.

        Each entity is answered once per object of ``given``, whose values add to its features or
        stand in for them.

        Raises:
            EntityNotFoundError: the store does not know one of them.
            InvalidRequestError: a feature that the model requires is missing or out of its range.
            FeaturesUnavailableError: the store cannot be asked, or what it has is too old.
        """
        check_rows(len(entities) * len(given), self._max_rows, "entities")
        manifest = version.predictor.manifest
        known = {field.name for field in manifest.inputs}
        for position, values in enumerate(given):
            if not values.keys() <= known:
                refuse_unknown(min(values.keys() - known), known, f"given {position}")
        source = manifest.lineage.get("source", self._default_source)
        rows = self._features.online(source, entities, at, manifest.lineage.get("grid"))
        records = []
        for entity, row in zip(entities, rows, strict=True):
            if row is None:
                raise EntityNotFoundError(
                    f"the online store has no features of entity {entity[:80]!r} of source {source!r} at "
                    f"{at.isoformat()}: is it spelled so, and has it sent telemetry lately?",
                    "entities",
                )
            if stale := row.get(STALE_VIEWS):
                ages = ", ".join(f"{view} of {row[age_name(view)]:.1f} h" for view in stale)
                raise FeaturesUnavailableError(
                    f"the features of entity {entity[:80]!r} are not those of {at.isoformat()}: {ages}, which is beyond "
                    "their time to live. Has telemetry stopped, or the features stage? To ask for an earlier time, give 'at'"
                )
            # The store hands out more than the model takes: the key, the time, other features.
            features = {field.name: _plain(row.get(field.name)) for field in manifest.inputs}
            if "entity_input" in manifest.lineage:
                features[manifest.lineage["entity_input"]] = entity
            records += [features | dict(values) for values in given]
        try:
            return _predict(version, columns_of_records(manifest.inputs, records))
        except InvalidRequestError as error:
            raise InvalidRequestError(
                f"the online store's features do not fit the model ({error}); records are counted in the order of "
                f"your entities. The feature is stale or was never published: run the features stage, or send records",
                error.field,
            ) from error

    def readiness(self) -> Readiness:
        """Ask each model that should serve to reproduce its own sample."""
        status = self._follower.status()
        reasons: list[str] = []
        warnings: list[str] = []
        models: dict[str, dict[str, PointerStatus]] = {}
        for pointer, state in sorted(status.pointers.items()):
            models.setdefault(pointer.name, {})[pointer.alias] = state
            what = f"{pointer.alias} of {pointer.name}"
            if pointer.alias == ALIAS_PRODUCTION and (problem := self._problem(pointer.name, state)):
                reasons.append(f"{what}: {problem}")
            elif state.failure:
                warnings.append(
                    f"{what}: version {state.wanted} is refused and {state.serving or 'nothing'} serves: {state.failure}"
                )
        if not any(pointer.alias == ALIAS_PRODUCTION for pointer in status.pointers):
            if status.looked_seconds_ago is None and status.registry_error is None:
                reasons.append("the registry was not looked at yet")
            elif status.registry_error is None:
                reasons.append(
                    "no registered model has the alias production: train one with `headrace train failure`"
                )
            else:
                reasons.append(
                    "nothing to serve is known: the registry does not answer and nothing served before"
                )
        if status.registry_error is not None:
            warnings.append(status.registry_error)
        return Readiness(not reasons, tuple(reasons), tuple(warnings), models)

    def model_ready(self, version: LoadedVersion) -> str | None:
        """None if the version reproduces its own sample, else why not."""
        try:
            version.export.check()
        except ArtifactError as error:
            return str(error)
        return None

    def _problem(self, name: str, state: PointerStatus) -> str | None:
        live = self.table.at(name, ALIAS_PRODUCTION)
        if live is None:
            return state.failure or f"version {state.wanted} is being loaded"
        return self.model_ready(live)

    def _columns_of_tensors(
        self, inputs: Sequence[InputField], tensors: Sequence[Tensor]
    ) -> dict[str, NDArray]:
        fields = {field.name: field for field in inputs}
        sent: dict[str, list[Any]] = {}
        for tensor in tensors:
            if tensor.name not in fields:
                refuse_unknown(tensor.name, set(fields), "the request")
            if tensor.name in sent:
                raise InvalidRequestError(f"input {tensor.name!r} is given twice", tensor.name)
            sent[tensor.name] = _values(fields[tensor.name], tensor)
        if not sent:
            raise InvalidRequestError(f"inputs is empty; the model takes {sorted(fields)}", "inputs")
        first, rows = next((name, len(values)) for name, values in sent.items())
        check_rows(rows, self._max_rows, first)
        for name, values in sent.items():
            if len(values) != rows:
                raise InvalidRequestError(
                    f"input {name!r} has {len(values)} rows, {first!r} has {rows}", name
                )
        for field in inputs:
            if field.required and field.name not in sent:
                raise InvalidRequestError(f"input {field.name!r} is missing; it is required", field.name)
        return {field.name: column_of(field, sent.get(field.name, [None] * rows)) for field in inputs}


def _values(field: InputField, tensor: Tensor) -> list[Any]:
    """The tensor's n values, flat."""
    if tensor.datatype not in _TAKEN[field.type]:
        raise InvalidRequestError(
            f"input {field.name!r} has datatype {tensor.datatype[:40]!r}, {DATATYPES[field.type]} is wanted",
            field.name,
        )
    if len(tensor.shape) not in {1, 2} or tensor.shape[1:] not in ([], [1]):
        raise InvalidRequestError(
            f"input {field.name!r} has shape {tensor.shape}, [n] or [n, 1] is wanted", field.name
        )
    values = tensor.data
    if any(type(value) is list for value in values):
        if not all(type(value) is list and len(value) == 1 for value in values):
            raise InvalidRequestError(
                f"the data of input {field.name!r} are nested, but not as [[value], [value], …]", field.name
            )
        values = [value[0] for value in values]
    if len(values) != tensor.shape[0]:
        raise InvalidRequestError(
            f"input {field.name!r} has shape {tensor.shape}, but {len(values)} values", field.name
        )
    return values


def _plain(value: Any) -> Any:
    """A stored value as JSON would have it: the store writes a missing number as NaN."""
    return None if value != value else value


def _predict(
    version: LoadedVersion, columns: Mapping[str, NDArray], names: Sequence[str] | None = None
) -> Answer:
    outputs = version.predictor.predict(columns)
    rows = len(next(iter(columns.values())))
    ids = tuple(str(uuid.uuid4()) for _ in range(rows))
    return Answer(version, {name: outputs[name] for name in names} if names else outputs, ids)
