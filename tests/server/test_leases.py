"""What a job may take of the machine."""

from __future__ import annotations

import msgspec
import psutil

from openhcs_jupyter.server.leases import Machine
from openhcs_jupyter.server.schedule import Lease
from openhcs_jupyter.server.settings import Limits
from openhcs_jupyter.topology import discover


def test_no_job_is_given_memory_that_others_have_taken_since_the_server_started() -> None:
    here = discover(file=False)
    emptier = msgspec.structs.replace(here, cores=4, memory_bytes=1 << 60, memory_free_bytes=1 << 60)
    lease = Lease(job="1", owner="ada", workers=2, devices=())
    part = Machine(emptier, None, Limits()).part(lease)
    assert part.cores == 2
    assert 0 < part.memory_free_bytes <= psutil.virtual_memory().total


def test_cores_bring_their_share_of_the_memory() -> None:
    here = msgspec.structs.replace(discover(file=False), cores=4, memory_free_bytes=1 << 20)
    part = Machine(here, None, Limits()).part(Lease(job="1", owner="ada", workers=1, devices=()))
    assert part.memory_free_bytes == 1 << 18
