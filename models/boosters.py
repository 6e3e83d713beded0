"""What all models of LightGBM share: reproducible settings, importance, and a booster as it is served."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from models.manifest import Estimator

if TYPE_CHECKING:
    import lightgbm as lgb


def reproducible(seed: int) -> dict[str, int | bool]:
    """Settings under which the same rows give the same trees, on any machine.

    One thread: on two busy cores, threads that wait for each other cost more than they save.
    """
    return {
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": 1,
        "verbosity": -1,
    }


def gain_shares(
    boosters: Sequence[lgb.Booster], owners: Sequence[str], inputs: Iterable[str]
) -> dict[str, float]:
    """Share of each input in the gain of all boosters; the shares add up to 1 where any split gained.

    Args:
        owners: The input that each feature of the boosters counts for, in their order.
        inputs: All inputs; those that no feature counts for have none.
    """
    gain = np.sum([booster.feature_importance("gain") for booster in boosters], axis=0)
    return owner_shares(gain.tolist(), owners, inputs)


def owner_shares(told: Sequence[float], owners: Sequence[str], inputs: Iterable[str]) -> dict[str, float]:
    """As :func:`gain_shares`, of any figure per feature."""
    total = max(sum(told), np.finfo(float).tiny)
    shares = dict.fromkeys(inputs, 0.0)
    for owner, share in zip(owners, told, strict=True):
        shares[owner] += share / total
    return shares


def save_booster(name: str, booster: lgb.Booster, inputs: Iterable[str], folder: Path) -> Estimator:
    """Write a booster in LightGBM's text format, which keeps doubles to 17 digits: it is the trained one."""
    estimator = Estimator(name=name, runtime="lightgbm", file=f"{name}.txt", inputs=tuple(inputs))
    booster.save_model(str(folder / estimator.file))
    return estimator
