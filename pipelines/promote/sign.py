"""sign: put this home's signature on a version that has none, or one by a key that is to be retired."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from models.manifest import MANIFEST_TAG, SIGNATURE_FILE
from pipelines.errors import PromotionError

if TYPE_CHECKING:
    from pipelines.settings import Settings


def run(name: str, version: str, settings: Settings) -> str:
    """Verify a version's files by the digest that the registry names, sign them, and store the signature.

    Returns:
        The key's identifier.

    Raises:
        PromotionError: there is no such version, or it has no digest.
        ArtifactError: a file is not what the manifest names, or the sample is not reproduced.
        SettingsError: there is no key to sign with.
    """
    from pipelines.adapters.exports import find_export, open_export
    from pipelines.adapters.registry import Registry
    from pipelines.adapters.signing import Signer

    signer = Signer.of(settings)
    with Registry(settings.tracking) as registry, tempfile.TemporaryDirectory(prefix="headrace-") as folder:
        found = registry.version(name, version)
        digest = found.tags.get(MANIFEST_TAG) if found else None
        if found is None or not digest:
            raise PromotionError(
                f"{name} has no version {version} with the tag {MANIFEST_TAG}: without the digest nobody can say "
                "which files it was registered with. Train again"
            )
        registry.download(found, Path(folder))
        export = find_export(Path(folder))
        open_export(export, digest)
        signer.sign(export, digest)
        path = export.relative_to(folder) / SIGNATURE_FILE
        registry.upload(found, path.as_posix(), (export / SIGNATURE_FILE).read_bytes())
    return signer.key_id
