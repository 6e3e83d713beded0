"""What a challenger gets of a model's requests, as the registry tells it: a tag on the version.

The server reads it and the rollout job writes it; so may anybody in the MLflow UI.
"""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

from pipelines.errors import InvalidRequestError

TRAFFIC_TAG = "headrace.traffic"
SHADOW = "shadow"

_PERCENT = re.compile(r"(\d{1,3}(?:\.\d{1,2})?) ?%?")


class Traffic(NamedTuple):
    """A challenger's part.

    Attributes:
        text: ``shadow``, or the percentage as ``10``: one spelling for each.
        percent: Of the requests, which it answers; 0 in the shadow. What it does not answer is mirrored
            to it in either case.
    """

    text: str
    percent: float


def parse_traffic(tag: str | None) -> Traffic:
    """The part that a tag names.

    Raises:
        InvalidRequestError: it names none, so the challenger gets nothing.
    """
    if tag is None:
        raise InvalidRequestError(
            f"the version has no tag {TRAFFIC_TAG}: set it to {SHADOW}, or to a percentage such as 10",
            TRAFFIC_TAG,
        )
    if tag.strip().lower() == SHADOW:
        return Traffic(SHADOW, 0.0)
    found = _PERCENT.fullmatch(tag.strip())
    percent = float(found[1]) if found else 0.0
    if not 0 < percent <= 100:
        raise InvalidRequestError(
            f"the tag {TRAFFIC_TAG} is {tag[:40]!r}, {SHADOW} or a percentage above 0 and up to 100 is wanted",
            TRAFFIC_TAG,
        )
    return Traffic(f"{percent:g}", percent)


def place_of(model: str, key: bytes) -> float:
    """Where a key stands among all keys of a model, in [0, 1): the same in each replica, for ever.

    A challenger of p percent answers those below p/100, so who was among 10 % stays among 50 %.
    """
    digest = hashlib.blake2b(model.encode() + b"\0" + key, digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
