"""Ctrl-C and SIGTERM end a command in words."""

import os
import signal
import subprocess
import sys
import time
import tomllib
from contextlib import suppress
from pathlib import Path

import pytest

from segrefinery.core.stopping import Stopped, stoppable


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_raises_once_and_then_all_is_as_before(number, code):
    before = signal.getsignal(number)
    with pytest.raises(Stopped) as stopped, stoppable():
        signal.raise_signal(number)
    assert stopped.value.exit_code == code
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_is_ignored_stays_ignored(number):
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with stoppable():
            signal.raise_signal(number)
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 7), (signal.SIGTERM, 143)])
def test_a_forked_reader_leaves_ctrl_c_to_its_owner(number, code):
    with stoppable():
        child = os.fork()
        if child == 0:
            signal.raise_signal(number)
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == code


def test_a_stop_that_a_library_swallows_is_raised_again_but_not_into_what_is_put_in_order():
    tidied = []

    def command():
        with suppress(BaseException):  # as libraries do around an optional import
            signal.raise_signal(signal.SIGINT)
        try:
            time.sleep(10)
        finally:
            time.sleep(0.5)
            tidied.append(True)

    with pytest.raises(Stopped), stoppable():
        command()
    assert tidied == [True]


def test_what_fails_because_of_a_stop_is_a_stop():
    def command():
        try:
            signal.raise_signal(signal.SIGINT)
        except Stopped as stopped:
            raise ImportError("a part of a library failed to import") from stopped

    with pytest.raises(Stopped), stoppable():
        command()


WHILE_IMPORTED = """
import signal, sys
class Stopper:
    def find_spec(self, name, *_):
        if name == "segrefinery.cli":
            signal.raise_signal({number})
sys.meta_path.insert(0, Stopper())
from segrefinery.__main__ import main
main()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_that_is_stopped_while_its_libraries_are_imported_says_so(number, code):
    program = WHILE_IMPORTED.format(number=int(number))
    places = os.pathsep.join(map(os.path.abspath, filter(None, sys.path)))
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": places}
    )
    assert (done.returncode, done.stderr, done.stdout) == (code, "stopped\n", "")


def test_the_command_begins_where_it_can_be_stopped():
    scripts = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"segrefinery": "segrefinery.__main__:main"}
