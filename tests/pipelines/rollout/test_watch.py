"""A new champion that fails more often than the one before it is noticed within seconds; one that does not, never."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from pipelines.rollout.evidence import Scrape
from pipelines.rollout.watch import Count, Figures, Watch
from pipelines.rollout.watcher import figures_of

START = datetime(2026, 3, 1, 12, tzinfo=UTC)


def seconds_to_alarm(before, after, per_second, *, seconds=600, seed=0, watch=None):
    """A minute of one version, then another; seconds from the switch to the alarm, None: there was none."""
    random, watch = np.random.default_rng(seed), watch or Watch()
    counts = {"1": Count(), "2": Count()}
    for second in range(60 + seconds):
        version, share = ("1", before) if second < 60 else ("2", after)
        errors = int(random.binomial(per_second, share))
        old = counts[version]
        counts[version] = Count(old.requests + per_second, old.errors + errors)
        alarm = watch.look("m", Figures(version, dict(counts)), START + timedelta(seconds=second))
        if alarm is not None:
            assert (alarm.version, alarm.to) == ("2", "1")
            return second - 60
    return None


@pytest.mark.parametrize(
    ("before", "after", "per_second", "at_most"),
    [(0.0, 1.0, 2, 5), (0.0, 1.0, 100, 1), (0.0, 0.5, 10, 4), (0.01, 0.2, 100, 2), (0.05, 0.5, 20, 3)],
)
def test_a_jump_is_noticed_within_seconds(before, after, per_second, at_most):
    assert seconds_to_alarm(before, after, per_second) <= at_most


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.5])
def test_a_version_that_fails_as_often_as_the_one_before_is_left(share):
    alarms = [seconds_to_alarm(share, share, 50, seconds=300, seed=seed) for seed in range(5)]
    assert alarms == [None] * 5


def test_after_a_rollback_nothing_is_moved_again():
    watch = Watch()
    assert seconds_to_alarm(0.0, 0.6, 50, watch=watch) is not None
    later = START + timedelta(minutes=2)
    counts = {"1": Count(3000, 0), "2": Count(500, 300)}
    for second in range(60):
        counts["1"] = Count(counts["1"].requests + 50, counts["1"].errors + 30)
        found = watch.look("m", Figures("1", dict(counts)), later + timedelta(seconds=second))
        assert found is None


def test_a_watch_ends():
    watch = Watch()
    watch.look("m", Figures("1", {"1": Count(1000, 0)}), START)
    watch.look("m", Figures("2", {"1": Count(1000, 0)}), START + timedelta(seconds=1))
    late = START + timedelta(minutes=11)
    assert watch.look("m", Figures("2", {"2": Count(100, 100)}), late) is None


def test_a_restarted_watch_goes_on_by_what_the_ledger_says():
    watch = Watch()
    watch.resume("m", "2", "1", START)
    found = watch.look("m", Figures("2", {"1": Count(1000, 0), "2": Count(100, 90)}), START)
    assert (found.version, found.to) == ("2", "1")


def test_what_a_version_did_as_challenger_is_not_held_against_it():
    watch = Watch()
    counts = {"1": Count(1000, 0), "2": Count(500, 400)}
    watch.look("m", Figures("1", counts), START)
    for second in range(1, 5):
        counts["2"] = Count(500 + 50 * second, 400)
        assert watch.look("m", Figures("2", dict(counts)), START + timedelta(seconds=second)) is None


def test_a_version_that_nobody_asked_is_compared_by_all_that_it_ever_did_or_by_a_half():
    for ever, errors, alarmed in ((1000, 15, True), (0, 15, False), (0, 30, True)):
        watch = Watch()
        watch.look("m", Figures("1", {"1": Count(ever, 0)}), START)
        watch.look("m", Figures("2", {"1": Count(ever, 0)}), START + timedelta(seconds=1))
        found = watch.look("m", Figures("2", {"2": Count(30, errors)}), START + timedelta(seconds=2))
        assert (found is not None) == alarmed


def test_a_server_that_was_started_anew_counts_from_nothing():
    watch = Watch()
    watch.look("m", Figures("1", {"1": Count(10_000, 0), "2": Count(900, 0)}), START)
    watch.look("m", Figures("2", {"1": Count(10_000, 0), "2": Count(900, 0)}), START + timedelta(seconds=1))
    found = watch.look("m", Figures("2", {"2": Count(50, 45)}), START + timedelta(seconds=2))
    assert found is not None


def test_figures_are_summed_over_servers_transports_and_codes():
    from prometheus_client.parser import text_string_to_metric_families

    def server(version, *requests):
        lines = [
            f'headrace_model_info{{model="m",alias="production",version="{version}",manifest_sha256="0"}} 1'
        ]
        lines += [
            f'headrace_requests_total{{transport="{transport}",model="m",version="{number}",code="{code}"}} {count}'
            for transport, number, code, count in requests
        ]
        families = text_string_to_metric_families("\n".join(lines) + "\n")
        return tuple(sample for family in families for sample in family.samples)

    one = server(
        "2", ("rest", "2", 200, 10), ("grpc", "2", 500, 3), ("rest", "2", 422, 2), ("rest", "2", 404, 7)
    )
    other = server("2", ("rest", "2", 200, 5))
    old = server("1", ("rest", "1", 200, 1))
    found = figures_of(Scrape((one, other, old), ""))["m"]
    assert found.production == "2"
    assert found.counts == {"2": Count(27, 5), "1": Count(1, 0)}
