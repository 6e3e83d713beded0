"""By what a request keeps its version: the entity it is about, where it names one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import orjson

#: A caller that sends features, and not entities, names here whom they are about.
HEADER = b"x-headrace-sticky"

_READ_BYTES = 64 * 1024


def key_of(
    content: bytes | memoryview, headers: Mapping[bytes, bytes], entity_input: str | None = None
) -> bytes:
    """What decides who answers a request; equal keys get the same version, everywhere and always.

    In this order: the header ``X-Headrace-Sticky``; the request's entities, as a set; the input
    that names the entity, where the model has one and the request is made of records; and what was
    sent, so that the same question gets the same version.

    Args:
        entity_input: Name of the input that is the entity itself.
    """
    named = headers.get(HEADER)
    if named:
        return named
    entities = _entities(content, entity_input) if len(content) <= _READ_BYTES else None
    if entities:
        return "\0".join(sorted(entities)).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(content[:_READ_BYTES], digest_size=16).digest()


def _entities(content: bytes | memoryview, entity_input: str | None) -> set[str] | None:
    """Entities of a body for ``predict``; None where it names none. What is wrong with it, its door says."""
    if bytes(content[:1]) != b"{":
        return None
    try:
        document: Any = orjson.loads(content)
    except orjson.JSONDecodeError:
        return None
    named = document.get("entities")
    if named is None and entity_input is not None:
        records = document.get("records")
        if isinstance(records, list):
            named = [record.get(entity_input) for record in records if isinstance(record, dict)]
    if not isinstance(named, list) or not named or not all(isinstance(entity, str) for entity in named):
        return None
    return set(named)
