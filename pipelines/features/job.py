"""features: clean rows become rows of the feature tables, and the newest of them go online.

The tables are filled exactly once (:mod:`pipelines.features.table`); publishing is repeatable by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.adapters.lake import Lake
from pipelines.features.table import FeatureTable
from pipelines.references import FeaturesRef, TableRef, Window

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pipelines.settings import Settings


def run(
    source: str,
    window: Window,
    settings: Settings,
    grids: Iterable[str | None] | None = None,
    buckets: Sequence[int] | None = None,
) -> FeaturesRef:
    """Bring the feature tables up to date with the clean slices of a window, and publish.

    Args:
        grids: Only the tables of these grids, and inventory's; a None among them is the source's
            default grid. None: all tables.
        buckets: Only entities of these buckets, by the number that the setting names; nothing is
            published then, see :func:`publish`. None: all.

    Raises:
        FeatureError: other writers kept changing the same days.
        LakeError: a table cannot be read or written.
        SourceError: the source has no such grid.
    """
    from pipelines.adapters.feature_store import FeatureStore
    from pipelines.sources.profile import load_profile

    profile = load_profile(source)
    store = FeatureStore(profile, settings)
    lake = Lake.of(settings)
    chosen = None if grids is None else list(grids)
    views = {}
    for view in store.views_of(chosen):
        table = FeatureTable(view, profile, lake, settings.entity_buckets)
        views[view.name] = table.bring_up_to_date(window, buckets)
    made = FeaturesRef(source=source, window=window, views=views, online_rows=0)
    return made if buckets is not None else publish(made, settings, chosen)


def together(built: Sequence[FeaturesRef]) -> FeaturesRef:
    """What several tasks made of one window, each of other buckets, as of one."""
    views = {
        name: TableRef(
            table=ref.table,
            version=max(each.views[name].version for each in built),
            rows_added=sum(each.views[name].rows_added for each in built),
        )
        for name, ref in built[0].views.items()
    }
    return built[0].model_copy(update={"views": views})


def publish(built: FeaturesRef, settings: Settings, grids: Iterable[str | None] | None = None) -> FeaturesRef:
    """Write the newest row of each entity at the window's end to the online store.

    Args:
        grids: As of :func:`run`.
    """
    from pipelines.adapters.feature_store import FeatureStore
    from pipelines.sources.profile import load_profile

    store = FeatureStore(load_profile(built.source), settings)
    store.apply()
    return built.model_copy(update={"online_rows": store.publish(built.window.end, grids)})
