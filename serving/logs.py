"""The server's log: text for people, or JSON lines for machines; both name the request that a line is about."""

from __future__ import annotations

import itertools
import json
import logging
import os
import secrets
import sys
import time
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

#: Of the request that is being answered here; empty outside.
REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
LONGEST_REQUEST_ID = 128

access_log = logging.getLogger("serving.access")

_MADE = itertools.count()
_OF_A_RECORD = frozenset(vars(logging.makeLogRecord({}))) | {
    *("message", "asctime", "taskName"),
    "color_message",  # uvicorn's, for terminals
}


def request_id(given: str) -> str:
    """The id of a request: the caller's own, or a new one where none came or it is too long to keep."""
    if given and len(given) <= LONGEST_REQUEST_ID:
        return given
    return f"{_prefix()}{next(_MADE):x}"


def set_up(level: str, form: str) -> None:
    """Write to standard error.

    Args:
        form: ``text`` or ``json``.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Text())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # One line per look at the registry would bury all others.
    logging.getLogger("httpx").setLevel(logging.WARNING)


class _Text(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)sZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
        self.converter = time.gmtime

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the base's name
        text = super().formatMessage(record)
        named = [f"{name}={value}" for name, value in _extra(record).items()]
        return f"{text} [{' '.join(named)}]" if named else text


class _Json(logging.Formatter):
    """One object a line: time, level, logger, message, process, and what the line is about."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
            **_extra(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    """What a line carries beside its text: the request's id, and what was given as ``extra``."""
    about: dict[str, Any] = {}
    if request := REQUEST_ID.get():
        about["request_id"] = request
    about |= {name: value for name, value in vars(record).items() if name not in _OF_A_RECORD}
    return about


_prefixes: dict[int, str] = {}


def _prefix() -> str:
    """Of this process: one that was forked must not go on with its parent's."""
    process = os.getpid()
    found = _prefixes.get(process)
    return found or _prefixes.setdefault(process, f"{secrets.token_hex(6)}-")
