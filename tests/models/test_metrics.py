"""Figures agree with scikit-learn's, and say so when there is nothing to say."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_curve

from models.metrics import RankedLabels, calibration_bins, expected_calibration_error


@st.composite
def ranked(draw):
    size = draw(st.integers(2, 60))
    label = np.array(draw(st.lists(st.integers(0, 1), min_size=size, max_size=size)), dtype=np.int8)
    label[:2] = (0, 1)
    # Few distinct scores, so that ties are common.
    score = np.array(draw(st.lists(st.integers(0, 8), min_size=size, max_size=size))) / 8
    weight = np.array(draw(st.lists(st.sampled_from([0.5, 1.0, 4.0]), min_size=size, max_size=size)))
    return label, score, weight


@given(ranked())
@settings(max_examples=40, deadline=None)
def test_average_precision_is_scikit_learns(rows):
    label, score, weight = rows
    expected = average_precision_score(label, score, sample_weight=weight)
    assert RankedLabels(label, score).average_precision(weight) == pytest.approx(expected)


@given(ranked(), st.sampled_from([0.0, 0.1, 0.3, 1.0]))
@settings(max_examples=40, deadline=None)
def test_operating_point_is_the_best_on_the_roc_curve(rows, bound):
    label, score, weight = rows
    rate, recall, _ = roc_curve(label, score, sample_weight=weight, drop_intermediate=False)
    threshold, found_recall, found_rate, _ = RankedLabels(label, score).operating_point(weight, bound)
    assert found_recall == pytest.approx(max(recall[rate <= bound + 1e-12]))
    assert found_rate <= bound + 1e-12
    alarm = score >= threshold
    assert np.sum(weight[alarm & (label == 1)]) / np.sum(weight[label == 1]) == pytest.approx(found_recall)


def test_without_positives_there_is_no_figure():
    ranked_labels = RankedLabels(np.zeros(4, dtype=np.int8), np.arange(4.0))
    assert math.isnan(ranked_labels.average_precision(np.ones(4)))
    assert ranked_labels.operating_point(np.ones(4), 0.5)[1] == 0.0


def test_calibration_error_of_a_calibrated_and_an_overconfident_model():
    random = np.random.default_rng(1)
    truth = random.uniform(0, 1, 40_000)
    label = (random.uniform(0, 1, 40_000) < truth).astype(np.int8)
    weight = np.ones(40_000)
    assert expected_calibration_error(label, truth, weight) < 0.02
    assert expected_calibration_error(label, np.round(truth), weight) > 0.2


def test_weights_undo_sampling_in_the_bins():
    label = np.array([1, 0, 0, 0, 0], dtype=np.int8)
    ((mean, share, mass),) = calibration_bins(label, np.full(5, 0.1), np.array([1.0, 9, 9, 9, 9]), bins=1)
    assert (mean, share, mass) == (pytest.approx(0.1), pytest.approx(1 / 37), pytest.approx(37))


@pytest.mark.parametrize("ties", [False, True])
def test_average_precision_by_cluster_is_that_of_the_rows(ties):
    random = np.random.default_rng(3)
    rows, clusters = 400, 7
    label = (random.uniform(size=rows) < 0.2).astype(np.float64)
    score = random.normal(size=rows) + label
    ranked = RankedLabels(label, np.round(score) if ties else score)
    base, cluster = random.uniform(1, 3, rows), random.integers(0, clusters, rows)
    drawn = random.multinomial(clusters, np.full(clusters, 1 / clusters), size=20).T.astype(np.float64)
    by_cluster = ranked.precision_by_cluster(base, cluster, clusters)
    assert by_cluster is not None
    rowwise = ranked.average_precision(base[:, None] * drawn[cluster])
    np.testing.assert_allclose(by_cluster(drawn), rowwise)
    single = [ranked.average_precision(base * drawn[cluster, number]) for number in range(20)]
    np.testing.assert_allclose(rowwise, single)


def test_many_small_clusters_are_not_worth_a_product_of_matrices():
    label = np.array([0.0, 1.0] * 500)
    ranked = RankedLabels(label, np.arange(1000.0))
    assert ranked.precision_by_cluster(np.ones(1000), np.arange(1000), 1000) is None
    nothing = RankedLabels(np.zeros(4), np.arange(4.0))
    assert nothing.precision_by_cluster(np.ones(4), np.arange(4), 4) is None
    assert np.isnan(nothing.average_precision(np.ones(4)))
