"""Batch scoring over a real MLflow: the same answers as by hand, each once, whatever is killed or ingested meanwhile."""

import shutil
from datetime import UTC, datetime, timedelta

import lightgbm
import numpy as np
import polars as pl
import pytest

from models.encoding import encode
from models.heads import ProbabilityHead
from models.manifest import MANIFEST_TAG, Estimator, FieldType, InputField, ServingParts
from pipelines.adapters.exports import load_export, make_sample, manifest_sha256, write_export
from pipelines.adapters.feature_store import FeatureStore
from pipelines.adapters.lake import Lake
from pipelines.adapters.registry import Registry
from pipelines.adapters.signing import Signer
from pipelines.errors import ScoringError
from pipelines.features import job as features
from pipelines.references import Window
from pipelines.score import job
from pipelines.settings import load_settings
from pipelines.sources.profile import load_profile
from tests.killing import killed_at_commit

pytestmark = pytest.mark.integration

START = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
WHOLE = Window(start=START, end=START + 5 * DAY)
AT = datetime(2026, 2, 1, tzinfo=UTC)
INPUTS = (
    InputField(name="heat__mean_2h", type=FieldType.DOUBLE, required=False),
    InputField(name="error__count_6h", type=FieldType.DOUBLE, required=False),
    InputField(name="model", type=FieldType.STRING, required=False, categories=("m1", "m2")),
    InputField(name="load", type=FieldType.DOUBLE),
)
REQUESTS = "requests/batch"


@pytest.fixture(scope="module")
def world(
    tmp_path_factory, small_source, put_clean, mlflow_server, signing_key, trusted_keys, register_export
):
    """Settings of a lake with features of two units, and two versions of a model that takes them and ``load``."""
    folder = tmp_path_factory.mktemp("score")
    settings = load_settings(
        {},
        home=folder / "home",
        tracking_url=mlflow_server,
        source=small_source,
        signing_key=signing_key,
        trusted_keys=trusted_keys,
    )
    moments = [START + number * timedelta(minutes=50) for number in range(1, 5 * 28)]
    put_clean(
        settings,
        "readings",
        [
            {"unit": unit, "seen_at": moment, "heat": float(number % 7) + shift, "resets": number}
            for shift, unit in enumerate("ab")
            for number, moment in enumerate(moments)
        ],
    )
    put_clean(settings, "log", [{"unit": "a", "seen_at": START + timedelta(hours=5), "kind": "error"}])
    put_clean(
        settings,
        "units",
        [{"unit": unit, "seen_at": START + timedelta(minutes=1), "model": "m1", "cores": 4} for unit in "ab"],
    )
    features.run(small_source, WHOLE, settings)
    with Registry(mlflow_server) as registry:
        for seed in (1, 2):
            export = _export(folder / f"export{seed}", seed, small_source, signing_key)
            register_export(mlflow_server, "scored", export, tags={MANIFEST_TAG: manifest_sha256(export)})
        registry.set_alias("scored", "production", "1")
    requests = pl.DataFrame(
        {
            "unit": ["a", "b", "nobody"] * 40,
            "event_time": [START + number * timedelta(minutes=61) for number in range(120)],
            "load": [float(number % 5) for number in range(120)],
            "ticket": range(120),
        }
    ).with_columns(pl.col("event_time").dt.cast_time_unit("us").dt.convert_time_zone("UTC"))
    Lake.of(settings).append(REQUESTS, requests, work=["requests:1"])
    return settings


def _export(folder, seed, source, signing_key):
    random = np.random.default_rng(seed)
    columns = {
        "heat__mean_2h": random.uniform(0, 8, 300),
        "error__count_6h": random.integers(0, 3, 300).astype(float),
        "model": random.choice(np.array(["m1", "m2", None], dtype=object), 300),
        "load": random.uniform(0, 5, 300),
    }
    label = (columns["heat__mean_2h"] + columns["load"] + random.normal(0, 1, 300) > 6).astype(int)
    names = [field.name for field in INPUTS]
    data = lightgbm.Dataset(encode(columns, INPUTS), label, feature_name=names, categorical_feature=["model"])
    parameters = {"objective": "binary", "num_leaves": 7, "seed": seed, "num_threads": 1, "verbosity": -1}
    booster = lightgbm.train(parameters, data, 10)
    head = ProbabilityHead(slope=1.0, intercept=0.0, alarm_threshold=0.5)

    def save(part):
        booster.save_model(str(part / "model.txt"))
        estimator = Estimator(name=head.estimator, runtime="lightgbm", file="model.txt", inputs=tuple(names))
        return ServingParts((estimator,), head, tolerance=1e-9)

    few = {name: values[:20] for name, values in columns.items()}
    probability = np.asarray(booster.predict(encode(few, INPUTS)))
    digest = write_export(
        folder,
        save,
        model="tiny",
        inputs=INPUTS,
        sample=make_sample(INPUTS, few, {"probability": probability, "alarm": probability >= 0.5}),
        lineage={"source": source},
    )
    Signer(signing_key).sign(folder, digest)
    return folder


def elsewhere(world, tmp_path):
    """The same features and requests with predictions of one's own: another lake, copied."""
    shutil.copytree(world.lake, tmp_path / "home" / "lake")
    shutil.copytree(world.home / "features", tmp_path / "home" / "features")
    same = ("tracking_url", "source", "signing_key", "trusted_keys")
    return load_settings({}, home=tmp_path / "home", **{name: getattr(world, name) for name in same})


def table(settings, ref):
    return Lake.of(settings).scan(ref.table).collect().sort("ticket")


def test_each_row_is_answered_as_by_hand_with_the_features_of_its_time(world, tmp_path):
    settings = elsewhere(world, tmp_path)
    plan = job.plan("scored", settings, table=REQUESTS, keep=["ticket", "load"])
    found = job.run(plan, settings, AT)
    rows = table(settings, found.scored)
    assert rows["ticket"].to_list() == list(range(120))
    assert (found.rows, found.days) == (120, 6)
    assert rows["version"].unique().to_list() == ["1"]
    assert rows["scored_at"].unique().to_list() == [AT]

    asked = Lake.of(settings).scan(REQUESTS).collect().sort("ticket")
    known = FeatureStore(load_profile(settings.source), settings).historical(
        asked.select("unit", "event_time")
    )
    with Registry(settings.tracking) as registry:
        registry.download(registry.version("scored", "1"), tmp_path / "version")
    [manifest] = (tmp_path / "version").rglob("manifest.json")
    expected = load_export(manifest.parent).predict(
        {
            "heat__mean_2h": known["heat__mean_2h"].to_numpy(),
            "error__count_6h": known["error__count_6h"].cast(pl.Float64).to_numpy(),
            "model": np.array(known["model"].to_list(), dtype=object),
            "load": asked["load"].to_numpy(),
        }
    )
    # Nobody was ever seen; of the others, the model's own features say whether there is anything to go by.
    own = ~known.select(pl.all_horizontal(pl.col("heat__mean_2h").is_null())).to_series()
    assert rows["refused"].is_null().to_list() == own.to_list()
    assert rows.filter(pl.col("entity") == "nobody")["refused"].unique().to_list() == [
        "no features within their time to live"
    ]
    assert found.refused == 120 - own.sum()
    answered = rows.filter(pl.col("refused").is_null())["output__probability"].to_numpy()
    np.testing.assert_allclose(answered, expected["probability"][own.to_numpy()], rtol=0, atol=1e-12)
    assert answered.std() > 0.01


def test_killed_at_every_commit_and_run_again_nothing_is_lost_or_doubled(world, tmp_path):
    settings = elsewhere(world, tmp_path)
    plan = job.plan("scored", settings, table=REQUESTS, keep=["ticket"])
    kills = 0
    while killed_at_commit(1, job.run, plan, settings, AT, when="after"):
        kills += 1
        # What is ingested meanwhile does not enter: the unfinished plan is taken up again.
        if kills == 2:
            lake = Lake.of(settings)
            lake.append(REQUESTS, lake.scan(REQUESTS).collect(), work=["requests:2"])
        if kills < len(plan.days):
            assert job.plan("scored", settings, table=REQUESTS, keep=["ticket"]) == plan
    assert kills == len(plan.days) == 6
    found = job.run(plan, settings, AT)
    assert found.rows == 0
    assert table(settings, found.scored)["ticket"].to_list() == list(range(120))
    # Done: the next run of the same request reads what is there now, in the place of what was said before.
    again = job.plan("scored", settings, table=REQUESTS, keep=["ticket"])
    assert again.table_version == plan.table_version + 1
    assert job.run(again, settings, AT).rows == 240
    assert table(settings, found.scored).height == 240


def test_versions_stand_side_by_side_and_a_day_of_one_is_replaced(world, tmp_path):
    settings = elsewhere(world, tmp_path)
    window = Window(start=START, end=START + 2 * DAY)
    for version in (None, "2", None):
        plan = job.plan("scored", settings, table=f"{REQUESTS}@1", window=window, version=version)
        found = job.run(plan, settings, AT, days=plan.days[:1])
        found = job.run(plan, settings, AT)
    assert found.rows == 0, "the third finds the work of the first"
    rows = Lake.of(settings).scan(found.scored.table).collect()
    counts = rows.group_by("version", "day").len().sort("version", "day")
    assert counts["version"].to_list() == ["1", "1", "2", "2"]
    assert counts["len"].to_list() == [24, 24, 24, 24]
    assert rows["event_time"].max() < window.end


def test_days_may_be_shared_by_several_processes(world, tmp_path):
    settings = elsewhere(world, tmp_path)
    plan = job.plan("scored", settings, table=REQUESTS, keep=["ticket"])
    job.run(plan, settings, AT, days=plan.days[3:])
    found = job.run(plan, settings, AT, days=plan.days[:3])
    assert table(settings, found.scored)["ticket"].to_list() == list(range(120))


def test_by_default_the_models_own_feature_table_is_asked(world, tmp_path):
    settings = elsewhere(world, tmp_path)
    with pytest.raises(ScoringError, match=r"\['load'\], which callers suppose"):
        job.run(job.plan("scored", settings), settings, AT)
    assert job.plan("scored", settings).table == "features/small/readings_windows"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"table": "requests/batch", "keep": ["colour"]}, r"no columns \['colour'\]"),
        ({"table": "requests/batch", "version": "9"}, "has no version 9"),
        ({"table": "requests/batch@7x"}, "no version of a table"),
        ({"table": "requests/batch", "window": Window.parse("2030-01-01", "2030-01-02")}, "has no rows in"),
        ({"table": "clean/small/log"}, r"no columns \['event_time'\]"),
    ],
)
def test_what_cannot_be_scored_is_refused_by_name(world, asked, said):
    with pytest.raises(ScoringError, match=said):
        job.plan("scored", world, **asked)
