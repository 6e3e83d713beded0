from __future__ import annotations

from pathlib import Path

from headrace.secrets_cli import make
from pipelines.adapters.signing import Signer, Trust
from pipelines.settings import load_settings


def test_secrets_are_made_once_and_each_is_its_owners_alone(tmp_path: Path) -> None:
    made = make(tmp_path, "db:5432", "cache:6379")
    kept = {path.name: path.read_text() for path in tmp_path.glob("[!.]*")}
    assert made == len(kept)
    (tmp_path / "redis_password").unlink()
    assert make(tmp_path, "db:5432", "cache:6379") == 1
    assert {name: (tmp_path / name).read_text() for name in kept if name != "redis_password"} == {
        name: text for name, text in kept.items() if name != "redis_password"
    }
    assert {path.stat().st_mode & 0o077 for path in tmp_path.iterdir() if path.suffix != ".pub"} <= {0, 0o044}
    assert tmp_path.stat().st_mode & 0o077 == 0


def test_a_production_set_up_starts_with_them(tmp_path: Path) -> None:
    make(tmp_path / "secrets", "db:5432", "cache:6379")
    settings = load_settings(
        {"HEADRACE_ENVIRONMENT": "production"}, home=tmp_path / "home", secrets_folder=tmp_path / "secrets"
    )
    password = (tmp_path / "secrets" / "postgres_tuning_password").read_text().strip()
    assert settings.tuning == f"postgresql+psycopg2://headrace_tuning:{password}@db:5432/headrace_tuning"
    assert settings.online_store.endswith("@cache:6379/0")
    assert Signer.of(settings).key_id
    assert Trust.of(settings).files[0].is_file()
    assert not (tmp_path / "home").exists(), "nothing was made up"
