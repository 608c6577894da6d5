# SPDX-License-Identifier: MIT
"""Notices: what the servers of one log, and the workers of one file, tell each other, and nobody stores.

    biff.notify(ctx, "typing", channel_id, mem_id)             # other servers hear it within milliseconds, or never

    def on_typing(system, server, channel_id, mem_id): …       # "notices": {"typing": on_typing} of a plugin

Ids arrive as text. `server` names the server that says it, until it is started again; a worker that is started again
has the name of the one before.

A notice is a JSON list in one line. It comes from whoever can write to the store, so a plugin checks what it says.
"""

import json
import logging
import secrets
from typing import Any

from biff.system import dicts

log = logging.getLogger("biff")


async def use_notices(system: dict) -> dict:
    """Calls each plugin's function for a notice of another server."""
    named, worker = dicts(system, "notices"), system.get("biff/worker")
    server = system["biff/server"] = worker.name if worker else secrets.token_hex(8)

    def hear(text):
        try:
            sender, name, *values = json.loads(text)
            if sender != server:
                named[name](system, sender, *values)
        except Exception as failure:                   # another version of the chat may say other things
            log.info("A notice was not understood: %s", type(failure).__name__)

    system["biff/node"].on_notice(hear)
    return system


def notify(ctx: dict, name: str, *values: Any) -> None:
    """Tells the other servers and workers, where there are any. Values are what JSON has, and ids."""
    ctx["biff/node"].notify(json.dumps([ctx["biff/server"], name, *values], default=str))
