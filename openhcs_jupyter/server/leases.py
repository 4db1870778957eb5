"""What a lease gives to a job: its part of the machine, as the job's compiler sees it."""

from __future__ import annotations

import msgspec

from openhcs_jupyter.server.model import Payload
from openhcs_jupyter.server.schedule import Lease
from openhcs_jupyter.server.settings import Limits
from openhcs_jupyter.topology import Topology, find_memory


class Machine:
    """What the server leases.

    Parameters
    ----------
    topology
        As it was discovered.
    cores
        Leased at most; None or 0 is all.
    limits
        Of each job.
    """

    def __init__(self, topology: Topology, cores: int | None, limits: Limits) -> None:
        self._topology = topology
        self._limits = limits
        self.cores = cores or topology.cores
        """Leased at most."""
        self.devices = {device.id: device for device in topology.devices}
        """By their ids."""

    def part(self, lease: Lease) -> Topology:
        """Return the part of the machine that is leased."""
        uuids = {self.devices[device].uuid for device in lease.devices}
        gpus = []
        for gpu in self._topology.gpus:
            mig = tuple(part for part in gpu.mig if part.uuid in uuids)
            if mig or gpu.uuid in uuids:
                gpus.append(msgspec.structs.replace(gpu, mig=mig))
        part = min(1.0, lease.workers / self.cores)
        _, free = find_memory()  # others may have taken some since the server started
        memory = min(int(self._topology.memory_free_bytes * part), free)
        if self._limits.memory_gb:
            memory = min(memory, int(self._limits.memory_gb * 1e9))
        return msgspec.structs.replace(
            self._topology, cores=lease.workers, gpus=tuple(gpus), memory_free_bytes=max(1, memory)
        )


def leased_payload(payload: Payload, lease: Lease) -> Payload:
    """Say in what a job is to do which cores and device it has."""
    device = "gpu" if lease.devices else "cpu"  # the only one that it sees
    options = msgspec.structs.replace(
        payload.options, workers=lease.workers, device=device, name=payload.name, scheduler=None, resume=None
    )
    return msgspec.structs.replace(payload, options=options)
