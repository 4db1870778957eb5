"""What Prometheus is told, where it is wanted: numbers only, on the loopback."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from typing import Any

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.server.protocol import ServerIs
from openhcs_jupyter.streaming.keys import address_of


def serve_metrics(place: str, look: Callable[[], ServerIs]) -> Callable[[], None]:
    """Answer Prometheus in a thread of its own; returns what ends that.

    Parameters
    ----------
    place
        ``ADDRESS:PORT``.
    look
        Tells how the server was last; called in that thread.

    Raises
    ------
    UsageError
        If the address is not of the loopback or cannot be listened at, or prometheus-client is not installed.
    """
    host, port = address_of(place)
    try:
        near = ipaddress.ip_address(host).is_loopback
    except ValueError:
        near = host == "localhost"
    if not near:
        raise UsageError(f"--metrics {place}: they are told on the loopback only.", "Write 127.0.0.1:9100.")
    try:
        from prometheus_client import CollectorRegistry, start_http_server
        from prometheus_client.core import GaugeMetricFamily
    except ImportError:
        raise UsageError("--metrics needs prometheus-client.", "pip install 'openhcs-jupyter[metrics]'") from None

    class Collector:
        def collect(self) -> Iterable[Any]:
            told = look()
            jobs = GaugeMetricFamily("openhcs_jobs", "Jobs by state", labels=["state"])
            for state, count in told.jobs.items():
                jobs.add_metric([state], count)
            yield jobs
            leased = sum(bool(device.job) for device in told.devices)
            for name, text, value in (
                ("openhcs_cores", "Cores leased to jobs at most", told.cores),
                ("openhcs_cores_leased", "Cores leased to jobs", told.cores_leased),
                ("openhcs_gpus", "GPUs", len(told.devices)),
                ("openhcs_gpus_leased", "GPUs leased to jobs", leased),
                ("openhcs_memory_bytes", "Memory of the machine", told.memory_bytes),
                ("openhcs_memory_free_bytes", "Memory that is free", told.memory_free_bytes),
                ("openhcs_clients", "Clients that have said who they are", told.clients),
                ("openhcs_start_time_seconds", "When the server was started", told.started),
            ):
                yield GaugeMetricFamily(name, text, value)

    registry = CollectorRegistry()
    registry.register(Collector())
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise UsageError(
            f"{place} cannot be listened at: {error.strerror}.", "Choose another one: --metrics."
        ) from error

    def end() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return end
