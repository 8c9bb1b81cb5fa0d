"""FCN-8s on VGG-16, the papers' second network (Long et al. 2015; score scaling of BDL's code)."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.resize import bilinear
from segrefinery.models.padding import pad_to_multiple, unpad
from segrefinery.models.segmenter import Prediction, Segmenter
from segrefinery.models.settings import FCN8sSettings
from segrefinery.models.states import downloaded, load_state, read_state

# Where the three stages of torchvision's `features` begin, and where the last one ends.
_BOUNDS = (0, 17, 24, 31)


class FCN8s(Segmenter):
    """Scores at the strides 32, 16 and 8, summed at stride 8; the finer ones scaled by 0.01 and 0.0001.

    The original pads the image by 100 pixels and crops its fixed bilinear deconvolutions; here the 7x7 layer pads by 3
    and the scores are interpolated bilinearly: the same inside the image, any size, no parameters.
    ``features`` are the last 4096-d layer, brought to stride 8: the main thing the classifier read.
    """

    largest_stride = 32

    def __init__(self, num_classes: int, settings: FCN8sSettings | None = None, pretrained: bool = False) -> None:
        super().__init__()
        settings = settings or FCN8sSettings()
        self.encoder = nn.ModuleList(_stages())
        self.fc6 = nn.Conv2d(512, settings.width, 7, padding=3)
        self.fc7 = nn.Conv2d(settings.width, settings.width, 1)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout2d(settings.dropout)
        self.score8 = nn.Conv2d(256, num_classes, 1)
        self.score16 = nn.Conv2d(512, num_classes, 1)
        self.score32 = nn.Conv2d(settings.width, num_classes, 1)
        for score in (self.score8, self.score16, self.score32):
            nn.init.normal_(score.weight, std=0.01)
        self.num_classes = num_classes
        self.feature_channels = settings.width
        self.level_channels = (256, 512, 512)
        self.learner_channels = (settings.width,)
        if pretrained:
            self._load_vgg()

    def _load_vgg(self) -> None:
        """ImageNet weights of VGG-16; its two fully connected layers become the 7x7 and the 1x1 convolution."""
        if self.fc7.out_channels != 4096:
            raise SegRefineryError("fcn8s_vgg16: pre-trained weights need width 4096; set weights: none for another.")
        from torchvision.models import VGG16_Weights  # here, for it takes seconds to import

        url = VGG16_Weights.IMAGENET1K_V1.url
        state = read_state(downloaded(url))
        fc6 = state["classifier.0.weight"].view(4096, 512, 7, 7)
        fc7 = state["classifier.3.weight"].view(4096, 4096, 1, 1)
        load_state(self.fc6, {"weight": fc6, "bias": state["classifier.0.bias"]}, url)
        load_state(self.fc7, {"weight": fc7, "bias": state["classifier.3.bias"]}, url)
        for i, stage in enumerate(self.encoder):
            start = _BOUNDS[i]
            stage_state = {
                name: state[f"features.{start + int(name.split('.')[0])}.{name.split('.')[1]}"]
                for name in stage.state_dict()
            }
            load_state(stage, stage_state, url)

    def forward(self, image: Tensor) -> Prediction:
        # Poolings that round up would put the cells of the three strides at different places of other images.
        padded = pad_to_multiple(image, self.largest_stride)
        pool3 = self.encoder[0](padded)
        pool4 = self.encoder[1](pool3)
        pool5 = self.encoder[2](pool4)
        deep = self.dropout(self.relu(self.fc6(pool5)))
        deep = self.dropout(self.relu(self.fc7(deep)))
        middle = bilinear(self.score32(deep), pool4.shape[-2:]) + self.score16(pool4 * 0.01)
        logits = bilinear(middle, pool3.shape[-2:]) + self.score8(pool3 * 0.0001)
        size, whole = image.shape[-2:], padded.shape[-2:]
        maps = (logits, bilinear(deep, pool3.shape[-2:]), pool3, pool4, pool5)
        logits, features, *levels = (unpad(one, whole, size) for one in maps)
        return Prediction(logits, features, levels)

    def backbone_parameters(self) -> list[nn.Parameter]:
        return [parameter for module in (self.encoder, self.fc6, self.fc7) for parameter in module.parameters()]


def _stages() -> list[nn.Sequential]:
    """VGG-16's convolutions up to the third, the fourth and the fifth pooling, which round up."""
    from torchvision.models.vgg import cfgs, make_layers

    layers = list(make_layers(cfgs["D"]).children())
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    layers = [nn.MaxPool2d(2, stride=2, ceil_mode=True) if isinstance(x, nn.MaxPool2d) else x for x in layers]
    return [nn.Sequential(*layers[start:end]) for start, end in pairwise(_BOUNDS)]
