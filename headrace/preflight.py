"""What must be true before anything is started: enough disk, free ports."""

from __future__ import annotations

import errno
import os
import shutil
import socket
from typing import TYPE_CHECKING

import psutil

from headrace.environment import MARKER
from pipelines.errors import ProcessError

if TYPE_CHECKING:
    from pathlib import Path

    from headrace.processes import Program

LEAST_FREE_BYTES = 2 * 2**30


def check_disk(home: Path) -> None:
    """Raises ProcessError where the home's disk has too little room."""
    free = shutil.disk_usage(home).free
    if free < LEAST_FREE_BYTES:
        raise ProcessError(
            f"{free / 2**30:.1f} GiB are free at {home}, and Headrace needs {LEAST_FREE_BYTES / 2**30:.0f} GiB: "
            "free some space, or set HEADRACE_HOME to a folder on another disk"
        )


def check_ports(programs: list[Program], host: str) -> None:
    """Raises ProcessError where one of the programs' ports is taken; the text names each, and by whom."""
    if problems := port_problems(programs, host):
        raise ProcessError("\n".join(problems))


def port_problems(programs: list[Program], host: str) -> list[str]:
    """What keeps the programs from listening, each with the remedy."""
    problems = []
    seen: dict[int, str] = {}
    for program in programs:
        for port in program.ports:
            number, setting = port.number, port.setting
            if number in seen:
                problems.append(
                    f"{setting} and {seen[number]} are both {number}: give each a port of its own"
                )
            elif not _is_free(host, number):
                owner = _owner(number)
                problems.append(
                    f"port {number} ({program.title}) is taken by {owner}: stop it, or set {setting} to a free one"
                )
            seen[number] = setting
    return problems


def _is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As the servers do: connections that linger from an earlier run are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            if error.errno in {errno.EACCES, errno.EADDRNOTAVAIL}:
                raise ProcessError(f"cannot listen on {host}:{port}: {os.strerror(error.errno)}") from error
            raise
    return True


def _owner(port: int) -> str:
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied:
        connections = []
    for connection in connections:
        if connection.status != psutil.CONN_LISTEN or not connection.laddr or not connection.pid:
            continue
        if tuple(connection.laddr)[1] == port:
            try:
                process = psutil.Process(connection.pid)
                name = f"process {process.name()} (pid {process.pid})"
                home = process.environ().get(MARKER)
            except psutil.NoSuchProcess:
                continue
            except psutil.AccessDenied:
                return name
            return f"{name} of the Headrace in {home}" if home else name
    return "another user's process"
