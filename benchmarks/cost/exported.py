"""Images a second of an exported network on a processor: onnxruntime against torch, on the same images and threads.

    python benchmarks/cost/exported.py efficientnet_lite0 small --threads 2 --size 512x1024

Random weights, which cost what trained ones do. The normalisation and the labels' full size are inside, as they are in
what `segrefinery export` writes; "the module" is that very module in torch, "predict" what `segrefinery predict`
computes of the same image (labels and confidences; without reading and writing). They take turns; medians are told.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lib.machine import machine
from lib.turns import take_turns
from segrefinery.core.pixelwise import confidence_and_label
from segrefinery.core.settings import two_sides
from segrefinery.data.transforms import DataSettings
from segrefinery.engine.model import Model
from segrefinery.evaluation.inference import predict_probs
from segrefinery.interchange.deployed import Deployed, largest_stride, need
from segrefinery.interchange.graph import onnx_bytes, program_of
from segrefinery.labels import LabelSpace
from segrefinery.models import ModelSettings, build_model

CLASSES = 19


def deployed(name: str) -> tuple[Deployed, int, Callable[[Tensor], Tensor]]:
    """A network that puts out labels, and its largest stride."""
    torch.manual_seed(0)
    network = build_model(ModelSettings(name=name, weights="none"), CLASSES).eval()
    space = LabelSpace.of("classes", [f"class {number}" for number in range(CLASSES)])
    model = Model(network, network, space, DataSettings())

    def predicted(image: Tensor) -> Tensor:
        return confidence_and_label(predict_probs(network, image[0], model.data))[1]

    return Deployed(model, "uint8", "labels"), largest_stride(model), predicted


def runner(content: bytes, threads: int) -> Callable[[Tensor], Tensor]:
    runtime = need("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda image: torch.from_numpy(session.run(None, {"image": image.numpy()})[0])


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="+")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", default="512x1024")
    parser.add_argument("--images", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    image = torch.randint(0, 256, (1, 3, *two_sides("--size", options.size)), dtype=torch.uint8)
    print(f"{machine()}; images of {options.size}, labels out, {options.images} of each after 2\n")
    print("| network | the module in torch, images/s | predict, images/s | onnxruntime, images/s | equal labels, % |")
    print("|---|---|---|---|---|")
    for name in options.networks:
        module, stride, predicted = deployed(name)
        with torch.inference_mode(False):
            program, _ = program_of(module, stride)
            run = runner(onnx_bytes(program, "labels", {}), options.threads)
        works = {"module": module, "predict": predicted, "onnxruntime": run}
        times = take_turns({name: partial(work, image) for name, work in works.items()}, options.images)
        speeds = " | ".join(f"{1 / median(seconds):.2f}" for seconds in times.values())
        equal = 100 * float((module(image) == run(image)).float().mean())
        print(f"| {name} | {speeds} | {equal:.3f} |", flush=True)


if __name__ == "__main__":
    main()
