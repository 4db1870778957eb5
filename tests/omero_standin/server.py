"""Starts the stand-in: ``python -m tests.omero_standin.server [FOLDER]`` prints its ports as JSON.

It serves FOLDER, or what a line of JSON on its input says: ``{"serve": FOLDER}``.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import logging
import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import Ice
import omero
import omero.clients
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from omero import ObjectFactoryRegistrar

from tests.omero_standin.binary import BinaryRepository
from tests.omero_standin.grid import column_factories, repository_root
from tests.omero_standin.router import Router
from tests.omero_standin.servants import World
from tests.omero_standin.sessions import GUEST, SYSTEM, USER
from tests.omero_standin.store import Ref, Store

_ENUMERATIONS = {
    "PixelsType": ("bit", "int8", "uint8", "int16", "uint16", "int32", "uint32", "float", "double", "complex"),
    "DimensionOrder": ("XYZCT", "XYCZT", "XYTCZ", "XYTZC", "XYCTZ", "XYZTC"),
    "PhotometricInterpretation": ("Monochrome", "RGB"),
    "ChecksumAlgorithm": ("SHA1-160", "MD5-128"),
    "Format": ("TIFF", "OMERO.tables", "text/plain"),
}


def first_records(store: Store) -> None:
    """Make what every server has: its own groups and users, and the values of enumerations."""
    if next(store.all("ExperimenterGroup"), None) is not None:
        return
    for number, name in ((SYSTEM, "system"), (USER, "user"), (GUEST, "guest")):
        group(store, name, "rwr-r-" if number == USER else "rw----", number)
    user(store, "root", "System", "Root", [SYSTEM, USER], number=0)
    user(store, "guest", "Guest", "Account", [GUEST], number=1)
    for kind, values in _ENUMERATIONS.items():
        for value in values:
            store.add(kind, {"value": value})
    store.commit()


def group(store: Store, name: str, permissions: str, number: int | None = None) -> int:
    """Make a group."""
    from tests.omero_standin.store import Record

    identifier = store.new_id("ExperimenterGroup") if number is None else number
    store.put(Record("ExperimenterGroup", identifier, {"name": name, "permissions": permissions, "ldap": False}))
    return identifier


def user(store: Store, name: str, first: str, last: str, groups: list[int], number: int | None = None) -> int:
    """Make a user who is a member of groups; the first is the default one."""
    from tests.omero_standin.store import Record

    identifier = store.new_id("Experimenter") if number is None else number
    values = {"omeName": name, "firstName": first, "lastName": last, "ldap": False}
    store.put(Record("Experimenter", identifier, values))
    for one in [*groups, *([] if USER in groups or number == 1 else [USER])]:
        parent, child = Ref("ExperimenterGroup", one), Ref("Experimenter", identifier)
        store.add("GroupExperimenterMap", {"parent": parent, "child": child, "owner": False})
    return identifier


def _certificate(folder: Path) -> tuple[Path, Path]:
    """Make the server's key and its certificate, signed by itself as OMERO's own is."""
    certificate, key = folder / "server.pem", folder / "server.key"
    if certificate.exists():
        return certificate, key
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=365))
        .sign(private, hashes.SHA256())
    )
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    key.write_bytes(private.private_bytes(pem, serialization.PrivateFormat.TraditionalOpenSSL, plain))
    certificate.write_bytes(made.public_bytes(pem))
    return certificate, key


def _communicator(folder: Path) -> Any:
    """Make a communicator; `folder` is needed until then."""
    certificate, key = _certificate(folder)
    data = Ice.InitializationData()
    data.properties = Ice.createProperties()
    for name, value in {
        "Ice.Plugin.IceSSL": "IceSSL:createIceSSL",
        "IceSSL.CertFile": str(certificate),
        "IceSSL.KeyFile": str(key),
        "IceSSL.Password": "",
        "IceSSL.VerifyPeer": "0",
        "IceSSL.Protocols": "tls1_2",
        "Ice.MessageSizeMax": "250000",
        "Ice.ThreadPool.Server.Size": "8",
        "Ice.ThreadPool.Server.SizeMax": "16",
        "Ice.Override.Timeout": "30000",
        "Ice.ImplicitContext": "Shared",
        "Ice.ACM.Close": "0",
    }.items():
        data.properties.setProperty(name, value)
    communicator = Ice.initialize(data)
    ObjectFactoryRegistrar.registerObjectFactory(communicator, None)
    for factory in omero.rtypes.ObjectFactories.values():
        factory.register(communicator)
    column_factories(communicator)
    return communicator


def main() -> None:
    """Serve until a signal comes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--insecure-port", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        communicator = _communicator(Path(folder))
    world = World()
    endpoints = f"ssl -h 127.0.0.1 -p {options.port}:tcp -h 127.0.0.1 -p {options.insecure_port}"
    adapter = communicator.createObjectAdapterWithEndpoints("OMERO", endpoints)
    world.adapter = adapter
    adapter.add(Router(world), Ice.Identity(name="router", category="OMERO.Glacier2"))
    ports = {one.getInfo().type(): one.getInfo().port for one in adapter.getEndpoints()}
    secure, insecure = (ports[kind] for kind in (Ice.TCPEndpointType + 1, Ice.TCPEndpointType))
    world.insecure_router = f"OMERO.Glacier2/router:tcp -p {insecure} -h 127.0.0.1"
    if options.folder is not None:
        _serve(world, options.folder)
    adapter.activate()
    print(json.dumps({"port": secure, "insecure_port": insecure}), flush=True)
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    threading.Thread(target=_listen, args=(world,), daemon=True).start()
    stopped.wait()
    communicator.destroy()


def _serve(world: World, folder: Path | None, idle_s: float = 600) -> None:
    """Let go of the folder that was served, and of its sessions; serve another."""
    for session in world.sessions.values():
        session.record.values["closed"] = 0  # not written: who serves the folder again finds it open
    world.sessions.clear()
    if world.store is not None:
        with world.store.lock:
            world.store.close()
    world.store = world.repository = None
    world.slow_s, world.no_pyramids, world.zarr, world.idle_s = 0.0, False, "", idle_s
    if folder is None:
        return
    logging.basicConfig(filename=folder / "server.log", level=logging.INFO, force=True)
    store = Store(folder / "database.log")
    first_records(store)
    world.repository = BinaryRepository(folder / "OMERO")
    if not any(one.values.get("mimetype") == "Repository" for one in store.all("OriginalFile")):
        store.add("OriginalFile", repository_root(str(world.repository.managed)))
        store.commit()
    world.passwords = json.loads((folder / "passwords.json").read_text())
    world.store = store


def _listen(world: World) -> None:
    """Do what the test says on the standard input; its end is no reason to stop."""
    for line in sys.stdin:
        _control(world, json.loads(line))


def _control(world: World, message: dict[str, Any]) -> None:
    """Do what a test asks for: tell the calls, close sessions, be slow."""
    answer: dict[str, Any] = {}
    if "serve" in message:
        folder = message["serve"]
        _serve(world, Path(folder) if folder else None, message.get("idle_s", 600))
    if message.get("close_sessions"):
        with world.store.lock:
            for session in world.sessions.values():
                session.close()
    if "slow_s" in message:
        world.slow_s = message["slow_s"]
    if "no_pyramids" in message:
        world.no_pyramids = message["no_pyramids"]
    if "zarr" in message:
        world.zarr = message["zarr"]
    if message.get("calls"):
        answer["calls"], answer["queries"] = dict(world.calls), list(world.queries)
        world.calls.clear()
        world.queries.clear()
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
