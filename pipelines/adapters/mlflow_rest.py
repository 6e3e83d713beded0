"""Requests to MLflow's REST API 2.0: its errors told apart, with their remedies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from pipelines.errors import RegistryError
from pipelines.settings import LOOPBACK

_CHUNK_BYTES = 2**20


class RegistryUnreachableError(RegistryError):
    """No answer: the server is down, or the address is wrong. Trying again later may help."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(
            f"no answer from MLflow at {url}: {reason}. Start it with `headrace up`, "
            "or set HEADRACE_TRACKING_URL to where it runs"
        )
        self.url = url


class RegistryRefusedError(RegistryError):
    """MLflow answered with an error."""

    def __init__(self, url: str, status: int, code: str, message: str) -> None:
        super().__init__(f"MLflow refused {url} with {status} {code}: {message}{_remedy(status, message)}")
        self.url = url
        self.status = status
        self.code = code
        self.detail = message


class MLflowRest:
    """Connection to one MLflow server. Safe to use from several threads.

    Every method raises :class:`RegistryUnreachableError` where there is no answer, and
    :class:`RegistryRefusedError` where MLflow answers with an error that the method does not name.

    Args:
        url: Address of the server, without a path.
        timeout_seconds: Longest wait for a connection, and for each piece of an answer.
    """

    def __init__(self, url: str, timeout_seconds: float) -> None:
        self.url = url.rstrip("/")
        # A proxy from the environment is for the world outside, never for this machine.
        local = urlsplit(self.url).hostname in LOOPBACK
        self._http = httpx.Client(
            base_url=self.url,
            timeout=httpx.Timeout(timeout_seconds, connect=min(timeout_seconds, 3.0)),
            trust_env=not local,
        )

    def close(self) -> None:
        self._http.close()

    def pages(self, method: str, path: str, query: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Answers page by page, to the last."""
        token = ""
        while True:
            page = self.call(method, path, query | ({"page_token": token} if token else {}))
            yield page
            token = page.get("next_page_token", "")
            if not token:
                return

    def find(self, method: str, path: str, values: dict[str, Any]) -> dict[str, Any] | None:
        """As :meth:`call`; None where MLflow has no such thing."""
        try:
            return self.call(method, path, values)
        except RegistryRefusedError as error:
            if error.code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise

    def call(self, method: str, path: str, values: dict[str, Any]) -> dict[str, Any]:
        """One request; ``values`` go into the query of a GET, else into a JSON body."""
        sent: dict[str, Any] = {"params": values} if method == "GET" else {"json": values}
        try:
            answer = self._http.request(method, path, **sent)
        except httpx.HTTPError as error:
            raise RegistryUnreachableError(f"{self.url}{path}", _reason(error)) from error
        if answer.status_code != httpx.codes.OK:
            raise _refused(answer)
        try:
            content: dict[str, Any] = answer.json()
        except ValueError as error:
            raise RegistryRefusedError(
                str(answer.url),
                answer.status_code,
                "NOT_JSON",
                f"the answer is {answer.text[:80]!r}: is this MLflow?",
            ) from error
        return content

    def put(self, path: str, content: bytes) -> None:
        """Store bytes at a path."""
        try:
            answer = self._http.put(path, content=content)
        except httpx.HTTPError as error:
            raise RegistryUnreachableError(f"{self.url}{path}", _reason(error)) from error
        if answer.status_code != httpx.codes.OK:
            raise _refused(answer)

    def fetch(self, path: str, target: Path) -> None:
        """Write what is at a path into a file, piece by piece."""
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self._http.stream("GET", path) as answer:
                if answer.status_code != httpx.codes.OK:
                    answer.read()
                    raise _refused(answer)
                with target.open("wb") as file:
                    for chunk in answer.iter_bytes(_CHUNK_BYTES):
                        file.write(chunk)
        except httpx.HTTPError as error:
            raise RegistryUnreachableError(f"{self.url}{path}", _reason(error)) from error


def _refused(answer: httpx.Response) -> RegistryRefusedError:
    try:
        content = answer.json()
        code, message = str(content["error_code"]), str(content["message"])
    except (ValueError, KeyError, TypeError):
        code, message = answer.reason_phrase, answer.text[:200]
    return RegistryRefusedError(str(answer.url), answer.status_code, code, message)


def _remedy(status: int, message: str) -> str:
    if status == httpx.codes.FORBIDDEN and "host" in message.lower():
        return ". Add this host to --allowed-hosts of the MLflow server"
    if status in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
        return ". Give HEADRACE_TRACKING_URL a user who may do this: http://user:password@host"
    if status >= httpx.codes.INTERNAL_SERVER_ERROR:
        return ". MLflow's own log says why"
    return ""


def _reason(error: httpx.HTTPError) -> str:
    return str(error) or type(error).__name__
