"""Every moment of a run counts for one part, and all of them add up to the run."""

import pytest

from benchmarks.scale.orchestration import PARTS, Span, by_part


def task(begin, queue, process, parse, imports, steps):
    """Spans of one task, one part after the other; imports come first in its function."""
    at = begin
    for part, seconds in (("queue", queue), ("process", process), ("parse", parse)):
        yield Span(at, at + seconds, part)
        at += seconds
    yield Span(at, at + imports + steps, "steps")
    yield Span(at, at + imports, "imports")


def test_one_task_after_the_other():
    spans = [*task(2, 1, 0.5, 0.25, 3, 4), *task(12, 1, 0.5, 0.25, 0, 2)]
    found = by_part(0, 17, spans)
    assert found == pytest.approx(
        {"steps": 6, "imports": 3, "parse": 0.5, "process": 1, "queue": 2, "schedule": 4.5}
    )


@pytest.mark.parametrize("later", [0, 0.5, 2, 7, 20])
def test_tasks_side_by_side_are_counted_once(later):
    spans = [*task(1, 1, 1, 1, 3, 4), *task(1 + later, 1, 1, 1, 3, 4)]
    end = max(span.end for span in spans) + 1
    found = by_part(0, end, spans)
    assert set(found) == set(PARTS)
    assert sum(found.values()) == pytest.approx(end)


def test_work_of_one_task_hides_the_start_of_another():
    found = by_part(0, 10, [Span(0, 10, "steps"), *task(1, 1, 1, 1, 2, 0)])
    assert found["steps"] == 10


def test_two_tasks_that_import_do_not_work():
    spans = [Span(0, 4, "steps"), Span(0, 4, "imports"), Span(0, 4, "steps"), Span(0, 2, "imports")]
    found = by_part(0, 4, spans)
    assert (found["imports"], found["steps"]) == (2, 2)
