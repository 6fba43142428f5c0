"""The usual thirty lines: FastAPI with httpx. Arguments: PORT UPSTREAM."""

import sys
from collections.abc import AsyncIterator

import httpx
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

app = FastAPI()
limits = httpx.Limits(max_connections=None, max_keepalive_connections=1000)
client = httpx.AsyncClient(base_url=sys.argv[2], timeout=None, limits=limits)
HOP_BY_HOP = {"connection", "transfer-encoding", "keep-alive", "content-length", "date", "server"}


@app.api_route("/{path:path}", methods=["GET", "POST"])
async def proxy(path: str, request: Request) -> StreamingResponse:
    """Pass one request on."""
    kind = {"content-type": request.headers.get("content-type", "application/json")}
    outgoing = client.build_request(request.method, f"/{path}", content=await request.body(), headers=kind)
    response = await client.send(outgoing, stream=True)

    async def body() -> AsyncIterator[bytes]:
        try:
            async for chunk in response.aiter_raw():
                yield chunk
        finally:
            await response.aclose()

    headers = {key: value for key, value in response.headers.items() if key.lower() not in HOP_BY_HOP}
    return StreamingResponse(body(), response.status_code, headers)


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), loop="uvloop", http="httptools", access_log=False, backlog=4096)
