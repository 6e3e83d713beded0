"""What a thread waited for a processor is told apart from its work."""

import os
import sys

import pytest

from pipelines.evaluate import run_queue
from pipelines.evaluate.run_queue import Times


def test_only_the_thread_that_worked_most_counts():
    before = {1: Times(1.0, 5.0), 2: Times(3.0, 0.5), 3: Times(0.0, 0.0)}
    after = {1: Times(1.001, 9.0), 2: Times(3.02, 0.75), 4: Times(7.0, 7.0)}
    assert run_queue.waited(before, after) == pytest.approx(0.25)


def test_where_the_system_does_not_tell_nothing_is_taken_off():
    assert run_queue.threads(2**22 + 1) == {}
    assert run_queue.waited({}, {}) == 0.0


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's scheduler statistics")
def test_this_process_s_threads_are_told():
    found = run_queue.threads(os.getpid())
    assert found[os.getpid()].running > 0
    assert run_queue.waited(found, run_queue.threads(os.getpid())) >= 0
