"""How many cores a process may use, as containers say it, and what is set for torch's threads."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from segrefinery.core.processor import free_cores, has_bf16, share_fairly, usable_cores


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


@pytest.mark.parametrize(("line", "free"), [("0.1 0.2 0.3 1/200 77", 16), ("9 9 9 4/200 77", 13), ("rubbish", 16)])
def test_who_else_works_takes_a_core(tmp_path, monkeypatch, line, free):
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    (tmp_path / "loadavg").write_text(line)
    assert free_cores(tmp_path) == free
    assert free_cores(tmp_path / "none") == 16


@pytest.mark.parametrize(("working", "policy"), [(1, None), (2, "PASSIVE")])
def test_idle_threads_sleep_where_others_work(tmp_path, many_cores, monkeypatch, working, policy):
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    (tmp_path / "loadavg").write_text(f"0 0 0 {working}/200 77")
    set_for_torch: dict[str, str] = {}
    share_fairly(set_for_torch, tmp_path)
    assert set_for_torch == {"OMP_NUM_THREADS": "16"} | ({"OMP_WAIT_POLICY": policy} if policy else {})


@pytest.mark.parametrize(
    "own", [{"OMP_NUM_THREADS": "7", "OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_NUM_THREADS": "7", "GOMP_SPINCOUNT": "5"}]
)
def test_what_the_user_set_stands(tmp_path, own):
    (tmp_path / "loadavg").write_text("0 0 0 999/1000 77")
    found = dict(own)
    share_fairly(found, tmp_path)
    assert found == own


def test_the_command_line_sets_it_before_torch_counts_its_threads():
    code = (
        "import sys; sys.argv[1:] = ['--version']; from segrefinery import cli\n"
        "try: cli.main()\nexcept SystemExit: pass\n"
        "import os; assert 'torch' not in sys.modules; print(os.environ['OMP_NUM_THREADS'])"
    )
    own = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    said = subprocess.run([sys.executable, "-c", code], env=own, capture_output=True, text=True, check=True).stdout
    assert int(said.split()[-1]) == usable_cores()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("model name : x\nflags\t\t: fpu avx512f avx512_bf16\nflags : fpu\n", True),
        ("flags : fpu amx_bf16 amx_tile\n", True),
        ("flags : fpu avx512f\n", False),
        ("Features : fp asimd bf16\n", True),
        ("something else\n", None),
    ],
)
def test_whether_a_processor_has_bfloat16_is_read_from_its_flags(text, found, tmp_path):
    (tmp_path / "cpuinfo").write_text(text)
    assert has_bf16(tmp_path) is found
    assert has_bf16(tmp_path / "nowhere") is None


def test_a_processor_without_bfloat16_is_said(monkeypatch, caplog):
    from segrefinery.core import processor
    from segrefinery.engine import processes

    monkeypatch.setattr(processor, "has_bf16", lambda: False)
    processes.make_fabric("32-true")
    assert not caplog.text
    processes.make_fabric("bf16-mixed")
    assert "no bfloat16 of its own" in caplog.text
