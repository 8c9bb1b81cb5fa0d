"""A run's model as its library's own loader reads it, for the tests of adapting and of exporting."""

import json

import torch
from torch.nn.functional import interpolate

import segrefinery
from segrefinery.data.transforms import normalize
from segrefinery.evaluation.inference import logits_at


def goes_back(run, folder, family):
    """Exports a run as the folder of its library, which reads it and predicts the same on the same pixels.

    Args:
        family: ``smp``, or a family of transformers.
    """
    found = segrefinery.export(run, folder, "smp" if family == "smp" else "hf")
    assert found.difference < 1e-5
    assert found.equal == 1
    model = segrefinery.load(run, "cpu")
    image = torch.randint(0, 256, (3, 96, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(4))
    read = normalize(image[None], *model.data.normalization)
    with torch.no_grad():
        ours = logits_at(model.network, read, (96, 96))
        theirs = (from_smp if family == "smp" else from_transformers)(folder, family, model, image, read)
    assert found.prepared is None if family == "smp" else found.prepared > 0.5
    torch.testing.assert_close(theirs, ours, atol=1e-5 * float(ours.abs().max()), rtol=0)


def from_transformers(folder, family, model, image, read):
    import transformers as hf

    module = hf.AutoModelForSemanticSegmentation.from_pretrained(folder).eval()
    processor = hf.AutoImageProcessor.from_pretrained(folder)
    assert module.config.id2label == dict(enumerate(model.space.classes))
    assert processor.do_resize  # scale small resizes
    pixels = processor(image, return_tensors="pt", do_resize=False)["pixel_values"]
    torch.testing.assert_close(pixels, read.flip(1) if family == "mobilevit" else read, atol=1e-5, rtol=1e-5)
    arguments = {"interpolate_pos_encoding": True} if family == "beit" else {}
    pixels = read.flip(1) if family == "mobilevit" else read
    return interpolate(module(pixels, **arguments).logits, image.shape[-2:], mode="bilinear")


def from_smp(folder, family, model, image, read):
    import segmentation_models_pytorch as smp

    said = json.loads((folder / "preprocessing.json").read_text())
    assert said["classes"] == list(model.space.classes)
    torch.testing.assert_close(normalize(image[None], said["mean"], said["std"]), read)
    return smp.from_pretrained(folder).eval()(read)
