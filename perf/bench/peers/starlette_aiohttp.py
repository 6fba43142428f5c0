"""The same with Starlette and aiohttp, raw bytes. Arguments: PORT UPSTREAM."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

UPSTREAM = sys.argv[2]


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Own the pool."""
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=None),
        auto_decompress=False,
    ) as session:
        app.state.session = session
        yield


async def proxy(request: Request) -> StreamingResponse:
    """Pass one request on."""
    response = await request.app.state.session.request(
        request.method,
        UPSTREAM + request.url.path,
        data=await request.body(),
        headers={"content-type": request.headers.get("content-type", "application/json")},
    )

    async def body() -> AsyncIterator[bytes]:
        try:
            async for chunk in response.content.iter_any():
                yield chunk
        finally:
            response.release()

    headers = {"content-type": response.headers.get("content-type", "application/json")}
    return StreamingResponse(body(), response.status, headers)


app = Starlette(routes=[Route("/{path:path}", proxy, methods=["GET", "POST"])], lifespan=lifespan)

if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), loop="uvloop", http="httptools", access_log=False, backlog=4096)
