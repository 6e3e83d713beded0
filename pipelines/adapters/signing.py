"""Signatures of serving exports: made by train, verified by promotion and by the server.

A signature is a DSSE envelope (Dead Simple Signing Envelope, https://github.com/secure-systems-lab/dsse)
around an in-toto statement that names the SHA-256 of the export's manifest; the manifest names that of
every other file. Keys are PEM files, Ed25519 where Headrace makes them.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.manifest import MANIFEST_FILE, SIGNATURE_FILE
from pipelines.errors import ArtifactError, SettingsError

if TYPE_CHECKING:
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import CryptoSigner, SSlibKey

    from pipelines.settings import Settings

PRIVATE_KEY, PUBLIC_KEY = "signing_key.pem", "signing_key.pub"

_PAYLOAD_TYPE = "application/vnd.in-toto+json"
_STATEMENT = "https://in-toto.io/Statement/v1"
_PREDICATE = "urn:headrace:export-manifest:v1"
_SHOWN = 12  # characters of a key's identifier that messages show


class Signer:
    """Holds one private key.

    Args:
        path: PEM file, PKCS #8, without a passphrase.

    Raises:
        SettingsError: the file is missing, is no private key, or others than its owner may read it.
    """

    def __init__(self, path: Path) -> None:
        self._signer = _load_private(path)

    @classmethod
    def of(cls, settings: Settings) -> Signer:
        """The key that the settings name, or that of this home; the latter is made on first use.

        Raises:
            SettingsError: as the class; or in production no key is set and none is there.
        """
        if settings.signing_key is not None:
            return cls(settings.signing_key)
        folder = settings.secrets
        if not (folder / PRIVATE_KEY).exists():
            if settings.environment == "production":
                raise SettingsError(
                    f"HEADRACE_SIGNING_KEY is not set, and HEADRACE_ENVIRONMENT=production refuses generated keys. "
                    f"Make one: openssl genpkey -algorithm ed25519 -out {PRIVATE_KEY}, and give the server its "
                    "public half as HEADRACE_TRUSTED_KEYS (docs/promotion.md)"
                )
            _generate(folder)
        signer = cls(folder / PRIVATE_KEY)
        if not (folder / PUBLIC_KEY).exists():  # a kill fell between the two files
            _write_once(folder / PUBLIC_KEY, _public_pem(signer._signer), mode=0o644)
        return signer

    @property
    def key_id(self) -> str:
        return str(self._signer.public_key.keyid)

    def sign(self, folder: Path, manifest_sha256: str) -> None:
        """Write the signature beside the manifest; signatures of the same by other keys stay."""
        from securesystemslib.dsse import Envelope

        path = folder / SIGNATURE_FILE
        envelope = Envelope(_statement(manifest_sha256), _PAYLOAD_TYPE, {})
        with contextlib.suppress(ArtifactError):  # none, or a broken one, which is replaced
            there = _read_envelope(path)
            if (there.payload, there.payload_type) == (envelope.payload, envelope.payload_type):
                envelope = there
        envelope.sign(self._signer)
        part = folder.parent / f".{folder.name}.{SIGNATURE_FILE}.{os.getpid()}"
        part.write_text(json.dumps(envelope.to_dict(), indent=1, sort_keys=True) + "\n", "utf-8")
        part.replace(path)


@dataclass(frozen=True)
class Trust:
    """The public keys whose signatures count. They are read anew at each verification: rotation needs no restart.

    Attributes:
        files: PEM files.
        own: Whether ``files`` is the default, the key of this home, which the first training makes.
    """

    files: tuple[Path, ...]
    own: bool = False

    @classmethod
    def of(cls, settings: Settings) -> Trust:
        if settings.trusted_keys:
            return cls(tuple(Path(name.strip()) for name in settings.trusted_keys.split(",") if name.strip()))
        return cls((settings.secrets / PUBLIC_KEY,), own=True)

    def verify(self, folder: Path, manifest_sha256: str) -> str:
        """Check that a trusted key signed this export's manifest; returns the key's identifier.

        Raises:
            ArtifactError: there is no signature, it is of another manifest, or by no trusted key.
            SettingsError: a trusted key cannot be read.
        """
        path = folder / SIGNATURE_FILE
        if not path.is_file() or path.is_symlink():
            raise ArtifactError(
                f"{folder} has no {SIGNATURE_FILE}: it was never signed, or its signature was removed. Train again; "
                "or, if you know that the files are good: headrace sign MODEL VERSION"
            )
        envelope = _read_envelope(path)
        known = {str(key.keyid): key for key in self._keys()}
        signers = sorted(envelope.signatures)
        by = [name for name in signers if name in known]
        if not by:
            raise ArtifactError(
                f"{path} is signed with {_named(signers)}, and trusted is {_named(known)}"
                + (" (the key of this home)" if self.own else "")
                + ": add the signer's public key to HEADRACE_TRUSTED_KEYS if you trust it, or train again"
            )
        valid: str | None = next((name for name in by if _fits(envelope, known[name])), None)
        if valid is None:
            raise ArtifactError(
                f"{path}: the signature by {_named(by)} does not fit what it stands over: it was forged or damaged"
            )
        if envelope.payload_type != _PAYLOAD_TYPE or envelope.payload != _statement(manifest_sha256):
            raise ArtifactError(
                f"{path} is the signature of another manifest than {MANIFEST_FILE} with SHA-256 {manifest_sha256}: "
                "one of the two was exchanged"
            )
        return valid

    def _keys(self) -> list[SSlibKey]:
        if self.own and not self.files[0].exists():
            return []
        return [_load_public(path) for path in self.files]


def _statement(manifest_sha256: str) -> bytes:
    """What is signed; one text for one manifest."""
    statement = {
        "_type": _STATEMENT,
        "subject": [{"name": MANIFEST_FILE, "digest": {"sha256": manifest_sha256}}],
        "predicateType": _PREDICATE,
        "predicate": {},
    }
    return json.dumps(statement, sort_keys=True, separators=(",", ":")).encode()


def _fits(envelope: Envelope, key: SSlibKey) -> bool:
    from securesystemslib.exceptions import UnverifiedSignatureError

    try:
        key.verify_signature(envelope.signatures[key.keyid], envelope.pae())
    except UnverifiedSignatureError:
        return False
    return True


def _read_envelope(path: Path) -> Envelope:
    from securesystemslib.dsse import Envelope

    try:
        content: Any = json.loads(path.read_bytes())
        return Envelope.from_dict(content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"{path} is not a signature (DSSE envelope in JSON): {type(error).__name__}: {error}"
        ) from error


def _load_private(path: Path) -> CryptoSigner:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from securesystemslib.signer import CryptoSigner

    try:
        found = path.stat()
        mode = found.st_mode & 0o777
        # Kubernetes mounts secrets as root's own, to be read by the group of the pod.
        mounted = found.st_uid == 0 and os.getuid() != 0
        if mode & (0o037 if mounted else 0o077):
            raise SettingsError(
                f"{path} is readable by others than its owner (mode {mode:o}): chmod 600 {path}, and if others may "
                "have read it, make a new one"
            )
        return CryptoSigner(load_pem_private_key(path.read_bytes(), None))
    except OSError as error:
        raise SettingsError(f"cannot read the signing key {path}: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise SettingsError(
            f"{path} is not a private key in PEM without a passphrase: {error}. "
            "Make one: openssl genpkey -algorithm ed25519 -out FILE"
        ) from error


def _load_public(path: Path) -> SSlibKey:
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from securesystemslib.signer import SSlibKey

    try:
        return SSlibKey.from_crypto(load_pem_public_key(path.read_bytes()))
    except OSError as error:
        raise SettingsError(
            f"HEADRACE_TRUSTED_KEYS names {path}, which cannot be read: {error.strerror}"
        ) from error
    except ValueError as error:
        raise SettingsError(
            f"HEADRACE_TRUSTED_KEYS names {path}, which is not a public key in PEM: {error}. "
            "Write it: openssl pkey -in PRIVATE -pubout -out FILE"
        ) from error


def _generate(folder: Path) -> None:
    from securesystemslib.signer import CryptoSigner

    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    _write_once(folder / PRIVATE_KEY, CryptoSigner.generate_ed25519().private_bytes, mode=0o600)


def _public_pem(signer: CryptoSigner) -> bytes:
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        PublicFormat,
        load_pem_private_key,
    )

    private = load_pem_private_key(signer.private_bytes, None)
    return private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _write_once(path: Path, content: bytes, mode: int) -> None:
    """Written aside and linked: of two processes that start at once, the first one's key counts for both."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.unlink(missing_ok=True)
    part.touch(mode=mode)
    part.write_bytes(content)
    try:
        os.link(part, path)
    except FileExistsError:
        pass
    finally:
        part.unlink()


def _named(key_ids: Iterable[str]) -> str:
    names = [f"key {name[:_SHOWN]}…" for name in key_ids]
    return ", ".join(names) or "no key"
