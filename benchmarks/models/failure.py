"""failure: ``azure_pdm`` and ``backblaze_drives`` through the whole chain, and the latter on drives that no part of it saw.

Of ``backblaze_drives`` the gate's own holdout is other drives *and* newer time, as production would
have it; the published baseline is of other drives alone, and so are the figures beside it. Baselines
are those of the data sets' READMEs: on ``azure_pdm`` of the same rows, on ``backblaze_drives`` of
evaluation drives that are not public, so that its model could learn of all the drives that are, and
ours of two thirds of them.

State stays below ``HEADRACE_HOME/benchmarks/failure``; run again it goes on where it stopped.
"""

from __future__ import annotations

import operator
import time
from dataclasses import replace
from pathlib import Path

from benchmarks.models import prepare_backblaze
from benchmarks.models.failure_chain import MODEL, Scored, by_drive, run_source, workspace
from benchmarks.models.failure_figures import (
    TARGET,
    Figure,
    azure_figures,
    backblaze_figures,
    plot_azure,
    plot_backblaze,
)
from benchmarks.models.table import Row
from models import plots

AZURE, BACKBLAZE = "azure_pdm", "backblaze_drives"
# Of the published baseline: recall at an alarm threshold is compared with its threshold of 0.5.
AZURE_RECALL, AZURE_PRECISION = 0.957, 0.985
COMPARE = {"<": operator.lt, ">": operator.gt, "≥": operator.ge}
QUICK_DRIVES = 8  # every eighth drive
PUBLISHED = "baseline: the data set's README"


def run(data: Path, folder: Path, quick: bool) -> list[Row]:
    """Rows of both data sets; plots ``failure_*.png`` into the folder.

    Args:
        data: Folder of ``azure_pdm/`` and ``backblaze_drives/``.
        quick: Fewer drives, in a workspace of their own.
    """
    with workspace(data, f"{MODEL}_quick" if quick else MODEL) as settings:
        began = time.monotonic()
        azure = run_source(AZURE, settings)
        seconds = time.monotonic() - began
        figures = azure_figures(azure.part, azure.probability, azure.alarm_threshold, settings.random_seed)
        rows = _azure_rows(azure, figures, seconds)
        plot_azure(azure.part, azure.probability, folder / f"{MODEL}_{AZURE}.png")

        began = time.monotonic()
        prepare_backblaze.write(data, settings.home, QUICK_DRIVES if quick else 1)
        drives = by_drive(settings)
        seconds = time.monotonic() - began
        rows += _backblaze_rows(drives, settings.random_seed, seconds)

        began = time.monotonic()
        newer = run_source(BACKBLAZE, settings)
        rows += _production_rows(newer, settings.random_seed, time.monotonic() - began)
        plot_backblaze(
            {
                "other drives, newer days": (newer.part, newer.probability),
                "other drives, all days": (drives.part, drives.probability),
            },
            folder / f"{MODEL}_{BACKBLAZE}.png",
        )
        _plot_calibration(drives, folder / f"{MODEL}_{BACKBLAZE}_calibration.png")
    return rows


def _azure_rows(azure: Scored, figures: list[Figure], seconds: float) -> list[Row]:
    found = {figure.metric: figure for figure in figures}
    at = f"at the alarm threshold ({azure.alarm_threshold:.3g})"
    data = f"{AZURE}, October to December"
    bounds = f"threshold learned on the valid part; {PUBLISHED} at threshold 0.5"
    return [
        _row(data, found["average precision"], seconds, note=PUBLISHED),
        _row(data, found[f"recall {at}"], seconds, AZURE_RECALL, "≥ 0.97", bounds),
        _row(data, found[f"precision {at}"], seconds, AZURE_PRECISION, "≥ 0.97", bounds),
        _row(data, found["expected calibration error"], seconds),
    ]


def _backblaze_rows(drives: Scored, seed: int, seconds: float) -> list[Row]:
    data = f"{BACKBLAZE}, a quarter of the drives: {_size(drives)}"
    rows = []
    for figure in backblaze_figures(drives.part, drives.probability, seed):
        if figure.metric == "recall at 1.00% false positives per drive-day":
            rows.append(_row(data, figure, seconds, target="> 0.65", note=PUBLISHED))
        elif figure.metric == "expected calibration error":
            rows.append(_row(data, figure, seconds, target="< 0.02", note="sampling undone by weights"))
        elif figure.baseline is not None:
            rows.append(_row(data, figure, seconds, note=PUBLISHED))
        elif figure.metric in (
            "average precision",
            "recall at 1.00% false positives per day of surviving drives",
            "failures expected over failures seen in the 1 % highest",
        ):
            rows.append(_row(data, figure, seconds))
    return rows


def _production_rows(newer: Scored, seed: int, seconds: float) -> list[Row]:
    data = f"{BACKBLAZE}, a quarter of the drives, newest quarter of the time: {_size(newer)}"
    wanted = (
        "recall at 1.00% false positives per drive-day",
        "average precision",
        "precision at 1.00% false positives per drive-day",
        "expected calibration error",
    )
    # Nobody published figures of this.
    return [
        _row(data, replace(figure, baseline=None), seconds, note="the gate's holdout")
        for figure in backblaze_figures(newer.part, newer.probability, seed)
        if figure.metric in wanted
    ]


def _size(scored: Scored) -> str:
    return f"{len(scored.part)} rows, {int(scored.part.targets[TARGET].sum())} positive"


def _row(
    data: str,
    figure: Figure,
    seconds: float,
    baseline: float | None = None,
    target: str = "",
    note: str = "",
) -> Row:
    """A row; ``target`` is ``> figure`` or ``≥ figure``, or empty."""
    interval = f"95 % {figure.interval[0]:.3g} … {figure.interval[1]:.3g}" if figure.interval else ""
    return Row(
        model=MODEL,
        data=data,
        metric=figure.metric,
        baseline=figure.baseline if baseline is None else baseline,
        ours=figure.ours,
        seconds=seconds,
        target=target,
        reached=_reached(figure.ours, target),
        note="; ".join(part for part in (note, interval) if part),
    )


def _reached(figure: float, target: str) -> bool | None:
    if not target:
        return None
    compare, bound = target.split()
    return bool(COMPARE[compare](figure, float(bound)))


def _plot_calibration(scored: Scored, file: Path) -> None:
    part = scored.part
    plots.calibration(part.targets[TARGET], scored.probability, part.weight).savefig(file)
