"""Ctrl-C and SIGTERM end a command in words."""

import os
import signal

import pytest

from segrefinery.core.stopping import Stopped, stoppable


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_raises_once_and_then_all_is_as_before(number, code):
    before = signal.getsignal(number)
    with pytest.raises(Stopped) as stopped, stoppable():
        signal.raise_signal(number)
    assert stopped.value.exit_code == code
    assert signal.getsignal(number) is before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 7), (signal.SIGTERM, 143)])
def test_a_forked_reader_leaves_ctrl_c_to_its_owner(number, code):
    with stoppable():
        child = os.fork()
        if child == 0:
            signal.raise_signal(number)
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == code
