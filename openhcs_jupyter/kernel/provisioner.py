"""Gives Jupyter a kernel on another machine: sshpyk's provisioner, with our keeper and tunnel."""

from __future__ import annotations

import asyncio
import secrets
import shutil
from pathlib import Path

import msgspec
from jupyter_core.paths import jupyter_runtime_dir
from sshpyk.provisioning import SSHKernelProvisioner
from traitlets import Float, Unicode

from openhcs_jupyter import __version__
from openhcs_jupyter.errors import RemoteError
from openhcs_jupyter.kernel.keeper import MARK, PORTS, Order, Started
from openhcs_jupyter.kernel.relay import Relay
from openhcs_jupyter.kernel.remote import quoted, require_same_version
from openhcs_jupyter.kernel.requests import Requests
from openhcs_jupyter.kernel.ssh import Host
from openhcs_jupyter.kernel.tunnel import Tunnel
from openhcs_jupyter.kernel.windows import Windows
from openhcs_jupyter.streaming.keys import private_folder, runtime_folder, short_folder

_SIGTERM, _SIGINT = 15, 2
OUTPUT, CELLS = "iopub_port", "shell_port"
IDLE_HOURS = 12.0


class RemoteProvisioner(SSHKernelProvisioner):  # type: ignore[misc]  # the base is not typed
    """A kernel on a machine that the user's ``ssh`` reaches.

    sshpyk brings what Jupyter asks of a provisioner: ports here, the kernel's end, restarts. The keeper starts the
    kernel there, and the tunnel keeps it reachable, whatever happens to the network.
    """

    idle_hours = Float(
        IDLE_HOURS,
        config=True,
        help="After so long without this client and without work the kernel ends; 0: never.",
    )
    folder = Unicode("", config=True, help="Where the kernel works on its machine; empty is the home.")

    ssh_base: list[str]
    rem_conn_fp: str | None
    session_send_orig = None
    host: Host | None = None
    tunnel: Tunnel | None = None
    _sockets: dict[str, str]
    _follows = False

    def pre_launch_init(self) -> None:
        """Prepare the first start."""
        self.raise_on_ssh_config_error = False  # sshpyk wants settings in the user's file that we bring ourselves
        Path(jupyter_runtime_dir()).mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.host is None:
            self.host = Host(self.ssh_host_alias, secrets.token_hex(4))
        super().pre_launch_init()
        self.all_hosts = [self.ssh_host_alias]  # ssh goes through the others by itself

    def patch_session_send(self) -> None:
        """Leave the manager's messages alone; sshpyk holds some back for kernels that persist, which ours do not."""

    def make_base_ssh_command(self) -> None:
        """Say how `ssh` is called: as the user's configuration has it, with our connection."""
        super().make_base_ssh_command()
        assert self.host is not None
        self.ssh_base = [*self.ssh_base, *self.host.options, "-o", "ClearAllForwardings=yes"]

    async def check_control_sockets(self, raise_on_failed_open: bool = False) -> None:
        """Connect at the start; later the tunnel does, in its thread, so that Jupyter never waits for a network."""
        if raise_on_failed_open:
            assert self.host is not None
            await asyncio.to_thread(self.host.run, "true", timeout=self.launch_timeout)

    async def launch_remote_kernel(self) -> None:
        """Have a keeper start the kernel."""
        manager, host = self.parent, self.host
        assert manager is not None
        assert host is not None
        order = Order(
            key=manager.session.key.decode(),
            scheme=manager.session.signature_scheme,
            file=(self.rem_conn_fp or "") if self._follows else "",
            idle_s=3600 * self.idle_hours,
            folder=self.folder,
        )
        self._follows = False
        if self.tunnel is not None:
            self._requests.forget()
        given = msgspec.json.encode(order) + b"\n"
        script = f"exec {quoted(self.remote_python)} -m openhcs_jupyter.kernel.keeper"
        said = await asyncio.to_thread(host.run, script, given=given, timeout=self.launch_timeout)
        started = _started(said, host.name)
        self.rem_sys_name = "Linux"
        self.rem_pid_ka, self.rem_pid_k = started.keeper, started.kernel
        self.rem_conn_fp = started.file
        self._sockets = started.sockets
        self.rem_conn_info = {
            "transport": "tcp",
            "signature_scheme": order.scheme,
            "key": order.key,
        }
        self.li(f"Kernel {started.kernel} on {host.name}, connection file {started.file}")

    async def open_kernel_tunnels(self) -> None:
        """Dig the tunnel, once; it keeps itself."""
        if self.tunnel is not None:
            return
        manager, host = self.parent, self.host
        assert manager is not None
        assert host is not None
        self.pick_kernel_local_ports()
        place = short_folder(private_folder(runtime_folder() / f"remote-{secrets.token_hex(4)}"))
        line, output, cells = place / "line", place / "iopub", place / "shell"
        ports = {name: f"{manager.ip}:{getattr(manager, name)}" for name in PORTS}
        here = ports | {"line": str(line), OUTPUT: str(output), CELLS: str(cells)}
        forwards = {here[name]: socket for name, socket in self._sockets.items()}
        windows = Windows(host.name, place, lambda more: tunnel.add(more), self.log)
        relay = Relay(f"tcp://{ports[OUTPUT]}", str(output))
        requests = Requests(f"tcp://{ports[CELLS]}", str(cells))
        tunnel = Tunnel(host, forwards, line, relay, requests, windows.show, self.log)
        await asyncio.to_thread(tunnel.open)
        relay.start()
        requests.start()
        self.tunnel, self._relay, self._requests, self._place = tunnel, relay, requests, place

    async def close_tunnels(self, tunnels_args: list[str]) -> None:
        """Leave the tunnel open: a kernel that follows has the same addresses."""

    async def _poll(self) -> int | None:
        """Tell whether the kernel has ended; while it cannot be known, it has not."""
        if self.tunnel is not None and (self.tunnel.is_linked or not self.tunnel.is_connected):
            return None
        ended: int | None = await super()._poll()
        return ended

    async def send_sigterm_to_remote(self, pid: int, signum: int, attempts: int = 5) -> None:
        """Send a signal; the keeper is told whether another kernel follows."""
        if pid == self.rem_pid_ka and self._follows and signum == _SIGTERM:
            signum = _SIGINT
        await super().send_sigterm_to_remote(pid, signum, attempts)

    async def _cleanup(self, restart: bool = False) -> None:
        self._follows = restart
        await super()._cleanup(restart)
        if restart:
            return
        if self.tunnel is not None:
            tunnel, self.tunnel = self.tunnel, None
            await asyncio.to_thread(tunnel.close)
            self._relay.close()
            self._requests.close()
            shutil.rmtree(self._place, ignore_errors=True)
        if self.host is not None:
            await asyncio.to_thread(self.host.leave)


def _started(said: bytes, host: str) -> Started:
    line = next((line for line in said.decode(errors="replace").splitlines() if line.startswith(MARK)), None)
    if line is None:
        raise RemoteError(f"No kernel was started on {host}.", f"openhcs-jupyter doctor --remote {host} looks there.")
    started = msgspec.json.decode(line.removeprefix(MARK), type=Started)
    if started.error:
        raise RemoteError(f"{host}: {started.error}")
    require_same_version(__version__, started.version, host)
    return started
