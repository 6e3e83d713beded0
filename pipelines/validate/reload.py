"""After a stopped batch, and once its source is mended: read the rows again.

Raw is exactly-once, so ingest alone would skip the slices that it holds.
"""

from __future__ import annotations

from datetime import time
from itertools import groupby
from typing import TYPE_CHECKING

from pipelines.errors import LakeError, WindowError
from pipelines.references import IngestRef, Layer, TableRef, Window

if TYPE_CHECKING:
    from pipelines.settings import Settings


def run(source: str, dataset: str, window: Window, settings: Settings) -> IngestRef:
    """Put what the source has now in the place of what raw holds of the window, a day per commit.

    Only slices that were never let through may change: what is in clean or quarantine stays equal
    to raw. Can be killed and run again.

    Raises:
        WindowError: the window is not made of whole slices and whole days (UTC).
        LakeError: raw does not hold a slice of the window, or it was validated already.
        SourceError: the source cannot be read.
    """
    import polars as pl

    from pipelines.adapters.lake import Lake
    from pipelines.buckets import with_bucket
    from pipelines.ingest.job import held, read_slice
    from pipelines.ingest.steps import SLICE_DAY
    from pipelines.sources.base import open_source
    from pipelines.sources.profile import load_profile
    from pipelines.validate.job import work_of as validate_of

    profile = load_profile(source)
    contract = profile.dataset(dataset)
    slices = list(window.slices(contract.slice))
    for name, moment in (("start", window.start), ("end", window.end)):
        if moment.time() != time.min:
            raise WindowError(
                f"window {name} {moment.isoformat()} is not midnight: raw is replaced by whole days"
            )
    lake = Lake.of(settings)
    raw, quarantine = (profile.table(layer, dataset) for layer in (Layer.RAW, Layer.QUARANTINE))
    present = set(held(lake, raw, slices))
    if absent := [each for each in slices if each not in present]:
        raise LakeError(
            f"{raw} does not hold {absent[0]}, so there is nothing to put in its place: ingest it"
        )
    judged = lake.done(quarantine, map(validate_of, slices))
    if done := [each for each in slices if validate_of(each) in judged]:
        raise LakeError(
            f"{done[0]} of {raw} was validated already, its rows are in use: choose a window without it"
        )

    origin = open_source(profile, settings)
    rows = 0
    for day, of_day in groupby(slices, key=lambda each: each.start.date()):
        frame = pl.concat([read_slice(origin, contract, each) for each in of_day])
        frame = with_bucket(frame, contract.entity, lake.buckets(raw))
        rows += lake.replace(raw, frame, where=f"{SLICE_DAY} = '{day}'", partition_by=SLICE_DAY).rows_added
    return IngestRef(
        source=source,
        dataset=dataset,
        window=window,
        raw=TableRef(table=raw, version=lake.version(raw), rows_added=rows),
    )
