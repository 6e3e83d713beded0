"""The gate's report: one page for the person who approves, and a short form for the registry."""

from pipelines.evaluate.report.evidence import Evidence, Link
from pipelines.evaluate.report.markdown import markdown
from pipelines.evaluate.report.page import html
from pipelines.evaluate.report.publish import fetch, publish

__all__ = ["Evidence", "Link", "fetch", "html", "markdown", "publish"]
