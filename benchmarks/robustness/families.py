"""Take a tiny model of every library that people bring models from through all that is promised of it.

    python benchmarks/robustness/families.py --folder F

Each is made here and saved by its own library, read (`check --from`), compared with its library, adapted
(`adapt --from`), used (`predict`), exported (ONNX, a torch program, its library's folder, the checkpoint's own layout)
and read back by its library.
The record in the folder makes it resumable. Prints Markdown; exits with 1 where a step failed or logits differ by
more than 1e-5 of the largest, which the record shows.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
import segrefinery
from foreign_mit import ConvolvedHead, DAFormerHead, Network, SegFormerHead, numbered
from lib.forked import lines, run
from lib.machine import machine
from models.foreign.tiny import CLASSES, configurations, with_statistics
from segrefinery.data.transforms import normalize
from segrefinery.evaluation.inference import logits_at
from segrefinery.models import ModelSettings
from segrefinery.models.start import read_start
from segrefinery.verbs import check, export  # noqa: F401  so that forked commands find them loaded

TARGET = "scenes:night,count=4,size=128x128"
SOURCE = "scenes:day,count=4,size=128x128"
SETS = (
    "data.short_side=128", "data.crop=[128, 128]", "data.batch=2", "target_data.short_side=128",
    "target_data.crop=[128, 128]", "classes=[road, car, sky]", "stages.adapt.steps=2",
)  # fmt: skip
LIMIT = 900.0
"""Seconds for one command."""


@dataclass
class Brought:
    """A model as its library left it.

    Attributes:
        path: what ``--from`` gets. logits: of normalised images, as the library computes them.
        sets: what has to be said beside. back: the library's folder that it can become again.
        module: what made the checkpoint, and loads it again; prefix: before its names there.
    """

    path: Path
    logits: Callable[[Tensor], Tensor]
    sets: tuple[str, ...] = ()
    back: str | None = None
    network: ModelSettings | None = field(default=None)
    module: nn.Module | None = None
    prefix: str = ""


Maker = Callable[[Path], Brought]
NAMED = "model.classes=[road, car, sky]"


def of_transformers(config: Callable[[], Any], **arguments: Any) -> Maker:
    def make(folder: Path) -> Brought:
        import transformers as hf

        settings = config()
        settings.id2label = dict(enumerate(CLASSES))
        torch.manual_seed(0)
        module = with_statistics(hf.AutoModelForSemanticSegmentation.from_config(settings))
        module.save_pretrained(folder)
        statistics = {"do_normalize": True, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.1, 0.2, 0.3]}
        (folder / "preprocessor_config.json").write_text(json.dumps(statistics))
        return Brought(folder, lambda image: module(image, **arguments).logits, back="hf")

    return make


def upernet_swin() -> Any:
    import transformers as hf

    stages = ["stage1", "stage2", "stage3", "stage4"]
    config = configurations()["upernet"]
    config.auxiliary_in_channels = 32
    config.backbone_config = hf.SwinConfig(
        embed_dim=8, depths=[1] * 4, num_heads=[1, 1, 2, 2], window_size=4, out_features=stages
    )
    return config


def smp_module(kind: str, **options: Any) -> nn.Module:
    import segmentation_models_pytorch as smp

    torch.manual_seed(0)
    return with_statistics(getattr(smp, kind)("resnet18", encoder_weights=None, **{"classes": 3} | options))


def of_smp(kind: str, **options: Any) -> Maker:
    def make(folder: Path) -> Brought:
        module: Any = smp_module(kind, **options)
        module.save_pretrained(folder)
        return Brought(folder, module, (NAMED,), back="smp")

    return make


def binary(folder: Path) -> Brought:
    """One class and a sigmoid: what is compared is the logit of a class against the other's 0."""
    module: Any = smp_module("Unet", classes=1)
    module.save_pretrained(folder)
    sets = ("model.classes=[car, road]", "classes=[car, road]")
    return Brought(folder, lambda image: torch.cat([0 * (z := module(image)), z], dim=1), sets, back="smp")


def of_lightning(folder: Path) -> Brought:
    module = smp_module("FPN")
    state = {f"net.{name}": tensor for name, tensor in module.state_dict().items()}
    settings = {"root": Path("data"), "lr": 0.1}
    torch.save(
        {"state_dict": state, "hyper_parameters": settings, "pytorch-lightning_version": "2.5"}, folder / "last.ckpt"
    )
    return of_file(folder / "last.ckpt", module, "smp:fpn/resnet18", module, "net.", back="smp")


def whole_module(folder: Path) -> Brought:
    module = smp_module("Unet")
    torch.save(nn.DataParallel(module), folder / "best_model.pth")
    return of_file(folder / "best_model.pth", module, "smp:unet/resnet18", module, "module.", back="smp")


def of_file(
    path: Path, logits: Callable[[Tensor], Tensor], name: str, module: nn.Module, prefix: str = "",
    back: str | None = None,
) -> Brought:  # fmt: skip
    sets = (f"model.name={name}", "model.options={}", NAMED)
    return Brought(path, logits, sets, back, ModelSettings(name=name), module, prefix)


def of_torchvision(name: str) -> Maker:
    def make(folder: Path) -> Brought:
        from torchvision.models import get_model

        torch.manual_seed(0)
        module = with_statistics(get_model(name, weights=None, weights_backbone=None, num_classes=3))
        torch.save({"model": module.state_dict(), "epoch": 3}, folder / "model_3.pth")
        return of_file(folder / "model_3.pth", lambda image: module(image)["out"], f"torchvision:{name}", module)

    return make


def of_mmsegmentation(head: Callable[[], nn.Module], prefix: str = "", spelling: Callable[[Any], Any] = dict) -> Maker:
    def make(folder: Path) -> Brought:
        torch.manual_seed(0)
        module = with_statistics(Network(head()))
        state = {f"{prefix}{name}": tensor for name, tensor in spelling(module.state_dict()).items()}
        if prefix:  # of DAFormer, HRDA and MIC: a student, and its teacher beside it
            state |= {f"ema_model.{name}": 0 * tensor for name, tensor in module.state_dict().items()}
        torch.save({"state_dict": state, "meta": {"CLASSES": list(CLASSES)}}, folder / "iter.pth")
        back = "hf" if head is segformer_head else None
        own = module if spelling is dict else None  # whose names the checkpoint has
        return Brought(folder / "iter.pth", module, back=back, module=own, prefix=prefix)

    return make


def segformer_head() -> nn.Module:
    return SegFormerHead(3)


def convolved_head() -> nn.Module:
    return ConvolvedHead(3)


def daformer_head() -> nn.Module:
    return DAFormerHead(3)


FAMILIES: dict[str, Maker] = {
    "transformers SegFormer": of_transformers(lambda: configurations()["segformer"]),
    "transformers UPerNet on ConvNeXt": of_transformers(lambda: configurations()["upernet"]),
    "transformers UPerNet on Swin": of_transformers(upernet_swin),
    "transformers BEiT": of_transformers(lambda: configurations()["beit"], interpolate_pos_encoding=True),
    "transformers DPT": of_transformers(lambda: configurations()["dpt"]),
    "transformers MobileViT": of_transformers(lambda: configurations()["mobilevit"]),
    "transformers MobileNetV2-DeepLab": of_transformers(lambda: configurations()["mobilenet_v2"]),
    "SMP Unet": of_smp("Unet"),
    "SMP Unet, one class": binary,
    "SMP Unet, no decoder norm": of_smp("Unet", decoder_use_norm=False),
    "SMP FPN": of_smp("FPN"),
    "SMP DeepLabV3Plus": of_smp("DeepLabV3Plus"),
    "SMP Segformer": of_smp("Segformer"),
    "Lightning, SMP FPN inside": of_lightning,
    "a whole module, SMP Unet in DataParallel": whole_module,
    "torchvision deeplabv3_mobilenet_v3_large": of_torchvision("deeplabv3_mobilenet_v3_large"),
    "torchvision fcn_resnet50": of_torchvision("fcn_resnet50"),
    "torchvision lraspp_mobilenet_v3_large": of_torchvision("lraspp_mobilenet_v3_large"),
    "mmsegmentation SegFormer": of_mmsegmentation(segformer_head),
    "mmsegmentation 0.20 SegFormer": of_mmsegmentation(segformer_head, spelling=numbered),
    "mmsegmentation's own SegFormer head": of_mmsegmentation(convolved_head),
    "mmsegmentation 1.x SegFormer": of_mmsegmentation(convolved_head, spelling=numbered),
    "DAFormer": of_mmsegmentation(daformer_head, "model."),
}


@torch.no_grad()
def difference(ours: Tensor, theirs: Tensor) -> float:
    """As a share of the largest logit."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


@torch.no_grad()
def as_its_library(brought: Brought) -> tuple[int, float]:
    """How many tensors were loaded, and the largest difference of the logits of one image."""
    start = read_start(brought.path, brought.network)
    named = [one for one in brought.sets if one.startswith("model.classes=")]
    if named:
        start.classes = tuple(named[0].partition("[")[2].rstrip("]").split(", "))
    network, _ = start.build(start.named_classes)
    image = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    theirs = brought.logits(image)
    return len(start.state), difference(logits_at(network.eval(), image, theirs.shape[-2:]), theirs)


@torch.no_grad()
def read_back(run_folder: Path, folder: Path, library: str) -> float:
    """How far the logits of a folder, read by its library, are from those of the run's model."""
    model = segrefinery.load(run_folder, "cpu")
    image = torch.randint(0, 256, (1, 3, 128, 128), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    read = normalize(image, *model.data.normalization)
    if library == "smp":
        import segmentation_models_pytorch as smp

        theirs = smp.from_pretrained(str(folder)).eval()(read)  # pyright: ignore[reportOptionalMemberAccess]
    else:
        import transformers as hf

        module = hf.AutoModelForSemanticSegmentation.from_pretrained(folder).eval()
        arguments = {"interpolate_pos_encoding": True} if module.config.model_type == "beit" else {}
        theirs = module(read, **arguments).logits
    return difference(logits_at(model.network, read, theirs.shape[-2:]), theirs)


@torch.no_grad()
def loaded_again(run_folder: Path, file: Path, brought: Brought) -> float:
    """How far the logits of the module that made a checkpoint are from those of the run's model, with its weights."""
    assert brought.module is not None
    model, content = segrefinery.load(run_folder, "cpu"), torch.load(file)
    state = content.get("state_dict", content.get("model", content))
    brought.module.load_state_dict({name: state[brought.prefix + name] for name in brought.module.state_dict()})
    image = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(2))
    theirs = brought.logits(image)
    return difference(logits_at(model.network, image, theirs.shape[-2:]), theirs)


def taken_through(name: str, folder: Path, formats: Sequence[str]) -> dict[str, Any]:
    """A family's line of the record.

    Args:
        formats: to export it as.
    """
    (theirs := folder / "theirs").mkdir(parents=True)
    brought = FAMILIES[name](theirs)
    loaded, largest = as_its_library(brought)
    line: dict[str, Any] = {
        "family": name,
        "loaded": loaded,
        "difference": largest,
        "faults": [],
        "back": None,
        "again": None,
        "one_size": [],
    }
    sets = [f"--set={one}" for one in (*SETS, *brought.sets)]
    adapted = folder / "run"
    commands: dict[str, list[object]] = {
        "check": ["check", SOURCE, TARGET, "--from", brought.path, "--scale=small", *sets],
        "adapt": ["adapt", "--from", brought.path, "-s", SOURCE, "-t", TARGET, "-o", adapted, "--scale=small", *sets],
        "predict": ["predict", adapted, TARGET, "-o", folder / "predictions"],
        "onnx": ["export", adapted, "-o", folder / "model.onnx"],
        "torch": ["export", adapted, "-o", folder / "model.pt2", "--format=torch"],
    }
    if brought.back:
        commands[brought.back] = ["export", adapted, "-o", folder / "back", f"--format={brought.back}"]
    if brought.module is not None:
        commands["state_dict"] = ["export", adapted, "-o", folder / "back.pth", "--format=state_dict"]
    commands = {what: one for what, one in commands.items() if what not in FORMATS or what in formats}
    for what, arguments in commands.items():
        outcome = run(arguments, limit=LIMIT)
        if what in ("onnx", "torch") and "--size HEIGHTxWIDTH" in outcome.said:  # of its graph
            line["one_size"].append(what)
            outcome = run([*arguments, "--size=128x128"], limit=LIMIT)
        if outcome.code:
            line["faults"].append(f"{what}: {outcome.said.strip().splitlines()[-1] if outcome.said else outcome.code}")
            if what == "adapt":
                break
    line["exported"] = [what for what in FORMATS if what in commands]
    if brought.back in commands and not line["faults"]:
        line["back"] = read_back(adapted, folder / "back", brought.back)
    if "state_dict" in commands and not line["faults"]:
        line["again"] = loaded_again(adapted, folder / "back.pth", brought)
    return line


FORMATS = ("onnx", "torch", "hf", "smp", "state_dict")
LIBRARIES = {"hf": "transformers", "smp": "segmentation_models_pytorch"}


def table(found: list[dict[str, Any]]) -> None:
    print("| family | tensors loaded | largest difference | adapted | exported as | read back by |")
    print("|---|---|---|---|---|---|")
    for line in found:
        failed = {fault.partition(":")[0] for fault in line["faults"]}
        written = ", ".join(
            f"{what} (one size)" if what in line["one_size"] else what
            for what in line["exported"]
            if what not in failed
        )
        library = next((LIBRARIES[what] for what in line["exported"] if what in LIBRARIES), "")
        readers = {library: line["back"], "the module that made it": line.get("again")}
        back = "; ".join(f"{who}, {far:.0e}" for who, far in readers.items() if far is not None) or "-"
        print(
            f"| {line['family']} | {line['loaded']} | {line['difference']:.0e} | "
            f"{'no' if 'adapt' in failed else 'yes'} | {written} | {back} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for the record and the models")
    parser.add_argument("--only", default="", help="families whose name has this in it")
    parser.add_argument(
        "--formats",
        nargs="+",
        default=FORMATS,
        choices=FORMATS,
        help="others want another folder",
    )
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    record = options.folder / "families.jsonl"
    torch.set_num_threads(1)
    done = {line["family"] for line in lines(record)}
    for number, name in enumerate(FAMILIES):
        if name in done or options.only not in name:
            continue
        folder = options.folder / str(number)
        shutil.rmtree(folder, ignore_errors=True)
        with record.open("a") as file:
            file.write(json.dumps(taken_through(name, folder, options.formats)) + "\n")
        shutil.rmtree(folder)
    found = lines(record)
    print(f"{machine()}\n")
    table(found)
    for line in found:
        for fault in line["faults"]:
            print(f"\n{line['family']}: {fault}")
    differences = [
        line[what] for line in found for what in ("difference", "back", "again") if line.get(what) is not None
    ]
    raise SystemExit(any(line["faults"] for line in found) or not all(one <= 1e-5 for one in differences))


if __name__ == "__main__":
    main()
