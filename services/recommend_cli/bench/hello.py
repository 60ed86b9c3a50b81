"""The yardstick: a bare FastAPI application on the server that the gateway runs on, in one process.

Run as `python -m recommend_cli.bench.hello PORT`.
"""

import sys

import uvicorn
from fastapi import FastAPI

from recommend_cli.stack.ports import LOOPBACK


def make_app() -> FastAPI:
    """Give an application with one route that says hello."""
    app = FastAPI()

    @app.get("/")
    async def hello() -> dict[str, str]:
        return {"message": "hello"}

    return app


def main() -> None:
    """Serve it."""
    uvicorn.run(
        make_app(), host=LOOPBACK, port=int(sys.argv[1]),
        # As the gateway has it, so that only what is behind the server differs.
        loop="uvloop", http="httptools", ws="none", lifespan="off", access_log=False, proxy_headers=False,
        server_header=False, log_level="warning", backlog=2048,
    )  # fmt: skip


if __name__ == "__main__":
    main()
