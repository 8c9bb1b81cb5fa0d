"""SegFormer as its authors' code lays it out and names it, written anew for comparison: the names and the order of
channels are theirs, and what a converted checkpoint must compute."""

import torch
import torch.nn.functional as F
from torch import nn

WIDTHS, HEADS, REDUCTIONS = (32, 64, 160, 256), (1, 2, 5, 8), (8, 4, 2, 1)


class Embedding(nn.Module):
    def __init__(self, inputs, outputs, kernel, stride):
        super().__init__()
        self.proj = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2)
        self.norm = nn.LayerNorm(outputs)

    def forward(self, x):
        x = self.proj(x)
        size = x.shape[-2:]
        return self.norm(x.flatten(2).mT), size


class Attention(nn.Module):
    def __init__(self, width, heads, reduction):
        super().__init__()
        self.heads = heads
        self.q, self.kv, self.proj = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.sr = nn.Conv2d(width, width, reduction, reduction) if reduction > 1 else None
        self.norm = nn.LayerNorm(width) if reduction > 1 else None

    def forward(self, x, size):
        batch, count, width = x.shape
        q = self.q(x).view(batch, count, self.heads, -1).transpose(1, 2)
        if self.sr is not None:
            x = self.norm(self.sr(x.mT.view(batch, width, *size)).flatten(2).mT)
        k, v = self.kv(x).view(batch, -1, 2, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        weight = (q @ k.mT * (width // self.heads) ** -0.5).softmax(dim=-1)
        return self.proj((weight @ v).transpose(1, 2).reshape(batch, count, width))


class Depthwise(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 3, padding=1, groups=width)

    def forward(self, x, size):
        return self.dwconv(x.mT.reshape(len(x), -1, *size)).flatten(2).mT


class Mlp(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.fc1, self.dwconv, self.fc2 = nn.Linear(width, 4 * width), Depthwise(4 * width), nn.Linear(4 * width, width)

    def forward(self, x, size):
        return self.fc2(F.gelu(self.dwconv(self.fc1(x), size)))


class Block(nn.Module):
    def __init__(self, width, heads, reduction):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.mlp = Attention(width, heads, reduction), Mlp(width)

    def forward(self, x, size):
        x = x + self.attn(self.norm1(x), size)
        return x + self.mlp(self.norm2(x), size)


class MiT(nn.Module):
    def __init__(self):
        super().__init__()
        before = 3
        for stage, (width, heads, reduction) in enumerate(zip(WIDTHS, HEADS, REDUCTIONS), 1):
            kernel, stride = (7, 4) if stage == 1 else (3, 2)
            setattr(self, f"patch_embed{stage}", Embedding(before, width, kernel, stride))
            setattr(self, f"block{stage}", nn.ModuleList(Block(width, heads, reduction) for _ in range(2)))
            setattr(self, f"norm{stage}", nn.LayerNorm(width, eps=1e-6))
            before = width

    def forward(self, x):
        levels = []
        for stage in range(1, 5):
            x, size = getattr(self, f"patch_embed{stage}")(x)
            for block in getattr(self, f"block{stage}"):
                x = block(x, size)
            x = getattr(self, f"norm{stage}")(x).mT.reshape(len(x), -1, *size)
            levels.append(x)
        return levels


class Linear(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.proj = nn.Linear(inputs, outputs)

    def forward(self, x):
        return self.proj(x.flatten(2).mT).mT.reshape(len(x), -1, *x.shape[-2:])


class ConvModule(nn.Module):
    def __init__(self, inputs, outputs, kernel=1, dilation=1, groups=1):
        super().__init__()
        padding = dilation * (kernel // 2)
        self.conv = nn.Conv2d(inputs, outputs, kernel, 1, padding, dilation, groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)))


def grown(x, like):
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=False)


class SegFormerHead(nn.Module):
    """Joins the levels coarsest first."""

    def __init__(self, classes, width=256):
        super().__init__()
        for stage, inputs in enumerate(WIDTHS, 1):
            setattr(self, f"linear_c{stage}", Linear(inputs, width))
        self.linear_fuse = ConvModule(4 * width, width)
        self.linear_pred = nn.Conv2d(width, classes, 1)

    def forward(self, levels):
        embedded = [grown(getattr(self, f"linear_c{stage}")(levels[stage - 1]), levels[0]) for stage in (4, 3, 2, 1)]
        return self.linear_pred(self.linear_fuse(torch.cat(embedded, dim=1)))


class ConvolvedHead(nn.Module):
    """SegFormer's head as mmsegmentation itself has it: a norm and a ReLU a level before it is enlarged, joined finest
    first; 256 channels for MiT of any size, by its own configurations."""

    def __init__(self, classes, width=256):
        super().__init__()
        self.convs = nn.ModuleList(ConvModule(inputs, width) for inputs in WIDTHS)
        self.fusion_conv = ConvModule(len(WIDTHS) * width, width)
        self.conv_seg = nn.Conv2d(width, classes, 1)

    def forward(self, levels):
        embedded = [grown(conv(level), levels[0]) for conv, level in zip(self.convs, levels)]
        return self.conv_seg(self.fusion_conv(torch.cat(embedded, dim=1)))


class Separable(nn.Module):
    def __init__(self, inputs, outputs, dilation):
        super().__init__()
        self.depthwise_conv = ConvModule(inputs, inputs, 3, dilation, inputs)
        self.pointwise_conv = ConvModule(inputs, outputs)

    def forward(self, x):
        return self.pointwise_conv(self.depthwise_conv(x))


class ASPP(nn.Module):
    def __init__(self, inputs, width):
        super().__init__()
        branches = [ConvModule(inputs, width), *(Separable(inputs, width, dilation) for dilation in (6, 12, 18))]
        self.aspp_modules = nn.ModuleList(branches)
        self.bottleneck = ConvModule(4 * width, width, 3)

    def forward(self, x):
        return self.bottleneck(torch.cat([branch(x) for branch in self.aspp_modules], dim=1))


class DAFormerHead(nn.Module):
    """Joins the levels finest first; with ``plain`` it is HRDA's scale attention."""

    def __init__(self, classes, width=256, plain=False):
        super().__init__()
        self.embed_layers = nn.ModuleDict({str(i): Linear(inputs, width) for i, inputs in enumerate(WIDTHS)})
        self.fuse_layer = ConvModule(4 * width, width) if plain else ASPP(4 * width, width)
        self.conv_seg = nn.Conv2d(width, classes, 1)

    def forward(self, levels):
        embedded = [grown(self.embed_layers[str(i)](level), levels[0]) for i, level in enumerate(levels)]
        return self.conv_seg(self.fuse_layer(torch.cat(embedded, dim=1)))


class Network(nn.Module):
    def __init__(self, head):
        super().__init__()
        self.backbone, self.decode_head = MiT(), head

    def forward(self, image):
        return self.decode_head(self.backbone(image))


class TwoScales(nn.Module):
    """HRDA's head: DAFormer's and the scale attention."""

    def __init__(self, classes):
        super().__init__()
        self.head, self.scale_attention = DAFormerHead(classes), DAFormerHead(classes, plain=True)


class HRDANetwork(Network):
    """At two scales; of images that one box of the detail covers."""

    def __init__(self, classes):
        super().__init__(TwoScales(classes))

    def forward(self, image):
        half = F.interpolate(image, scale_factor=0.5, mode="bilinear", align_corners=False)
        context, head = self.backbone(half), self.decode_head
        share = head.scale_attention(context).sigmoid()
        above = F.interpolate((1 - share) * head.head(context), scale_factor=2.0, mode="bilinear", align_corners=False)
        share = F.interpolate(share, scale_factor=2.0, mode="bilinear", align_corners=False)
        return share * head.head(self.backbone(image)) + above


def numbered(state):
    """The same backbone as mmsegmentation itself spells it from 0.20 on."""
    found, halves = {}, {}
    parts = {"attn.proj": "attn.attn.out_proj", "mlp.fc1": "ffn.layers.0", "mlp.dwconv.dwconv": "ffn.layers.1",
             "mlp.fc2": "ffn.layers.4"}  # fmt: skip
    for name, tensor in state.items():
        root, _, rest = name.partition(".")
        if root != "backbone":
            found[name] = tensor
            continue
        group, _, rest = rest.partition(".")
        stage = int(group[-1]) - 1
        if group.startswith("patch_embed"):
            found[f"backbone.layers.{stage}.0.{rest.replace('proj', 'projection')}"] = tensor
        elif group.startswith("norm"):
            found[f"backbone.layers.{stage}.2.{rest}"] = tensor
        else:
            number, _, rest = rest.partition(".")
            layer, _, kind = rest.rpartition(".")
            place = f"backbone.layers.{stage}.1.{number}"
            if layer in ("attn.q", "attn.kv"):
                halves.setdefault((place, kind), {})[layer] = tensor
                continue
            if layer in ("mlp.fc1", "mlp.fc2") and kind == "weight":
                tensor = tensor[:, :, None, None]
            found[f"{place}.{parts.get(layer, layer)}.{kind}"] = tensor
    for (place, kind), both in halves.items():
        found[f"{place}.attn.attn.in_proj_{kind}"] = torch.cat([both["attn.q"], both["attn.kv"]])
    return found
