"""A day of a server in a moment: jobs come, are leased what `decide` says, and end."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from openhcs_jupyter.server.schedule import Lease, Waiting, decide, first_charge
from openhcs_jupyter.server.settings import Quota


class Job(NamedTuple):
    """What somebody wants done."""

    owner: str
    submitted: float
    seconds: float
    workers: int


def simulate(jobs: Sequence[Job], *, cores: int, until: float) -> dict[str, float]:
    """Return the core-seconds that each owner has had."""
    coming = sorted(range(len(jobs)), key=lambda number: jobs[number].submitted, reverse=True)
    waiting: dict[int, Waiting] = {}
    running: dict[int, tuple[Lease, float]] = {}
    ends: list[tuple[float, int]] = []
    used: dict[str, float] = defaultdict(float)
    had: dict[str, float] = defaultdict(float)
    now = 0.0
    while now < until:
        while coming and jobs[coming[-1]].submitted <= now:
            number = coming.pop()
            job = jobs[number]
            at_work = {one.owner for one in waiting.values()} | {lease.owner for lease, _ in running.values()}
            if job.owner not in at_work:
                used[job.owner] = first_charge(job.owner, used, at_work)
            waiting[number] = Waiting(job=str(number), owner=job.owner, number=number, workers=job.workers)
        claims = dict(used)
        for lease, since in running.values():
            claims[lease.owner] = claims.get(lease.owner, 0.0) + lease.weight * (now - since)
        held = [lease for lease, _ in running.values()]
        # Only each owner's first few can be next.
        first = [one for owner in {one.owner for one in waiting.values()} for one in _first(waiting, owner, cores)]
        for lease in decide(first, held, claims, cores=cores, devices=(), quota_of=lambda _: Quota()):
            number = int(lease.job)
            del waiting[number]
            running[number] = (lease, now)
            heapq.heappush(ends, (now + jobs[number].seconds, number))
        times = [ends[0][0]] if ends else []
        times += [jobs[coming[-1]].submitted] if coming else []
        if not times:
            break
        now = min(*times, until) if len(times) > 1 else min(times[0], until)
        while ends and ends[0][0] <= now:
            lease, since = running.pop(heapq.heappop(ends)[1])
            used[lease.owner] += lease.weight * (now - since)
            had[lease.owner] += lease.workers * (now - since)
    for lease, since in running.values():
        had[lease.owner] += lease.workers * (now - since)
    return dict(had)


def _first(waiting: dict[int, Waiting], owner: str, count: int) -> list[Waiting]:
    found = []
    for one in waiting.values():
        if one.owner == owner:
            found.append(one)
            if len(found) == count:
                break
    return found
