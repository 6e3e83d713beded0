"""What was known of earlier virtual machines of a group when a new one was asked for.

Whether a machine outlived an age is known once it would have had that age, however long it went on
to live: so the share that did is neither biased by those that still run nor a look ahead. The
simulator and the preparation of public data work it out with the same function.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Ages that shares are kept for, by the name that columns carry; seconds.
AGES = {"30min": 1_800, "1h": 3_600, "4h": 14_400, "24h": 86_400}
LOOK_BACK = 7 * 86_400  # seconds

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class History:
    """Per request, shape (n,); shares of shape (n, ages), NaN where no machine has had the age yet.

    Attributes:
        count: Earlier machines of the group within the window.
        hours_since: Since the newest of them; NaN where there is none.
        outlived: Of those of the window that would by now have each age, the share that reached it.
    """

    count: Ints
    hours_since: Floats
    outlived: Floats


def history(
    group: Ints,
    created: Ints,
    lifetime: Floats,
    ages: tuple[int, ...] = tuple(AGES.values()),
    window: int = LOOK_BACK,
) -> History:
    """History of each machine's group at its creation.

    Args:
        group: Shape (n,), whole numbers from 0 on.
        created: Shape (n,), seconds since 1970, in any order. Machines of one second do not know each other.
        lifetime: Shape (n,), seconds; of a machine that still runs at the end of the data, anything
            beyond that end. Only comparisons with ages that were reached by then are made.
        ages: Seconds, each below ``window``.
        window: Seconds to look back.
    """
    order = np.lexsort((created, group))
    # One sorted key for all groups: a window of a group is a run of it.
    first = int(created.min(initial=0)) - window
    stride = int(created.max(initial=0)) - first + 1
    base, moment = group.astype(np.int64) * stride, created - first
    keys = (base + moment)[order]
    begin = np.searchsorted(keys, base + moment - window, side="left")
    until_now = np.searchsorted(keys, base + moment, side="left")
    count = until_now - begin
    newest = created[order][np.maximum(until_now - 1, 0)] if len(created) else created
    outlived = np.empty((len(created), len(ages)))
    for column, age in enumerate(ages):
        reached = np.concatenate([[0], np.cumsum(lifetime[order] >= age)])
        end = np.maximum(np.searchsorted(keys, base + moment - age, side="right"), begin)
        known = end - begin
        share = (reached[end] - reached[begin]) / np.maximum(known, 1)
        outlived[:, column] = np.where(known > 0, share, np.nan)
    return History(
        count=count,
        hours_since=np.where(count > 0, (created - newest) / 3600.0, np.nan),
        outlived=outlived,
    )


def history_columns(name: str, seen: History) -> dict[str, Floats]:
    """The history of a kind of group as columns: ``<name>_vms``, ``_hours_since``, ``_outlived_<age>``."""
    columns = {f"{name}_vms": seen.count.astype(np.float64), f"{name}_hours_since": seen.hours_since}
    return columns | {f"{name}_outlived_{age}": seen.outlived[:, place] for place, age in enumerate(AGES)}
