"""Every answer, written down off the request's path: a bounded queue, a thread, a spool on the disk."""

from serving.prediction_log.log import PredictionLog

__all__ = ["PredictionLog"]
