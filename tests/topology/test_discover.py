"""Discovery of the machine: quotas, limits, affinity, NUMA nodes, and topologies read from a file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.topology import Gpu, Link, MigSlice, NumaNode, Topology, discover, load_topology, save_topology

MIB = 1 << 20


@pytest.fixture(autouse=True)
def _no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENHCS_TOPOLOGY", raising=False)


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


UNIFIED = "30 25 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"


def test_this_machine() -> None:
    found = discover()
    assert 1 <= found.cores <= len(os.sched_getaffinity(0))
    assert found.core_ids == tuple(sorted(os.sched_getaffinity(0)))
    assert 0 < found.memory_free_bytes <= found.memory_bytes <= psutil.virtual_memory().total


def test_without_proc_and_sys_everything_is_free(tmp_path: Path) -> None:
    found = discover(tmp_path)
    assert found.cores == len(os.sched_getaffinity(0))
    assert found.memory_bytes == psutil.virtual_memory().total
    assert found.numa_nodes == ()


def test_where_the_system_tells_no_affinity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    found = discover(tmp_path)
    assert found.cores == os.cpu_count()
    assert found.core_ids == ()


def test_cgroup_2_quota_and_limit_of_the_group_and_its_ancestors(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/user/job",
            "proc/self/mountinfo": UNIFIED,
            "sys/fs/cgroup/user/cpu.max": "max 100000",
            "sys/fs/cgroup/user/memory.max": str(64 * MIB),
            "sys/fs/cgroup/user/memory.current": str(50 * MIB),
            "sys/fs/cgroup/user/memory.stat": f"anon 1\ninactive_file {20 * MIB}",
            "sys/fs/cgroup/user/job/cpu.max": "150000 100000",
            "sys/fs/cgroup/user/job/memory.max": "max",
        },
    )
    found = discover(root)
    assert found.cores == 1
    assert found.memory_bytes == 64 * MIB
    assert found.memory_free_bytes == 34 * MIB


def test_control_groups_are_found_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "proc/self/cgroup": "0::/user/job", "proc/self/mountinfo": UNIFIED,
        "sys/fs/cgroup/user/job/cpu.max": "200000 100000", "sys/fs/cgroup/user/job/memory.max": str(64 * MIB),
    }  # fmt: skip
    tree(tmp_path, files)
    opened: list[Path] = []
    read = Path.read_text

    def noting(path: Path, *how: Any, **named: Any) -> str:
        opened.append(path)
        return read(path, *how, **named)

    monkeypatch.setattr(Path, "read_text", noting)
    discover(tmp_path)
    assert {tmp_path / name for name in files} <= set(opened)
    assert len(opened) == len(set(opened))


def test_a_quota_below_one_core_is_one_core(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/",
        "proc/self/mountinfo": UNIFIED,
        "sys/fs/cgroup/cpu.max": "50000 100000",
    }
    assert discover(tree(tmp_path, files)).cores == 1


def test_cgroup_1(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "5:memory:/job\n3:cpu,cpuacct:/job\n0::/",
            "proc/self/mountinfo": "31 25 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
            "32 25 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
            "33 25 0:29 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer",
            "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": "100000",
            "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
            "sys/fs/cgroup/memory/job/memory.limit_in_bytes": str(96 * MIB),
            "sys/fs/cgroup/memory/job/memory.usage_in_bytes": str(32 * MIB),
            "sys/fs/cgroup/memory/job/memory.stat": f"inactive_file 7\ntotal_inactive_file {16 * MIB}",
        },
    )
    found = discover(root)
    assert found.cores == 1
    assert found.memory_bytes == 96 * MIB
    assert found.memory_free_bytes == 80 * MIB


@pytest.mark.parametrize("mounted", ["/docker/abc", "/"])
def test_a_container_that_sees_only_its_own_group(tmp_path: Path, mounted: str) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "5:memory:/docker/abc",
            "proc/self/mountinfo": f"32 25 0:28 {mounted} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": str(96 * MIB),
        },
    )
    assert discover(root).memory_bytes == 96 * MIB


def test_numa_nodes_hold_only_the_cores_that_may_be_used(tmp_path: Path) -> None:
    mine = min(os.sched_getaffinity(0))
    root = tree(
        tmp_path,
        {
            "sys/devices/system/node/node0/cpulist": f"{mine},100-103",
            "sys/devices/system/node/node0/meminfo": "Node 0 MemTotal:       1024 kB\nNode 0 MemFree:  1 kB",
            "sys/devices/system/node/node1/cpulist": "104-107",
            "sys/devices/system/node/node10/cpulist": "",
        },
    )
    assert discover(root).numa_nodes == (NumaNode(index=0, cores=(mine,), memory_bytes=MIB),)


def test_affinity_of_a_process_that_was_bound_to_one_core() -> None:
    core = max(os.sched_getaffinity(0))
    code = "from openhcs_jupyter.topology import discover; t = discover(); print(t.cores, t.core_ids)"
    done = subprocess.run(
        ["taskset", "-c", str(core), sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.split(maxsplit=1) == ["1", f"({core},)\n"]


WORKSTATION = Topology(
    host="workstation",
    cores=32,
    core_ids=tuple(range(32)),
    numa_nodes=(NumaNode(index=0, cores=tuple(range(32)), memory_bytes=128 << 30),),
    memory_bytes=128 << 30,
    memory_free_bytes=100 << 30,
    gpus=(
        Gpu(
            uuid="GPU-1",
            name="NVIDIA H100",
            memory_bytes=80 << 30,
            memory_free_bytes=79 << 30,
            compute_capability=(9, 0),
            pcie="0000:3B:00.0",
            numa_node=0,
            cores=(0, 1),
            links=(Link(to="GPU-2", kind="nvlink", lanes=18),),
            mig=(MigSlice(uuid="MIG-1", profile="1g.10gb", memory_bytes=10 << 30, memory_free_bytes=10 << 30),),
        ),
    ),
)


def test_a_topology_file_stands_for_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "workstation.json"
    save_topology(WORKSTATION, path)
    assert load_topology(path) == WORKSTATION
    monkeypatch.setenv("OPENHCS_TOPOLOGY", str(path))
    assert discover() == WORKSTATION
    assert discover(file=False).host != "workstation"


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ('{"host": "a", "cores": "many", "memory_bytes": 1, "memory_free_bytes": 1}', "cores"),
        ('{"host": "a", "cores": 0, "memory_bytes": 1, "memory_free_bytes": 1}', "cores"),
        ('{"host": "a", "memory_bytes": 1, "memory_free_bytes": 1}', "cores"),
        ('{"host": "a", "cores": 1, "memory_bytes": 1, "memory_free_bytes": 1, "gpu": []}', "gpu"),
        (
            '{"host": "a", "cores": 1, "memory_bytes": 1, "memory_free_bytes": 1, "gpus": [{"uuid": 3}]}',
            r"gpus\[0\].uuid",
        ),
        ("{", "truncated"),
    ],
)
def test_a_broken_topology_file_is_named_with_its_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, field: str
) -> None:
    path = tmp_path / "broken.json"
    path.write_text(text)
    monkeypatch.setenv("OPENHCS_TOPOLOGY", str(path))
    with pytest.raises(UsageError, match=rf"broken\.json.*{field}"):
        discover()


def test_a_topology_file_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENHCS_TOPOLOGY", str(tmp_path / "nowhere.json"))
    with pytest.raises(UsageError, match=r"nowhere\.json"):
        discover()
