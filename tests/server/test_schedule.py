"""Leases: nothing is leased twice, nobody starves, owners get equal shares."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st

from openhcs_jupyter.server.schedule import Lease, Waiting, decide
from openhcs_jupyter.server.settings import Quota
from tests.server.simulation import Job, simulate

_devices = st.sampled_from(["cpu", "auto", "gpu", "gpu:0", "gpu:1"])
_waiting = st.lists(
    st.builds(
        dict,
        owner=st.sampled_from("abc"),
        priority=st.integers(-2, 2),
        workers=st.none() | st.integers(1, 6),
        device=_devices,
    ),
    max_size=12,
)
_quotas = st.builds(Quota, active=st.integers(0, 3), cores=st.integers(0, 4), devices=st.integers(0, 1))


@settings(deadline=None)
@given(jobs=_waiting, quota=_quotas, cores=st.integers(1, 8), gpus=st.integers(0, 2), steps=st.integers(1, 6))
def test_nothing_is_leased_twice_and_quotas_hold(
    jobs: list[dict[str, object]], quota: Quota, cores: int, gpus: int, steps: int
) -> None:
    devices = [f"gpu:{number}" for number in range(gpus)]
    waiting = [Waiting(job=f"{number}", number=number, **job) for number, job in enumerate(jobs)]
    held: list[Lease] = []
    for _ in range(steps):
        granted = decide(waiting, held, {}, cores=cores, devices=devices, quota_of=lambda _: quota)
        asked = {one.job: one for one in waiting}
        held += granted
        waiting = [one for one in waiting if one.job not in {lease.job for lease in granted}]
        assert sum(lease.workers for lease in held) <= cores
        used = [device for lease in held for device in lease.devices]
        assert len(used) == len(set(used))
        for owner in "abc":
            own = [lease for lease in held if lease.owner == owner]
            assert not quota.active or len(own) <= quota.active
            assert not quota.cores or sum(lease.workers for lease in own) <= quota.cores
            assert not quota.devices or sum(len(lease.devices) for lease in own) <= quota.devices
        for lease in granted:
            wanted = asked[lease.job]
            assert lease.workers >= 1
            if wanted.device.startswith("gpu"):
                assert len(lease.devices) == 1
                assert wanted.device in ("gpu", lease.devices[0])
        held = held[1:]  # one ends


def test_priorities_count_within_an_owner_only() -> None:
    jobs = [
        Waiting(job="a-late", owner="a", number=2, priority=5, workers=1),
        Waiting(job="a-early", owner="a", number=1, workers=1),
        Waiting(job="b", owner="b", number=3, priority=-5, workers=1),
    ]
    granted = decide(jobs, [], {}, cores=2, devices=(), quota_of=lambda _: Quota())
    assert [lease.job for lease in granted] == ["a-late", "b"]


def test_a_lone_job_gets_the_whole_machine_and_several_share_it() -> None:
    def jobs(count: int) -> list[Waiting]:
        return [Waiting(job=f"{number}", owner="a", number=number) for number in range(count)]

    def workers(count: int) -> list[int]:
        return [lease.workers for lease in decide(jobs(count), [], {}, cores=8, devices=(), quota_of=lambda _: Quota())]

    assert workers(1) == [8]
    assert workers(2) == [4, 4]
    assert workers(9) == [1] * 8


def test_a_large_job_is_not_passed_by_for_ever() -> None:
    held = [Lease(job="long", owner="b", workers=2)]
    waiting = [Waiting(job="large", owner="a", number=1, workers=4)]
    waiting += [Waiting(job=f"small{number}", owner="b", number=number, workers=1) for number in range(2, 9)]
    assert decide(waiting, held, {"b": 100.0}, cores=4, devices=(), quota_of=lambda _: Quota()) == []


@settings(deadline=None, max_examples=20)
@given(
    owners=st.integers(2, 6),
    lengths=st.lists(st.integers(1, 20), min_size=6, max_size=6),
    widths=st.lists(st.integers(1, 3), min_size=6, max_size=6),
)
def test_owners_share_alike_whatever_their_jobs_are_like(owners: int, lengths: list[int], widths: list[int]) -> None:
    jobs = [
        Job(owner=f"{owner}", submitted=0.0, seconds=lengths[owner], workers=widths[owner])
        for owner in range(owners)
        for _ in range(2000 // (lengths[owner] * widths[owner]))
    ]
    used = simulate(jobs, cores=4, until=300.0)
    longest = max(job.seconds for job in jobs)
    assert max(used.values()) - min(used.values()) <= 4 * longest  # jobs keep their cores


def test_who_comes_late_has_no_claim_from_before() -> None:
    jobs = [Job(owner="early", submitted=0.0, seconds=2.0, workers=1) for _ in range(2000)]
    jobs += [Job(owner="late", submitted=500.0, seconds=2.0, workers=1) for _ in range(2000)]
    since: dict[str, float] = defaultdict(float)
    before = simulate(jobs, cores=4, until=500.0)
    after = simulate(jobs, cores=4, until=700.0)
    for owner in ("early", "late"):
        since[owner] = after[owner] - before.get(owner, 0.0)
    assert 0.8 < since["early"] / since["late"] < 1.25
