"""Who is next: leases of cores and GPUs to waiting jobs, so that owners take turns. Pure; nothing here has a clock."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import msgspec

from openhcs_jupyter.server.settings import Quota

GPU_WEIGHT = 8
"""Cores for which a GPU counts in an owner's share."""


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """A job that may be started."""

    job: str
    owner: str
    number: int
    """Order of submission."""
    priority: int = 0
    """Among its owner's jobs."""
    workers: int | None = None
    """Cores that it asks for; None takes what there is."""
    device: str = "cpu"
    """``cpu``, ``gpu`` (some), ``gpu:N``, or ``auto``: one if one is free."""


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """What a job holds."""

    job: str
    owner: str
    workers: int
    devices: tuple[str, ...] = ()

    @property
    def weight(self) -> int:
        """What a second of it costs its owner."""
        return self.workers + GPU_WEIGHT * len(self.devices)


def decide(
    waiting: Sequence[Waiting],
    held: Sequence[Lease],
    used: Mapping[str, float],
    *,
    cores: int,
    devices: Sequence[str],
    quota_of: Callable[[str], Quota],
) -> list[Lease]:
    """Lease what is free.

    The next job is one of the owner who has used least so far; of that owner's, the one of the highest priority, then
    the earliest. A job gets the cores that it asks for; one that asks for none in particular gets its part of the
    machine, divided by the jobs that run and wait, and more where cores would stay idle. The first job of an owner that
    does not fit keeps what it needs free, so that small jobs never starve a large one.

    Parameters
    ----------
    waiting
        In any order.
    held
        By jobs that run.
    used
        Core-seconds by owner.
    cores
        Of the server.
    devices
        Ids of its GPUs.
    quota_of
        What an owner may have at once.

    Returns
    -------
    list of Lease
        In the order in which they are to be started.
    """
    leases = list(held)
    granted: list[Lease] = []
    queues: dict[str, list[Waiting]] = {}
    for one in sorted(waiting, key=lambda one: (-one.priority, one.number)):
        queues.setdefault(one.owner, []).append(one)
    kept = 0
    while queues:
        owner = min(queues, key=lambda owner: (*_claim(owner, leases, used), queues[owner][0].number))
        one = queues[owner][0]
        left = sum(len(queue) for queue in queues.values())
        lease = _lease(one, leases, left, cores, devices, quota_of(owner), kept)
        if lease is None:
            # What it waits for is kept for it, unless only its owner's quota stands against it.
            if _lease(one, leases, left, cores, devices, Quota(), kept) is None and one.device in ("cpu", "auto"):
                kept += _wanted(one, cores)
            del queues[owner]
            continue
        leases.append(lease)
        granted.append(lease)
        queues[owner].pop(0)
        if not queues[owner]:
            del queues[owner]
    return granted


def first_charge(owner: str, used: Mapping[str, float], at_work: Collection[str]) -> float:
    """Return what an owner who comes anew is charged: time when they had no jobs gives no claim against others."""
    others = [used.get(other, 0.0) for other in at_work if other != owner]
    return max(used.get(owner, 0.0), min(others, default=0.0))


def _claim(owner: str, leases: Sequence[Lease], used: Mapping[str, float]) -> tuple[float, int]:
    """Order owners: who holds least for what they have used comes first."""
    holding = sum(lease.weight for lease in leases if lease.owner == owner)
    return used.get(owner, 0.0) + holding, holding


def _wanted(one: Waiting, cores: int) -> int:
    return min(one.workers, cores) if one.workers else 1


def _lease(
    one: Waiting, leases: Sequence[Lease], left: int, cores: int, devices: Sequence[str], quota: Quota, kept: int
) -> Lease | None:
    own = [lease for lease in leases if lease.owner == one.owner]
    if quota.active and len(own) >= quota.active:
        return None
    free = cores - kept - sum(lease.workers for lease in leases)
    if quota.cores:
        free = min(free, quota.cores - sum(lease.workers for lease in own))
    least = min(_wanted(one, cores), quota.cores or cores)
    if free < least:
        return None
    workers = least
    if not one.workers:
        workers = max(1, min(free, cores // (len(leases) + left)))
    taken = {device for lease in leases for device in lease.devices}
    there = [device for device in devices if device not in taken]
    if quota.devices and sum(len(lease.devices) for lease in own) >= quota.devices:
        there = []
    if one.device == "cpu" or (one.device == "auto" and not there):
        return Lease(job=one.job, owner=one.owner, workers=workers)
    fitting = [device for device in there if one.device in ("auto", "gpu", device)]
    if not fitting:
        return None
    return Lease(job=one.job, owner=one.owner, workers=workers, devices=(fitting[0],))
