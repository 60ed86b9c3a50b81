"""Starts the test server: `python -m servers.qdrant --port 16334 --data FOLDER`."""

import signal
import sys
import threading
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser
from pathlib import Path

from servers.qdrant.serving import WireServer


def serve(server: WireServer) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    server.start()
    sys.stdout.write(f"grpc {server.port} rest {server.rest_port}\n")
    sys.stdout.flush()
    stop.wait()
    server.stop()


def main() -> None:
    """Read the arguments and serve."""
    parser = ArgumentParser(description=__doc__, formatter_class=ArgumentDefaultsHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=16334, help="port of gRPC; 0 takes a free one")
    parser.add_argument("--rest-port", type=int, default=0, help="port of REST; 0 takes a free one")
    parser.add_argument("--data", type=Path, required=True, help="folder of collections, aliases and snapshots")
    parser.add_argument("--api-key", default="", help="what callers must send as api-key; empty lets everybody in")
    chosen = parser.parse_args()
    server = WireServer(
        chosen.data, host=chosen.host, port=chosen.port, rest_port=chosen.rest_port, api_key=chosen.api_key
    )
    serve(server)


if __name__ == "__main__":
    main()
