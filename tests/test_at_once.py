"""Commands that train nothing answer at once: none of them imports torch to read a text or to refuse a mistake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SLOW = {"torch", "torchvision", "timm", "lightning_fabric", "transformers"}
DAY, NIGHT = "scenes:day,count=4", "scenes:night,count=4"
SECONDS = 3.0
"""Of processor time; half a second to one on an idle machine. To import torch alone takes two, networks five to ten."""

# The exit code, what was imported and the processor time of a command, as its own process sees them.
PROBE = """
import json, resource, sys
from segrefinery.cli import main
code = 0
try:
    main()
except SystemExit as end:
    code = end.code or 0
used = resource.getrusage(resource.RUSAGE_SELF)
packages = sorted({name.partition(".")[0] for name in sys.modules})
print(json.dumps([code, packages, used.ru_utime + used.ru_stime]), file=sys.stderr)
"""


def probe(folder: Path, *arguments: str) -> tuple[int, set[str], float, str]:
    """Exit code, packages imported, seconds of processor time, and what was said."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *arguments], cwd=folder, capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, filter(None, sys.path)))},
    )  # fmt: skip
    *said, last = done.stderr.splitlines()
    code, packages, seconds = json.loads(last)
    return code, set(packages), seconds, done.stdout + "\n".join(said)


ANSWERS = {
    "--help": "Commands",
    "--version": "segrefinery",
    "adapt --help": "--target",
    "recipes": "self_training",
    "recipes cpsl --scale small": "self_labeling",
}
MISTAKES = {
    "recipes cpls": "Did you mean 'cpsl'",
    f"adapt -s {DAY} -t {NIGHT} -o out --set stages.adapt.tpyo=1": "unknown key",
    f"adapt -s {DAY} -t {NIGHT} -o out --set model.name=smal": "Did you mean 'small'",
    f"adapt -s {DAY} -t {NIGHT} -o out --set model.name=smp:unet": "expected smp:ARCHITECTURE/ENCODER",
    f"adapt -s {DAY} -t {NIGHT} -o out -r mine.yaml": "cannot be read",
    f"adapt -s {DAY} -t /nowhere -o out": "/nowhere",
    f"adapt -s folder:/nowhere -t {NIGHT} -o out": "/nowhere",
    f"adapt -s gta:/nowhere -t {NIGHT} -o out": "unknown data set",
    f"adapt -t {NIGHT} -o out": "--source",
    f"adapt -s {DAY} -t {NIGHT} -o held": "holds no run",
    f"check {DAY} /nowhere": "/nowhere",
    f"evaluate /nowhere --on {NIGHT}": "holds no trained model",
    f"predict /nowhere {NIGHT} -o out": "holds no trained model",
    "export /nowhere -o model.onnx": "holds no trained model",
    f"pseudo-label /nowhere {NIGHT} -o out": "holds no trained model",
    "compare /nowhere": "holds no trained model",
    f"audit /nowhere {NIGHT}": "holds no trained model",
    "report /nowhere": "holds no run",
}


@pytest.mark.parametrize("line", [*ANSWERS, *MISTAKES])
def test_no_network_is_imported_to_answer_or_to_refuse(line, tmp_path):
    (tmp_path / "held").mkdir()
    (tmp_path / "held" / "thesis.txt").touch()
    code, packages, seconds, said = probe(tmp_path, *line.split())
    assert not packages & SLOW
    assert code == (0 if line in ANSWERS else 2)
    assert (ANSWERS | MISTAKES)[line] in said
    assert seconds < SECONDS


def test_to_look_a_name_up_imports_its_module():
    import segrefinery.refine.entropy_mixture as package

    assert package.fit_two_gaussians.__module__ == "segrefinery.refine.entropy_mixture.formulas"
    with pytest.raises(AttributeError, match="has no attribute 'fit_three_gaussians'"):
        package.fit_three_gaussians  # noqa: B018
