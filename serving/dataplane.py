"""Decides what a request is answered with. Knows nothing of HTTP: each transport translates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from numpy.typing import NDArray

from pipelines.adapters.feature_store import STALE_VIEWS, age_name
from pipelines.adapters.registry import ALIAS_PRODUCTION
from pipelines.adapters.runtimes import Explanation, Rows
from pipelines.errors import ArtifactError, InvalidRequestError
from serving.errors import EntityNotFoundError, FeaturesUnavailableError
from serving.features import FeatureLookup
from serving.follower import Follower, PointerStatus
from serving.metrics import ServingMetrics
from serving.prediction_log import PredictionLog
from serving.rollout import Rollouts
from serving.tensors import Tensor, columns_of_tensors
from serving.validation import check_rows, columns_of_records, refuse_unknown
from serving.versions import LoadedVersion, VersionTable


class Answer(NamedTuple):
    """Predictions of one version.

    Attributes:
        alias: Under which the version answered; empty if it was asked for by number and has none any more.
        rows: What was predicted from.
        outputs: All outputs, arrays of shape (n,) by name.
        asked: Names of the outputs to answer with, in that order.
        prediction_ids: One per row.
        entities: Key of each row, where features came from the online store.
        at: Moment that was predicted for, likewise.
    """

    version: LoadedVersion
    alias: str
    rows: Rows
    outputs: Mapping[str, NDArray]
    asked: Sequence[str]
    prediction_ids: Sequence[str]
    entities: Sequence[str] | None = None
    at: datetime | None = None


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
    """Predictions and readiness, from the versions in the table.

    Every transport does the same: :meth:`find` a version, once per request; ask it; encode the
    answer; and report with :meth:`answered`, or :meth:`refused` where an error came of it.
    """

    def __init__(
        self,
        table: VersionTable,
        follower: Follower,
        features: FeatureLookup,
        metrics: ServingMetrics,
        log: PredictionLog,
        rollouts: Rollouts,
        *,
        default_source: str,
        max_rows: int,
    ) -> None:
        self.table = table
        self.follower = follower
        self.rollouts = rollouts
        self._features = features
        self._metrics = metrics
        self._log = log
        self._default_source = default_source
        self._max_rows = max_rows

    def find(self, name: str, version: str | None = None) -> LoadedVersion:
        """The version that answers a request; whatever switches meanwhile, all of the request is answered by it.

        Raises:
            ModelNotFoundError: it is not loaded.
        """
        return self.table.find(name, version)

    def seconds_of(self, version: LoadedVersion, rows: int) -> float:
        """What predicting so many rows costs here, about: by it a transport decides what to do on its event loop."""
        return version.seconds_alone if rows == 1 else rows * version.seconds_per_row

    def infer(
        self, version: LoadedVersion, tensors: Sequence[Tensor], outputs: Sequence[str] | None = None
    ) -> Answer:
        """Predict from tensors.

        Args:
            outputs: Names of the outputs to answer with; default is all.

        Raises:
            InvalidRequestError: the tensors do not fit the model.
        """
        asked = self.checked_outputs(version, outputs or ())
        columns = columns_of_tensors(version.plan, tensors, self._max_rows)
        return self.predict(version, version.plan.of_columns(columns), asked)

    def checked_outputs(self, version: LoadedVersion, asked: Sequence[str]) -> Sequence[str]:
        """The same names, where the model has such outputs.

        Raises:
            InvalidRequestError: it has not.
        """
        if asked:
            names = [field.name for field in version.predictor.manifest.outputs]
            for name in asked:
                if name not in names:
                    raise InvalidRequestError(
                        f"the model has no output {name[:40]!r}; it has {names}", "outputs"
                    )
        return asked

    def rows_of_records(self, version: LoadedVersion, records: Sequence[Any], field: str = "records") -> Rows:
        """Rows of JSON objects.

        Raises:
            InvalidRequestError: a record does not fit the model, or there are too many.
        """
        check_rows(len(records), self._max_rows, field)
        rows = version.plan.of_records(records)
        return rows or version.plan.of_columns(columns_of_records(version.plan.inputs, records))

    def predict(
        self,
        version: LoadedVersion,
        rows: Rows,
        asked: Sequence[str] = (),
        *,
        entities: Sequence[str] | None = None,
        at: datetime | None = None,
    ) -> Answer:
        """Predict from rows that were checked.

        Args:
            asked: Names of the outputs to answer with; default is all.

        Raises:
            InvalidRequestError: there are none, or too many.
        """
        check_rows(len(rows), self._max_rows, "the request")
        outputs = version.predictor.predict_rows(rows)
        ids = self._log.ids(len(rows))
        alias = self.table.alias_of(version)
        return Answer(version, alias, rows, outputs, asked or tuple(outputs), ids, entities, at)

    def explain(self, answer: Answer) -> Mapping[str, Explanation | None]:
        """Per estimator, what each input adds to its raw answers; None for one that has no exact account."""
        return answer.version.predictor.explain_rows(answer.rows)

    def answered(self, answer: Answer, seconds: float, transport: str, request_id: str = "") -> None:
        """Count and log an answer that is ready to be sent.

        Args:
            seconds: From the whole request being read to the answer being ready.
            transport: ``rest`` or ``grpc``.
        """
        version = answer.version
        self._metrics.answered(version.name, version.version, 200, len(answer.rows), seconds, transport)
        self._log.record(
            version,
            answer.alias,
            answer.prediction_ids,  # type: ignore[arg-type]
            answer.rows.matrix,
            answer.outputs,
            seconds=seconds,
            transport=transport,
            entities=answer.entities,
            at=answer.at,
            texts=answer.rows.texts,
            request_id=request_id,
        )

    def refused(
        self, version: LoadedVersion | None, code: int, seconds: float, transport: str, error: Exception
    ) -> None:
        """Count a request that was answered with an error.

        Args:
            version: That was asked; None where none was found, since names that a client makes up must not
                become labels.
            code: Of HTTP, or what comes closest to it.
        """
        name, number = (version.name, version.version) if version else ("", "")
        self._metrics.answered(name, number, code, 0, seconds, transport)
        self._metrics.failed(name, error, transport)

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
                raise FeaturesUnavailableError(
                    f"the features of entity {entity[:80]!r} are not those of {at.isoformat()}: "
                    + _not_of_that_time({view: row[age_name(view)] for view in stale})
                )
            # The store hands out more than the model takes: the key, the time, other features.
            features = {field.name: _plain(row.get(field.name)) for field in manifest.inputs}
            if "entity_input" in manifest.lineage:
                features[manifest.lineage["entity_input"]] = entity
            records += [features | dict(values) for values in given]
        try:
            checked = self.rows_of_records(version, records)
        except InvalidRequestError as error:
            raise InvalidRequestError(
                f"the online store's features do not fit the model ({error}); records are counted in the order of "
                f"your entities. The feature is stale or was never published: run the features stage, or send records",
                error.field,
            ) from error
        keys = [entity for entity in entities for _ in given]
        return self.predict(version, checked, entities=keys, at=at)

    def readiness(self) -> Readiness:
        """Ask each model that should serve to reproduce its own sample."""
        status = self.follower.status()
        reasons: list[str] = []
        warnings: list[str] = []
        models: dict[str, dict[str, PointerStatus]] = {}
        for pointer, state in sorted(status.pointers.items()):
            models.setdefault(pointer.name, {})[pointer.alias] = state
            what = f"{pointer.alias} of {pointer.name}"
            if pointer.alias == ALIAS_PRODUCTION and (problem := self._problem(pointer.name, state)):
                reasons.append(f"{what}: {problem}")
            elif state.problem:
                warnings.append(f"{what}: {state.problem}")
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


def _plain(value: Any) -> Any:
    """A stored value as JSON would have it: the store writes a missing number as NaN."""
    return None if value != value else value


def _not_of_that_time(ages: Mapping[str, float]) -> str:
    """Why, and what to do: views whose newest row is too old, or newer than the moment (hours below 0)."""
    if all(hours < 0 for hours in ages.values()):
        newer = ", ".join(f"{view} has one {-hours:.1f} h later" for view, hours in ages.items())
        return (
            f"{newer}, and the online store keeps the newest alone. Ask for a later moment, or send records"
        )
    told = ", ".join(f"{view} of {hours:.1f} h" for view, hours in ages.items())
    return (
        f"{told}, which is beyond their time to live. Has telemetry stopped, or the features stage? To ask for an "
        "earlier time, give 'at'"
    )
