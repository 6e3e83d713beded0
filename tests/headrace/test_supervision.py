"""With a real supervisord and small programs of our own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from headrace import local
from headrace.display import poll
from headrace.environment import MARKER
from headrace.processes import Program
from headrace.supervision import Tree, tail
from pipelines.errors import ProcessError
from pipelines.settings import Settings, load_settings

pytestmark = pytest.mark.integration

SLEEP = "import time; time.sleep(600)"
# A child that leaves the process group and the session, and ignores SIGTERM.
RUNAWAY = """
import subprocess, sys, time
child = "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(os.getpid(), flush=True); time.sleep(600)"
subprocess.Popen([sys.executable, "-c", child], start_new_session=True)
time.sleep(600)
"""
# A child that has neither the marker nor the process group.
CLEARED = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], env={}, start_new_session=True)
print(child.pid, flush=True)
time.sleep(600)
"""


def program(name: str, code: str, after: tuple[str, ...] = (), one_shot: bool = False) -> Program:
    return Program(name, name.capitalize(), (sys.executable, "-c", code), after=after, one_shot=one_shot)


def script(folder: Path, name: str, code: str) -> Program:
    file = folder / f"{name}.py"
    file.write_text(code)
    return Program(name, name.capitalize(), (sys.executable, str(file)))


@pytest.fixture
def tree(settings: Settings) -> Iterator[Tree]:
    tree = Tree(settings)
    yield tree
    tree.shut_down([])
    tree.sweep(patience=0.5)


def marked(tree: Tree) -> dict[str, str]:
    return {MARKER: str(tree.home)}


def launch(tree: Tree, *programs: Program) -> None:
    tree.launch(list(programs), marked(tree))
    for item in programs:
        tree.start(item.name)
    assert poll(lambda: all(info.pid for info in tree.processes().values()), 10)


def test_nothing_runs_before_the_launch(tree: Tree) -> None:
    assert not tree.alive()
    assert tree.processes() == {}
    tree.shut_down([])
    assert tree.sweep() == 0


def test_down_stops_those_first_that_others_do_not_need(tree: Tree) -> None:
    wanted = [program("base", SLEEP), program("top", SLEEP, after=("base",))]
    launch(tree, *wanted)
    daemon = psutil.Process(tree.processes()["base"].pid).parent()

    tree.shut_down(wanted)

    assert daemon is not None
    assert not daemon.is_running()
    lines = [line for line in tree.log("supervisord").read_text().splitlines() if "stopped:" in line]
    assert ["top" in lines[0], "base" in lines[1]] == [True, True]
    assert tree.leftovers() == []


def test_a_killed_daemon_leaves_nothing_behind_after_the_sweep(tree: Tree, tmp_path: Path) -> None:
    launch(tree, program("plain", SLEEP), script(tmp_path, "runaway", RUNAWAY))
    assert poll(lambda: bool(tail(tree.log("runaway"))), 10)
    escaped = psutil.Process(int(tail(tree.log("runaway"))[-1]))
    os.kill(int((tree.run / "supervisord.pid").read_text()), signal.SIGKILL)
    assert poll(lambda: not tree.alive(), 5)
    assert len(tree.leftovers()) == 3

    assert tree.sweep(patience=0.5) == 3

    assert tree.leftovers() == []
    assert not escaped.is_running()


def test_a_child_that_cleared_its_environment_is_found_through_its_parent(tree: Tree, tmp_path: Path) -> None:
    launch(tree, script(tmp_path, "cleared", CLEARED))
    assert poll(lambda: bool(tail(tree.log("cleared"))), 10)
    child = psutil.Process(int(tail(tree.log("cleared"))[-1]))

    assert child in tree.leftovers()
    tree.sweep(patience=0.5)
    assert not child.is_running()


def test_the_sweep_spares_other_homes_and_itself(tree: Tree, tmp_path: Path) -> None:
    other = subprocess.Popen(
        [sys.executable, "-c", SLEEP], env={**os.environ, MARKER: str(tmp_path / "another home")}
    )
    try:
        assert tree.sweep() == 0
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_program_that_dies_comes_back(tree: Tree) -> None:
    launch(tree, program("steady", SLEEP))
    assert poll(lambda: tree.processes()["steady"].state == "RUNNING", 10)
    first = tree.processes()["steady"].pid

    os.kill(first, signal.SIGKILL)

    assert poll(lambda: tree.processes()["steady"].pid not in {0, first}, 10)


def test_the_daemon_is_current_only_for_what_it_was_started_with(tree: Tree) -> None:
    wanted = [program("one", SLEEP), program("setup", "pass", one_shot=True)]
    tree.launch(wanted, marked(tree))

    assert tree.current(wanted, marked(tree))
    assert tree.current(wanted[:1], marked(tree)), "a one-shot program that is done is no change"
    assert not tree.current(wanted, {**marked(tree), "HEADRACE_MLFLOW_PORT": "5001"})
    assert not tree.current([*wanted, program("setup2", "pass", one_shot=True)], marked(tree))


def test_a_percent_sign_and_a_space_in_the_home_do_no_harm(tmp_path: Path) -> None:
    tree = Tree(load_settings({}, home=tmp_path / "100 % mine"))
    launch(tree, program("steady", SLEEP))
    try:
        assert tree.processes()["steady"].alive
    finally:
        tree.shut_down([])
        tree.sweep()


def test_a_home_deeper_than_a_socket_path_may_be_works(tmp_path: Path) -> None:
    tree = Tree(load_settings({}, home=tmp_path / ("deep" * 30)))
    launch(tree, program("steady", SLEEP))
    try:
        assert tree.alive()
        assert tree.socket.parent.stat().st_mode & 0o077 == 0
    finally:
        tree.shut_down([])
        tree.sweep()


def test_a_program_that_fails_shows_its_last_lines_and_holds_back_those_that_need_it(
    tree: Tree, settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    fails = program("setup", "raise SystemExit('no such table')", one_shot=True)
    wanted = [
        fails,
        program("needs", SLEEP, after=("setup",)),
        program("fine", "print('done')", one_shot=True),
    ]
    tree.launch(wanted, marked(tree))

    with pytest.raises(
        ProcessError, match=r"(?s)Setup ended while it started.*no such table.*Needs was not started"
    ):
        local._start(tree, wanted, settings)

    assert tree.processes()["needs"].state == "STOPPED"
    assert "Fine: done" in capfd.readouterr().err


def test_tail_gives_the_last_lines_only(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    assert tail(log) == []
    log.write_text("".join(f"{number}\n" for number in range(100_000)))
    assert tail(log, 2) == ["99998", "99999"]
