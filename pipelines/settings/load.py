"""Reads the settings: the environment, the file in the home, the files of secrets."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from pipelines.errors import SettingsError
from pipelines.settings.machine import PREFIX
from pipelines.settings.settings import Settings


def load_settings(environ: Mapping[str, str] | None = None, **overrides: object) -> Settings:
    """Settings of this process.

    Args:
        environ: Variables to read instead of the process's own; for tests.
        overrides: Fields that win over everything.

    Raises:
        SettingsError: a name is unknown, or a value is refused. The text names each of them.
    """
    variables = dict(os.environ if environ is None else environ)
    home = Path(str(overrides.get("home") or variables.get(f"{PREFIX}HOME") or ".headrace")).expanduser()
    given = {name.upper(): value for name, value in variables.items() if name.upper().startswith(PREFIX)}
    merged = _read_env_file(home / "settings.env") | given
    secrets = overrides.get("secrets_folder") or merged.get(f"{PREFIX}SECRETS_FOLDER")
    merged = merged | _read_secrets(Path(str(secrets)) if secrets else home / "secrets") | given
    _refuse_unknown(merged)
    values: dict[str, object] = {
        name.removeprefix(PREFIX).lower(): value for name, value in merged.items() if value != ""
    }
    try:
        return Settings(**(values | overrides))  # type: ignore[arg-type]
    except ValidationError as error:
        lines = [
            f"{PREFIX}{'_'.join(str(part) for part in item['loc']).upper()}={_without_password(item['input'])!r}: "
            f"{item['msg']}"
            if item["loc"]
            else item["msg"]
            for item in error.errors(include_url=False)
        ]
        raise SettingsError("refused settings:\n  " + "\n  ".join(lines)) from error


def _without_password(value: object) -> object:
    return re.sub(r"://([^:/@]*):[^@]*@", r"://\1:***@", value) if isinstance(value, str) else value


def _refuse_unknown(variables: Mapping[str, str]) -> None:
    known = {f"{PREFIX}{field.upper()}" for field in Settings.model_fields}
    unknown = []
    for name in sorted(set(variables) - known):
        close = difflib.get_close_matches(name, known, n=1)
        unknown.append(f"{name} (did you mean {close[0]}?)" if close else name)
    if unknown:
        raise SettingsError(
            "unknown settings: " + ", ".join(unknown) + "; `headrace settings` lists them all"
        )


def _read_secrets(folder: Path) -> dict[str, str]:
    """Values of settings that stand in files of their own; other files there are other parts' secrets."""
    if not folder.expanduser().is_dir():
        return {}
    files = [path for path in folder.expanduser().glob(f"{PREFIX.lower()}*") if path.is_file()]
    try:
        return {path.name.upper(): path.read_text("utf-8").strip() for path in files}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"a secret in {folder} cannot be read: {error}") from error


def _read_env_file(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    values = {}
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        name, separator, value = text.partition("=")
        if not separator or not name.strip().startswith(PREFIX):
            raise SettingsError(f"{path}:{number}: {text!r} is not of the form {PREFIX}NAME=value")
        values[name.strip()] = value.strip().strip("'\"")
    return values
