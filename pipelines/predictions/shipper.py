"""``python -m pipelines.predictions.shipper``: takes what the server beside it spooled to the lake, again and again.

For a server whose disk no task of Airflow sees: in a container of its own, beside the server's. Where both
are of one machine the DAG ``predictions`` does the same; both at once do no harm, each segment enters
the lake once.
"""

from __future__ import annotations

import logging
import signal
import sys
from threading import Event
from typing import TYPE_CHECKING

from pipelines.errors import HeadraceError, LakeConflictError
from pipelines.monitor import label_door
from pipelines.predictions import job

if TYPE_CHECKING:
    from pipelines.settings import Settings

log = logging.getLogger(__name__)


def run(settings: Settings, stopped: Event, every_seconds: float) -> None:
    """Ship until ``stopped`` is set, and once more then: the server beside it may have ended with it.

    Where the lake is away nothing is lost: it waits in the spool, and the next time takes it.
    """
    last = False
    while not last:
        last = stopped.wait(every_seconds)
        try:
            predictions, labels = job.run(settings), label_door.ship(settings)
        except LakeConflictError as error:
            log.info("%s", error)
        except (HeadraceError, OSError) as error:
            log.warning("nothing was shipped, it waits in the spool: %s", error)
        else:
            if predictions.rows or labels.rows:
                log.info("shipped %d predictions and %d labels", predictions.rows, labels.rows)


def main() -> None:
    """Ship until SIGTERM or SIGINT."""
    from pipelines.settings import load_settings

    settings = load_settings()
    logging.basicConfig(
        level=settings.log_level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    stopped = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    run(settings, stopped, settings.prediction_log_ship_seconds)


if __name__ == "__main__":
    try:
        main()
    except HeadraceError as error:
        sys.exit(f"headrace: {error}")
