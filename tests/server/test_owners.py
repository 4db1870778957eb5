"""Several owners on one server: accounts of their own, and nothing of one that another one reaches."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from openhcs_jupyter.repository.embedded import EmbeddedRepository
from openhcs_jupyter.server import protocol as p
from tests.plates import write_plate
from tests.server.serving import SLOW, Client, RefusedError, ServerProcess, computed, payload, running

OWNERS = {"anna": "games", "ben": "news", "cleo": "backup"}
"""Accounts that every Debian has, and no test's files."""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start jobs under other accounts")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Return a server for three owners, each with a repository of their own, and cleo its administrator."""
    folder = tmp_path_factory.mktemp("owners")
    for place in (folder, *folder.parents):
        if not place.stat().st_mode & 0o001:
            place.chmod(place.stat().st_mode | 0o011)
    for owner, account in OWNERS.items():
        write_plate(folder / f"plate-{owner}", wells=("A01", "A02", "B01", "B02"), fields=2, z=2)
        with EmbeddedRepository(folder / owner) as repository:
            repository.import_plate(folder / f"plate-{owner}")
        found = pwd.getpwnam(account)
        for path in (folder / owner, *(folder / owner).rglob("*")):
            os.chown(path, found.pw_uid, found.pw_gid)
        (folder / owner).chmod(0o700)
    (folder / "homes").mkdir()
    settings = folder / "server.toml"
    settings.write_text(
        f'repository = "{folder}/{{owner}}"\nadministrators = ["cleo"]\nmax_workers = 2\n[accounts]\n'
        + "".join(f'{owner} = "{account}"\n' for owner, account in OWNERS.items())
    )
    within = _where_all_may_run_python()
    options = ("--config", str(settings))
    with running(folder / "server", *options, within=within, PYTHONDONTWRITEBYTECODE="1") as made:
        yield made


def _where_all_may_run_python() -> tuple[str, ...]:
    """Return what runs a command where other accounts reach the interpreter, though it lies in root's own folder."""
    place = Path(sys.executable).resolve()
    closed = next((folder for folder in reversed(place.parents) if not folder.stat().st_mode & 0o001), None)
    if closed is None:
        return ()
    first = closed / place.relative_to(closed).parts[0]
    script = (
        'shown=$(mktemp -d) && chmod 755 "$shown" && mkdir "$shown/$(basename "$1")" '
        '&& mount --bind "$1" "$shown/$(basename "$1")" && mount --rbind "$shown" "$0" && shift && exec "$@"'
    )
    return ("unshare", "--mount", "--propagation", "private", "sh", "-c", script, str(closed), str(first))


@pytest.fixture(scope="module")
def clients(server: ServerProcess) -> dict[str, Client]:
    """Return a connection of each owner."""
    return {owner: server.client(_token(server, owner)) for owner in OWNERS}


def _token(server: ServerProcess, owner: str) -> str:
    file = server.state.parent / f"{owner}.token"
    command = [sys.executable, "-m", "openhcs_jupyter.cli", "token", owner, "--state", str(server.state)]
    subprocess.run([*command, "--file", str(file)], check=True, timeout=60)
    assert file.stat().st_mode & 0o777 == 0o600
    return file.read_text().strip()


SPY = """
import os, pathlib

def may_read(path):
    try:
        return bool(list(path.iterdir()) if path.is_dir() else path.is_file() and path.read_bytes())
    except OSError:
        return False

places = [pathlib.Path(place) for place in {places!r}]
paths = [path for place in places for path in (place, *place.rglob("*"))]

def is_foreign(path):
    try:
        return path.stat().st_uid != os.getuid()
    except OSError:
        return False

others = [path for path in pathlib.Path("/proc").glob("[0-9]*") if is_foreign(path)]
found = [str(path) for path in paths if may_read(path)]
# One that was root's when it was found may have become this account's since.
found += [str(path) for path in others if may_read(path / "environ") and is_foreign(path)]
status = dict(line.split(":", 1) for line in pathlib.Path("/proc/self/status").read_text().splitlines())
rights = [status[name].strip("\\t0") for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")]
kept = (*rights, status["NoNewPrivs"].strip(), os.environ["HOME"], sorted(os.getgroups()))
raise SystemError(f"{{os.getuid()}} {{found}} {{kept}}")
"""


def test_three_owners_eight_jobs_two_workers(clients: dict[str, Client]) -> None:
    jobs = []
    for number in range(8):
        owner = list(OWNERS)[number % 3]
        jobs.append((owner, clients[owner].submit(payload(SLOW.replace("0.15", f"0.01{number}"), f"job{number}")).id))
    for owner, job in jobs:
        done = clients[owner].wait(job)
        assert (done.state, done.done) == ("done", 8), done.message
        assert computed(clients[owner].events(job)) == list(range(8))
        assert Path(done.folder).stat().st_uid == pwd.getpwnam(OWNERS[owner]).pw_uid
    # Each sees their own, the administrator everybody's.
    assert {job.owner for job in clients["anna"].ask(p.ListJobs).jobs} == {"anna"}
    with pytest.raises(RefusedError, match="identity"):
        clients["anna"].ask(p.ListJobs, everybody=True)
    assert len(clients["cleo"].ask(p.ListJobs, everybody=True).jobs) == 8
    foreign = next(job for owner, job in jobs if owner == "ben")
    for request in (p.GetJob, p.Cancel, p.Park, p.Resume, p.GetEvents, p.GetLog, p.View):
        with pytest.raises(RefusedError, match="unknown"):
            clients["anna"].ask(request, job=foreign)
    assert clients["cleo"].job(foreign).owner == "ben"
    assert clients["cleo"].ask(p.Fetch, job=foreign, file="run.json").size > 0
    # Whoever asks, a job is shown by its owner's account.
    file = Path(clients["cleo"].ask(p.View, job=foreign).file.partition(":")[2])
    orders = (file.parent.parent / "show.json").stat()
    assert (orders.st_uid, orders.st_mode & 0o777) == (pwd.getpwnam(OWNERS["ben"]).pw_uid, 0o600)


def test_no_job_reads_what_another_owner_has(server: ServerProcess, clients: dict[str, Client]) -> None:
    kept = clients["ben"].submit(payload(SLOW))
    assert clients["ben"].wait(kept.id).state == "done"
    folder = server.state.parent
    places = [str(folder / "ben"), str(server.state), str(folder / "ben.token")]
    spying = clients["anna"].submit(payload("pipeline_steps = []\n" + SPY.format(places=places)))
    said = clients["anna"].wait(spying.id, "failed").message
    own = str(server.state / "jobs" / spying.id)
    uid = pwd.getpwnam(OWNERS["anna"]).pw_uid
    assert said.startswith(f"SystemError: {uid} [")
    seen = [path for path in said.partition("[")[2].partition("]")[0].replace("'", "").split(", ") if path]
    assert [path for path in seen if not path.startswith(own)] == []
    found = pwd.getpwuid(uid)
    groups = sorted(os.getgrouplist(found.pw_name, found.pw_gid))
    assert str(("", "", "", "", "", "1", found.pw_dir, groups)) in said


def test_the_server_reads_for_an_owner_only_what_the_owner_may(
    server: ServerProcess, clients: dict[str, Client]
) -> None:
    job = clients["anna"].wait(clients["anna"].submit(payload(SLOW)).id)
    assert job.state == "done", job.message
    run = Path(job.folder)
    (run / "secret").symlink_to("/etc/shadow")
    (run / "other").symlink_to(server.state.parent / "ben")
    os.mkfifo(run / "pipe", 0o666)
    for file in ("secret", "other/catalogue.db", "pipe"):
        with pytest.raises(RefusedError, match="gone"):
            clients["anna"].ask(p.Fetch, job=job.id, file=file)
    (server.state / "jobs" / job.id / "log").unlink(missing_ok=True)
    (server.state / "jobs" / job.id / "log").symlink_to(server.state / "queue.db")
    with pytest.raises(RefusedError, match="gone"):
        clients["anna"].log(job.id)


def test_an_owner_without_an_account_is_turned_away(server: ServerProcess) -> None:
    command = [sys.executable, "-m", "openhcs_jupyter.cli", "token", "dora", "--state", str(server.state)]
    _token(server, "anna")
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    client = server.stranger()
    assert said.returncode == 0
    with pytest.raises(RefusedError, match="does not name dora"):
        client.hello((server.state / "tokens" / "dora").read_text().strip())
