"""How many cores a process may use, as containers say it, and what is set for torch's threads."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from segrefinery.core.processor import share_fairly, usable_cores


@pytest.fixture
def many_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)


def container(folder, line, files):
    (folder / "proc" / "self").mkdir(parents=True)
    (folder / "proc" / "self" / "cgroup").write_text(line)
    for name, text in files.items():
        path = folder / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / "proc", folder / "groups"


@pytest.mark.parametrize(
    ("line", "files", "cores"),
    [
        ("0::/box\n", {"box/cpu.max": "50000 100000\n"}, 1),  # half a core
        ("0::/box\n", {"box/cpu.max": "250000 100000\n"}, 3),
        ("0::/box\n", {"box/cpu.max": "max 100000\n"}, 16),
        ("0::/outer/box\n", {"outer/cpu.max": "200000 100000\n", "outer/box/cpu.max": "max 100000\n"}, 2),
        ("4:cpu,cpuacct:/box\n", {"cpu/box/cpu.cfs_quota_us": "400000", "cpu/box/cpu.cfs_period_us": "100000"}, 4),
        ("4:cpu:/box\n", {"cpu/box/cpu.cfs_quota_us": "-1", "cpu/box/cpu.cfs_period_us": "100000"}, 16),
        ("4:memory:/box\n", {}, 16),
        ("0::/box\n", {"box/cpu.max": "rubbish"}, 16),
    ],
)
def test_a_container_s_quota_counts(tmp_path, many_cores, line, files, cores):
    assert usable_cores(*container(tmp_path, line, files)) == cores


def test_without_control_groups_the_cores_it_is_bound_to_count(tmp_path, many_cores):
    assert usable_cores(tmp_path / "none", tmp_path / "none") == 16


def test_what_the_user_set_stands():
    own = {"OMP_NUM_THREADS": "7", "OMP_WAIT_POLICY": "ACTIVE"}
    share_fairly(own)
    assert own == {"OMP_NUM_THREADS": "7", "OMP_WAIT_POLICY": "ACTIVE"}


def test_threads_are_as_many_as_the_cores_and_sleep_when_idle():
    set_for_torch: dict[str, str] = {}
    share_fairly(set_for_torch)
    assert set_for_torch["OMP_NUM_THREADS"] == str(usable_cores())
    assert int(set_for_torch["GOMP_SPINCOUNT"]) > 0


def test_the_command_line_sets_it_before_torch_counts_its_threads():
    code = (
        "import sys; sys.argv[1:] = ['--version']; from segrefinery import cli\n"
        "try: cli.main()\nexcept SystemExit: pass\n"
        "import os; assert 'torch' not in sys.modules; print(os.environ['GOMP_SPINCOUNT'])"
    )
    own = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    said = subprocess.run([sys.executable, "-c", code], env=own, capture_output=True, text=True, check=True).stdout
    assert int(said.split()[-1]) > 0
