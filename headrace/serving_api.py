"""Client of the server: which version answers, and predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx

from headrace.errors import NotRunningError
from pipelines.adapters.serving_client import client
from pipelines.errors import InvalidRequestError, ProcessError

if TYPE_CHECKING:
    from pipelines.settings import Settings


class ServingApi:
    """The server's endpoints for people, over HTTP.

    Every method raises :class:`NotRunningError` where nothing answers.
    """

    # The first look-up of an entity imports Feast in the server: seconds, on a busy machine many.
    def __init__(self, settings: Settings, timeout_seconds: float = 90.0) -> None:
        self.url = settings.serving
        self._http = client(settings, timeout_seconds)

    def version(self, model: str) -> str | None:
        """The version that answers requests now; None: the model is not served."""
        answer = self._send("GET", f"/v2/models/{quote(model, safe='')}")
        if answer.status_code == httpx.codes.NOT_FOUND:
            return None
        return str(_content(answer)["parameters"]["version"])

    def readiness(self) -> list[str]:
        """Why the server is not ready, and what is wrong though it answers; empty: all is well."""
        content = self._send("GET", "/v2/health/ready").json()
        return [*content.get("reasons", ()), *content.get("warnings", ())]

    def predict(self, model: str, body: dict[str, Any]) -> dict[str, Any]:
        """Predictions for ``{"entities": […]}`` or ``{"records": […]}``.

        Raises:
            InvalidRequestError: the request does not fit the model, or names an unknown one.
            ProcessError: the server failed.
        """
        answer = self._send("POST", f"/models/{quote(model, safe='')}/predict", json=body)
        content: dict[str, Any] = _content(answer)
        return content

    def _send(self, method: str, path: str, **sent: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **sent)
        except httpx.HTTPError as error:
            raise NotRunningError(
                f"no answer from the server at {self.url}: {error}. Start it with `headrace up`, "
                "or set HEADRACE_SERVING_URL to where it runs"
            ) from error


def _content(answer: httpx.Response) -> Any:
    try:
        content = answer.json()
    except ValueError as error:
        raise ProcessError(
            f"{answer.url} answered {answer.status_code} with {answer.text[:80]!r}: is this Headrace's server?"
        ) from error
    if answer.status_code in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
        raise ProcessError(
            f"the server at {answer.url} refuses: {content.get('error', content)}. Give a key as HEADRACE_SERVING_API_KEY "
            "(`headrace keys new NAME`)"
        )
    if answer.is_client_error:
        raise InvalidRequestError(
            str(content.get("error", content)), content.get("field") if isinstance(content, dict) else None
        )
    if answer.is_server_error:
        raise ProcessError(f"the server answered {answer.status_code}: {content.get('error', content)}")
    return content
