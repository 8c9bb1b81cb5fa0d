"""Networks of other libraries, one file a library: how they are built, and how their checkpoints' names map to ours."""

from segrefinery.models.foreign.smp import SMP, SMPSettings
from segrefinery.models.foreign.wrapped import Wrapped, wrap

__all__ = ["SMP", "SMPSettings", "Wrapped", "wrap"]
