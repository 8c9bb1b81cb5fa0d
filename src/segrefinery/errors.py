"""Errors a user can mend."""


class SegRefineryError(Exception):
    """A mistake in what the user gave us: names the file or field, what is wrong, and the remedy.

    The command line prints it as one line and exits with status 2.
    """
