"""Certificate and key of the server, for every transport."""

from __future__ import annotations

import ssl
from pathlib import Path

from pipelines.errors import ProcessError
from pipelines.settings import PREFIX, Settings


def certificate(settings: Settings) -> tuple[Path, Path] | None:
    """Files of the chain and of its key, which fit each other; None: no TLS.

    Raises:
        ProcessError: they cannot be read, or do not fit each other.
    """
    chain, key = settings.serving_tls_certificate, settings.serving_tls_key
    if chain is None or key is None:
        return None
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(chain, key)
    except OSError as error:  # an ssl.SSLError is one
        raise ProcessError(
            f"cannot serve with TLS by {PREFIX}SERVING_TLS_CERTIFICATE={chain} and {PREFIX}SERVING_TLS_KEY={key}: "
            f"{error.strerror or error}; a chain and its key are wanted, both PEM"
        ) from error
    return chain, key
