# SPDX-License-Identifier: MIT
"""The shelf of tools that the tutorial takes for granted: what Biff gives an application, on `store.py` and aiohttp.

    import biff

    def hello(ctx):
        return biff.render(ctx, "hello.html", visits=len(biff.lookup_all(ctx["biff/db"], "visit/page", "hello")))

    async def visit(ctx):
        await biff.submit_tx(ctx, [{"db/doc-type": "visit", "visit/page": "hello", "visit/at": biff.NOW}])
        return biff.redirect(ctx, "/")

    plugin = {"routes": [("GET", "/", biff.anyone, hello), ("POST", "/visit", biff.anyone, visit)],
              "schema": {"visit": {"xt/id": uuid.UUID, "visit/page": str, "visit/at": datetime.datetime}}}

    biff.run(biff.COMPONENTS, {"biff/name": "visits", "biff/plugins": [plugin], "biff/arguments": {}})

The words are Biff's. A *system* is a dict that components fill at start, one after the other. A *plugin* is a dict of
routes, schemas, queues, tasks and a listener. `ctx`, which everything is given, is the system with what this request,
job, task or transaction adds to it: always "biff/db", a fresh snapshot; in a request also "request", "params",
"session" and "uid". This package knows documents, requests and people who sign in; it knows no channel and no message.

This file is the phone book: it says in which room a name lives. The rooms import each other in one direction:

    workers → server, auth → requests → pages → sessions → tx → config → system
    auth → mail;   auth → jobs, notices → system;   config → metrics, limits

`sockets`, `door` and `metrics` import nothing of ours, and are taken whole: `from biff import sockets`.
"""

from biff.auth import (ask_to_sign_in, auth_plugin, error_text, normalized_email, revoke, revoke_others, send_code,
                       send_link, sessions_page, signed_in, signin_page, signout, verify_code, verify_link)
from biff.config import SETTINGS, Setting, arguments, files_max, networks, number_of, use_config
from biff.connections import os_socket_of
from biff.jobs import QueueFullError, every, submit_job, submit_job_for_result, use_queues, use_tasks, use_tx_listener
from biff.limits import Limits, again_s, client_of, is_allowed, network_of
from biff.mail import send_mail
from biff.notices import notify, use_notices
from biff.pages import (BODY_BYTES_MAX, CONTENT_SECURITY_POLICY, ROOT, SCRIPTS, addresses_apart, asset_url, error,
                        fragment, is_local, redirect, render, static, url, use_jinja)
from biff.requests import FileAnswer, anyone, body_of, is_ours, signed, streams
from biff.server import use_web
from biff.sessions import (TOKEN_FIELD, TOKEN_HEADER, cookie_name, csrf_token, hash_of, hmac_of, is_alive,
                           keep_sessions, session_id, sessions_of)
from biff.system import (BiffError, LineFormatter, StartError, assoc_db, dicts, is_secure, log_to_stderr, now, parts,
                         start_system, stop_system)
from biff.tx import (DISSOC, INSTRUCTIONS, IN_ANY_OP, IN_MERGE, NOW, ConstraintError, ContentionError, SchemaError,
                     TransactionError, at_most, ensure_at_most, ensure_unique, lookup, lookup_all, lookup_id,
                     lookup_id_all, operations_of, q, submit_tx, temp_id, unchanged, use_store)
from biff.workers import run

COMPONENTS = [use_config, use_store, use_notices, use_jinja, use_queues, use_tx_listener, use_web, use_tasks]
