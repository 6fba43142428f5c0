"""`starlette_aiohttp.py` on granian, whose HTTP is in Rust, instead of uvicorn. Arguments: PORT UPSTREAM."""

import sys

from granian import Granian

if __name__ == "__main__":
    Granian(
        "starlette_aiohttp:app",
        port=int(sys.argv[1]),
        interface="asgi",
        loop="uvloop",
        backlog=4096,
    ).serve()
