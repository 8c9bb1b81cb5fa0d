from segrefinery.core.errors import first_line, in_one_line


def test_another_librarys_error_is_told_by_its_first_line():
    assert first_line(ValueError("\n  bad header\n  in block 3")) == "bad header"
    assert len(first_line(ValueError("x" * 1000))) == 300


def test_an_error_without_words_is_told_by_its_kind():
    assert first_line(EOFError()) == "EOFError"
    assert first_line(OSError("  \n ")) == "OSError"


def test_what_the_system_refuses_names_the_place_and_the_remedy():
    refused = PermissionError(13, "Permission denied", "/my/camera")
    assert in_one_line(refused) == "/my/camera: Permission denied; check its permissions, or name another place"
    assert in_one_line(OSError(28, "No space left on device", "/my/run")) == "/my/run: No space left on device"
