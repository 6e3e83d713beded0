"""Delta tables as Polars can read them."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from deltalake import DeltaTable


class ReadableDeltaTable(DeltaTable):
    """A Delta table that Polars can scan in whatever folder it lies.

    deltalake gives the addresses of local files with their folder percent-encoded, Polars opens
    them as they are: below a folder named ``my data`` no table could be read (pola-rs/polars#20944).
    """

    def file_uris(self, *args: Any, **kwargs: Any) -> list[str]:
        """As :meth:`deltalake.DeltaTable.file_uris`, local folders by their own names."""
        uris: list[str] = super().file_uris(*args, **kwargs)
        if not self.table_uri.startswith("file://"):
            return uris
        encoded = self.table_uri.removeprefix("file://")
        folder = unquote(encoded)
        # Only the table's folder: below it, file names are percent-encoded on the disk as well.
        return [folder + uri.removeprefix(encoded) if uri.startswith(encoded) else uri for uri in uris]
