"""Names of users are neither orders to a terminal nor ways out of a folder."""

import pytest

from segrefinery.core.words import not_a_file_name, printable


def test_orders_to_a_terminal_are_shown_as_codes():
    assert printable("a\x1b[2Jb\x07\u202ec\r") == "a\\x1b[2Jb\\x07\\x202ec\\x0d"
    assert printable("naïve 图\nnext") == "naïve 图\nnext"


@pytest.mark.parametrize("name", ["adapt", "fein-abstimmung_2", "nacht é", "v1.2"])
def test_names_that_may_become_folders(name):
    assert not_a_file_name(name) is None


@pytest.mark.parametrize(
    "name", ["", 1, True, "a/b", "..", "../x", ".hidden", "a\\b", "a:b", "a\nb", "a\0", "x" * 61, " a"]
)
def test_names_that_may_not(name):
    assert not_a_file_name(name)
