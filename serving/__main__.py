"""``python -m serving``: the server, by the settings of the environment."""

from __future__ import annotations

import sys

from pipelines.errors import HeadraceError
from pipelines.settings import load_settings
from serving.app import run

if __name__ == "__main__":
    try:
        run(load_settings())
    except HeadraceError as error:
        sys.exit(f"headrace: {error}")
