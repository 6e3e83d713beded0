"""Links from a task's page to what it made: Data Docs, the run and the version in MLflow, the gate's report, the server."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import attrs
from airflow.sdk import BaseOperatorLink

from dags.pages import data_docs_page, server_page
from pipelines.settings import load_settings

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey


@attrs.define()
class _Made(BaseOperatorLink):
    """A link by what a task of the same run returned.

    Args:
        task_id: That task.
    """

    task_id: str

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """The address, asked for when the task has ended; empty where there is nothing to show."""
        # What comes is the running task instance: it can ask for what others returned.
        returned = ti_key.xcom_pull(task_ids=self.task_id)
        return self.address(returned) if isinstance(returned, dict) else ""

    @abstractmethod
    def address(self, returned: dict[str, Any]) -> str:
        """By what the task returned; empty where there is nothing to show."""


@attrs.define()
class GateReport(_Made):
    """To the page that the gate wrote, by a :class:`pipelines.references.VerdictRef`."""

    @property
    def name(self) -> str:
        return "The gate's report"

    def address(self, returned: dict[str, Any]) -> str:
        return returned.get("report_url") or ""


@attrs.define()
class VersionPage(_Made):
    """To the version in MLflow, by a :class:`pipelines.references.CandidateRef`."""

    @property
    def name(self) -> str:
        return "Version in MLflow"

    def address(self, returned: dict[str, Any]) -> str:
        from pipelines.adapters.registry import Registry

        with Registry(load_settings().tracking) as registry:
            return registry.version_page(returned["registered_name"], returned["version"])


@attrs.define()
class RunPage(_Made):
    """To the run in MLflow, by a reference that has its ``run_id``."""

    @property
    def name(self) -> str:
        return "Run in MLflow"

    def address(self, returned: dict[str, Any]) -> str:
        from pipelines.adapters.registry import Registry

        with Registry(load_settings().tracking) as registry:
            found = registry.run(returned["run_id"])
            return "" if found is None else registry.run_page(found)


@attrs.define()
class DataDocs(_Made):
    """To what was expected of a source's rows and what came, by a reference that has its ``source``."""

    @property
    def name(self) -> str:
        return "Data Docs"

    def address(self, returned: dict[str, Any]) -> str:
        return data_docs_page(returned["source"], returned.get("dataset"))


@attrs.define()
class DriftReport(_Made):
    """To the drawn report of a check, by a reference that has its ``report_url``."""

    @property
    def name(self) -> str:
        return "Drift report"

    def address(self, returned: dict[str, Any]) -> str:
        return returned.get("report_url") or ""


@attrs.define()
class ServerPage(_Made):
    """To the model on the server's own page, by a :class:`pipelines.references.PromotionRef`."""

    @property
    def name(self) -> str:
        return "On the server"

    def address(self, returned: dict[str, Any]) -> str:
        return server_page(returned["registered_name"])


def show(result: Any, *links: BaseOperatorLink) -> None:
    """Put links on the page of the task that gives a result."""
    for operator, _ in result.iter_references():
        operator.operator_extra_links = links
