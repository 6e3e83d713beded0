"""``python -m serving``: the server, by the settings of the environment.

``python -m serving --export FOLDER``: one export, without a registry (:mod:`serving.single`).
"""

from __future__ import annotations

import sys

from pipelines.errors import HeadraceError
from pipelines.settings import load_settings
from serving import single
from serving.workers import run

if __name__ == "__main__":
    try:
        if len(sys.argv) > 1:
            single.main()
        else:
            run(load_settings())
    except HeadraceError as error:
        sys.exit(f"headrace: {error}")
