"""How jobs and execution servers look in a notebook and in a terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from openhcs_jupyter.magics.views import render
from openhcs_jupyter.magics.views.render import Rendered, count_text, grid, size_text, time_text

if TYPE_CHECKING:
    from openhcs_jupyter.client import Profile, RemoteRun
    from openhcs_jupyter.door import Source
    from openhcs_jupyter.server.model import Job
    from openhcs_jupyter.server.protocol import ServerIs

_SIGNS = {
    "queued": "\u25cb",
    "compiling": "\u25b6",
    "running": "\u25b6",
    "saving": "\u25b6",
    "parked": "\u25a0",
    "needs_login": "!",
    "done": "\u2713",
    "failed": "\u2717",
    "cancelled": "\u25a0",
}


def jobs_view(jobs: Sequence[Job], server: str, *, everybody: bool = False) -> Rendered:
    """List jobs in the order given."""
    if not jobs:
        told = f"No jobs on {server}."
        return Rendered(told, render.card(render.escape(told), []))
    rows = []
    for job in jobs:
        row = [
            f"{_SIGNS[job.state]} {job.state.replace('_', ' ')}",
            job.name,
            job.id,
            job.plate_name or job.plate,
            _units(job),
            _when(job.submitted),
            _took(job),
            _first_line(job.message),
        ]
        rows.append([*row[:3], job.owner, *row[3:]] if everybody else row)
    headers = ["", "name", "job", "plate", "units", "submitted", "took", ""]
    if everybody:
        headers.insert(3, "owner")
    table = grid(headers, rows)
    title = f"{count_text(len(jobs), 'job')} on {server}"
    return Rendered(f"{title}\n{table.text}", render.card(render.escape(title), [table.markup]))


def job_view(run: RemoteRun, source: Source | None = None) -> Rendered:
    """Show a job: as a run, as the plan of a dry run, or how it stands where it is not compiled yet.

    Parameters
    ----------
    run
        The job's.
    source
        The cell that defined it; failing lines are quoted.
    """
    from openhcs_jupyter.magics.views.plan import plan_view
    from openhcs_jupyter.magics.views.runs import run_card

    if not run.is_planned:
        return state_view(run, run.known_job())
    return plan_view(run.plan, dry=True) if run.is_dry else run_card(run, source)


def state_view(run: RemoteRun, job: Job | None = None) -> Rendered:
    """Say in a line how a job stands that is not compiled yet."""
    from openhcs_jupyter.client.run import told_state

    told = f"{run.name}: job {run.id} on {run.server} {told_state(run.state)}"
    if job is not None and job.ahead:
        told += f", {count_text(job.ahead, 'job')} before it"
    if run.message:
        told += f": {run.message}"
    return Rendered(told, render.card(render.escape(told.partition("\n")[0]), _rest(told), color=render.GREY))


def job_line(run: RemoteRun) -> Rendered:
    """Name a job, for above its run."""
    told = f"job {run.id} on {run.server}"
    return Rendered(told, f'<div style="font-size:12px">{render.faint(told)}</div>')


def server_view(name: str, said: ServerIs) -> Rendered:
    """Show how a server is: jobs, cores, GPUs, memory."""
    jobs = ", ".join(f"{count} {state.replace('_', ' ')}" for state, count in sorted(said.jobs.items())) or "none"
    rows = [
        ("Server", f"{said.name}, openhcs-jupyter {said.server_version}, since {_when(said.started)}"),
        ("Plates", said.repository),
        ("Jobs", f"{jobs}; of everybody {said.active} at work, {said.queued} queued"),
        ("Cores", f"{said.cores_leased} of {said.cores} leased"),
        ("Memory", f"{size_text(said.memory_free_bytes)} of {size_text(said.memory_bytes)} free"),
    ]
    if said.shown:
        rows.append(("Viewers", f"{count_text(said.shown, 'job')} shown"))
    for device in said.devices:
        use = f"job {device.job}" if device.job not in ("", "-") else "somebody else's job" if device.job else "free"
        rows.append((device.id, f"{device.name}, {size_text(device.memory_bytes)}, {use}"))
    if said.stopping:
        rows.append(("", "It is about to stop, and takes no more jobs."))
    text = [f"{name}:", *(f"  {label:<8}{value}" for label, value in rows)]
    markup = [render.row(label, render.escape(value)) for label, value in rows]
    return Rendered("\n".join(text), render.card(render.strong(name), markup))


def profiles_view(profiles: Sequence[Profile]) -> Rendered:
    """List the servers that a user knows."""
    if not profiles:
        told = "You know no execution server. Add one: openhcs-jupyter server add NAME LINE --token FILE"
        return Rendered(told, render.card(render.escape(told), []))
    rows = [
        (profile.name, profile.address, f"as {profile.omero}" if profile.omero else "by a token")
        for profile in profiles
    ]
    table = grid(["name", "address", "you come"], rows)
    title = count_text(len(profiles), "server")
    return Rendered(f"{title}\n{table.text}", render.card(render.escape(title), [table.markup]))


def _units(job: Job) -> str:
    if job.dry_run:
        return "dry run"
    if not job.units:
        return "" if job.ahead is None else f"{job.ahead} before it" if job.ahead else "next"
    return f"{job.done} / {job.units}" + (f", {job.failed} failed" if job.failed else "")


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _took(job: Job) -> str:
    if job.started is None:
        return ""
    return time_text((job.ended or time.time()) - job.started)


def _first_line(message: str) -> str:
    line = message.partition("\n")[0]
    return line if len(line) <= 60 else f"{line[:59]}\u2026"


def _rest(told: str) -> list[str]:
    rest = told.partition("\n")[2]
    return [f'<pre style="margin:0">{render.escape(rest)}</pre>'] if rest else []
