"""Any module of the user's that returns logits, made to speak our words."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from segrefinery.core.errors import SegRefineryError, as_given, first_line
from segrefinery.core.pixels import IMAGENET, Normalization, refuse_statistics
from segrefinery.core.resize import bilinear
from segrefinery.core.settings import choose
from segrefinery.models.encoders import UNKNOWN_STATISTICS
from segrefinery.models.segmenter import Learner, Prediction, Segmenter

log = logging.getLogger(__name__)

PROBE = (64, 64)
"""Height and width of the image at which a module is tried."""


class Wrapped(Segmenter):
    """Any module that returns logits, made to speak our words.

    The module may return a tensor B x C x h x w, a mapping with ``out`` (and ``aux``) as torchvision's do or with
    ``logits``, an object with ``logits`` as transformers' do, or a ``Prediction``. ``features`` is what the named
    layer puts out, or else the logits themselves.
    """

    def __init__(
        self,
        module: nn.Module,
        num_classes: int,
        feature_layer: str | None = None,
        normalization: Normalization = IMAGENET,
    ) -> None:
        super().__init__()
        self.normalization = normalization
        self.module = module
        self.num_classes = num_classes
        self.feature_layer = feature_layer
        if feature_layer is not None:
            layers = {name: layer for name, layer in module.named_modules() if name}  # '' is the module itself
            choose(layers, feature_layer, f"layer of {type(module).__name__}")
        probed = self._probe()
        self.feature_channels = probed.features.shape[1]
        self.level_channels = tuple(level.shape[1] for level in probed.levels)
        self.learner_channels = tuple(learner.latent.shape[1] for learner in probed.learners)

    def _probe(self) -> Prediction:
        """One look at an image of noise, to learn how wide the module is.

        Raises:
            SegRefineryError: it does not take the image, or puts out no logits.
        """
        training, kind, noise = self.module.training, type(self.module).__name__, self._noise(1)
        self.module.eval()
        try:
            with torch.no_grad():
                probed = self(noise)
        except SegRefineryError as error:
            if (cause := error.__cause__) is None:
                raise
            raise SegRefineryError(
                f"{kind} does not take an image batch {' x '.join(map(str, noise.shape))} alone "
                f"({type(cause).__name__}: {first_line(cause)}). It is called with normalised images and nothing else, "
                "of any size that a run or a prediction asks for; of other bands than three, name a normalization of "
                "as many numbers"
            ) from error
        finally:
            self.module.train(training)
        refuse_probabilities(probed.logits, kind)
        if not bool(probed.logits.isfinite().all()):
            raise SegRefineryError(
                f"{kind} puts out values that are not finite for an image of noise; mend its weights"
            )
        return probed

    def _called(self, image: Tensor) -> Any:
        """What the module returns.

        Raises:
            SegRefineryError: its own code refuses the image, for its size say.
        """
        if torch.compiler.is_compiling():
            return self.module(image)
        try:
            return self.module(image)
        except (SegRefineryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # what the user's code raises
            if "can't allocate memory" in str(error):
                raise
            raise SegRefineryError(
                f"{type(self.module).__name__} does not take an image batch {' x '.join(map(str, image.shape))} "
                f"{'in training ' if self.module.training else ''}({type(error).__name__}: {first_line(error)}). Set "
                "sizes that it takes (data.short_side, data.crop, data.batch, window), or let it pad"
            ) from error

    def forward(self, image: Tensor) -> Prediction:
        caught: list[Any] = []
        if self.feature_layer is None:
            output = self._called(image)
        else:
            # The hook lives for one call only: a lasting one would write into the original from every copy.
            layer = self.module.get_submodule(self.feature_layer)
            hook = layer.register_forward_hook(lambda _module, _inputs, out: caught.append(out))
            try:
                output = self._called(image)
            finally:
                hook.remove()
        if isinstance(output, Prediction):
            return output
        logits, aux_logits = self._logits_of(output, image.shape[0])
        features = logits
        if self.feature_layer is not None:
            if len(caught) != 1 or not isinstance(caught[0], Tensor) or caught[0].ndim != 4:
                raise SegRefineryError(
                    f"the layer {self.feature_layer!r} of {type(self.module).__name__} does not put out "
                    "one B x D x h x w tensor a call: name another feature_layer."
                )
            features = bilinear(caught[0], logits.shape[-2:])
        learners = [Learner(logits, features)]
        if aux_logits is not None:
            learners.append(Learner(aux_logits, aux_logits))
        return Prediction.of(learners)

    def _noise(self, images: int) -> Tensor:
        """Images of noise, of the module's bands, where its weights are."""
        weights = next(iter(self.module.parameters()), torch.zeros(1))
        noise = torch.randn(images, len(self.normalization.mean), *PROBE, generator=torch.Generator().manual_seed(0))
        return noise.to(weights.device, weights.dtype)

    def _logits_of(self, output: Any, images: int) -> tuple[Tensor, Tensor | None]:
        """The logits of what the module returned for so many images, and those of its second classifier if it has one.

        Raises:
            SegRefineryError: it is of another kind or shape.
        """
        returned = f"{type(self.module).__name__} returned {'in training ' if self.module.training else ''}"
        if isinstance(output, Mapping) and "out" in output:
            logits, aux = output["out"], output.get("aux")
        elif isinstance(output, Tensor):
            logits, aux = output, None
        else:
            logits, aux = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None), None
            if logits is None:
                raise SegRefineryError(
                    f"{returned}{type(output).__name__}; expected a tensor, a mapping with 'out' or 'logits', or an "
                    "object with logits."
                )
        for name, each in (("logits", logits), ("'aux'", aux)):
            if each is None and name == "'aux'":
                continue
            if isinstance(each, Tensor) and each.ndim == 4 and each.shape[:2] == (images, self.num_classes):
                continue
            form = f"of shape {tuple(each.shape)}" if isinstance(each, Tensor) else f"of type {type(each).__name__}"
            raise SegRefineryError(
                f"{returned}{name} {form}; expected {images} x {self.num_classes} x h x w for a batch of {images}."
            )
        return logits, aux

    def refuse_unteachable(self) -> None:
        """Try a copy of the module in training.

        Raises:
            SegRefineryError: what it returns there is of another kind or shape, or leads to no parameter.
        """
        try:
            with torch.enable_grad():
                logits = copy.deepcopy(self).train()(self._noise(2)).logits
        except SegRefineryError as error:
            if error.__cause__ is None:
                raise
            return  # its own code refuses images of this size; it is asked again with those of the run
        if not logits.requires_grad:
            raise SegRefineryError(
                f"{type(self.module).__name__} puts out logits without a gradient, so that nothing in it would learn; "
                "mend what cuts them off (no_grad, inference_mode, detach, rounding)"
            )


def wrap(
    module: nn.Module,
    num_classes: int,
    feature_layer: str | None = None,
    normalization: Normalization | None = None,
) -> Segmenter:
    """A segmenter around any module that returns B x C x h x w logits; a segmenter is returned as it is.

    Args:
        feature_layer: dotted name of the submodule whose output is to serve as features; the logits by default.
        normalization: mean and deviation of the images that the module reads; ImageNet's if unknown, and it is said.

    Raises:
        SegRefineryError: no such layer, parameters that are not float32 or have no values, a module that takes other
            than an image, or an output of another kind or shape, or of probabilities.
    """
    if isinstance(module, Segmenter):
        return module
    if not isinstance(module, nn.Module):
        raise SegRefineryError(f"wrap: a torch.nn.Module expected, got {as_given(module)}")
    if empty := next((name for name, tensor in module.state_dict(keep_vars=True).items() if tensor.is_meta), None):
        raise SegRefineryError(
            f"{type(module).__name__}: {empty} is on the meta device and has no values; load the weights first "
            "(module.to_empty(device='cpu'), then module.load_state_dict(...)), and wrap it then"
        )
    if normalization is not None:
        try:
            normalization = Normalization(*(tuple(float(number) for number in each) for each in normalization))
        except (TypeError, ValueError):
            raise SegRefineryError(
                f"normalization: mean and deviation of each band expected, got {as_given(normalization)}"
            ) from None
        try:
            refuse_statistics(*normalization)
        except ValueError as error:
            raise SegRefineryError(f"normalization: {error}") from error
    if other := {tensor.dtype for tensor in module.parameters() if tensor.is_floating_point()} - {torch.float32}:
        raise SegRefineryError(
            f"{type(module).__name__}: has parameters of {', '.join(sorted(map(str, other)))}, and is trained in "
            "float32; wrap module.float(), and set training.precision for what is computed in half precision"
        )
    if normalization is None:
        log.warning(UNKNOWN_STATISTICS, type(module).__name__)
    return Wrapped(module, num_classes, feature_layer, normalization or IMAGENET)


def refuse_probabilities(logits: Tensor, kind: str) -> None:
    """Warns of what looks like the probabilities of a sigmoid, which a rectified or small logit can look like too.

    Raises:
        SegRefineryError: what a module puts out sums up to 1 at every pixel; logits do not.
    """
    values = logits.float()
    if values.min() < 0:
        return
    if values.shape[1] > 1 and bool(((values.sum(dim=1) - 1).abs() < 1e-2).all()):
        raise SegRefineryError(
            f"{kind} puts out probabilities, which sum up to 1, and a softmax of them is another one; wrap it without "
            "its softmax"
        )
    if 0 < values.max() <= 1:  # a new classifier may put out zeros
        log.warning(
            "%s puts out nothing below 0 or above 1 (%.2g to %.2g of noise), as a sigmoid does; it is read as logits, "
            "so if these are probabilities, wrap it without its sigmoid",
            kind, float(values.min()), float(values.max()),
        )  # fmt: skip


def refused(num_classes: int, settings: Any, pretrained: bool, name: str) -> NoReturn:
    """Raises:
    SegRefineryError: a module of the user's cannot be rebuilt from a description."""
    del settings, pretrained
    raise SegRefineryError(
        f"wrapped:{name}: this network is a Python module of yours and cannot be made from its name; in Python, give "
        f"it to segrefinery.load(run, network=segrefinery.models.wrap(module, {num_classes})), or to export alike; "
        "its adapted weights are written without it by export with --format state_dict"
    )
