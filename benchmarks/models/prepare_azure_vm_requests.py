"""Turn the public stream ``azure_vm_requests`` into the tables ``vm_requests`` and ``vm_events``.

    python -m benchmarks.models.prepare_azure_vm_requests --data DATA

Writes below ``HEADRACE_HOME``, where the profile ``azure_vm_requests`` reads. Only segments with
lifetimes are taken. What becomes what, and what had to be settled because the trace does not say it:

- **Times.** The trace counts seconds from its own start. Here it starts at 2017-01-01T16:40:00Z, so that
  its segments end at midnight; hours of the day have a phase of their own.
- **Lifetimes** are known as bins of 300 s and wider. Each is drawn evenly from its bin, with a fixed
  seed. A machine that ran at the end of its segment has no deletion: its lifetime is censored there.
- **Tenants** are not in the trace. A batch is one tenant's; batches of the same composition (which
  sizes, how many of each) stand for one tenant, and machines of one size in a batch of one size are
  alike. Their history is what :mod:`models.placement.history` makes of lifetimes known by then, within
  the segment.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.placement.history import history, history_columns
from pipelines.settings import load_settings

ORIGIN = datetime(2017, 1, 1, 16, 40, tzinfo=UTC)
BIN_SECONDS = 300
SEED = 2017
LARGEST_BATCH = 40  # larger batches are alike in size
_NEVER = 10**9  # seconds; beyond the trace

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Stream:
    """Both tables, and beside each request what a replay needs to know of it.

    Attributes:
        requests: As the profile's ``vm_requests``, ordered as they came.
        events: As its ``vm_events``.
        batch: Number of each request's batch, in the order of the requests.
        segment: Segment of each request, in the same order.
        ends: End of each segment, UTC.
    """

    requests: pl.DataFrame
    events: pl.DataFrame
    batch: Ints
    segment: NDArray
    ends: dict[str, datetime]


def prepare(trace: pl.DataFrame) -> Stream:
    """The stream of all segments with lifetimes.

    Args:
        trace: As ``requests.parquet``, described in the data set's README.

    Raises:
        ValueError: no row has a lifetime.
    """
    known = trace.filter(pl.col("running_at_end").is_not_null()).with_row_index("row")
    if known.is_empty():
        raise ValueError("no segment of the trace has lifetimes")
    parts = [_segment(part) for part in known.partition_by("segment", maintain_order=True)]
    return Stream(
        requests=pl.concat(part.requests for part in parts),
        events=pl.concat(part.events for part in parts),
        batch=np.concatenate([part.batch for part in parts]),
        segment=np.concatenate([part.segment for part in parts]),
        ends={name: end for part in parts for name, end in part.ends.items()},
    )


def _segment(part: pl.DataFrame) -> Stream:
    created = part["arrival_s"].to_numpy().astype(np.int64)
    end = int(created.max()) + BIN_SECONDS
    lifetime = _lifetimes(part)
    batch, tenant, alike, size = _groups(part)
    cores = part["vcpus"].cast(pl.Float64)
    batch_cores = np.bincount(batch, weights=cores.to_numpy())[batch]
    columns = {
        "batch_vms": size.astype(np.float64),
        "batch_cores": batch_cores,
        **history_columns("tenant", history(tenant, created, lifetime)),
        **history_columns("alike", history(alike, created, lifetime)),
    }
    names = pl.format("v{}", pl.col("row"))
    requests = part.select(
        vm_id=names,
        event_time=_moment(pl.col("arrival_s")),
        cores=cores,
        memory_gib=pl.col("memory_gib").cast(pl.Float64),
    ).with_columns(
        pl.Series(name, values, dtype=pl.Float64).fill_nan(None) for name, values in columns.items()
    )
    # A draw from the newest bin may reach over the end, which no machine that ended can have done.
    at = np.minimum(created + lifetime.astype(np.int64), end - 1)
    ended = part.with_columns(at=pl.Series(at)).filter(~pl.col("running_at_end"))
    events = ended.select(vm_id=names, event_time=_moment(pl.col("at")), kind=pl.lit("deleted"))
    name = str(part["segment"][0])
    ends = {name: ORIGIN + pl.select(pl.duration(seconds=end)).item()}
    return Stream(requests, events, batch, np.full(len(part), name, dtype=object), ends)


def _moment(seconds: pl.Expr) -> pl.Expr:
    return (pl.lit(ORIGIN) + pl.duration(seconds=seconds)).cast(pl.Datetime("us", "UTC"))


def _lifetimes(part: pl.DataFrame) -> NDArray[np.float64]:
    """Seconds, drawn from the bins; beyond the trace for machines that ran at the end."""
    low, high = (part[f"lifetime_{end}_s"].to_numpy().astype(np.float64) for end in ("min", "max"))
    # By segment and row alone, so that another segment in the file changes nothing.
    drawn = np.random.default_rng([SEED, int(part["arrival_s"][0])]).random(len(part))
    seconds = np.floor(low + drawn * (high - low + BIN_SECONDS))
    return np.where(part["running_at_end"].to_numpy(), float(_NEVER), seconds)


def _groups(part: pl.DataFrame) -> tuple[Ints, Ints, Ints, Ints]:
    """Numbers of batch, stand-in tenant and group of alike machines, and size of the batch, per row."""
    together = ["arrival_s", "batch"]
    sized = part.with_columns(
        size=pl.format("{}/{}", "vcpus", "memory_gib"), batch_vms=pl.len().over(together)
    )
    compositions = (
        sized.group_by(*together, "size")
        .len()
        .sort(*together, "size")
        .group_by(together, maintain_order=True)
        .agg(composition=pl.format("{}x{}", "len", "size").str.join("+"))
    )
    named = sized.join(compositions, on=together, how="left", maintain_order="left").with_columns(
        alike=pl.format("{}@{}", "size", pl.min_horizontal("batch_vms", LARGEST_BATCH)),
        composition=pl.format("{}|{}", "composition", "size"),
    )
    numbers = named.select(
        batch=pl.struct(together).rank("dense") - 1,
        tenant=pl.col("composition").rank("dense") - 1,
        alike=pl.col("alike").rank("dense") - 1,
        size=pl.col("batch_vms"),
    )
    batch, tenant, alike, size = (numbers[name].to_numpy().astype(np.int64) for name in numbers.columns)
    return batch, tenant, alike, size


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    data: Path = parser.parse_args().data
    folder = load_settings().home / "prepared" / "azure_vm_requests"
    folder.mkdir(parents=True, exist_ok=True)
    stream = prepare(pl.read_parquet(data / "azure_vm_requests" / "requests.parquet"))
    stream.requests.write_parquet(folder / "vm_requests.parquet")
    stream.events.write_parquet(folder / "vm_events.parquet")
    print(f"written: {folder}, {len(stream.requests)} requests, {len(stream.events)} deletions")


if __name__ == "__main__":
    main()
