"""Runs Great Expectations checkpoints, and builds their Data Docs."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

from feature_repo.datasets import Dataset
from pipelines.errors import DataValidationError
from pipelines.ingest.steps import ORDINAL, ROW_IDENTITY, SLICE_START
from pipelines.times import TIME
from pipelines.validate.suite import SLICE_END, batch_suite, row_suite

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite

_SITE = "data_docs"
_RESULTS = ".results"
# Two for each batch: its rows, and the batch as a whole.
_RESULTS_KEPT = 60
_LISTS = ("unexpected_list", "unexpected_index_list")
_SLICE_TEXT = "%Y-%m-%dT%H:%M:%SZ"

# One line per row and failed expectation. The column is null where several are concerned.
FINDINGS = pl.Schema(
    {SLICE_START: TIME, ORDINAL: pl.Int64(), "expectation": pl.String(), "column": pl.String()}
)


class Failure(NamedTuple):
    """A failed expectation of the batch suite."""

    expectation: str
    column: str
    value: float
    bounds: dict[str, float | bool]


class Checkpoints:
    """An ephemeral context of Great Expectations for one data set.

    Args:
        dataset: The contract.
        docs: Folder of the Data Docs, for their next build.
        name: What the Data Docs call these results, e.g. the window.
    """

    def __init__(self, dataset: Dataset, docs: Path, name: str) -> None:
        # Read at import.
        os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
        import great_expectations as gx
        from great_expectations.data_context.types.base import DataContextConfig, InMemoryStoreBackendDefaults

        self._dataset = dataset
        self._docs = docs
        self._name = name
        self._built_for: list[Any] = []
        defaults = InMemoryStoreBackendDefaults()
        # The one store that outlives this process: the index of the Data Docs lists what it holds.
        defaults.stores[defaults.validation_results_store_name]["store_backend"] = {
            "class_name": "TupleFilesystemStoreBackend",
            "base_directory": str(docs / _RESULTS),
        }
        site = {
            "class_name": "SiteBuilder",
            "show_how_to_buttons": False,
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
            "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs)},
        }
        config = DataContextConfig(
            store_backend_defaults=defaults,
            data_docs_sites={_SITE: site},
            progress_bars={"globally": False},
            analytics_enabled=False,
        )
        self._context = gx.get_context(mode="ephemeral", project_config=config)
        self._source = self._context.data_sources.add_pandas(dataset.name)

    def rows(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Findings (schema :data:`FINDINGS`) on the rows of a raw table.

        Args:
            frame: Columns of the data set, ``unparsed``, ``slice_start``, ``ordinal``; one row or more.
        """
        suite = row_suite(self._dataset)
        needed = {
            name
            for expectation in suite.expectations
            for name in _columns_of(expectation.configuration.kwargs)
        }
        pandas = (
            frame.with_columns((pl.col(SLICE_START) + self._dataset.slice).alias(SLICE_END))
            .with_columns(pl.col(SLICE_START).dt.strftime(_SLICE_TEXT))
            .select(*sorted(needed), *ROW_IDENTITY)
            .to_pandas()
        )
        found = [
            pl.DataFrame(
                {
                    SLICE_START: [row[SLICE_START] for row in rows],
                    ORDINAL: [int(row[ORDINAL]) for row in rows],
                },
                schema={SLICE_START: pl.String, ORDINAL: pl.Int64},
            ).with_columns(
                pl.col(SLICE_START).str.to_datetime(_SLICE_TEXT, time_unit="us", time_zone="UTC"),
                pl.lit(result.expectation_config.type).alias("expectation"),
                pl.lit(result.expectation_config.kwargs.get("column"), pl.String).alias("column"),
            )
            for result in self._run(suite, pandas)
            if (rows := result.result.get("unexpected_index_list"))
        ]
        return pl.concat([FINDINGS.to_frame(), *found])

    def batch(self, summary: pl.DataFrame) -> list[Failure]:
        """Failed expectations on the summary (one row, with column ``rows``) of a batch."""
        suite = batch_suite(self._dataset, summary["rows"].item())
        return [
            Failure(
                expectation=result.expectation_config.type,
                column=(kwargs := result.expectation_config.kwargs)["column"],
                value=summary[kwargs["column"]].item(),
                bounds={
                    name: kwargs[name]
                    for name in ("min_value", "max_value", "strict_max")
                    if kwargs.get(name) is not None
                },
            )
            for result in self._run(
                suite, summary.with_row_index(ORDINAL).with_columns(pl.lit("").alias(SLICE_START)).to_pandas()
            )
            if not result.success
        ]

    def build_docs(self) -> str:
        """Write the Data Docs of this object's results, and the index of all. Returns their address."""
        store = self._context.validation_results_store
        by_age = sorted(store.list_keys(), key=lambda key: key.run_id.run_time)
        for key in by_age[:-_RESULTS_KEPT]:
            store.remove_key(key)
        url: str = self._context.build_data_docs(site_names=[_SITE], resource_identifiers=self._built_for)[
            _SITE
        ]
        return url

    def _run(self, suite: ExpectationSuite, frame: Any) -> Iterator[Any]:
        import great_expectations as gx
        from great_expectations.core.run_identifier import RunIdentifier

        name = suite.name
        suite = self._context.suites.add_or_update(suite)
        assets = self._source
        asset = (
            assets.get_asset(name) if name in assets.get_asset_names() else assets.add_dataframe_asset(name)
        )
        batches = {batch.name: batch for batch in asset.batch_definitions}
        batch = batches.get(name) or asset.add_batch_definition_whole_dataframe(name)
        definition = self._context.validation_definitions.add_or_update(
            gx.ValidationDefinition(name=name, data=batch, suite=suite)
        )
        checkpoint = self._context.checkpoints.add_or_update(
            gx.Checkpoint(
                name=name,
                validation_definitions=[definition],
                actions=[],
                result_format={
                    "result_format": "COMPLETE",
                    "unexpected_index_column_names": list(ROW_IDENTITY),
                    "return_unexpected_index_query": False,
                },
            )
        )
        run = checkpoint.run(batch_parameters={"dataframe": frame}, run_id=RunIdentifier(run_name=self._name))
        store = self._context.validation_results_store
        for key, validation in run.run_results.items():
            store.set(key, _without_lists(validation))
            self._built_for += [key, key.expectation_suite_identifier]
            for result in validation.results:
                if error := _raised(result.exception_info):
                    config = result.expectation_config
                    raise DataValidationError(
                        f"{self._dataset.name}: {config.type} {config.kwargs} could not be evaluated: {error}"
                    )
                yield result


def _without_lists(validation: Any) -> Any:
    """The result with a few examples of failed rows, and not each of them: those are in quarantine."""
    short = copy.copy(validation)
    short.results = [copy.copy(result) for result in validation.results]
    for result in short.results:
        result.result = {name: value for name, value in result.result.items() if name not in _LISTS}
    return short


def _columns_of(kwargs: dict[str, Any]) -> Iterator[str]:
    for name in ("column", "column_A", "column_B"):
        if name in kwargs:
            yield kwargs[name]
    yield from kwargs.get("column_list", ())


def _raised(info: dict[str, Any]) -> str | None:
    """The message of an exception. Its shape differs: flat, or keyed by the metric that raised."""
    for each in [info, *(value for value in info.values() if isinstance(value, dict))]:
        if each.get("raised_exception"):
            return str(each.get("exception_message"))
    return None
