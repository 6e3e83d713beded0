"""What a version's windows are compared with: worked out once per version, and kept in the lake.

One object per version, ``monitor/<registered name>/<version>/reference.npz``: for each feature, answer and
target its sketch and its rows by hour over the training window, and a few figures of each gauge. The
tables are read at the versions that the lineage names, so the object can be made again as it was.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.adapters.lake import Lake
from pipelines.errors import LakeError, MonitorError
from pipelines.monitor.data_quality import ColumnFacts, facts
from pipelines.monitor.drift import Reference
from pipelines.monitor.sketch import Binned, NumberSketch, Sketch, TextSketch, binned, sketches
from pipelines.references import Window

if TYPE_CHECKING:
    from models.specs import ModelSpec
    from pipelines.lineage.record import Training
    from pipelines.settings import Settings
    from pipelines.sources.profile import SourceProfile

FORMAT = 1
WEEK, DAY = 168, 24


@dataclass(frozen=True)
class Kept:
    """All that is kept of a version.

    Attributes:
        features, outputs, targets: References for the drift tests.
        window: Of training.
        gauges: Figures of each gauge, by ``dataset.column``.
        rows_per_hour: Of telemetry, by data set.
        importance: Of features.
        bin_hours: Length of a bin: 1, or 24 where most hours have no observation.
    """

    features: Reference
    outputs: Reference
    targets: Reference
    window: Window
    gauges: dict[str, ColumnFacts]
    rows_per_hour: dict[str, float]
    importance: dict[str, float]
    bin_hours: int = 1

    def phase(self, window: Window) -> int:
        """Bins from the start of training to the window's, within the rhythm."""
        bins = (window.start - self.window.start) // timedelta(hours=self.bin_hours)
        return int(bins % self.features.period)


def of_columns(
    columns: Mapping[str, NDArray], hour: NDArray[np.int64], hours: int, bin_hours: int = 1
) -> Reference:
    """Sketches and binned rows of columns; the rhythm is a week where there are three, else a day.

    Args:
        hour: Of each row, from 0 to ``hours`` - 1.
    """
    known, count = sketches(columns), -(-hours // bin_hours)
    history = {
        name: binned(known[name], values, hour // bin_hours, count) for name, values in columns.items()
    }
    return Reference(known, history, (WEEK if hours >= 3 * WEEK else DAY) // bin_hours)


def window_of(
    reference: Reference, columns: Mapping[str, NDArray], hour: NDArray[np.int64], hours: int
) -> dict[str, Binned]:
    """Rows of a window by the reference's sketches; columns that it does not know are left out."""
    inside = (hour >= 0) & (hour < hours)
    return {
        name: binned(sketch, columns[name][inside], hour[inside], hours)
        for name, sketch in reference.sketches.items()
        if name in columns
    }


def load(lake: Lake, registered_name: str, version: str) -> Kept | None:
    """What was kept of a version; None: nothing yet."""
    try:
        content = lake.read_object(lake.address(path_of(registered_name, version)))
    except LakeError:
        return None
    return from_bytes(content)


def build(
    registered_name: str, version: str, spec: ModelSpec, profile: SourceProfile, training: Training, settings: Settings,
    importance: Mapping[str, float], answer: Any,
) -> Kept:  # fmt: skip
    """Read the training window again and keep what checks need of it; the same version gives the same bytes.

    Args:
        answer: From feature columns, entities and times to the version's outputs; None where the caller's own
            inputs are needed for an answer.

    Raises:
        MonitorError: the training window has no observations.
    """
    from pipelines.monitor.observe import gauges, hours_since, observe, truths

    window = training.window
    observed = observe(spec, profile, window, settings, training.tables)
    if not observed.rows.height:
        raise MonitorError(
            f"{registered_name} version {version}: no features over {window}, where it was trained"
        )
    first = np.datetime64(window.start.replace(tzinfo=None), "us")
    hours = int((window.end - window.start) // timedelta(hours=1))
    times = observed.rows["event_time"].dt.replace_time_zone(None).to_numpy()
    hour = np.clip(hours_since(times, first), 0, hours - 1)
    bin_hours = 1 if len(np.unique(hour)) >= hours / 2 else DAY
    columns = observed.columns()
    outputs = answer(observed) if answer is not None else {}
    labelled = truths(spec, profile, observed, window, settings, training.tables)
    names = [name for name in labelled.columns if name.startswith("target__")]
    label_hour = np.clip(
        hours_since(labelled["event_time"].dt.replace_time_zone(None).to_numpy(), first), 0, hours - 1
    )
    known: dict[str, ColumnFacts] = {}
    per_hour = {}
    late = Window(start=max(window.start, window.end - timedelta(days=14)), end=window.end)
    for dataset, (contract, rows) in gauges(spec, profile, late, settings, training.tables).items():
        per_hour[dataset] = rows.height / max((late.end - late.start) / timedelta(hours=1), 1)
        entity = rows[contract.entity].cast(str).to_numpy() if rows.height else np.empty(0, dtype=str)
        moment = rows[contract.event_time].dt.replace_time_zone(None).to_numpy()
        for name in rows.columns[2:]:
            known[f"{dataset}.{name}"] = facts(rows[name].cast(float).to_numpy(), entity, moment)
    kept = Kept(
        features=of_columns(columns, hour, hours, bin_hours),
        outputs=of_columns(outputs, hour, hours, bin_hours),
        targets=of_columns(
            {name: labelled[name].cast(float).to_numpy() for name in names}, label_hour, hours, bin_hours
        ),
        window=window,
        gauges=known,
        rows_per_hour=per_hour,
        importance=dict(importance),
        bin_hours=bin_hours,
    )
    Lake.of(settings).write_object(path_of(registered_name, version), to_bytes(kept))
    return kept


def path_of(registered_name: str, version: str) -> str:
    return f"monitor/references/{registered_name}/{version}/reference-{FORMAT}.npz"


def to_bytes(kept: Kept) -> bytes:
    """Arrays and one JSON text, without pickle."""
    arrays: dict[str, NDArray] = {}
    parts: dict[str, Any] = {}
    for part in ("features", "outputs", "targets"):
        reference: Reference = getattr(kept, part)
        listed = []
        for number, (name, sketch) in enumerate(reference.sketches.items()):
            key, table = f"{part}.{number}", reference.history[name]
            arrays |= {
                f"{key}.shares": sketch.shares,
                f"{key}.missing": table.missing.astype(np.float32),
                f"{key}.counts": table.counts.astype(np.float32),
            }
            if isinstance(sketch, NumberSketch):
                arrays |= {f"{key}.edges": sketch.edges, f"{key}.scores": sketch.scores}
            categories = list(sketch.categories) if isinstance(sketch, TextSketch) else None
            listed.append({"name": name, "missing": sketch.missing, "categories": categories})
        parts[part] = {"columns": listed, "period": reference.period}
    told = {
        "format": FORMAT,
        "window": kept.window.model_dump(mode="json"),
        "parts": parts,
        "gauges": {
            name: {"quantiles": fact.quantiles.tolist(), "missing": fact.missing, "stuck": fact.stuck}
            for name, fact in kept.gauges.items()
        },
        "rows_per_hour": kept.rows_per_hour,
        "importance": kept.importance,
        "bin_hours": kept.bin_hours,
    }
    arrays["told"] = np.frombuffer(json.dumps(told).encode(), dtype=np.uint8)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def from_bytes(content: bytes) -> Kept:
    """What :func:`to_bytes` wrote."""
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        told = json.loads(arrays["told"].tobytes().decode())
        parts = {name: _reference(arrays, name, part) for name, part in told["parts"].items()}
    return Kept(
        **parts,
        window=Window.model_validate(told["window"]),
        gauges={
            name: ColumnFacts(np.array(fact["quantiles"], dtype=np.float64), fact["missing"], fact["stuck"])
            for name, fact in told["gauges"].items()
        },
        rows_per_hour=told["rows_per_hour"],
        importance=told["importance"],
        bin_hours=told["bin_hours"],
    )


def _reference(arrays: Any, part: str, told: dict[str, Any]) -> Reference:
    known: dict[str, Sketch] = {}
    history = {}
    for number, column in enumerate(told["columns"]):
        key, name = f"{part}.{number}", column["name"]
        shares = arrays[f"{key}.shares"]
        scores = np.zeros(len(shares))
        if column["categories"] is None:
            scores = arrays[f"{key}.scores"]
            known[name] = NumberSketch(arrays[f"{key}.edges"], scores, shares, column["missing"])
        else:
            known[name] = TextSketch(tuple(column["categories"]), shares, column["missing"])
        history[name] = Binned(
            arrays[f"{key}.missing"].astype(np.float64), arrays[f"{key}.counts"].astype(np.float64), scores
        )
    return Reference(known, history, told["period"])
