"""Every script of the benchmarks still finds what it imports: they are rarely run, and the house moves on."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
SCRIPTS = sorted(path for path in BENCHMARKS.glob("*/*.py"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_script_is_imported(path: Path, monkeypatch: pytest.MonkeyPatch):
    for folder in (BENCHMARKS, path.parent):  # the script's own folder comes first, as when it is run
        monkeypatch.syspath_prepend(str(folder))
    spec = importlib.util.spec_from_file_location(f"script_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up there
    spec.loader.exec_module(module)
    assert module.__doc__


def test_a_step_is_measured_beside_its_passes():
    command = [sys.executable, BENCHMARKS / "cost" / "step_overhead.py", "--one", "--case", "tiny"]
    done = subprocess.run([*command, "--recipes", "uncerda", "--repeats", "1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["passes"] == 1  # its labels were made before, and its source weighs nothing
    assert found["step"] > 0
    assert found["bare"] > 0


def test_no_result_is_told_of_two_settings():
    lines = [json.loads(line) for path in (BENCHMARKS / "results").glob("*.jsonl") for line in path.open()]
    keys: dict[tuple[object, ...], set[str]] = {}
    for line in lines:
        keys.setdefault(tuple(line[part] for part in ("task", "seed", "seconds", "miou")), set()).add(line["key"])
    assert len(keys) > 50
    assert [measured for measured, of in keys.items() if len(of) > 1] == []
