"""Follows the registry's aliases and switches to the versions that they name.

One thread looks at the aliases; loads run beside it, so that a slow download of one model holds up
no other. A version answers only after it was downloaded whole, its manifest has the digest that
the registry names, each file has the digest that the manifest names, and it reproduces its own
sample. Whatever fails on the way, what serves goes on serving.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import NamedTuple

from models.manifest import MANIFEST_TAG
from pipelines.adapters.exports import Export, find_export
from pipelines.adapters.registry import ALIAS_CHALLENGER, ALIAS_PRODUCTION, Registry
from pipelines.adapters.traffic import TRAFFIC_TAG
from pipelines.errors import ArtifactError, HeadraceError, RegistryError
from serving.cache import Served, VersionCache
from serving.rollout.rollouts import Rollouts, Tag
from serving.versions import LoadedVersion, VersionTable

FOLLOWED = (ALIAS_PRODUCTION, ALIAS_CHALLENGER)

_LOADS_AT_ONCE = 4
_LONGEST_BACKOFF_SECONDS = 60.0
_KEPT_BEHIND = 4  # versions on the disk that an alias has left

log = logging.getLogger(__name__)


class Pointer(NamedTuple):
    """An alias of a model."""

    name: str
    alias: str


@dataclass
class _Slot:
    """What a pointer asks for, and how far that went. Guarded by the follower's lock."""

    wanted: str
    since: float
    loading: bool = False
    failures: int = 0
    failure: str | None = None
    retry_at: float = 0.0


@dataclass(frozen=True)
class PointerStatus:
    """A pointer as seen from outside.

    Attributes:
        wanted: Version that the registry names; None for a configured model without the alias.
        serving: Version that answers, or None.
        behind_seconds: How long the registry has named another version than the one that answers.
        failure: Why the wanted version does not answer; None while it does, or is on its way.
        failures: Attempts in a row that failed.
        traffic: What a challenger gets of the requests: ``shadow``, a percentage, or nothing.
        problem: Why a challenger gets nothing.
    """

    wanted: str | None
    serving: str | None
    behind_seconds: float
    failure: str | None
    failures: int
    traffic: str = ""
    problem: str = ""


@dataclass(frozen=True)
class FollowerStatus:
    """One consistent look at the follower.

    Attributes:
        looked_seconds_ago: Age of the last successful look at the registry; None before the first.
        registry_error: Why the last look failed; None if it did not.
    """

    looked_seconds_ago: float | None
    registry_error: str | None
    pointers: Mapping[Pointer, PointerStatus]


class Follower:
    """Keeps a :class:`VersionTable` at what the registry's aliases name.

    Args:
        names: Models that must be served; empty: all that have an alias.
        rollouts: Told what traffic the registry gives to challengers; None: challengers get none.
        on_failure: Called with the pointer for each failed load, for a counter.
        on_switch: Called with the pointer for each version that answers now, and the seconds since its alias was seen
            to name it.
    """

    def __init__(
        self,
        registry: Registry,
        cache: VersionCache,
        table: VersionTable,
        *,
        poll_seconds: float,
        names: Iterable[str] = (),
        rollouts: Rollouts | None = None,
        on_failure: Callable[[Pointer], None] = lambda pointer: None,
        on_switch: Callable[[Pointer, float], None] = lambda pointer, seconds: None,
    ) -> None:
        self._registry = registry
        self._cache = cache
        self._table = table
        self._poll_seconds = poll_seconds
        self._names = tuple(names)
        self._rollouts = rollouts
        self._on_failure = on_failure
        self._on_switch = on_switch
        self._slots: dict[Pointer, _Slot] = {}
        self._lock = threading.RLock()
        self._looked_at: float | None = None
        self._registry_error: str | None = None
        self._noted = {Pointer(served.name, served.alias): served for served in cache.last_served()}
        self._left: dict[Pointer, list[str]] = {}
        self._restored: set[Pointer] = set()
        self._loads = ThreadPoolExecutor(_LOADS_AT_ONCE, thread_name_prefix="load")
        self._pending: set[Future[None]] = set()
        self._stopped = threading.Event()
        self._woken = threading.Event()
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop looking. A load that is on its way is given up; it has changed nothing yet."""
        self._stopped.set()
        self._woken.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        self._loads.shutdown(wait=False, cancel_futures=True)

    def wake(self) -> None:
        """Look at the registry now, not when the next look is due."""
        self._woken.set()

    def look(self) -> None:
        """Look at the registry once and start the loads that this asks for."""
        try:
            wanted = self._read()
            tags = self._read_tags(wanted) if self._rollouts else {}
        except RegistryError as error:
            if self._registry_error is None:
                log.warning("the registry does not answer; what serves goes on serving. %s", error)
            self._registry_error = str(error)
            if self._looked_at is None:
                with self._lock:
                    for pointer in tuple(self._noted):
                        self._restore(pointer)
            return
        if self._registry_error is not None:
            log.info("the registry answers again")
        self._registry_error = None
        self._looked_at = time.monotonic()
        with self._lock:
            # Wants first: a challenger that is promoted is taken over before it is withdrawn as challenger.
            for pointer, version in wanted.items():
                self._want(pointer, version)
            for pointer in set(self._slots) - set(wanted):
                self._withdraw(pointer)
            if self._rollouts is not None:
                self._rollouts.assign(tags)
            self._note()

    def settle(self) -> None:
        """Wait for the loads that are on their way."""
        with self._lock:
            pending = set(self._pending)
        wait(pending)

    def status(self) -> FollowerStatus:
        now = time.monotonic()
        with self._lock:
            pointers = {pointer: self._status_of(pointer, slot, now) for pointer, slot in self._slots.items()}
            reason = (
                f"the registry has no alias {ALIAS_PRODUCTION}"
                if self._registry_error is None
                else "the registry does not answer, and the model did not serve here before"
            )
            for name in self._names:
                missing = PointerStatus(None, None, 0.0, reason, 0)
                pointers.setdefault(Pointer(name, ALIAS_PRODUCTION), missing)
            age = None if self._looked_at is None else now - self._looked_at
            return FollowerStatus(age, self._registry_error, pointers)

    def _status_of(self, pointer: Pointer, slot: _Slot, now: float) -> PointerStatus:
        live = self._table.at(*pointer)
        serving = live.version if live else None
        behind = now - slot.since if serving != slot.wanted else 0.0
        traffic, problem = "", ""
        if pointer.alias == ALIAS_CHALLENGER and self._rollouts is not None:
            traffic, problem = self._rollouts.told(pointer.name)
        return PointerStatus(slot.wanted, serving, behind, slot.failure, slot.failures, traffic, problem)

    def _run(self) -> None:
        self._cache.remove_interrupted()
        while not self._stopped.is_set():
            began = time.monotonic()
            try:
                self.look()
            except Exception:
                # The thread must outlive what nobody thought of: without it no alias is followed.
                log.exception("a look at the registry failed; the next one follows")
            self._woken.wait(max(0.0, self._poll_seconds - (time.monotonic() - began)))
            self._woken.clear()

    def _read(self) -> dict[Pointer, str]:
        """Version by pointer, for the models and aliases that are followed."""
        return {
            Pointer(model.name, alias): version
            for model in self._registry.registered_models()
            if not self._names or model.name in self._names
            for alias, version in model.aliases.items()
            if alias in FOLLOWED
        }

    def _read_tags(self, wanted: Mapping[Pointer, str]) -> dict[str, Tag]:
        """What the registry gives to the challenger of each model, but for one that is in production itself."""
        found: dict[str, Tag] = {}
        for pointer, version in wanted.items():
            in_production = wanted.get(Pointer(pointer.name, ALIAS_PRODUCTION))
            if pointer.alias == ALIAS_CHALLENGER and in_production not in {None, version}:
                registered = self._registry.version(pointer.name, version)
                found[pointer.name] = Tag(version, registered.tags.get(TRAFFIC_TAG) if registered else None)
        return found

    def _want(self, pointer: Pointer, version: str) -> None:
        slot = self._slots.get(pointer)
        if slot is None or slot.wanted != version:
            slot = self._slots[pointer] = _Slot(version, time.monotonic())
        live = self._table.at(*pointer)
        if live is not None and live.version == version:
            slot.failure, slot.failures = None, 0
            return
        if (elsewhere := self._loaded(pointer.name, version)) is not None:
            self._switch(pointer, slot, elsewhere)
            return
        if self._stopped.is_set() or slot.loading or time.monotonic() < slot.retry_at:
            return
        slot.loading = True
        load = self._loads.submit(self._load, pointer, slot)
        self._pending.add(load)
        load.add_done_callback(self._pending.discard)

    def _withdraw(self, pointer: Pointer) -> None:
        del self._slots[pointer]
        if self._table.at(*pointer) is not None:
            log.info(
                "%s of %s was removed from the registry; it is not served any more",
                pointer.alias,
                pointer.name,
            )
            self._table.switch(*pointer, None)

    def _load(self, pointer: Pointer, slot: _Slot) -> None:
        try:
            loaded = self._obtain(pointer.name, slot.wanted)
        except (HeadraceError, OSError) as error:
            self._failed(pointer, slot, str(error))
            return
        except Exception as error:
            log.exception("unforeseen failure while loading %s of %s", pointer.alias, pointer.name)
            self._failed(pointer, slot, f"{type(error).__name__}: {error}")
            return
        self._switch(pointer, slot, loaded)

    def _loaded(self, name: str, version: str) -> LoadedVersion | None:
        """The version, where another alias has it loaded already."""
        for live in self._table.live().get(name, {}).values():
            if live.version == version:
                return live
        return None

    def _obtain(self, name: str, version: str) -> LoadedVersion:
        registered = self._registry.version(name, version)
        if registered is None:
            raise ArtifactError(f"the registry has no version {version} of {name}, though an alias names it")
        digest = registered.tags.get(MANIFEST_TAG)
        if not digest:
            raise ArtifactError(
                f"version {version} of {name} has no tag {MANIFEST_TAG}, so its files cannot be verified; "
                "train it again, or point the alias at a version that Headrace registered"
            )
        loaded = self._cache.load(name, version, digest)
        if loaded is None:
            with self._cache.incoming() as folder:
                self._registry.download(registered, folder)
                export = find_export(folder)
                loaded = self._cache.open(export, digest)
                self._cache.keep(export, name, version)
        return LoadedVersion(name, version, digest, loaded)

    def _switch(self, pointer: Pointer, slot: _Slot, loaded: LoadedVersion) -> None:
        with self._lock:
            slot.loading = False
            if self._slots.get(pointer) is not slot:
                return  # the alias moved on while this one loaded
            before = self._table.at(*pointer)
            self._table.switch(*pointer, loaded)
            slot.failure, slot.failures = None, 0
            self._on_switch(pointer, time.monotonic() - slot.since)
            log.info(
                "%s of %s: version %s answers, %s did before",
                *(pointer.alias, pointer.name, loaded.version, before.version if before else "none"),
            )
            if before is not None and before.version != loaded.version:
                left = [version for version in self._left.get(pointer, []) if version != before.version]
                self._left[pointer] = [*left, before.version][-_KEPT_BEHIND:]
            self._note()
            self._prune()

    def _failed(self, pointer: Pointer, slot: _Slot, reason: str) -> None:
        with self._lock:
            slot.loading = False
            slot.failures += 1
            slot.failure = reason
            wait_seconds = min(self._poll_seconds * 2**slot.failures, _LONGEST_BACKOFF_SECONDS)
            slot.retry_at = time.monotonic() + wait_seconds
            live = self._table.at(*pointer)
        self._on_failure(pointer)
        log.error(
            "%s of %s: version %s is not served (attempt %d, next in %.0f s), %s: %s",
            *(pointer.alias, pointer.name, slot.wanted, slot.failures, wait_seconds),
            *(f"version {live.version} goes on" if live else "nothing serves", reason),
        )
        if live is None:
            with self._lock:
                self._restore(pointer)

    def _restore(self, pointer: Pointer) -> None:
        """Let what served last answer from the cache, where nothing else does. Once per start."""
        served = self._noted.get(pointer)
        if (
            served is None
            or self._table.at(*pointer) is not None
            or pointer in self._restored
            or (self._names and pointer.name not in self._names)
        ):
            return
        self._restored.add(pointer)
        slot = self._slots.setdefault(pointer, _Slot(served.version, time.monotonic()))
        export = self._from_cache(served)
        if export is None:
            slot.failure = slot.failure or (
                f"version {served.version}, which served last, is not in the cache or was changed there"
            )
            return
        self._table.switch(
            *pointer, LoadedVersion(served.name, served.version, served.manifest_sha256, export)
        )
        log.warning("%s of %s: version %s answers from the cache", served.alias, served.name, served.version)

    def _from_cache(self, served: Served) -> Export | None:
        try:
            return self._cache.load(served.name, served.version, served.manifest_sha256)
        except ArtifactError as error:
            log.warning("%s", error)
            return None

    def _note(self) -> None:
        """Write down what answers, and what should but does not yet: a restart could need it."""
        noted = {pointer: served for pointer, served in self._noted.items() if pointer in self._slots}
        for name, aliases in self._table.live().items():
            for alias, live in aliases.items():
                noted[Pointer(name, alias)] = Served(
                    name=name, alias=alias, version=live.version, manifest_sha256=live.manifest_sha256
                )
        if noted == self._noted:
            return
        try:
            self._cache.note(noted.values())
        except OSError as error:
            log.error("cannot note what serves, so a restart without the registry would not know: %s", error)
            return
        self._noted = noted

    def _prune(self) -> None:
        """Keep what answers, what a restart could need, and what was left lately: going back needs no download."""
        live = {
            (live.name, live.version) for aliases in self._table.live().values() for live in aliases.values()
        }
        noted = {(served.name, served.version) for served in self._noted.values()}
        left = {(pointer.name, version) for pointer, versions in self._left.items() for version in versions}
        self._cache.prune(live | noted | left)
