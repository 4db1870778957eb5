"""A laptop's Jupyter as a program: ``python -m tests.kernel.laptop KERNEL`` takes orders as lines of JSON."""

from __future__ import annotations

import json
import sys
import time

from openhcs_jupyter.streaming import RemoteSource
from openhcs_jupyter.streaming.keys import ConnectionFile, read_private
from tests.engine.bench import until
from tests.jupyter import Kernel
from tests.kernel.lab import started
from tests.streaming.heard import Heard, digest


def main(name: str) -> None:
    """Start a kernel; then run cells, or fetch all planes of a run through the tunnel, until the input ends."""
    with started(name) as kernel:
        say(ready=True)
        for line in sys.stdin:
            order = json.loads(line)
            if "cell" in order:
                begun = time.monotonic()
                out = kernel.run(order["cell"], batch=order.get("batch", True), timeout=120)
                reply = kernel.client.get_shell_msg(timeout=10)["content"]["status"]
                say(text=out.text, error=out.error, reply=reply, seconds=time.monotonic() - begun)
            else:
                say(planes=planes(kernel))


def planes(kernel: Kernel) -> dict[str, str]:
    """Fetch the planes of the run that the kernel serves, as a viewer on another machine does."""
    found = read_private(kernel.manager.provisioner._place / "connection.json", ConnectionFile)
    with RemoteSource(found.endpoints[0], mapping=False) as source:
        heard = Heard(source)
        heard.until_ended()
        until(lambda: len(heard.stacks()) == 8, "the results of two channels of four fields")
        return {str(place): digest(heard.plane(ready)) for place, ready in heard.stacks().items()}


def say(**what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
