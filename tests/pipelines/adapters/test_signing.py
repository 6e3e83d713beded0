"""A version counts only with the signature of a trusted key over exactly its manifest."""

from __future__ import annotations

import base64
import json
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from models.manifest import MANIFEST_FILE, SIGNATURE_FILE
from pipelines.adapters.exports import manifest_sha256, open_export
from pipelines.adapters.signing import PRIVATE_KEY, PUBLIC_KEY, Signer, Trust
from pipelines.errors import ArtifactError, SettingsError
from pipelines.settings import load_settings


def keys(folder: Path) -> tuple[Path, Path]:
    """A new pair: private and public file."""
    Signer.of(load_settings({}, home=folder))
    return folder / "secrets" / PRIVATE_KEY, folder / "secrets" / PUBLIC_KEY


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """What a signature stands over is the manifest's digest; what the manifest says is not read."""
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / MANIFEST_FILE).write_text("{}")
    return folder


def signed(export: Path, private: Path) -> str:
    digest = manifest_sha256(export)
    Signer(private).sign(export, digest)
    return digest


def test_a_key_is_made_on_first_use_for_the_owner_alone_and_then_kept(tmp_path: Path, export: Path) -> None:
    private, public = keys(tmp_path)
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    before = private.read_bytes()
    again = Signer.of(load_settings({}, home=tmp_path))
    assert private.read_bytes() == before
    digest = signed(export, private)
    assert Trust((public,)).verify(export, digest) == again.key_id
    assert Trust.of(load_settings({}, home=tmp_path)).verify(export, digest) == again.key_id


def test_a_lost_public_half_is_written_again(tmp_path: Path) -> None:
    _, public = keys(tmp_path)
    content = public.read_bytes()
    public.unlink()
    assert keys(tmp_path)[1].read_bytes() == content


def test_production_refuses_a_generated_key(tmp_path: Path) -> None:
    configured = load_settings({}, home=tmp_path, environment="production")
    with pytest.raises(SettingsError, match="HEADRACE_SIGNING_KEY"):
        Signer.of(configured)
    assert not (tmp_path / "secrets" / PRIVATE_KEY).exists()


def test_keys_of_openssl_are_taken(tmp_path: Path, export: Path) -> None:
    private, public = tmp_path / "a.pem", tmp_path / "a.pub"
    for kind in (["-algorithm", "ed25519"], ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]):
        subprocess.run(["openssl", "genpkey", *kind, "-out", private], check=True, capture_output=True)
        private.chmod(0o600)
        subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)
        configured = load_settings({}, home=tmp_path, signing_key=private, trusted_keys=str(public))
        digest = manifest_sha256(export)
        Signer.of(configured).sign(export, digest)
        Trust.of(configured).verify(export, digest)


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    private, _ = keys(tmp_path)
    private.chmod(0o644)
    with pytest.raises(SettingsError, match="chmod 600"):
        Signer(private)


def test_a_vanished_signature_is_refused_with_the_remedy(tmp_path: Path, export: Path) -> None:
    private, public = keys(tmp_path)
    digest = signed(export, private)
    (export / SIGNATURE_FILE).unlink()
    with pytest.raises(ArtifactError, match=r"no manifest\.sig.*headrace sign MODEL VERSION"):
        Trust((public,)).verify(export, digest)


def test_a_stranger_s_signature_is_refused(tmp_path: Path, export: Path) -> None:
    stranger, _ = keys(tmp_path / "stranger")
    _, ours = keys(tmp_path / "ours")
    digest = signed(export, stranger)
    with pytest.raises(ArtifactError, match="HEADRACE_TRUSTED_KEYS"):
        Trust((ours,)).verify(export, digest)


def test_a_signature_that_claims_another_s_key_is_refused(tmp_path: Path, export: Path) -> None:
    stranger, _ = keys(tmp_path / "stranger")
    private, public = keys(tmp_path / "ours")
    digest = signed(export, stranger)
    envelope = json.loads((export / SIGNATURE_FILE).read_text())
    envelope["signatures"][0]["keyid"] = Signer(private).key_id
    (export / SIGNATURE_FILE).write_text(json.dumps(envelope))
    with pytest.raises(ArtifactError, match="forged"):
        Trust((public,)).verify(export, digest)


def test_a_signature_of_another_manifest_is_refused(tmp_path: Path, export: Path) -> None:
    private, public = keys(tmp_path)
    signed(export, private)
    (export / MANIFEST_FILE).write_text('{"another": true}')
    with pytest.raises(ArtifactError, match="another manifest"):
        Trust((public,)).verify(export, manifest_sha256(export))


def test_keys_are_rotated_by_trusting_both_for_a_while(tmp_path: Path, export: Path) -> None:
    old, old_public = keys(tmp_path / "old")
    new, new_public = keys(tmp_path / "new")
    digest = signed(export, old)
    both = load_settings({}, home=tmp_path, trusted_keys=f"{new_public}, {old_public}")
    Trust.of(both).verify(export, digest)
    Signer(new).sign(export, digest)  # what is to live on is signed again
    after = load_settings({}, home=tmp_path, trusted_keys=str(new_public))
    assert Trust.of(after).verify(export, digest) == Signer(new).key_id


def test_a_trusted_key_that_is_not_there_stops_everything(tmp_path: Path, export: Path) -> None:
    private, _ = keys(tmp_path)
    digest = signed(export, private)
    with pytest.raises(SettingsError, match="HEADRACE_TRUSTED_KEYS names"):
        Trust((tmp_path / "gone.pub",)).verify(export, digest)


def test_before_the_first_training_nothing_is_trusted(tmp_path: Path, export: Path) -> None:
    private, _ = keys(tmp_path)
    digest = signed(export, private)
    with pytest.raises(ArtifactError, match="trusted is no key"):
        Trust.of(load_settings({}, home=tmp_path / "fresh")).verify(export, digest)


@examples(max_examples=60)
@given(data=st.data())
def test_no_other_signature_payload_or_digest_ever_verifies(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp() / "signing"
    private, public = keys(folder)
    export = folder / "export"
    export.mkdir(exist_ok=True)
    (export / MANIFEST_FILE).write_text("{}")
    digest = signed(export, private)
    envelope = json.loads((export / SIGNATURE_FILE).read_text())
    where = data.draw(st.sampled_from(["payload", "sig", "digest"]))
    if where == "digest":
        digest = data.draw(st.text("0123456789abcdef", min_size=64, max_size=64))
    else:
        holder = envelope if where == "payload" else envelope["signatures"][0]
        content = bytearray(base64.b64decode(holder[where]))
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
        holder[where] = base64.b64encode(content).decode()
        (export / SIGNATURE_FILE).write_text(json.dumps(envelope))
    with pytest.raises(ArtifactError):
        Trust((public,)).verify(export, digest)


def test_an_export_of_train_opens_with_trust_and_not_without_its_signature(
    make_export: Callable[..., Path], trusted_keys: str, tmp_path: Path
) -> None:
    folder = make_export(tmp_path / "real")
    trust = Trust((Path(trusted_keys),))
    open_export(folder, manifest_sha256(folder), trust).check()
    (folder / SIGNATURE_FILE).unlink()
    with pytest.raises(ArtifactError, match="never signed"):
        open_export(folder, manifest_sha256(folder), trust)


def test_loading_a_version_runs_no_pickle(
    make_export: Callable[..., Path], trusted_keys: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by the export's own code, nor by the libraries that read its files."""
    import pickle

    folder = make_export(tmp_path / "real")

    def refuse(*arguments: object, **options: object) -> object:
        raise AssertionError("a pickle was loaded")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    exported = open_export(folder, manifest_sha256(folder), Trust((Path(trusted_keys),)))
    exported.check()
    assert not [path for path in folder.iterdir() if path.read_bytes()[:1] == b"\x80"]
