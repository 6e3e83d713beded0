"""For a person with an idea and a notebook: a training set, the champion beside it, and the gate.

What is tried is looked at on the valid part. The holdout stays with the gate, which answers once per
candidate: whoever looks at it before each try soon knows it by heart, and the gate would not see it.
"""

from __future__ import annotations

import hashlib
import json
import linecache
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.errors import EvaluationError
from pipelines.references import SnapshotRef, StudyRef, VerdictRef

if TYPE_CHECKING:
    import polars as pl

    from models.base import Answers, Builder, Observations, Params, Task
    from pipelines.adapters.feature_store import FeatureStore
    from pipelines.adapters.runtimes.base import Predictor
    from pipelines.settings import Settings
    from pipelines.snapshot.job import SnapshotManifest

#: Tag of a run whose estimator came from outside of the model's folder, and artifact with its source.
MADE_BY_TAG, SOURCE_ARTIFACT = "headrace.made_by", "builder.py"


@dataclass(frozen=True)
class Comparison:
    """Candidate and champion on the same rows.

    Attributes:
        figures: Metrics of the task by name: candidate's, champion's.
        gain: In the task's objective, with its 95 % interval by the gate's own test.
        method: That test.
    """

    figures: dict[str, tuple[float, float]]
    objective: str
    gain: float
    interval: tuple[float, float]
    method: str


@dataclass(frozen=True)
class Workbench:
    """One model on one training set.

    Attributes:
        rows: The training set: entity, ``event_time``, ``part``, ``weight``, targets and features.
        champion: The version in production, loaded as the server loads it.
        features: The feature store of the source, for more columns or moments.
    """

    snapshot: SnapshotRef
    rows: pl.DataFrame
    manifest: SnapshotManifest
    version: str
    champion: Predictor
    features: FeatureStore
    settings: Settings

    @classmethod
    def of(cls, registered_name: str, settings: Settings) -> Workbench:
        """The version in production, with the training set that it was made of.

        Raises:
            EvaluationError: no version is in production.
            LineageError: nothing is known of where it came from.
            SnapshotError: the training set was changed.
        """
        from pipelines.adapters import exports
        from pipelines.adapters.feature_store import FeatureStore
        from pipelines.adapters.lake import Lake
        from pipelines.adapters.registry import Registry
        from pipelines.adapters.signing import Trust
        from pipelines.lineage import record
        from pipelines.snapshot.job import load
        from pipelines.sources.profile import load_profile

        with (
            Registry(settings.tracking) as registry,
            tempfile.TemporaryDirectory(prefix="headrace-") as folder,
        ):
            version = registry.alias_version(registered_name, "production")
            if version is None:
                raise EvaluationError(
                    f"no version of {registered_name} is in production, so there is nothing to compare with: headrace "
                    f"train {registered_name}"
                )
            registry.download(version, Path(folder))
            champion = exports.load_export(
                exports.find_export(Path(folder)), version.tags.get(exports.MANIFEST_TAG), Trust.of(settings)
            )
        snapshot = record.find(Lake.of(settings), registered_name, version.version).training.snapshot
        rows, manifest = load(snapshot, settings)
        store = FeatureStore(load_profile(manifest.source), settings)
        return cls(snapshot, rows, manifest, version.version, champion, store, settings)

    @property
    def task(self) -> Task:
        from models.base import builder_of

        return builder_of(self.manifest.spec).task(self.manifest.spec)

    def part(self, name: str) -> Observations:
        """``train`` or ``valid`` as builders take them.

        Raises:
            EvaluationError: the holdout is asked for.
        """
        from pipelines.snapshot.parts import observations

        if name == "holdout":
            raise EvaluationError("the holdout is the gate's: submit() asks it, once per candidate")
        return observations(self.rows, name, self.manifest.entity, self.manifest.inputs)

    def compare(self, answers: Answers) -> Comparison:
        """Answers on the valid part beside the champion's.

        The champion was calibrated, and stopped, on that part; so were yours, if your builder does so.
        """
        from pipelines.evaluate.comparison import compare, plan_of

        task, valid = self.task, self.part("valid")
        theirs = self.champion.predict(valid.columns)
        gain, _ = compare(task, valid, answers, theirs, plan_of(self.manifest.spec, self.manifest.seed))
        mine, other = task.metrics(valid, answers), task.metrics(valid, theirs)
        return Comparison(
            {name: (mine[name], other[name]) for name in mine if name in other},
            task.objective,
            gain.figure,
            gain.interval(),
            gain.method,
        )

    def submit(self, builder: Builder, params: Params, made_by: str) -> VerdictRef:
        """Fit, export, register a version, and let the gate judge it; no alias is moved.

        The same builder and parameters again return the version that is there. The builder's source is
        kept with the run; `headrace reproduce` knows the model's own builder only.

        Raises:
            TrainingError: the export answers otherwise than the model.
        """
        import mlflow

        from pipelines.adapters import tracking
        from pipelines.evaluate import job as evaluate
        from pipelines.sources.profile import load_profile, registered_name
        from pipelines.train import job as train

        source = _source(builder)
        work = json.dumps([source, dict(sorted(params.items()))])
        base = tracking.run_key(self.snapshot, 1, self.manifest.seed)
        key = hashlib.sha256(f"{base}|{work}".encode()).hexdigest()[:16]
        name = registered_name(self.manifest.spec, load_profile(self.snapshot.source), self.settings.source)
        run_id = tracking.find_or_create_run(
            self.settings, name, key, {MADE_BY_TAG: made_by, "headrace.snapshot_sha256": self.snapshot.sha256}
        )
        with tracking.resumed(self.settings, run_id):
            mlflow.log_text(source, SOURCE_ARTIFACT)
        candidate = train.run(
            self.snapshot, self._study(f"{name}-{key}", builder, params, run_id), self.settings, builder
        )
        return evaluate.run(candidate, self.settings)

    def _study(self, name: str, builder: Builder, params: Params, run_id: str) -> StudyRef:
        """A study of the one trial that the person made."""
        import numpy as np
        import optuna

        from pipelines.tune.job import open_storage

        spec, seed = self.manifest.spec, self.manifest.seed
        train, valid = self.part("train"), self.part("valid")
        fitted = builder.fit(train, valid, self.manifest.inputs, params, seed, spec)
        value = float(self.task.statistic(valid, fitted.answer(valid))(np.ones(len(valid))))
        study = optuna.create_study(
            study_name=name,
            storage=open_storage(self.settings.tuning),
            load_if_exists=True,
            direction="maximize",
        )
        if not study.get_trials(deepcopy=False):
            study.add_trial(optuna.trial.create_trial(value=value, user_attrs={"params": params}))
        return StudyRef(
            model=spec.name, study=name, trials=1, best_value=value, best_params=params, run_id=run_id
        )


def _source(builder: Builder) -> str:
    """The notebook's cell, or the file, that the builder stands in, as far as Python knows it."""
    # Classes of a notebook have no file; the code of their functions has.
    text = "".join(linecache.getlines(type(builder).fit.__code__.co_filename))
    return text or f"# The source of {type(builder).__qualname__} is not known.\n"
