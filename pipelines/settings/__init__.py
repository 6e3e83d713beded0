"""Every setting, in one class: prefix ``HEADRACE_``, unknown keys refused, units in the names.

Settings come from the environment, and from ``$HEADRACE_HOME/settings.env`` for what should
outlive a shell, and from files of secrets, one a setting. The environment wins, then the secrets.

Each module here holds the settings of one concern; ``Settings`` is all of them. A new setting is
a field in one of these modules.
"""

from pipelines.settings.addresses import LOOPBACK, reachable, with_driver
from pipelines.settings.load import load_settings
from pipelines.settings.machine import PREFIX
from pipelines.settings.settings import Settings

__all__ = ["LOOPBACK", "PREFIX", "Settings", "load_settings", "reachable", "with_driver"]
