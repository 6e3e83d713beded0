"""Pages that are made from the code each time the site is built, so that they cannot grow stale."""

from __future__ import annotations

import re
import subprocess
import sys
import typing
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

FROM_CODE = "*Made from the code when the site is built.*"


def pages() -> dict[str, str]:
    """Text by place in the site."""
    from docs.site import services

    return {
        "reference/settings.md": settings_page(),
        "reference/cli.md": cli_page(),
        "reference/source-profile.md": profile_page(),
        "reference/model-spec.md": spec_page(),
        "reference/dags.md": services.dags_page(),
        "reference/metrics.md": services.metrics_page(),
        "reference/api.md": services.api_page(),
    }


def settings_page() -> str:
    """All fields of :class:`pipelines.settings.Settings`."""
    from pipelines.settings import PREFIX, Settings

    rows = []
    for name, field in Settings.model_fields.items():
        default = _default_of(field)
        facts = f"*{_type_of(field)}*" + (f", default {default}" if default else "")
        rows.append((f"`{PREFIX}{name.upper()}`", "<br>".join(filter(None, [field.description, facts]))))
    return "\n\n".join(
        [
            "# Settings",
            "Set them in the environment, or in `$HEADRACE_HOME/settings.env`, one `NAME=value` a line; the environment "
            "wins. An unknown name is refused. `headrace settings` shows the values in force, secrets masked.",
            FROM_CODE,
            table(("setting", ""), rows),
        ]
    )


def cli_page() -> str:
    """Every command, by Typer's own generator."""
    done = subprocess.run(
        [sys.executable, "-m", "typer", "headrace.cli", "utils", "docs", "--name", "headrace"],
        capture_output=True,
        text=True,
        check=True,
    )
    text = re.sub(r"^# .*\n", "", done.stdout)
    # Its lists of commands are cut after 45 characters; the headings below tell the same.
    text = re.sub(r"\*\*Commands\*\*:\n\n(\* .*\n)+", "", text)
    return f"# Command line\n\n{FROM_CODE}\n\n{text}"


def profile_page() -> str:
    """What a source profile may hold."""
    from pipelines.sources.profile import SourceProfile

    return "\n\n".join(
        [
            "# Source profile",
            "The YAML file that tells where telemetry comes from and what its columns mean: [how to write one]"
            "(../add-a-source.md). Durations are ISO 8601 (`PT5M`, `P1D`), times are UTC. Unknown fields are refused.",
            FROM_CODE,
            *_described([SourceProfile]),
        ]
    )


def spec_page() -> str:
    """What a model's spec may hold."""
    from models.specs import ModelSpec

    return "\n\n".join(
        [
            "# Model spec",
            "What a model is, as data: [how to add one](../add-a-model.md). A profile may change any of it for its source, "
            "under `models: {<model>: …}`.",
            FROM_CODE,
            *_described([ModelSpec]),
        ]
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; a cell's bars and line breaks are escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(text: str) -> str:
    return _plain(re.sub(r"\s*\n\s*", " ", text)).replace("|", "\\|")


def _plain(text: str) -> str:
    """Without HTML: what looks like a tag, outside of code, is text."""
    return re.sub(
        r"(`+).+?\1|<(?!br>)", lambda found: "&lt;" if found.group() == "<" else found.group(), text
    )


def _described(kinds: list[type[BaseModel]]) -> list[str]:
    """Each model with its fields, then those that its fields are made of, each once."""
    parts: list[str] = []
    waiting, seen = list(kinds), set(kinds)
    while waiting:
        kind = waiting.pop(0)
        rows = []
        for name, field in kind.model_fields.items():
            inner = [each for each in _models_in(field.annotation) if each not in seen]
            waiting += inner
            seen |= set(inner)
            rows.append((f"`{name}`", _type_of(field), _default_of(field), field.description or ""))
        about = (kind.__doc__ or "").strip().split("\n\n")[0]
        parts += [f"## {kind.__name__}", _plain(about), table(("field", "values", "default", ""), rows)]
    return parts


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for inner in typing.get_args(annotation) for found in _models_in(inner)]


def _type_of(field: FieldInfo) -> str:
    """In the words of JSON Schema, with the limits; models by their names, as links."""
    return _words(field.annotation, field.metadata)


def _words(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _words(inner[0], [*inner[1:], *metadata])
    limits = _limits(metadata)
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    if origin in {dict, tuple, list}:
        what = [_words(each) for each in inner if each is not ...]
        if origin is dict:
            return ("mapping" if inner[1] is Any else f"{what[1]} by name") + limits
        return f"list of {what[0]}" + limits
    if inner:  # a union
        return " or ".join(dict.fromkeys(_words(each) for each in inner if each is not type(None))) + limits
    if isinstance(annotation, type) and hasattr(annotation, "__members__"):
        return ", ".join(f"`{member.value}`" for member in annotation)
    plain = {bool: "true, false", int: "integer", float: "number", str: "text", timedelta: "duration"}
    return plain.get(annotation, getattr(annotation, "__name__", str(annotation)).lower()) + limits


def _limits(metadata: Sequence[Any]) -> str:
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    found = [
        f"{sign} {_value(getattr(each, name))}"
        for each in metadata
        for name, sign in signs.items()
        if getattr(each, name, None) is not None
    ]
    return f" {', '.join(found)}" if found else ""


def _default_of(field: FieldInfo) -> str:
    if field.is_required():
        return "*required*"
    value = field.get_default(call_default_factory=True)
    if value is None or value is PydanticUndefined or value in ("", ()):
        return ""
    if isinstance(value, BaseModel) or value == {}:
        return "its own defaults" if value != {} else ""
    return f"`{_value(value)}`"


def _value(value: Any) -> str:
    if isinstance(value, dict) and any(isinstance(each, BaseModel) for each in value.values()):
        return ", ".join(value)
    if isinstance(value, dict | tuple) and value:
        return str(TypeAdapter(type(value)).dump_json(value).decode())
    if isinstance(value, timedelta):
        return str(TypeAdapter(timedelta).dump_json(value).decode()).strip('"')
    return str(value)
