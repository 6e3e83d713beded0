"""A challenger beside the champion: who answers, what the other one would have said, and how both fared."""

from serving.rollout.rollouts import Rollouts
from serving.rollout.trial import Trial

__all__ = ["Rollouts", "Trial"]
