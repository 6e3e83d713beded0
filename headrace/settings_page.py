"""`headrace settings`: every setting, what it is for, its default and its value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from pipelines.settings import PREFIX

if TYPE_CHECKING:
    from pipelines.settings import Settings

_EFFECTIVE = {  # fields whose empty default stands for an address that is worked out
    "lake_url": "lake",
    "tracking_url": "tracking",
    "airflow_url": "airflow",
    "airflow_database_url": "airflow_database",
    "mlflow_database_url": "mlflow_database",
    "mlflow_artifacts_url": "mlflow_artifacts",
    "online_store_url": "online_store",
    "feature_registry_url": "feature_registry",
    "tuning_url": "tuning",
    "serving_url": "serving",
    "serving_keys_file": "serving_key_file",
}


def to_json(settings: Settings) -> list[dict[str, Any]]:
    """One object per setting, in the order of the class; secrets and passwords in URLs are masked."""
    return [
        {
            "name": f"{PREFIX}{name.upper()}",
            "value": _shown(getattr(settings, _EFFECTIVE.get(name, name))),
            "default": _shown(field.default),
            "set": name in settings.model_fields_set,
            "description": field.description or "",
        }
        for name, field in type(settings).model_fields.items()
    ]


def show(settings: Settings) -> None:
    """For people."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from headrace.display import output

    table = Table(box=None, show_header=False, padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for item in to_json(settings):
        value = "" if item["value"] is None else str(item["value"])
        about = item["description"]
        if item["set"] and item["default"] not in {None, ""}:
            about = f"{about} (default: {item['default']})".strip()
        lines = [Text(value, style="green" if item["set"] else "")]
        table.add_row(
            Text(item["name"], style="bold"), Group(*lines, *([Text(about, style="dim")] if about else []))
        )
    output().print(table)
    output().print(
        f"Set them in the environment, or in {settings.home / 'settings.env'}, one NAME=value a line.",
        style="dim",
    )


def _shown(value: Any) -> str | int | float | bool | None:
    if value is None or isinstance(value, bool | int | float):
        return value
    text = str(value)  # a SecretStr's text is stars
    parts = urlsplit(text)
    if parts.password:
        return urlunsplit(parts._replace(netloc=parts.netloc.replace(f":{parts.password}@", ":***@")))
    return text
