"""Tiny models as other libraries save them, shared by the tests of reading and of adapting."""

import json

import torch
from torch import nn

CLASSES = ("road", "car", "sky")


def with_statistics(module):
    """Batch norms that are not those of a new network, so that a forgotten one shows."""
    torch.manual_seed(0)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -0.1, 0.1)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
    return module.eval()


def configurations():
    import transformers as hf

    convnext = hf.ConvNextConfig(
        hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], out_features=["stage1", "stage2", "stage3", "stage4"]
    )
    vit = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}
    return {
        "segformer": hf.SegformerConfig(
            hidden_sizes=[8, 16, 20, 32], depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=16
        ),
        "upernet": hf.UperNetConfig(
            backbone_config=convnext, hidden_size=16, auxiliary_in_channels=24, auxiliary_channels=8
        ),
        "beit": hf.BeitConfig(
            **vit, image_size=64, out_indices=[1, 2, 3, 4], use_relative_position_bias=True, auxiliary_channels=8
        ),
        "mobilevitv2": hf.MobileViTV2Config(image_size=64, width_multiplier=0.5, aspp_out_channels=16),
        "dpt": hf.DPTConfig(
            **vit, image_size=64, backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 16, 16],
            fusion_hidden_size=16,
        ),
        "mobilevit": hf.MobileViTConfig(
            hidden_sizes=[16, 24, 32], neck_hidden_sizes=[4, 8, 12, 16, 20, 24, 64], num_attention_heads=2,
            image_size=64, aspp_out_channels=16,
        ),
        "mobilenet_v2": hf.MobileNetV2Config(depth_multiplier=0.35),
    }  # fmt: skip


def saved(folder, family, preprocessor=None, labels=CLASSES):
    import transformers as hf

    config = configurations()[family]
    config.id2label = dict(enumerate(labels))
    torch.manual_seed(0)
    module = with_statistics(hf.AutoModelForSemanticSegmentation.from_config(config))
    module.save_pretrained(folder)
    if preprocessor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return module
