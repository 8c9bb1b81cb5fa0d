"""A GPU that is only pretended: the processor computes, and a GPU's rules about devices and autocast hold.

    python tests/pretended_gpu.py cpsl ir2f        # tiny runs of whole recipes in bf16-mixed on it

A tensor on it lies in the processor's memory and says it is on ``cuda:0``. Every operation is looked at, and one that
mixes devices as no GPU would let it raises what torch raises there. Autocast follows CUDA's lists of operations, which
are not the processor's. So whole runs can be tried for what would fail on a GPU only. What it cannot show: a GPU's
kernels, its memory and its speed. It needs a process of its own, for the autocast kernels stay.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.autograd import graph
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

GPU = torch.device("cuda", 0)
aten = torch.ops.aten

# -- tensors -----------------------------------------------------------------------------------------------------------


class OnGpu(Tensor):
    """A tensor that says it is on the GPU; ``here`` is the same memory as the processor's tensor that it is."""

    here: Tensor
    device = property(lambda self: GPU)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, here: Tensor) -> OnGpu:
        self = torch.Tensor._make_subclass(cls, here.detach(), device_for_backend_keys=GPU)
        self.here = here
        return self

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})

    def to(self, *args: Any, copy: bool = False, **kwargs: Any) -> Tensor:
        if args and isinstance(args[0], Tensor):
            args = (args[0].device, args[0].dtype)
        device, dtype, _, layout = torch._C._nn._parse_to(*args, **kwargs)
        device, dtype = device or GPU, dtype or self.dtype
        if not copy and layout is None and device.type == "cuda" and dtype == self.dtype:
            return self
        with now(leaving=device.type == "cpu"):
            return aten._to_copy.default(self, device=device, dtype=dtype, memory_format=layout)

    def cpu(self) -> Tensor:
        return self.to("cpu")

    def tolist(self) -> Any:
        wait("tolist")
        return self.here.tolist()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")

    __array__ = numpy

    def __repr__(self, **_: Any) -> str:
        return f"on the GPU: {self.here!r}"

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.here.__reduce_ex__(protocol)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) not in memo:
            twin = self.detach().clone()
            learned = isinstance(self, nn.Parameter)
            memo[id(self)] = nn.Parameter(twin, self.requires_grad) if learned else twin
        return memo[id(self)]


def here(value: Any) -> Any:
    return value.here if isinstance(value, OnGpu) else value


def on_gpu(value: Any) -> Any:
    return OnGpu(value) if isinstance(value, Tensor) and not isinstance(value, OnGpu) else value


def tensors_in(*values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


# -- operations --------------------------------------------------------------------------------------------------------


class Now:
    """What is going on. torch's own code takes a new tensor's device from a tensor it has, whose true device is the
    processor; inside a call on the GPU the processor asked for is therefore the GPU, unless a tensor is leaving it."""

    on_gpu = False
    leaving = False


@contextlib.contextmanager
def now(**changes: bool) -> Iterator[None]:
    before = {name: getattr(Now, name) for name in changes}
    for name, value in changes.items():
        setattr(Now, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(Now, name, value)


class Calls(TorchFunctionMode):
    """Sees what Python calls."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.pin_memory:
            return args[0]
        if func is Tensor.__deepcopy__:  # its second argument holds all that was copied before
            return func(*args, **(kwargs or {}))
        if func is Tensor.to and len(args) > 1 and isinstance(args[1], OnGpu):
            args = (args[0], GPU, args[1].dtype, *args[2:])
        with now(on_gpu=any(isinstance(tensor, OnGpu) for tensor in tensors_in(args, kwargs))):
            return func(*args, **(kwargs or {}))


class Operations(TorchDispatchMode):
    """Sees what torch computes."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


COPIES = {aten.copy_.default, aten.copy.default, aten._to_copy.default}
INDEXED = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default}


def computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """An operation's result, on the GPU if its tensors or its ``device`` are.

    Raises:
        RuntimeError: a GPU would not take these arguments.
    """
    tensors, device = tensors_in(args, kwargs), kwargs.get("device")
    look_for_waits(func, args, kwargs)
    to_gpu = any(isinstance(tensor, OnGpu) for tensor in tensors)
    if to_gpu and func not in COPIES:
        refuse_mixed(func, args, tensors)
    if device is not None:
        to_gpu = torch.device(device).type == "cuda" or ((to_gpu or Now.on_gpu) and not Now.leaving)
        kwargs = {**kwargs, "device": torch.device("cpu")}
    if to_gpu and kwargs.get("generator") is not None:
        raise RuntimeError(f"Expected a 'cuda' device type for generator but found 'cpu' ({func})")
    result = func(*tree_map(here, args), **tree_map(here, kwargs))
    in_place = func._schema.name.endswith("_") and args and args[0] is not None and result is here(args[0])
    if in_place:
        return args[0]
    return tree_map(on_gpu, result) if to_gpu else result


def refuse_mixed(func: Any, args: Any, tensors: list[Tensor]) -> None:
    """The processor may give a GPU single numbers, and indices."""
    if func in INDEXED:
        if not isinstance(args[0], OnGpu):
            raise RuntimeError(f"indices should be on the same device as the indexed tensor (cpu) ({func})")
        tensors = tensors_in(args[0], args[2:])
    if any(not isinstance(tensor, OnGpu) and tensor.dim() > 0 for tensor in tensors):
        found = ", ".join(f"{tuple(tensor.shape)} {tensor.device}" for tensor in tensors)
        raise RuntimeError(f"Expected all tensors to be on the same device ({func}): {found}")


# -- waits -------------------------------------------------------------------------------------------------------------

ASKS = {
    aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten._unique2.default,
    aten.unique_dim.default, aten.unique_consecutive.default, aten.bincount.default, aten.equal.default,
    aten.repeat_interleave.Tensor,
}  # fmt: skip
"""Operations whose result the processor needs before it can go on."""
WAITED: Counter[str] = Counter()
"""How often the processor waited for the GPU: by the place in the package, and why."""


def look_for_waits(func: Any, args: Any, kwargs: dict[str, Any]) -> None:
    """A copy between the devices that is not asked to go on alone waits for all that came before it."""
    if func in ASKS and any(isinstance(each, OnGpu) for each in tensors_in(args)):
        wait(func._schema.name.removeprefix("aten::"))
    elif func in INDEXED and any(isinstance(each, OnGpu) and each.dtype == torch.bool for each in tensors_in(args[1])):
        wait("index by a mask")
    elif func in COPIES and not (kwargs.get("non_blocking") or (len(args) > 2 and args[2])):
        ends = [isinstance(each, OnGpu) for each in args[:2] if isinstance(each, Tensor)]
        if kwargs.get("device") is not None:
            ends.append(torch.device(kwargs["device"]).type == "cuda" or (ends[0] and not Now.leaving))
        if len(set(ends)) > 1:
            wait("to the GPU" if ends[-1] == (kwargs.get("device") is not None) else "from the GPU")


def wait(why: str) -> None:
    """Note the place in the package that waits."""
    frame = sys._getframe(1)
    while frame is not None:
        _, inside, path = frame.f_code.co_filename.partition("src/segrefinery/")
        if inside:
            WAITED[f"{path}:{frame.f_code.co_name}: {why}"] += 1
            return
        frame = frame.f_back


# -- autocast ----------------------------------------------------------------------------------------------------------

REDUCED, WIDEST, UNLESS_ASKED, LEFT_ALONE = (
    names.split()
    for names in (
        "_convolution conv1d conv2d conv3d conv_tbc conv_transpose1d conv_transpose2d.input conv_transpose3d.input "
        "convolution prelu addmm addmv addr matmul einsum mm mv linalg_vecdot linear addbmm baddbmm bmm chain_matmul "
        "linalg_multi_dot scaled_dot_product_attention",
        "addcdiv addcmul atan2 bilinear cross dot vdot grid_sampler index_put tensordot scatter_add",
        "prod prod.dim_int softmax.int log_softmax.int cumprod cumsum sum sum.dim_IntList",
        "binary_cross_entropy _convolution.deprecated _scaled_dot_product_flash_attention",
    )
)


def autocast_like_cuda() -> torch.library.Library:
    """CUDA's kernels ask a tensor's true device; these do the same by its word. What is in no list is in float32."""
    library = torch.library.Library("aten", "IMPL")
    for full in torch._C._dispatch_get_registrations_for_dispatch_key("AutocastCUDA"):
        space, _, name = full.partition("::")
        if space == "aten" and name not in LEFT_ALONE and not any(part in name for part in ("cudnn", "_cell")):
            library.impl(name, partial(autocast, name, operation(name)), "AutocastCUDA", allow_override=True)
    return library


def operation(name: str) -> Any:
    packet, _, overload = name.partition(".")
    return getattr(getattr(aten, packet), overload or "default")


def autocast(name: str, compute: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    found = [value for value in tensors_in(args, kwargs) if eligible(value)]
    wanted = torch.float32
    if name in REDUCED:
        wanted = torch.get_autocast_dtype("cuda")
    elif name in WIDEST and found:
        wanted = torch.float32 if any(value.dtype == torch.float32 for value in found) else found[0].dtype
    with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCUDA)):
        if name in UNLESS_ASKED:
            asked = kwargs.get("dtype") or next((value for value in args if isinstance(value, torch.dtype)), None)
            return compute(*args, **({**kwargs, "dtype": wanted} if found and asked is None else kwargs))
        args, kwargs = tree_map(lambda value: value.to(wanted) if eligible(value) else value, (args, kwargs))
        return compute(*args, **kwargs)


def eligible(value: Any) -> bool:
    return isinstance(value, OnGpu) and value.is_floating_point() and value.dtype != torch.float64


# -- the machine -------------------------------------------------------------------------------------------------------

ANSWERS = {
    "is_available": True, "device_count": 1, "is_bf16_supported": True, "get_device_name": "pretended",
    "current_device": 0, "max_memory_allocated": 0, "set_device": None, "empty_cache": None, "synchronize": None,
    "reset_peak_memory_stats": None, "manual_seed_all": None, "_lazy_init": None,
}  # fmt: skip


@contextlib.contextmanager
def pretended_gpu() -> Iterator[None]:
    """Within, there is a GPU."""
    run_backward = graph._engine_run_backward

    def backward(*args: Any, **kwargs: Any) -> Any:
        with now(on_gpu=True):
            return run_backward(*args, **kwargs)

    with contextlib.ExitStack() as stack:
        for name, answer in ANSWERS.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, lambda *_, answer=answer, **__: answer))
        for module in (graph, torch.autograd):
            stack.enter_context(mock.patch.object(module, "_engine_run_backward", backward))
        torch._C._ensureCUDADeviceGuardSet()
        torch._C._set_only_lift_cpu_tensors(True)
        stack.callback(torch._C._set_only_lift_cpu_tensors, False)
        torch.__future__.set_swap_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_swap_module_params_on_conversion, False)
        kernels = autocast_like_cuda()
        stack.enter_context(Calls())
        stack.enter_context(Operations())
        yield
        del kernels


def fabric_on_it(precision: Any) -> Any:
    """What ``make_fabric`` makes, with its device and precision on the pretended GPU."""
    from lightning_fabric import Fabric
    from lightning_fabric.plugins import MixedPrecision, Precision

    found = Fabric(accelerator="cpu", devices=1)
    found.launch()
    mixed = precision != "32-true"
    found._precision = MixedPrecision(precision, "cuda") if mixed else Precision()
    found._strategy._root_device = GPU
    return found


def main(recipes: list[str]) -> None:
    """Train each recipe, then use its model in every way there is; the report is written too."""
    from collections import defaultdict

    import segrefinery as api
    from runs import NIGHT, TEST, narrow, tiny_run
    from segrefinery.reporting import write_report
    from segrefinery.verbs.audit import prepare_audit
    from segrefinery.verbs.compare import compare

    for recipe in recipes:
        overrides = (*narrow(recipe, defaultdict(lambda: 2)), "training.precision=bf16-mixed")
        on_it = mock.patch("segrefinery.verbs.carry_out.make_fabric", fabric_on_it)
        with tempfile.TemporaryDirectory() as folder, pretended_gpu(), on_it:
            run = tiny_run(Path(folder) / "run", recipe, overrides)
            model = api.load(run)
            assert next(model.network.parameters()).device.type == "cuda"
            api.evaluate(model, TEST)
            assert all(probs.device.type == "cpu" for _, _, probs in api.predict(model, TEST, factor=2))
            if recipe == recipes[0]:
                api.pseudo_label(run, NIGHT, run / "labels")
                compare([run])
                prepare_audit(run, NIGHT, run / "audit", 2)
                write_report(run)
        print(recipe, "ok", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
