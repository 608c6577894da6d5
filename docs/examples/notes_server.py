"""A server of notes: as many worker processes as one likes, on one file. Each has a node of its own.

    NOTES=notes.db uvicorn notes_server:app --workers 4
"""
import asyncio
import contextlib
import json
import os
import uuid
from collections.abc import AsyncIterator
from typing import Any

from eelstore import match, put, store
from fastapi import FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

NOTES = {"find": ["?note", "?text"], "keys": ["id", "text"], "where": [["?note", "note/text", "?text"]],
         "order-by": ["?text"]}
WAITING_MAX = 10_000                  # transactions that wait for one slow reader of /events; then it is cut off


class Note(BaseModel):
    text: str = Field(min_length=1, max_length=10_000)
    before: str | None = None         # what it said when it was read; None for a new one


@contextlib.asynccontextmanager
async def opened(app: FastAPI) -> AsyncIterator[None]:
    with store.open(os.environ.get("NOTES", "notes.db")) as app.state.node:
        yield


app = FastAPI(title="Notes", lifespan=opened)


@app.get("/")
def home() -> dict[str, Any]:
    """Which worker answers, and what it has seen."""
    return {"worker": os.getpid(), "tx_id": app.state.node.db().tx_id}


@app.get("/notes")
def notes(tx_id: int | None = None) -> list[dict[str, Any]]:
    """All notes; as they were after a transaction, if one is named. What another worker has written is there."""
    try:
        return app.state.node.db(tx_id).q(NOTES)
    except store.NotIndexedError as error:
        raise HTTPException(404, str(error))


@app.put("/notes/{id}")
async def write(id: uuid.UUID, note: Note) -> dict[str, int]:
    """Writes a note, unless somebody else has changed it meanwhile: then the answer is 409, and nothing is written."""
    before = note.before and {"xt/id": id, "note/text": note.before}
    tx = await app.state.node.submit([match(id, before), put({"xt/id": id, "note/text": note.text})])
    if not tx.committed:
        raise HTTPException(409, "Somebody else has changed this note.")
    return {"tx_id": tx.tx_id}


@app.get("/notes/{id}/history")
def history(id: uuid.UUID) -> list[dict[str, Any]]:
    """Every version that the note has had, oldest first."""
    return [{"from": version.valid_from, "tx_id": version.tx_id, "text": (version.document or {}).get("note/text")}
            for version in app.state.node.db().history(id)]


@app.get("/events")
async def events(after: int = 0) -> StreamingResponse:
    """Every transaction of a greater tx_id, once and in order, as server-sent events: also those of other processes."""
    waiting: asyncio.Queue[store.Tx] = asyncio.Queue(WAITING_MAX)

    async def told() -> AsyncIterator[str]:
        listener = app.state.node.on_tx(waiting.put_nowait, after=after)
        try:
            while not waiting.full():
                tx = await waiting.get()
                changed = [str(op[1]["xt/id"]) for op in tx.ops if op[0] == "put"]
                yield f"id: {tx.tx_id}\ndata: {json.dumps(changed)}\n\n"
        finally:
            listener.close()
    return StreamingResponse(told(), media_type="text/event-stream")
