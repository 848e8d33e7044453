"""`python -m fairlead.workers.child CONTROL DESCRIPTORS`: one worker (desk.py says what it does).

The two numbers are descriptors of connected sockets, all that it starts with. When the supervisor is gone, it drains
and ends; until then nobody else tells it to, but by killing it.
"""

from __future__ import annotations

import signal
import socket
import sys

import uvloop

from fairlead.workers.channel import Channel
from fairlead.workers.desk import Desk

LAST_SECONDS = 1.0  # for answers that are not given yet


async def run(control: socket.socket, descriptors: socket.socket) -> int:
    desk = Desk(descriptors)
    channel = await Channel.over(control, desk.answer, desk.end_soon)
    await desk.over.wait()
    await channel.answered(LAST_SECONDS)  # what came of the end is told, too
    channel.close()
    return 0


def main() -> None:
    # A terminal or systemd sends them to all; what shall be done then is for the supervisor to say.
    for ours in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(ours, signal.SIG_IGN)
    control, descriptors = (socket.socket(fileno=int(number)) for number in sys.argv[1:3])
    descriptors.settimeout(5.0)
    sys.exit(uvloop.run(run(control, descriptors)))


if __name__ == "__main__":
    main()
