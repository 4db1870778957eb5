"""``openhcs-jupyter`` for what runs until it is ended: viewer, broker, serve; and token, for who may ask."""

from __future__ import annotations

import argparse

from openhcs_jupyter.cli.terminal import Add, say, show
from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.magics.options import add_broker_options
from openhcs_jupyter.server.command import add_serve_options, add_token_options


def add_commands(add: Add) -> None:
    """Add these commands."""
    viewer = add("viewer", _viewer, "Open a window that shows runs as they go on, or one that has ended.")
    viewer.add_argument(
        "source",
        nargs="?",
        metavar="SOURCE",
        help="a run's folder, a connection file, or HOST:FILE for a file on a machine behind SSH",
    )
    viewer.add_argument(
        "--bind",
        metavar="ADDRESS:PORT",
        help="listen instead, for kernels that are given the line that is printed; 0.0.0.0:5555 listens everywhere",
    )
    viewer.add_argument("--called", metavar="HOST", help="how kernels call this machine; left out, its own name")
    broker = add("broker", _broker, "Hand out pixels' files of OMERO to kernels, as far as OMERO lets them read.")
    add_broker_options(broker)
    add_serve_options(add("serve", _serve, "Run the execution server: jobs that outlive kernels and laptops."))
    add_token_options(add("token", _token, "Make the token by which an execution server knows one of its owners."))


def _viewer(arguments: argparse.Namespace) -> int:
    from socket import gethostname

    from openhcs_jupyter.streaming import ListeningSource, Source, open_source
    from openhcs_jupyter.streaming.keys import address_of, is_everywhere

    if (arguments.source is None) == (arguments.bind is None):
        raise UsageError("viewer takes a source or --bind", "%openhcs view in a notebook prints what to open.")
    if arguments.bind is None:
        source: Source = open_source(arguments.source)
    else:
        host, port = address_of(arguments.bind)
        called = arguments.called or (gethostname() if is_everywhere(host) else host)
        listening = ListeningSource(host, port, called=called)
        say(f"%openhcs view {listening.invitation.line()}")
        source = listening
    from openhcs_jupyter.viewer.main import main as show

    return show(source)


def _broker(arguments: argparse.Namespace) -> int:
    from openhcs_jupyter.repository.omero.broker.command import serve

    serve(arguments)
    return 0


def _serve(arguments: argparse.Namespace) -> int:
    from openhcs_jupyter.server.command import folder_of, serve

    if arguments.status:
        from openhcs_jupyter.client import RemoteOrchestrator
        from openhcs_jupyter.client.profiles import profile_of_folder
        from openhcs_jupyter.magics.views.jobs import server_view

        folder = folder_of(arguments)
        with RemoteOrchestrator(profile=profile_of_folder("server", folder)) as server:
            return show(server_view(str(folder), server.server()))
    serve(arguments)
    return 0


def _token(arguments: argparse.Namespace) -> int:
    from openhcs_jupyter.server.command import new_token

    say(f"Written: {new_token(arguments)}")
    say("Give it to its owner, who keeps it where nobody else can read it.")
    return 0
