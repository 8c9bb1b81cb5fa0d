"""Whole runs on a pretended GPU: what would fail for its devices or its autocast fails here."""

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]

RULES = """
import pytest, torch
from pretended_gpu import OnGpu, pretended_gpu

with pretended_gpu():
    layer = torch.nn.Linear(4, 2).to("cuda")
    image = torch.ones(3, 4).cuda()
    assert isinstance(layer.weight, torch.nn.Parameter)
    assert layer.weight.device.type == image.device.type == torch.zeros_like(image).device.type == "cuda"
    assert torch.arange(3, device=image.device).device.type == "cuda"
    with pytest.raises(RuntimeError, match="same device"):
        image + torch.ones(4)
    with pytest.raises(RuntimeError, match="indexed"):
        torch.ones(4)[image[0].long()]
    with pytest.raises(RuntimeError, match="generator"):
        torch.randint(4, (2,), device="cuda", generator=torch.Generator())
    with pytest.raises(TypeError, match="numpy"):
        image.numpy()
    image[1:] += 1
    assert (image * 2)[torch.tensor([2])].cpu().numpy().tolist() == [[4.0] * 4]
    with torch.autocast("cuda", torch.bfloat16):
        scores = layer(image)
        assert scores.dtype == torch.bfloat16
        assert scores.exp().dtype == scores.softmax(1).dtype == torch.float32  # on a processor they stay as they are
        assert (scores.relu() + 1).dtype == torch.bfloat16
        loss = torch.nn.functional.cross_entropy(scores, torch.zeros(3, dtype=torch.long, device="cuda"))
    loss.backward()
    assert isinstance(layer.weight.grad, OnGpu)
    torch.optim.AdamW(layer.parameters()).step()
assert not torch.cuda.is_available() or torch.cuda.get_device_name() != "pretended"
"""


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-W", "ignore", *arguments], cwd=TESTS, capture_output=True, text=True)


def test_its_rules_are_a_gpus():
    done = python("-c", RULES)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_runs_in_mixed_precision():
    """Each of the five methods, a host of two scales, and a stack, in one process: the start costs more than a run."""
    recipes = ["uncerda", "cpsl", "pixel_attention", "prn", "ir2f_hrda", "stack"]
    done = python("pretended_gpu.py", *recipes)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.endswith(" ok")] == [f"{name} ok" for name in recipes]
