"""The client's side of the execution server: jobs that run there, and are held like runs of one's own."""

from __future__ import annotations

from openhcs_jupyter.client.orchestrator import RemoteOrchestrator
from openhcs_jupyter.client.profiles import Profile, load_profile, profile_names, remove_profile, save_profile
from openhcs_jupyter.client.run import RemoteRun

__all__ = [
    "Profile",
    "RemoteOrchestrator",
    "RemoteRun",
    "load_profile",
    "profile_names",
    "remove_profile",
    "save_profile",
]
