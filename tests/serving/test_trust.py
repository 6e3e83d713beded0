"""The server answers with a version only where a trusted key has signed it, from wherever it came."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from models.manifest import SIGNATURE_FILE
from pipelines.adapters.exports import manifest_sha256
from pipelines.adapters.registry import Registry
from pipelines.adapters.signing import PUBLIC_KEY, Signer, Trust
from pipelines.errors import ArtifactError
from pipelines.settings import Settings, load_settings
from serving.cache import VersionCache
from serving.follower import Follower, Pointer
from serving.versions import VersionTable


def another_key(folder: Path) -> Path:
    Signer.of(load_settings({}, home=folder))
    return folder / "secrets" / PUBLIC_KEY


def test_a_cached_version_without_its_signature_is_removed_and_not_served(
    settings: Settings, make_export: Callable[..., Path], tmp_path: Path
) -> None:
    cache = VersionCache(settings.home / "serving", Trust.of(settings))
    export = make_export(tmp_path / "export")
    digest = manifest_sha256(export)
    cache.keep(export, "tiny", "1")
    assert cache.load("tiny", "1", digest) is not None
    next((settings.home / "serving").rglob(SIGNATURE_FILE)).unlink()
    assert cache.load("tiny", "1", digest) is None


def test_a_key_that_is_no_longer_trusted_stops_its_versions_without_a_restart(
    settings: Settings, make_export: Callable[..., Path], tmp_path: Path
) -> None:
    trusted = tmp_path / "trusted.pub"
    trusted.write_bytes(Path(settings.trusted_keys).read_bytes())
    cache = VersionCache(settings.home / "serving", Trust((trusted,)))
    export = make_export(tmp_path / "export")
    cache.open(export, manifest_sha256(export))
    trusted.write_bytes(another_key(tmp_path / "other").read_bytes())
    with pytest.raises(ArtifactError, match="HEADRACE_TRUSTED_KEYS"):
        cache.open(export, manifest_sha256(export))


@pytest.mark.integration
def test_an_alias_on_an_unsigned_version_changes_nothing_and_says_why(
    mlflow_server: str,
    settings: Settings,
    make_export: Callable[..., Path],
    register_export: Callable[..., str],
    tmp_path: Path,
) -> None:
    name = "trust-unsigned"
    good, bare = make_export(tmp_path / "good"), make_export(tmp_path / "bare", slope=2.0)
    (bare / SIGNATURE_FILE).unlink()
    with Registry(mlflow_server) as registry:
        for export, number in ((good, "1"), (bare, "2")):
            assert register_export(mlflow_server, name, export) == number
        table = VersionTable()
        cache = VersionCache(settings.home / "serving", Trust.of(settings))
        follower = Follower(registry, cache, table, poll_seconds=1e-9, names=[name])
        for number in ("1", "2"):
            registry.set_alias(name, "production", number)
            follower.look()
            follower.settle()
        live = table.at(name, "production")
        assert live is not None
        assert live.version == "1"
        state = follower.status().pointers[Pointer(name, "production")]
        assert "no manifest.sig" in (state.failure or "")
        assert "headrace sign" in (state.failure or "")
        follower.stop()
