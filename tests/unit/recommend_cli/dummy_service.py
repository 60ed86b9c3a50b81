"""A service that is ready at once: `python dummy_service.py PORT JOURNAL NAME`. It writes its life into the journal."""

import os
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import FrameType


class _Ready(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    port, journal, name = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    server = ThreadingHTTPServer(("127.0.0.1", port), _Ready)
    grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])

    def note(what: str) -> None:
        with journal.open("a") as file:
            file.write(f"{what} {name} {os.getpid()} {grandchild.pid}\n")

    def stop(*_: int | FrameType | None) -> None:
        threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, stop)
    note("started")
    server.serve_forever()
    note("stopped")


if __name__ == "__main__":
    main()
