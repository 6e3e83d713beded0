"""Lay out the site's pages below build/docs: `python -m docs.site`, then `mkdocs build -f build/mkdocs.yml`."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

from docs.site import pages

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build"


def main() -> int:
    """The exit code: 1 where a link leads nowhere."""
    with tempfile.TemporaryDirectory() as home:
        _forget_this_machine(Path(home))
        from docs.site import reference  # reads settings as it is imported

        written = reference.pages()
    folder = BUILD / "docs"
    shutil.rmtree(folder, ignore_errors=True)
    problems = pages.lay_out(ROOT, folder, written)
    (BUILD / "mkdocs.yml").write_text(pages.configuration(ROOT, folder), "utf-8")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def _forget_this_machine(home: Path) -> None:
    """The reference tells of defaults, not of what is set where it is made."""
    for name in [name for name in os.environ if name.startswith(("HEADRACE_", "AIRFLOW_"))]:
        del os.environ[name]
    os.environ |= {
        "HEADRACE_HOME": str(home),
        "AIRFLOW_HOME": str(home / "airflow"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
    }


if __name__ == "__main__":
    sys.exit(main())
