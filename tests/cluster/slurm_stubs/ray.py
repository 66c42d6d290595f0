"""Ray of a test: as a program the port of the head, as a module what `ray.nodes()` tells of the nodes that joined."""

import os
import signal
import socket
import sys
from pathlib import Path


def init(**options: object) -> None:
    host, port = os.environ["RAY_ADDRESS"].split(":")
    socket.create_connection((host, int(port))).close()


def nodes() -> list[dict[str, bool]]:
    alive = [{"Alive": True} for _ in Path(os.environ["TEST_RECORD"], "joined").iterdir()]
    return [*alive, {"Alive": False}]


if __name__ == "__main__":
    joined, *arguments = sys.argv[1:]
    options = dict(argument.split("=") for argument in arguments if "=" in argument)
    listener = socket.create_server(("127.0.0.1", int(options["--port"])))
    Path(joined).touch()
    signal.pause()
