"""``/models/{m}/predict``: records or entities in, predictions for people out."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs

from pipelines.adapters.runtimes import Explanation, Rows
from pipelines.errors import InvalidRequestError
from serving.dataplane import Answer, DataPlane
from serving.rest.doors import Answered, Body, Call, parsed, records_of, validated
from serving.rest.replies import encoded
from serving.schemas import PredictRequest
from serving.versions import LoadedVersion

_NO_ACCOUNT = "the runtime of this estimator has no exact account of what each input adds"
_ALL_RECORDS = {"records"}
_TRUTH = {"true": True, "1": True, "false": False, "0": False}


class PredictDoor:
    """JSON objects, or keys of entities whose features come from the online store."""

    refusal = 422

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane

    def read(self, version: LoadedVersion, body: Body) -> Call:
        explain = _explain(body.query) if body.query else False
        document = parsed(body.content)
        if type(document) is dict and document.keys() == _ALL_RECORDS and type(document["records"]) is list:
            records = document["records"]
        else:
            request = validated(PredictRequest, document)
            if request.entities is not None:
                return EntitiesCall(self._plane, version, request, explain)
            records = request.records or []
        rows = self._plane.rows_of_records(version, records)
        return RecordsCall(self._plane, version, rows, explain)


class RecordsCall:
    __slots__ = ("_explain", "_plane", "_rows", "_version", "rows")

    def __init__(self, plane: DataPlane, version: LoadedVersion, rows: Rows, explain: bool) -> None:
        self._plane, self._version, self._rows, self._explain = plane, version, rows, explain
        self.rows = 0 if explain else len(rows)  # an explanation costs far more than a prediction

    def answer(self) -> Answered:
        answer = self._plane.predict(self._version, self._rows)
        return _told(self._plane, answer, self._explain)


class EntitiesCall:
    rows = 0  # asks the online store

    def __init__(
        self, plane: DataPlane, version: LoadedVersion, request: PredictRequest, explain: bool
    ) -> None:
        self._plane, self._version, self._request, self._explain = plane, version, request, explain
        # The one place where the server reads the time: a request without one is about now.
        self._moment = request.moment(datetime.now(UTC))

    def answer(self) -> Answered:
        entities, given = self._request.entities or [], self._request.given or [{}]
        answer = self._plane.predict_entities(self._version, entities, self._moment, given)
        asked = [{"entity": entity} | values for entity in entities for values in given]
        return _told(self._plane, answer, self._explain, asked)


def _explain(query: bytes) -> bool:
    asked = parse_qs(query.decode("latin-1"), keep_blank_values=True)
    if unknown := sorted(set(asked) - {"explain"}):
        raise InvalidRequestError(f"the query has {unknown[0][:40]!r}; only 'explain' is taken", "query")
    (text,) = asked.get("explain", ["false"])[-1:]
    if text.lower() not in _TRUTH:
        raise InvalidRequestError(f"explain is {text[:40]!r}, true or false is wanted", "explain")
    return _TRUTH[text.lower()]


def _told(
    plane: DataPlane, answer: Answer, explain: bool, asked: list[dict[str, Any]] | None = None
) -> Answered:
    outputs = answer.outputs
    columns = [list(answer.prediction_ids), *[outputs[name].tolist() for name in answer.asked]]
    rows = records_of(("prediction_id", *answer.asked), columns)
    if asked is not None:
        # Id first, then what was asked, then the answer to it.
        rows = [
            {"prediction_id": row["prediction_id"]} | named | row
            for row, named in zip(rows, asked, strict=True)
        ]
    content: dict[str, Any] = {
        "model": answer.version.name,
        "version": answer.version.version,
        "predictions": rows,
    }
    if explain:
        told = plane.explain(answer)
        for place, row in enumerate(rows):
            row["explanation"] = _explanation(told, place)
        if silent := sorted(name for name, explanation in told.items() if explanation is None):
            content["unexplained"] = dict.fromkeys(silent, _NO_ACCOUNT)
    return Answered(answer, encoded(content))


def _explanation(told: Mapping[str, Explanation | None], place: int) -> dict[str, Any]:
    """Per estimator: its raw answer to one row, the base, and what each input adds; these add up to it."""
    return {
        name: {
            "raw": explanation.raw[place].item(),
            "base": explanation.base[place].item(),
            "contributions": {field: shares[place].item() for field, shares in explanation.inputs.items()},
        }
        for name, explanation in told.items()
        if explanation is not None
    }
