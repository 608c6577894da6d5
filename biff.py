"""biff: what the Biff framework gives its tutorial, in Python: plugins and the system, transactions of typed documents,
sessions, anti-forgery, signing in, queues and scheduled tasks. It knows no channel and no message.

A *system* is a dict that components fill in order and that is stopped in the reverse order. A *plugin* is a dict of what an
application brings: "routes", "on_tx", "schema", "tasks", "queues", "tx-fns". A handler gets `ctx`: the system's keys with the
request's beside them, and "biff/db", a snapshot taken when the request began.
"""

import argparse
import asyncio
import contextlib
import datetime as dt
import email.message as email_message
import gzip
import hashlib
import hmac
import heapq
import inspect
import itertools
import logging
import mimetypes
import os
import pathlib
import random
import re
import secrets
import signal
import sys
import time
import urllib.parse
import uuid

import aiohttp_jinja2
import aiosmtplib
import jinja2
import voluptuous
from aiohttp import web

import store
from store import call, delete, evict, match, put

log = logging.getLogger("biff")

# ── Limits ───────────────────────────────────────────────────────────────────────────────────────────────────

BODY_BYTES_MAX = 64 * 1024            # a form: the longest message with every character escaped, and room
REQUEST_S_MAX = 15                    # for a handler; sockets have no deadline
FIELDS_MAX = 50                       # of a form; ours have four
ATTEMPTS_MAX = 5                      # of a transaction that others' changes abort, as in Biff
QUEUE_JOBS_MAX = 10_000               # waiting in one queue; beyond it submitting raises
DRAIN_S = 10                          # for the queues at the end, as in Biff
TOKEN_MINUTES = 10                    # a sign-in link or code lives
CODE_TRIES = 3
SESSION_DAYS, IDLE_DAYS = 60, 30      # after signing in; without use
USED_EVERY_S = 24 * 3600              # a session's last use is written down this often, not with each request
MAILS = ("address", 3, 3600), ("client", 20, 3600), ("server", 100, 60)       # sign-in mails: at most so many in so many seconds
RATES_MAX = 100_000                   # keys of rate limits held in memory
COOKIE_BYTES = 32                     # of randomness in a cookie or token: nobody guesses 256 bits

HERE = pathlib.Path(__file__).parent
CTX = web.RequestKey("ctx", dict)
SCRIPTS = {
    "htmx.js": "htmx.org/dist/htmx.min.js",
    "hx-ws.js": "htmx.org/dist/ext/hx-ws.min.js",
    "hyperscript.js": "hyperscript.org/dist/_hyperscript.min.js",
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
                               "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


class Refusal(Exception):
    """Something that a person who starts the program can mend: one sentence, exit status 1."""


# ── Transactions ─────────────────────────────────────────────────────────────────────────────────────────────
#
# A transaction is a list of documents with instructions, and of the store's own operations. It is compiled against a fresh
# snapshot; what was read is matched, so that a concurrent change aborts it instead of being lost, and it is tried again.
# Special values are tuples, which nobody can type into a form.

NOW = ("db/now",)
DISSOC = ("db/dissoc",)


def temp_id(name) -> tuple:
    """Stands for a fresh id, the same one throughout a transaction."""
    return ("db/id", name)


class TransactionError(Exception):
    """The root of what submit_tx raises; nothing was written."""


class SchemaError(TransactionError):
    """A document does not fit the schema of its type."""

    def __init__(self, message, doc_type=None, attribute=None):
        super().__init__(message)
        self.doc_type, self.attribute = doc_type, attribute


class ConstraintError(TransactionError):
    """The transaction would break a uniqueness, whenever it is tried."""


class ContentionError(TransactionError):
    """Others changed the same documents at every attempt."""


async def submit_tx(ctx, tx, retry=True):
    """Submits documents with instructions; the store's transaction, or None if there was nothing to do.

    tx is a list, or a function of ctx that returns one and is called again for each attempt. With retry=False it is submitted once,
    and its `committed` says what became of it.
    Raises: SchemaError, ConstraintError, ContentionError, TransactionError.
    Source: Biff, biff/submit-tx.
    """
    for attempt in range(ATTEMPTS_MAX):
        ctx = ctx | {"biff/db": ctx["biff/node"].db()}
        ops = tx_ops(ctx, tx(ctx) if callable(tx) else tx)
        if not ops:
            return None
        if any(op[0] == "call" for op in ops) and ctx["biff/db"].with_tx(ops) is None and retry:
            if ctx["biff/node"].db().tx_id == ctx["biff/db"].tx_id:
                raise ConstraintError("The transaction violates a constraint: a value that must be unique is there already. Nothing was written.")
        submitted = await ctx["biff/node"].submit(ops)
        if submitted.committed or not retry:
            return submitted
        await asyncio.sleep(random.random() * min(2 ** attempt / 20, 1))
    raise ContentionError(f"Too much contention: others changed the same documents {ATTEMPTS_MAX} times. Nothing was written.")


def tx_ops(ctx, tx) -> list:
    """The store's operations for documents with instructions."""
    made = _with_values(tx, {}, ctx["biff/node"].new_id, now(ctx))
    ops: list = []
    for part in made:
        if type(part) is dict:
            ops += _document_ops(ctx, part)
        elif type(part) is tuple:
            ops.append(part)
        else:
            raise TransactionError(f"{type(part).__name__} in a transaction; wanted a document with \"db/doc-type\", or an operation.")
    return ops


def _with_values(part, ids, new_id, at):
    """The transaction with temporary ids and `now` replaced, in documents of ours only."""
    if type(part) is list:
        return [_with_values(item, ids, new_id, at) for item in part]
    if type(part) is dict:
        return {key: _with_values(item, ids, new_id, at) for key, item in part.items()}
    if type(part) is tuple and part == NOW:
        return at
    if type(part) is tuple and len(part) == 2 and part[0] == "db/id":
        return ids.setdefault(part[1], None) or ids.__setitem__(part[1], new_id()) or ids[part[1]]
    if type(part) is set:
        return {_with_values(item, ids, new_id, at) for item in part}
    return part


def _document_ops(ctx, document) -> list:
    document, checks = _upserted(ctx["biff/db"], dict(document))
    operation, doc_type = document.pop("db/op", "put"), document.pop("db/doc-type", None)
    id = document.setdefault("xt/id", None) or ctx["biff/node"].new_id()
    document["xt/id"] = id
    if operation == "delete":
        return [delete(id)]
    if doc_type not in ctx["biff/schema"]:
        raise TransactionError(f"\"db/doc-type\" is {doc_type!r}; known are {', '.join(sorted(ctx['biff/schema']))}. Nothing was written.")
    for attribute, value in document.items():
        if _is_special(value, "db/unique"):
            document[attribute] = value[1]
            checks.append(call("biff/ensure-unique", {attribute: value[1]}))
    return _written(ctx, operation, doc_type, document) + checks


def _upserted(db, document):
    """The document that an upsert finds, merged with; or a new one, that must be the only one of its kind."""
    wanted = document.pop("db.op/upsert", None)
    if wanted is None:
        return document, []
    found = lookup_id(db, *itertools.chain(*wanted.items()))
    document = document | wanted | {"db/op": "merge"}
    if found is not None:
        return document | {"xt/id": found}, []
    return document, [call("biff/ensure-unique", wanted)]


def _written(ctx, operation, doc_type, document) -> list:
    id, before = document["xt/id"], None
    if operation in ("create", "update", "merge"):
        before = ctx["biff/db"].entity(id)
    if operation == "create" and before is not None:
        raise TransactionError(f"Attempted to create {id}, which exists already. Nothing was written.")
    if operation == "update" and before is None:
        raise TransactionError(f"Attempted to update {id}, which does not exist. Nothing was written.")
    if operation in ("update", "merge"):
        document = merged(before or {}, document)
    elif operation not in ("put", "create"):
        raise TransactionError(f"\"db/op\" is {operation!r}; wanted put, create, update, merge or delete. Nothing was written.")
    check(ctx["biff/schema"], doc_type, document)
    return [put(document)] if operation == "put" else [match(id, before), put(document)]


def merged(before, given) -> dict:
    """The document with the given attributes over it, special values worked out."""
    document = dict(before)
    for attribute, value in given.items():
        kind = value[0] if type(value) is tuple and value and type(value[0]) is str else None
        if kind == "db/dissoc":
            document.pop(attribute, None)
        elif kind in _MERGE:
            document[attribute] = _MERGE[kind](document.get(attribute), *value[1:]) if kind != "db/default" or attribute not in document else document[attribute]
        else:
            document[attribute] = value
    return document


_MERGE = {
    "db/union": lambda old, *items: set(old or ()) | set(items),
    "db/difference": lambda old, *items: set(old or ()) - set(items),
    "db/add": lambda old, *numbers: (old or 0) + sum(numbers),
    "db/default": lambda old, value: value,
}


def _is_special(value, kind) -> bool:
    return type(value) is tuple and len(value) > 0 and value[0] == kind


def check(schema, doc_type, document):
    """Nothing, or SchemaError naming the attribute that does not fit."""
    try:
        schema[doc_type](document)
    except voluptuous.Invalid as error:
        first = error.errors[0] if isinstance(error, voluptuous.MultipleInvalid) else error
        attribute = str(first.path[0]) if first.path else None
        raise SchemaError(f"{attribute or 'The document'} of a {doc_type}: {first.msg}. Nothing was written.", doc_type, attribute) from None


def ensure_unique(ctx, wanted):
    """Aborts if more than one document has all these values. Source: Biff, :biff/ensure-unique."""
    return None if len(lookup_ids(ctx.db, wanted)) < 2 else False


def q(db, query, *args) -> list:
    """db.q, by Biff's name."""
    return db.q(query, *args)


def lookup_ids(db, wanted) -> list:
    """The ids of the documents that have all these values."""
    names = [f"?v{n}" for n in range(len(wanted))]
    query = {"find": "?e", "in": names, "where": [["?e", attribute, name] for attribute, name in zip(wanted, names)]}
    return db.q(query, *wanted.values())


def lookup_id(db, *pairs):
    """The id of a document that has all the attributes and values given in turn, or None."""
    return next(iter(lookup_ids(db, dict(zip(pairs[::2], pairs[1::2])))), None)


def lookup(db, *pairs, pattern=("*",)):
    """The document that has all the attributes and values given in turn, or None."""
    id = lookup_id(db, *pairs)
    return None if id is None else db.pull(list(pattern), id)


def now(ctx) -> dt.datetime:
    return ctx["biff/clock"]()


# ── The system ───────────────────────────────────────────────────────────────────────────────────────────────
#
# Components are started in order; what they leave in "biff/stop" is called in the reverse order.


async def start_system(components, system) -> dict:
    system = {"biff/stop": [], "biff/plugins": [], "biff/arguments": {}, "biff/clock": lambda: dt.datetime.now(dt.timezone.utc)} | system
    try:
        for component in components:
            system = await component(system)
    except BaseException:
        await stop_system(system)
        raise
    return system


async def stop_system(system):
    while system["biff/stop"]:
        stop = system["biff/stop"].pop()
        try:
            result = stop()
            if inspect.isawaitable(result):
                await result
        except Exception:
            log.exception("a component did not stop cleanly")


def run(components, system):
    """Runs the system until SIGINT or SIGTERM. What a newcomer meets is one sentence and exit status 1."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stdout)
    try:
        asyncio.run(_run(components, system))
    except (Refusal, store.StoreError) as error:
        print(error, file=sys.stderr)
        sys.exit(1)


async def _run(components, system):
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    system = await start_system(components, system)
    print(f"{system['biff/name']} is ready: open {system['biff/base-url']}", flush=True)
    await stopped.wait()
    await stop_system(system)


def arguments(name, description) -> dict:
    parser = argparse.ArgumentParser(prog=name, description=description)
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (%(default)s: this machine only)")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--data", default="data", metavar="DIR", help="where the data file and the secrets are (%(default)s)")
    parser.add_argument("--base-url", help="how people reach the server, such as https://chat.example.org")
    parser.add_argument("--proxy", action="append", default=[], metavar="ADDRESS", help="a proxy whose X-Forwarded-For is believed")
    return vars(parser.parse_args())


async def use_config(system) -> dict:
    """Settings: arguments, then the environment, then config.env in the data folder. The first start makes the secret."""
    given = system["biff/arguments"]
    folder = pathlib.Path(given.get("data") or "data")
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        settings = _config_env(folder / "config.env") | {key: value for key, value in os.environ.items() if key.startswith("EELCHAT_")}
        secret = _secret(folder / "secret")
    except OSError as error:
        raise Refusal(f"The data folder {folder} cannot be used: {error.strerror}. Name another one with --data.") from None
    base_url = given.get("base_url") or settings.get("EELCHAT_BASE_URL")
    return system | {"biff/data": folder, "biff/secret": secret, "biff/config": settings, "biff/given-url": base_url,
                     "biff/is-secure": bool(base_url and base_url.startswith("https://")), "biff/rates": {},
                     "biff/proxies": frozenset(given.get("proxy") or ())}


def _config_env(path) -> dict:
    lines = path.read_text().splitlines() if path.exists() else []
    pairs = (line.split("=", 1) for line in lines if "=" in line and not line.lstrip().startswith("#"))
    return {key.strip(): value.strip().strip("\"'") for key, value in pairs}


def _secret(path) -> bytes:
    if not path.exists():
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_hex(32).encode())
            file.flush()
            os.fsync(file.fileno())
    secret = path.read_bytes().strip()
    if len(secret) < 32:
        raise Refusal(f"{path} is not a secret of ours: it has {len(secret)} bytes. Remove it, and the next start makes one; everybody signs in again.")
    return secret


async def use_store(system) -> dict:
    """The node on DATA/NAME.db, with the plugins' schemas and transaction functions."""
    plugins = system["biff/plugins"]
    functions = {"biff/ensure-unique": ensure_unique} | _collected(plugins, "tx-fns")
    path = system["biff/data"] / f"{system['biff/name']}.db"
    node = store.open(path, functions)
    system["biff/stop"].append(node.close)
    schema = {name: one if isinstance(one, voluptuous.Schema) else voluptuous.Schema(one, required=True) for name, one in _collected(plugins, "schema").items()}
    return system | {"biff/node": node, "biff/schema": schema}


def _collected(plugins, key) -> dict:
    return {name: value for plugin in plugins for name, value in plugin.get(key, {}).items()}


async def use_tx_listener(system) -> dict:
    """Calls each plugin's on_tx for each committed transaction, in order; one that fails harms no other. Source: Biff."""
    hearers = [plugin["on_tx"] for plugin in system["biff/plugins"] if "on_tx" in plugin]

    def on_tx(tx):
        ctx = system | {"biff/db": system["biff/node"].db()}
        for hear in hearers:
            try:
                hear(ctx, tx)
            except Exception:
                log.exception("on_tx of a plugin raised on transaction %d", tx.tx_id)

    listener = system["biff/node"].on_tx(on_tx)
    system["biff/stop"].append(listener.close)
    return system


# ── Queues and tasks ─────────────────────────────────────────────────────────────────────────────────────────


class QueueFullError(Exception):
    """A queue has as many jobs waiting as it may."""


class Queue:
    """Jobs in memory, lower priority numbers first. Jobs do not survive a restart."""

    def __init__(self, id):
        self.id, self._heap, self._numbers, self._some = id, [], itertools.count(), asyncio.Event()
        self.open, self.running = True, 0

    def put(self, job, priority, future=None):
        if len(self._heap) >= QUEUE_JOBS_MAX or not self.open:
            raise QueueFullError(f"The queue {self.id} takes no more jobs: {len(self._heap):,} wait.")
        heapq.heappush(self._heap, (priority, next(self._numbers), job, future))
        self._some.set()

    async def take(self):
        """The next job and who waits for its result, or None once the queue is closed and empty."""
        while not self._heap:
            if not self.open:
                return None
            self._some.clear()
            await self._some.wait()
        _, _, job, future = heapq.heappop(self._heap)
        return job, future

    def close(self):
        self.open = False
        self._some.set()


def submit_job(ctx, id, job, priority=10):
    """Puts a job into a queue. Raises: QueueFullError."""
    ctx["biff/queues"][id].put(job, priority)


async def submit_job_for_result(ctx, id, job, priority=10, timeout_s=20):
    future = asyncio.get_running_loop().create_future()
    ctx["biff/queues"][id].put(job, priority, future)
    return await asyncio.wait_for(future, timeout_s)


async def use_queues(system) -> dict:
    """The consumers of the plugins' queues; at the end they have ten seconds to drain."""
    queues = {one["id"]: Queue(one["id"]) for plugin in system["biff/plugins"] for one in plugin.get("queues", ())}
    system = system | {"biff/queues": queues}
    workers = [asyncio.create_task(_work(system, one)) for plugin in system["biff/plugins"] for one in plugin.get("queues", ())
               for _ in range(one.get("workers", 1))]

    async def stop():
        for queue in queues.values():
            queue.close()
        await _ended(workers, DRAIN_S)

    system["biff/stop"].append(stop)
    return system


async def _work(system, queue):
    jobs = system["biff/queues"][queue["id"]]
    while (taken := await jobs.take()) is not None:
        job, future = taken
        try:
            result = await queue["consumer"](system | {"biff/job": job, "biff/db": system["biff/node"].db()})
            if future and not future.done():
                future.set_result(result)
        except Exception as error:
            log.exception("a job of %s raised; the next follows", queue["id"])
            if future and not future.done():
                future.set_exception(error)


async def _ended(tasks, seconds):
    """Waits for tasks, then cancels what still runs."""
    if tasks:
        _, running = await asyncio.wait(tasks, timeout=seconds)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def every(seconds):
    """A schedule: at start, and then every so many seconds, give or take a tenth, so that tasks do not march in step."""
    while True:
        yield seconds * (0.9 + 0.2 * random.random())


async def use_tasks(system) -> dict:
    running = [asyncio.create_task(_repeat(system, task)) for plugin in system["biff/plugins"] for task in plugin.get("tasks", ())]

    async def stop():
        for task in running:
            task.cancel()
        await _ended(running, DRAIN_S)

    system["biff/stop"].append(stop)
    return system


async def _repeat(system, task):
    for pause_s in task["schedule"]:
        try:
            await task["task"](system | {"biff/db": system["biff/node"].db()})
        except Exception:
            log.exception("a scheduled task raised; it runs again at its next time")
        await asyncio.sleep(pause_s)


# ── The web ──────────────────────────────────────────────────────────────────────────────────────────────────
#
# One way in: every request passes `_passed`, which finds its session, checks that an unsafe request is ours, takes the snapshot,
# asks the route's rule, and turns whatever goes wrong into a page. Every answer bears the same headers.


class Assets:
    """Our static files and the browser scripts, read once, gzipped, named by their hash."""

    def __init__(self):
        self._files: dict = {}
        for path in sorted((HERE / "static").iterdir()):
            self._add(path.name, path)
        for name, path in SCRIPTS.items():
            self._add(name, HERE / "node_modules" / path)

    def _add(self, name, path):
        try:
            data = path.read_bytes()
        except OSError:
            raise Refusal(f"The browser script {name} is not installed. Run: pip install -e . (it brings them by npm).") from None
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        self._files[name] = data, gzip.compress(data, 9, mtime=0), kind, hashlib.sha256(data).hexdigest()[:16]

    def address(self, name) -> str:
        return f"/static/{name}?v={self._files[name][3]}"

    def answer(self, ctx) -> web.Response:
        if (found := self._files.get(ctx["params"]["name"])) is None:
            raise web.HTTPNotFound
        data, packed, kind, mark = found
        headers = {"ETag": f'"{mark}"', "Vary": "Accept-Encoding"}
        headers["Cache-Control"] = "public, max-age=31536000, immutable" if ctx["params"].get("v") == mark else "no-cache"
        if ctx["request"].headers.get("If-None-Match") == headers["ETag"]:
            return web.Response(status=304, headers=headers)
        if "gzip" in ctx["request"].headers.get("Accept-Encoding", ""):
            return web.Response(body=packed, content_type=kind, headers=headers | {"Content-Encoding": "gzip"})
        return web.Response(body=data, content_type=kind, headers=headers)


async def use_jinja(system) -> dict:
    """The application, and the one template environment, which escapes, for pages and fragments alike."""
    app = web.Application(client_max_size=BODY_BYTES_MAX)
    environment = aiohttp_jinja2.setup(app, loader=jinja2.FileSystemLoader(HERE / "templates"), trim_blocks=True, lstrip_blocks=True,
                                       undefined=jinja2.StrictUndefined)
    assets = Assets()
    environment.globals |= {"asset": assets.address, "name": system["biff/name"]}
    return system | {"biff/app": app, "biff/jinja": environment, "biff/assets": assets}


def render(ctx, template, status=200, **values) -> web.Response:
    values = {"csrf_token": csrf_token(ctx), "base_url": ctx["biff/base-url"], "uid": ctx["uid"], "path": ctx["request"].path} | values
    text = ctx["biff/jinja"].get_template(template).render(values)
    return web.Response(text=text, status=status, content_type="text/html", headers={"Cache-Control": "no-store"})


def fragment(system, template, **values) -> str:
    return system["biff/jinja"].get_template(template).render(values)


def redirect(ctx, path) -> web.Response:
    """To another page of ours. htmx would follow a 303 and swap the page into the middle of this one: it is told to go there."""
    if not path.startswith("/") or path.startswith(("//", "/\\")) or re.search(r"[\x00-\x20\\]", path):
        path = "/"
    if ctx["request"].headers.get("HX-Request"):
        return web.Response(status=204, headers={"HX-Redirect": path})
    return web.Response(status=303, headers={"Location": path})


def error(ctx, status, sentence=None) -> web.Response:
    """An error page, or for htmx the sentence alone."""
    sentence = sentence or {404: "There is nothing at this address.", 405: "That cannot be done here.", 413: "That is too long.",
                            403: "That is not allowed.", 429: "That was too often. Wait a moment."}.get(status, "Something went wrong.")
    if ctx["request"].headers.get("HX-Request"):
        return web.Response(text=sentence, status=status)
    return render(ctx, "error.html", status, sentence=sentence)


async def use_web(system) -> dict:
    """The routes of the plugins, served. Each route states who may use it."""
    app, given = system["biff/app"], system["biff/arguments"]
    routes = [("GET", "/static/{name}", anyone, _static)] + [route for plugin in system["biff/plugins"] for route in plugin.get("routes", ())]
    for method, path, rule, handler in routes:
        app.router.add_route(method, path, _route(system, rule, handler))
    app.middlewares.append(_middleware(system))
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1, handler_cancellation=False)
    await runner.setup()
    host, port = given.get("host") or "127.0.0.1", given.get("port", 8080)
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
    except OSError as problem:
        await runner.cleanup()
        raise Refusal(f"Port {port} of {host} cannot be used: {problem.strerror or problem}. Name another one with --port.") from None
    system["biff/stop"].append(runner.cleanup)
    port = runner.addresses[0][1]
    base_url = system["biff/given-url"] or f"http://{'localhost' if host in ('0.0.0.0', '::') else host}:{port}"
    system["biff/base-url"] = base_url.rstrip("/")
    system["biff/origins"] = _origins(system["biff/base-url"], bool(system["biff/given-url"]), port)
    if not system["biff/is-secure"]:
        log.info("the base URL %s is not https: cookies travel in the clear; on the internet, put a TLS proxy in front and name --base-url https://…", base_url)
    return system


def _origins(base_url, is_given, port) -> frozenset:
    """The origins that are ours: the base URL's, and without one all the names of this machine to itself."""
    local = () if is_given else (f"http://{name}:{port}" for name in ("localhost", "127.0.0.1", "[::1]"))
    parts = urllib.parse.urlsplit(base_url)
    return frozenset((f"{parts.scheme}://{parts.netloc}", *local))


async def _static(ctx):
    return ctx["biff/assets"].answer(ctx)


def anyone(ctx):
    """The rule that admits all."""


def signed_in(ctx):
    if not ctx["uid"]:
        return redirect(ctx, "/signin?error=not-signed-in")


def _route(system, rule, handler):
    async def handle(request):
        ctx = request[CTX]
        ctx["params"] |= request.match_info
        refusal = rule(ctx)
        if inspect.isawaitable(refusal):
            refusal = await refusal
        return refusal if refusal is not None else await handler(ctx)
    handle.rule = rule
    return handle


def _middleware(system):
    @web.middleware
    async def passed(request, handler):
        begin, ctx = time.monotonic(), _request_ctx(system, request)
        request[CTX] = ctx
        try:
            response = await _answered(ctx, request, handler)
        except web.HTTPException as problem:
            response = error(ctx, problem.status)
        except store.ClosedError:
            log.exception("the store takes no writes")
            response = error(ctx, 503, "The chat cannot store anything at the moment. Nothing was lost; try again later.")
        except Exception:
            mark = secrets.token_hex(4)
            log.exception("error %s at %s %s", mark, request.method, _masked(request.path))
            response = error(ctx, 500, f"Something went wrong. If you report it, name the mark {mark}.")
        if not response.prepared:
            _dress(ctx, response)
        log.info("%d ms %d %s %s", (time.monotonic() - begin) * 1000, response.status, request.method, _masked(request.path))
        return response
    return passed


def _masked(path) -> str:
    """A path for the log: without sign-in tokens, and on one line whatever it holds."""
    return ascii(re.sub(r"(?<=/verify-link/).+", "…", path))[1:-1][:200]


def _request_ctx(system, request) -> dict:
    cookie = request.cookies.get(cookie_name(system), "")
    is_fresh = not re.fullmatch(r"[\w-]{43}", cookie, re.ASCII)
    cookie = secrets.token_urlsafe(COOKIE_BYTES) if is_fresh else cookie
    ctx = system | {"request": request, "params": dict(request.query), "biff/db": system["biff/node"].db(), "session": None, "uid": None,
                    "biff/cookie": cookie, "biff/set-cookie": is_fresh}
    session = None if is_fresh else session_of(ctx, cookie)
    return ctx if session is None else ctx | {"session": session, "uid": session["session/user"]}


async def _answered(ctx, request, handler):
    if request.headers.get("Upgrade", "").lower() == "websocket":
        if request.headers.get("Origin") not in ctx["biff/origins"]:
            return web.Response(status=403, text="Forbidden")
        return await handler(request)
    async with asyncio.timeout(REQUEST_S_MAX):
        if request.method not in ("GET", "HEAD", "OPTIONS"):
            await _read_form(ctx, request)
            if not is_ours(ctx):
                return error(ctx, 403, "This request did not come from a page of ours, or the page is too old. Reload it and try again.")
        if ctx["session"]:
            await _use_session(ctx)
        return await handler(request)


async def _read_form(ctx, request):
    """The fields of a form. A bare CR in the middle of a line is how a log line would be forged; line ends are one character."""
    if request.content_type not in ("application/x-www-form-urlencoded", "application/octet-stream", "text/plain"):
        raise web.HTTPUnsupportedMediaType
    body = await request.read()
    try:
        fields = urllib.parse.parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=FIELDS_MAX, errors="strict")
    except ValueError:
        raise web.HTTPBadRequest from None
    ctx["params"] |= {name: value.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "") for name, value in fields}


def is_ours(ctx) -> bool:
    """Whether an unsafe request comes from a page of ours: by what the browser says of it, and by the token of its form."""
    request = ctx["request"]
    site = request.headers.get("Sec-Fetch-Site")
    if site != "same-origin" if site else request.headers.get("Origin") not in ctx["biff/origins"]:
        return False
    token = request.headers.get("X-CSRF-Token") or ctx["params"].get("__anti-forgery-token", "")
    return hmac.compare_digest(token.encode(), csrf_token(ctx).encode())


def csrf_token(ctx) -> str:
    """The anti-forgery token of this browser's cookie; nothing has to be stored for it."""
    return keyed(ctx, "csrf", ctx["biff/cookie"])


def keyed(ctx, purpose, text) -> str:
    return hmac.new(ctx["biff/secret"], f"{purpose}:{text}".encode(), hashlib.sha256).hexdigest()


def _dress(ctx, response):
    response.headers.update(HEADERS)
    if ctx["biff/is-secure"]:
        response.headers["Strict-Transport-Security"] = "max-age=31536000; includeSubDomains"
    if ctx["biff/set-cookie"] and not ctx["request"].path.startswith("/static/"):
        response.set_cookie(cookie_name(ctx), ctx["biff/cookie"], max_age=SESSION_DAYS * 24 * 3600, path="/", httponly=True, samesite="Lax",
                            secure=ctx["biff/is-secure"])


def cookie_name(ctx) -> str:
    """Browsers drop a __Host- cookie that comes over plain http, but on this very machine: without https it has another name."""
    return f"__Host-{ctx['biff/name']}" if ctx["biff/is-secure"] else ctx["biff/name"]


def client_of(ctx) -> str:
    """The address of whoever asks. Forwarded headers are believed from the proxies named at start alone."""
    address = ctx["request"].remote or ""
    for hop in reversed([hop.strip() for hop in ctx["request"].headers.get("X-Forwarded-For", "").split(",") if hop.strip()]):
        if address not in ctx["biff/proxies"]:
            break
        address = hop
    return address


def is_allowed(ctx, *limits) -> bool:
    """Whether each (key, count_max, window_s) has room for one more; counted if all have. In memory: a restart forgets."""
    rates, at = ctx["biff/rates"], time.monotonic()
    if len(rates) > RATES_MAX:
        rates.clear()
    held = []
    for key, count_max, window_s in limits:
        times = [one for one in rates.get(key, ()) if one > at - window_s]
        if len(times) >= count_max:
            return False
        held.append((key, times))
    for key, times in held:
        rates[key] = [*times, at]
    return True


# ── Sessions ─────────────────────────────────────────────────────────────────────────────────────────────────
#
# A session is a document, found by the hash of the cookie: whoever reads the store cannot sign in with what is in it, and a session
# that is evicted is over at once, on its sockets too. An anonymous visitor has a cookie and no document.

_SESSION = {
    "xt/id": uuid.UUID,
    "session/hash": str,
    "session/user": uuid.UUID,
    "session/created-at": dt.datetime,
    "session/used-at": dt.datetime,
    "session/agent": voluptuous.All(str, voluptuous.Length(max=200)),
}
_TOKEN = {
    "xt/id": uuid.UUID,
    "token/hash": str,
    "token/purpose": voluptuous.Any("link", "code"),
    "token/email": str,
    "token/expires-at": dt.datetime,
    "token/browser": str,
    "token/tries": int,
}


def hashed(text) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def session_of(ctx, cookie) -> dict | None:
    """The living session of a cookie."""
    session = lookup(ctx["biff/db"], "session/hash", hashed(cookie))
    if session is None or ctx["biff/db"].entity(session["session/user"]) is None:
        return None
    at = now(ctx)
    over = session["session/created-at"] + dt.timedelta(days=SESSION_DAYS) <= at or session["session/used-at"] + dt.timedelta(days=IDLE_DAYS) <= at
    return None if over else session


async def _use_session(ctx):
    """Writes down, once a day and never on a GET, that a session is in use."""
    if ctx["request"].method != "GET" and now(ctx) - ctx["session"]["session/used-at"] > dt.timedelta(seconds=USED_EVERY_S):
        await submit_tx(ctx, [{"db/doc-type": "session", "db/op": "update", "xt/id": ctx["session"]["xt/id"], "session/used-at": NOW}], retry=False)


def session_tx(ctx, user_id) -> list:
    """A new session under a new cookie: one that was planted before signing in is worth nothing afterwards."""
    ctx["biff/cookie"], ctx["biff/set-cookie"] = secrets.token_urlsafe(COOKIE_BYTES), True
    old = [evict(ctx["session"]["xt/id"])] if ctx["session"] else []
    agent = ctx["request"].headers.get("User-Agent", "an unnamed browser")[:200]
    return old + [{"db/doc-type": "session", "session/hash": hashed(ctx["biff/cookie"]), "session/user": user_id, "session/created-at": NOW,
                   "session/used-at": NOW, "session/agent": agent.encode(errors="replace").decode()}]


def sessions_of(ctx) -> list[dict]:
    found = q(ctx["biff/db"], {"find": ("pull", "?s", ["*"]), "in": ["?user"], "where": [["?s", "session/user", "?user"]]}, ctx["uid"])
    return sorted(found, key=lambda session: session["session/used-at"], reverse=True)


async def sessions_page(ctx):
    return render(ctx, "sessions.html", sessions=sessions_of(ctx), mine=ctx["session"]["xt/id"])


async def revoke_session(ctx):
    ids = [session["xt/id"] for session in sessions_of(ctx) if str(session["xt/id"]) == ctx["params"]["id"]]
    await submit_tx(ctx, [evict(id) for id in ids])
    return redirect(ctx, "/sessions")


async def revoke_others(ctx):
    await submit_tx(ctx, [evict(one["xt/id"]) for one in sessions_of(ctx) if one["xt/id"] != ctx["session"]["xt/id"]])
    return redirect(ctx, "/sessions")


async def sign_out(ctx):
    if ctx["session"]:
        await submit_tx(ctx, [evict(ctx["session"]["xt/id"])])
    ctx["biff/cookie"], ctx["biff/set-cookie"] = secrets.token_urlsafe(COOKIE_BYTES), True
    return redirect(ctx, "/")


# ── Signing in ───────────────────────────────────────────────────────────────────────────────────────────────
#
# By a link or a code, mailed. Both live ten minutes and work once; the store has only hashes, of a code one under the server's secret,
# since a million codes are soon tried. A GET consumes nothing, because mail scanners open links: a pressed button does. Whether an
# address is known makes no difference to any answer.

_ERRORS = {
    "invalid-email": "That is not an email address we can use. Try another one.",
    "send-failed": "We could not send mail to that address. Try another one, or try again later.",
    "too-many": "That was often. Wait a while before asking for another mail.",
    "invalid-link": "That link has expired or was used already. Ask for a new one.",
    "invalid-code": "That code is wrong or has expired.",
    "incorrect-email": "That is not the address the link was sent to.",
    "not-signed-in": "Sign in to see that page.",
}


def error_text(params) -> str | None:
    """The sentence for ?error=… in an address."""
    return _ERRORS.get(params["error"], "There was an error.") if params.get("error") else None


def normalized_email(text) -> str | None:
    address = text.strip().lower()
    return address if len(address) <= 254 and re.fullmatch(r"[^\s@,;:<>\"()\[\]\\]+@[^\s@,;:<>\"()\[\]\\]+\.[^\s@,;:<>\"()\[\]\\.]+", address) and address.isprintable() else None


async def send_link(ctx):
    token = secrets.token_urlsafe(COOKIE_BYTES)
    link = f"{ctx['biff/base-url']}/auth/verify-link/{token}"
    back = ctx["params"].get("on-error") if ctx["params"].get("on-error") in ("/", "/signin") else "/signin"
    return await _send(ctx, "link", hashed(token), back, "/link-sent", "mail/link.txt", f"Your link to {ctx['biff/name']}", link=link)


async def send_code(ctx):
    code = f"{secrets.randbelow(1_000_000):06}"
    email = normalized_email(ctx["params"].get("email", ""))
    return await _send(ctx, "code", keyed(ctx, "code", f"{email}:{code}"), "/signin", "/verify-code", "mail/code.txt",
                       f"Your code for {ctx['biff/name']}", code=code)


async def _send(ctx, purpose, hash, back, then, template, subject, **values):
    """Stores the hash, sends the mail, and answers alike whoever asks."""
    email = normalized_email(ctx["params"].get("email", ""))
    if email is None:
        return redirect(ctx, f"{back}?error=invalid-email")
    who = {"address": ("mail", email), "client": ("mail", client_of(ctx)), "server": ("mail",)}
    if not is_allowed(ctx, *((("limit", kind, *who[kind]), count, window) for kind, count, window in MAILS)):
        return redirect(ctx, f"{back}?error=too-many")
    tokens = _tokens_of(ctx, email, purpose) if purpose == "code" else []
    await submit_tx(ctx, [*(evict(id) for id in tokens), {
        "db/doc-type": "token", "token/hash": hash, "token/purpose": purpose, "token/email": email, "token/tries": 0,
        "token/expires-at": now(ctx) + dt.timedelta(minutes=TOKEN_MINUTES), "token/browser": hashed(ctx["biff/cookie"])}])
    text = fragment(ctx, template, minutes=TOKEN_MINUTES, base_url=ctx["biff/base-url"], **values)
    if not await send_mail(ctx, email, subject, text):
        return redirect(ctx, f"{back}?error=send-failed")
    return redirect(ctx, f"{then}?email={urllib.parse.quote(email)}")


def _tokens_of(ctx, email, purpose) -> list:
    return lookup_ids(ctx["biff/db"], {"token/email": email, "token/purpose": purpose})


async def send_mail(ctx, to, subject, text) -> bool:
    """Sends a mail, or prints it while no mail server is configured. True if it went."""
    settings = ctx["biff/config"]
    if "EELCHAT_SMTP_HOST" not in settings:
        print(f"\nTO: {to}\nSUBJECT: {subject}\n\n{text}\n(Printed, since no mail server is configured: set EELCHAT_SMTP_HOST and EELCHAT_MAIL_FROM "
              "in the environment or in config.env of the data folder.)\n", flush=True)
        return True
    mail = email_message.EmailMessage()
    mail["To"], mail["Subject"], mail["From"] = to, subject, settings.get("EELCHAT_MAIL_FROM", "eelchat@localhost")
    mail.set_content(text)
    try:
        await aiosmtplib.send(mail, hostname=settings["EELCHAT_SMTP_HOST"], port=int(settings.get("EELCHAT_SMTP_PORT", 587)), timeout=10,
                              username=settings.get("EELCHAT_SMTP_USER"), password=settings.get("EELCHAT_SMTP_PASSWORD"),
                              use_tls=settings.get("EELCHAT_SMTP_TLS") == "yes")
    except (aiosmtplib.SMTPException, OSError) as problem:
        log.error("a mail was not sent: %s", ascii(str(problem)))
        return False
    return True


def _valid_token(ctx, hash, purpose):
    found = lookup(ctx["biff/db"], "token/hash", hash, "token/purpose", purpose)
    return found if found and found["token/expires-at"] > now(ctx) and found["token/tries"] < CODE_TRIES else None


async def signin_page(ctx):
    return render(ctx, "signin.html", error=error_text(ctx["params"]), is_printed="EELCHAT_SMTP_HOST" not in ctx["biff/config"])


async def link_sent_page(ctx):
    return render(ctx, "link_sent.html", email=ctx["params"].get("email", ""), is_printed="EELCHAT_SMTP_HOST" not in ctx["biff/config"])


async def verify_link_page(ctx):
    """Shows a button; in another browser than the one that asked it also wants the address, so that nobody is signed in by someone else's link."""
    token = ctx["params"]["token"]
    found = _valid_token(ctx, hashed(token), "link")
    if found is None:
        return redirect(ctx, "/signin?error=invalid-link")
    return render(ctx, "verify_link.html", token=token, error=error_text(ctx["params"]),
                  email=found["token/email"] if _is_asking_browser(ctx, found) else None)


def _is_asking_browser(ctx, token) -> bool:
    return hmac.compare_digest(token["token/browser"], hashed(ctx["biff/cookie"]))


async def verify_link(ctx):
    token = ctx["params"].get("token", "")
    found = _valid_token(ctx, hashed(token), "link")
    if found is None:
        return redirect(ctx, "/signin?error=invalid-link")
    if not _is_asking_browser(ctx, found) and normalized_email(ctx["params"].get("email", "")) != found["token/email"]:
        await _count_try(ctx, found)
        return redirect(ctx, f"/auth/verify-link/{urllib.parse.quote(token)}?error=incorrect-email")
    return await _redeem(ctx, found, "/signin?error=invalid-link")


async def verify_code_page(ctx):
    return render(ctx, "verify_code.html", email=ctx["params"].get("email", ""), error=error_text(ctx["params"]))


async def verify_code(ctx):
    email, code = normalized_email(ctx["params"].get("email", "")), ctx["params"].get("code", "").strip()
    wrong = f"/verify-code?error=invalid-code&email={urllib.parse.quote(email or '')}"
    found = _valid_token(ctx, keyed(ctx, "code", f"{email}:{code}"), "code")
    if found is not None:
        return await _redeem(ctx, found, wrong)
    for id in _tokens_of(ctx, email, "code") if email else ():
        await _count_try(ctx, ctx["biff/db"].entity(id))
    return redirect(ctx, wrong)


async def _count_try(ctx, token):
    with contextlib.suppress(TransactionError):
        await submit_tx(ctx, [{"db/doc-type": "token", "db/op": "update", "xt/id": token["xt/id"], "token/tries": ("db/add", 1)}])


async def _redeem(ctx, token, otherwise):
    """Makes the session. The store itself sees to it that of many redemptions one wins: the token must still be as it was, and goes."""
    user_id = lookup_id(ctx["biff/db"], "user/email", token["token/email"])
    new = [] if user_id else [{"db/doc-type": "user", "xt/id": (user_id := ctx["biff/node"].new_id()), "user/email": ("db/unique", token["token/email"]),
                               "user/joined-at": NOW}]
    tx = [match(token["xt/id"], token), evict(token["xt/id"]), *new, *session_tx(ctx, user_id)]
    try:
        submitted = await submit_tx(ctx, tx, retry=False)
    except TransactionError:
        submitted = None
    if submitted is None or not submitted.committed:
        ctx["biff/cookie"], ctx["biff/set-cookie"] = secrets.token_urlsafe(COOKIE_BYTES), True
        return redirect(ctx, otherwise)
    return redirect(ctx, "/app")


async def forget_expired(ctx):
    """Evicts tokens and sessions that are over: an immutable store would remember them for ever."""
    at = now(ctx)
    tokens = q(ctx["biff/db"], {"find": "?t", "in": ["?now"], "where": [["?t", "token/expires-at", "?at"], [("<=", "?at", "?now")]]}, at)
    old = q(ctx["biff/db"], {"find": "?s", "in": ["?created", "?used"], "where": [
        ["?s", "session/created-at", "?c"], ["?s", "session/used-at", "?u"], ("or", [("<=", "?c", "?created")], [("<=", "?u", "?used")])]},
        at - dt.timedelta(days=SESSION_DAYS), at - dt.timedelta(days=IDLE_DAYS))
    if gone := [*tokens, *old]:
        await submit_tx(ctx, [evict(id) for id in gone])


def auth_plugin() -> dict:
    """Signing in by mail, signing out, and one's sessions. The application's schema has the type "user" with user/email and user/joined-at."""
    return {
        "schema": {"session": _SESSION, "token": _TOKEN},
        "tasks": [{"task": forget_expired, "schedule": every(600)}],
        "routes": [
            ("GET", "/signin", anyone, signin_page),
            ("POST", "/auth/send-link", anyone, send_link),
            ("GET", "/link-sent", anyone, link_sent_page),
            ("GET", "/auth/verify-link/{token}", anyone, verify_link_page),
            ("POST", "/auth/verify-link", anyone, verify_link),
            ("POST", "/auth/send-code", anyone, send_code),
            ("GET", "/verify-code", anyone, verify_code_page),
            ("POST", "/auth/verify-code", anyone, verify_code),
            ("POST", "/auth/signout", anyone, sign_out),
            ("GET", "/sessions", signed_in, sessions_page),
            ("POST", "/sessions/others/revoke", signed_in, revoke_others),
            ("POST", "/sessions/{id}/revoke", signed_in, revoke_session),
        ],
    }


COMPONENTS = [use_config, use_store, use_jinja, use_queues, use_tx_listener, use_web, use_tasks]
