"""The local processes as one tree below one ``supervisord``, which goes away whole.

The daemon is this user's own and this home's own: it is reached through a unix socket under the
home, its configuration is generated, and every process below it carries the home in a marker
variable, so that nothing can be left behind unseen, not even when the daemon itself was killed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xmlrpc.client import Fault, ServerProxy

import psutil

from headrace.environment import MARKER
from headrace.processes import Program
from pipelines.errors import ProcessError

if TYPE_CHECKING:
    from pipelines.settings import Settings

_LONGEST_SOCKET_PATH = 100  # the kernel's limit is 108 bytes, and supervisord appends its pid while it binds
_STOP_SECONDS = 30
_ALREADY_STARTED, _NOT_RUNNING = 60, 70  # supervisor.xmlrpc.Faults


@dataclass(frozen=True)
class ProcessInfo:
    """What supervisord says of one program: its state there, and since when."""

    name: str
    state: str  # STOPPED STARTING RUNNING BACKOFF STOPPING EXITED FATAL
    pid: int
    started: float  # Unix time
    exit_status: int

    @property
    def alive(self) -> bool:
        return self.state in {"STARTING", "RUNNING", "STOPPING"}


class Tree:
    """The processes of one home."""

    def __init__(self, settings: Settings) -> None:
        self.home = settings.home
        self.run = settings.home / "run"
        self.logs = settings.home / "logs"
        self.config = self.run / "supervisord.conf"
        self._fingerprint = self.run / "fingerprint"
        self.socket = _socket_path(self.run)

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    @contextmanager
    def locked(self, waiting: Callable[[], None]) -> Iterator[None]:
        """One `up` or `down` at a time; ``waiting`` is called once where another one is at work."""
        self.run.mkdir(parents=True, exist_ok=True)
        with (self.run / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting()
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def alive(self) -> bool:
        """Whether the daemon answers."""
        return self._call("supervisor.getState") is not None

    def current(self, programs: list[Program], environment: dict[str, str]) -> bool:
        """Whether the running daemon was started with this configuration and knows these programs."""
        return (
            self._fingerprint.is_file()
            and self._fingerprint.read_text("utf-8") == _fingerprint(programs, environment)
            and {program.name for program in programs} <= set(self.processes())
        )

    def launch(self, programs: list[Program], environment: dict[str, str]) -> None:
        """Start the daemon with these programs, none of them running yet.

        Raises:
            ProcessError: it did not start; the text holds what it said.
        """
        for folder in (self.run, self.logs, self.home / "airflow", self.home / "mlflow"):
            folder.mkdir(parents=True, exist_ok=True)
        self.run.chmod(0o700)
        self.socket.unlink(missing_ok=True)
        self.config.write_text(self._configuration(programs), "utf-8")
        variables = {name: text for name, text in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        done = subprocess.run(
            [sys.executable, "-m", "supervisor.supervisord", "-c", str(self.config)],
            env=variables | environment,
            cwd=self.home,  # what the logs' paths are relative to
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        deadline = time.monotonic() + 15
        while not self.alive():
            if done.returncode or time.monotonic() > deadline:
                said = (done.stdout + done.stderr).strip() or "\n".join(tail(self.log("supervisord")))
                raise ProcessError(f"supervisord did not start:\n{said}")
            time.sleep(0.05)
        self._fingerprint.write_text(_fingerprint(programs, environment), "utf-8")

    def processes(self) -> dict[str, ProcessInfo]:
        """By name; empty when the daemon does not run."""
        rows: list[dict[str, Any]] = self._call("supervisor.getAllProcessInfo") or []
        return {
            row["name"]: ProcessInfo(
                row["name"], row["statename"], row["pid"], row["start"], row["exitstatus"]
            )
            for row in rows
        }

    def start(self, name: str) -> None:
        """Begin to start a program; one that runs is left alone."""
        self._command("supervisor.startProcess", name, ignore=_ALREADY_STARTED)

    def stop(self, name: str) -> None:
        """Begin to stop a program; one that does not run is left alone."""
        self._command("supervisor.stopProcess", name, ignore=_NOT_RUNNING)

    def shut_down(self, programs: list[Program]) -> None:
        """Stop all programs, those first that others do not need, and the daemon."""
        pid = self._call("supervisor.getPID")
        if pid is None:
            return
        needs = {program.name: set(program.after) for program in programs}
        deadline = time.monotonic() + _STOP_SECONDS
        while alive := {name for name, info in self.processes().items() if info.alive}:
            needed = set().union(*(needs.get(name, set()) for name in alive))
            for name in alive - needed:
                self.stop(name)
            if time.monotonic() > deadline:
                break
            time.sleep(0.1)
        self._call("supervisor.shutdown")
        try:
            psutil.Process(pid).wait(_STOP_SECONDS)
        except psutil.NoSuchProcess:
            pass
        except psutil.TimeoutExpired:
            psutil.Process(pid).kill()

    def leftovers(self) -> list[psutil.Process]:
        """All live processes of this home, wherever they stand in the tree, but for ours and our parents."""
        own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
        marked = {process for process in psutil.process_iter() if self._is_marked(process)}
        for process in list(marked):
            # A child that cleared its environment is still its parent's child.
            try:
                marked |= set(process.children(recursive=True))
            except psutil.NoSuchProcess:
                continue
        return [process for process in marked if process.pid not in own]

    def sweep(self, patience: float = 5) -> int:
        """End every leftover process; returns how many there were.

        Raises:
            ProcessError: one of them survived SIGKILL.
        """
        ended = 0
        for _ in range(3):  # a process may have made another one while it was being ended
            found = self.leftovers()
            if not found:
                self.socket.unlink(missing_ok=True)
                return ended
            ended += len(found)
            for process in found:
                _signal(process.terminate)
            _, stubborn = psutil.wait_procs(found, timeout=patience)
            for process in stubborn:
                _signal(process.kill)
            psutil.wait_procs(stubborn, timeout=5)
        remaining = ", ".join(f"{process.pid}" for process in self.leftovers())
        if remaining:
            raise ProcessError(f"processes of {self.home} survive SIGKILL: {remaining}; look at `ps -fp`")
        return ended

    def _is_marked(self, process: psutil.Process) -> bool:
        try:
            return bool(process.environ().get(MARKER) == str(self.home))
        except (psutil.AccessDenied, psutil.NoSuchProcess, OSError):
            return False  # another user's, or gone: not one of ours

    def _configuration(self, programs: list[Program]) -> str:
        # Run by root, supervisord warns until it is told that this is meant.
        user = "user=root\n" if os.getuid() == 0 else ""
        text = f"""\
; Written by `headrace up`; changes are lost. By hand: supervisorctl -c {self.config}
[supervisord]
logfile={self.log("supervisord")}
logfile_maxbytes=2MB
logfile_backups=1
pidfile={self.run / "supervisord.pid"}
directory={self.home}
identifier=headrace
silent=true
umask={_umask():03o}
{user}
[unix_http_server]
file={self.socket}
chmod=0700

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface

[supervisorctl]
serverurl=unix://{self.socket}
"""
        for program in programs:
            text += f"""
[program:{program.name}]
command={shlex.join(program.command)}
directory={self.home}
autostart=false
autorestart={"false" if program.one_shot else "true"}
startsecs={0 if program.one_shot else 1}
startretries={0 if program.one_shot else 3}
exitcodes=0
stopsignal=TERM
stopwaitsecs=15
stopasgroup=true
killasgroup=true
redirect_stderr=true
stdout_logfile={self.log(program.name).relative_to(self.home)}
stdout_logfile_maxbytes=10MB
stdout_logfile_backups=3
"""
        # supervisord expands %(…)s; the paths of logs twice, so they are relative and without the home.
        return text.replace("%", "%%")

    def _command(self, method: str, name: str, *, ignore: int) -> None:
        try:
            self._call(method, name, False)
        except Fault as fault:
            if fault.faultCode != ignore:
                raise ProcessError(f"supervisord refused {method} {name}: {fault.faultString}") from fault

    def _call(self, method: str, *arguments: object) -> Any:
        """Answer of the daemon, or None where there is none."""
        from supervisor.xmlrpc import SupervisorTransport

        transport = SupervisorTransport(None, None, f"unix://{self.socket}")
        call: Any = ServerProxy("http://localhost", transport)
        try:
            for part in method.split("."):
                call = getattr(call, part)
            return call(*arguments)
        except (OSError, HTTPException):
            return None
        finally:
            transport.close()


def tail(path: Path, lines: int = 20) -> list[str]:
    """The last lines of a log."""
    if not path.is_file():
        return []
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 64 * 1024))
        return file.read().decode("utf-8", "replace").splitlines()[-lines:]


def _fingerprint(programs: list[Program], environment: dict[str, str]) -> str:
    """Names a configuration: another one needs another tree. One-shot programs come and go in one."""
    lasting = [program.command for program in programs if not program.one_shot]
    variables = sorted((name, text) for name, text in environment.items() if name != "PATH")
    return hashlib.sha256(repr((lasting, variables)).encode()).hexdigest()


def _umask() -> int:
    """This user's own; supervisord would set its default."""
    current = os.umask(0o077)
    os.umask(current)
    return current


def _signal(send: Callable[[], None]) -> None:
    with suppress(psutil.NoSuchProcess):  # it may end by itself meanwhile
        send()


def _socket_path(run: Path) -> Path:
    """In the home; where that path is too long for a socket, in a folder of this user's own."""
    path = run / "supervisor.sock"
    if len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH:
        return path
    folder = Path(tempfile.gettempdir()) / f"headrace-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ProcessError(
            f"{folder} must belong to you alone: remove it, or set HEADRACE_HOME to a shorter path"
        )
    return folder / f"{hashlib.sha256(os.fsencode(run)).hexdigest()[:16]}.sock"
