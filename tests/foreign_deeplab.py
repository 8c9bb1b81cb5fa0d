"""DeepLab-v2 as the code of AdaptSegNet and ADVENT names it, written anew for comparison, with fewer blocks; it reads
images from 0 to 255, blue first, less Caffe's mean."""

import torch
import torch.nn.functional as F
from torch import nn

BLOCKS = (1, 1, 1, 3)
MEAN = (104.00698793, 116.66876762, 122.67891434)


def convolution(inputs, outputs, kernel=1, stride=1, dilation=1):
    return nn.Conv2d(inputs, outputs, kernel, stride, dilation * (kernel // 2), dilation, bias=False)


class Block(nn.Module):
    """A bottleneck whose stride is its first convolution's."""

    def __init__(self, inputs, width, stride, dilation, first):
        super().__init__()
        self.conv1, self.bn1 = convolution(inputs, width, 1, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = convolution(width, width, 3, 1, dilation), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = convolution(width, 4 * width), nn.BatchNorm2d(4 * width)
        self.downsample = None
        if first:
            self.downsample = nn.Sequential(convolution(inputs, 4 * width, 1, stride), nn.BatchNorm2d(4 * width))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(y)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class Classifier(nn.Module):
    """Four dilated convolutions, of which AdaptSegNet's code adds ``used`` = 2 and ADVENT's all."""

    def __init__(self, inputs, classes, used):
        super().__init__()
        self.used = used
        dilations = (6, 12, 18, 24)
        self.conv2d_list = nn.ModuleList(nn.Conv2d(inputs, classes, 3, 1, d, d) for d in dilations)

    def forward(self, x):
        return sum(layer(x) for layer in self.conv2d_list[: self.used])


class ResNetMulti(nn.Module):
    def __init__(self, classes, used=2, middle=True):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        inputs = 64
        for number, (width, stride, dilation) in enumerate(((64, 1, 1), (128, 2, 1), (256, 1, 2), (512, 1, 4)), 1):
            blocks = [Block(inputs, width, stride, dilation, True)]
            blocks += [Block(4 * width, width, 1, dilation, False) for _ in range(BLOCKS[number - 1] - 1)]
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
            inputs = 4 * width
        if middle:
            self.layer5 = Classifier(1024, classes, used)
        self.layer6 = Classifier(2048, classes, used)

    def forward(self, image):
        """Logits of colours in [0, 1], B x 3 x H x W, red first."""
        x = 255 * image.flip(1) - torch.tensor(MEAN)[:, None, None]
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1, ceil_mode=True)
        return self.layer6(self.layer4(self.layer3(self.layer2(self.layer1(x)))))
