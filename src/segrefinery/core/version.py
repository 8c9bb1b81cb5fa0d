"""The version of the package; what reads it takes longer than all else until the command can be stopped in words."""

from importlib.metadata import version

__version__ = version("segrefinery")
