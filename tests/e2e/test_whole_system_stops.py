"""The end of the whole system: what it leaves behind."""

import psutil
import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def marked(home):
    """Processes of this home's tree that live."""
    found = []
    for process in psutil.process_iter():
        try:
            if (
                process.environ().get("_HEADRACE_TREE") == str(home)
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def test_down_leaves_nothing_behind(system):
    system.headrace("up")  # where no test before this one has
    assert marked(system.home)
    system.headrace("down")
    assert marked(system.home) == []
