"""Reading, computing and writing at the same time."""

from __future__ import annotations

import threading

import pytest

from segrefinery.core.overlap import overlapped


def test_the_next_is_read_and_the_last_written_while_one_is_computed():
    read, written, done = {number: threading.Event() for number in range(4)}, [], []

    def compute(number, found):
        assert found == number * 10
        if number < 3:
            assert read[number + 1].wait(5)  # only another thread can do that
        return lambda: written.append(number)

    def reading(number):
        read[number].set()
        return number * 10

    for number in overlapped(range(4), reading, compute):
        assert written[: number + 1] == list(range(number + 1))
        done.append(number)
    assert done == written == [0, 1, 2, 3]
    assert list(overlapped([], reading, compute)) == []


@pytest.mark.parametrize("stage", ["read", "compute", "write"])
def test_an_error_of_any_stage_is_raised(stage):
    def fail(*_):
        raise ValueError(stage)

    stages = {"read": lambda item: item, "compute": lambda item, found: lambda: None}
    stages |= {"compute": lambda item, found: fail} if stage == "write" else {stage: fail}
    with pytest.raises(ValueError, match=stage):
        list(overlapped([1, 2], stages["read"], stages["compute"]))
