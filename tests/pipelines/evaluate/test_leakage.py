"""What knows the outcome beforehand is found, and said."""

from datetime import timedelta

import numpy as np
import pytest

from models.base import Observations
from models.manifest import FieldType, InputField
from models.specs import Leakage
from pipelines.evaluate.leakage import Parts, leakage_checks
from pipelines.references import Outcome
from tests.pipelines.evaluate.worlds import INPUTS, events, loads, parts


def with_input(part, name, values):
    return Observations({**part.columns, name: values}, part.targets, part.weight, part.entity, part.time)


def strongest(made, inputs, config=None, chosen=frozenset()):
    return leakage_checks(made, inputs, chosen, config or Leakage(), seed=0)[0]


def test_an_honest_snapshot_passes():
    checks = leakage_checks(parts(), INPUTS, frozenset(), Leakage(), seed=0)
    assert [check.outcome for check in checks] == [Outcome.PASS, Outcome.PASS]


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_leaked_feature_is_refused_by_name(sign):
    made = parts()
    ticket = sign * made.train.targets["event"] + 0.01 * np.random.default_rng(0).normal(size=1500)
    made = parts(train=with_input(made.train, "ticket_opened", ticket))
    inputs = (*INPUTS, InputField(name="ticket_opened", type=FieldType.DOUBLE))
    found = strongest(made, inputs)
    assert found.outcome is Outcome.FAIL
    assert "strongest single input (ticket_opened): fail" in found.sentence()
    assert "leave it out of `inputs`" in found.sentence()
    assert strongest(made, inputs, Leakage(trusted=("ticket_*",))).outcome is Outcome.PASS
    assert strongest(made, inputs, chosen=frozenset({"ticket_opened"})).outcome is Outcome.PASS


def test_a_value_that_is_missing_only_where_it_happened_is_a_leak_too():
    made = parts()
    values = np.where(made.train.targets["event"] == 1, np.nan, 1.0)
    made = parts(train=with_input(made.train, "last_backup", values))
    found = strongest(made, (*INPUTS, InputField(name="last_backup", type=FieldType.DOUBLE, required=False)))
    assert (found.outcome, found.figure) == (Outcome.FAIL, 1.0)


def test_a_text_that_names_the_outcome_is_a_leak():
    made = parts()
    text = np.where(made.train.targets["event"] == 1, "broken", None)
    made = parts(train=with_input(made.train, "state", text))
    found = strongest(made, (*INPUTS, InputField(name="state", type=FieldType.STRING, required=False)))
    assert found.outcome is Outcome.FAIL


def numbers(noise):
    part = loads(2000)
    random = np.random.default_rng(1)
    entity = np.where(np.arange(2000) % 2, "large", "small").astype(object)
    load = part.targets["load"] + 1000.0 * (entity == "large")
    columns = {
        "level": load + 300 * random.normal(size=2000),
        "after": load + noise * random.normal(size=2000),
    }
    part = Observations(columns, {"load": load}, part.weight, entity, part.time)
    return Parts(part, part.rows(np.arange(0)), part.rows(np.arange(0)), "time", timedelta(0))


@pytest.mark.parametrize(("noise", "outcome"), [(0.01, Outcome.FAIL), (3.0, Outcome.PASS)])
def test_a_number_is_too_good_beyond_the_level_of_its_entity(noise, outcome):
    inputs = tuple(InputField(name=name, type=FieldType.DOUBLE) for name in ("level", "after"))
    found = strongest(numbers(noise), inputs)
    assert found.outcome is outcome
    assert "after" in found.name


def test_an_entity_in_both_parts_is_refused_where_the_split_promised_none():
    made = parts("entity")
    found = leakage_checks(made, INPUTS, frozenset(), Leakage(), seed=0)[1]
    assert found.outcome is Outcome.FAIL
    assert "entities of the holdout in other parts: fail: 30, wanted 0" in found.sentence()
    assert "such as ['m0', 'm1', 'm10']" in found.sentence()
    others = made.holdout.entity + "-other"
    apart = Observations(
        made.holdout.columns, made.holdout.targets, made.holdout.weight, others, made.holdout.time
    )
    checks = leakage_checks(parts("entity", holdout=apart), INPUTS, frozenset(), Leakage(), seed=0)
    assert [check.outcome for check in checks] == [Outcome.PASS, Outcome.PASS]


def test_a_label_that_reaches_over_the_cut_is_refused():
    made = parts(gap=0)
    found = leakage_checks(made, INPUTS, frozenset(), Leakage(), seed=0)[1]
    assert found.outcome is Outcome.FAIL
    assert found.figure == 2 * 23
    assert "horizon 1 day" in found.sentence()


def test_rows_after_the_cut_are_refused():
    made = parts()
    late = events(3, 600, start=5000)
    found = leakage_checks(parts(valid=late, train=made.train), INPUTS, frozenset(), Leakage(), seed=0)[1]
    assert (found.outcome, found.figure) == (Outcome.FAIL, 600)


@pytest.mark.parametrize(("hours", "outcome"), [(20.0, Outcome.PASS), (50.0, Outcome.FAIL)])
def test_a_duration_looks_ahead_as_far_as_it_was_watched(hours, outcome):
    made = parts(gap=24)
    watched = np.zeros(len(made.train))
    watched[-1] = hours
    train = Observations(
        made.train.columns, {"hours": watched}, made.train.weight, made.train.entity, made.train.time
    )
    empty = made.valid.rows(np.arange(0))
    checks = leakage_checks(
        Parts(train, empty, made.valid, "time", timedelta(0), watched="hours"),
        INPUTS,
        frozenset(),
        Leakage(),
        seed=0,
    )
    assert checks[1].outcome is outcome
