"""The versions that answer right now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Lock
from types import MappingProxyType

from pipelines.adapters.exports import Export
from pipelines.adapters.registry import ALIAS_PRODUCTION
from pipelines.adapters.runtimes import Predictor
from serving.errors import ModelNotFoundError
from serving.plan import Plan, seconds_per_row


@dataclass(frozen=True)
class LoadedVersion:
    """A version that was verified, loaded and warmed up. A request holds on to one from its start to its end.

    Attributes:
        plan: How its rows are read.
        seconds_alone, seconds_per_row: What one row alone costs here, and each row of a batch.
    """

    name: str
    version: str
    manifest_sha256: str
    export: Export
    plan: Plan = field(init=False)
    seconds_alone: float = field(init=False)
    seconds_per_row: float = field(init=False)

    def __post_init__(self) -> None:
        plan = Plan(self.export.predictor.manifest.inputs)
        alone, each = seconds_per_row(self.export, plan)
        for name, value in (("plan", plan), ("seconds_alone", alone), ("seconds_per_row", each)):
            object.__setattr__(self, name, value)

    @property
    def predictor(self) -> Predictor:
        return self.export.predictor


class VersionTable:
    """Loaded versions by model and alias.

    Reading takes no lock: the whole table is one reference to a mapping that never changes, and
    a switch puts another in its place. A request that began before goes on with what it found.
    """

    def __init__(self) -> None:
        self._live: Mapping[str, Mapping[str, LoadedVersion]] = MappingProxyType({})
        self._writing = Lock()

    def live(self) -> Mapping[str, Mapping[str, LoadedVersion]]:
        """Alias to version, by model."""
        return self._live

    def at(self, name: str, alias: str) -> LoadedVersion | None:
        return self._live.get(name, {}).get(alias)

    def find(self, name: str, version: str | None = None) -> LoadedVersion:
        """The version that answers for a model; without ``version`` the one in production.

        Raises:
            ModelNotFoundError: it is not loaded; the text lists what is.
        """
        live = self._live
        aliases = live.get(name, {})
        if version is None:
            if (found := aliases.get(ALIAS_PRODUCTION)) is not None:
                return found
            raise ModelNotFoundError(f"no model {name!r} is in production here; there are {sorted(live)}")
        for found in aliases.values():
            if found.version == version:
                return found
        loaded = sorted({found.version for found in aliases.values()})
        raise ModelNotFoundError(f"version {version!r} of model {name!r} is not loaded; loaded are {loaded}")

    def alias_of(self, version: LoadedVersion) -> str:
        """The alias under which a version answers now; empty if it does not any more."""
        for alias, live in self._live.get(version.name, {}).items():
            if live is version:
                return alias
        return ""

    def switch(self, name: str, alias: str, version: LoadedVersion | None) -> None:
        """Let another version answer from the next request on; None withdraws."""
        with self._writing:
            table = {model: dict(aliases) for model, aliases in self._live.items()}
            if version is None:
                table.get(name, {}).pop(alias, None)
            else:
                table.setdefault(name, {})[alias] = version
            self._live = MappingProxyType(
                {model: MappingProxyType(aliases) for model, aliases in table.items() if aliases}
            )
