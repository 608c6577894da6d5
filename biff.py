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
job, task or transaction adds to it: always "biff/db", a fresh snapshot; in a request also "request", "params", "session"
and "uid". This file knows documents, requests and people who sign in; it knows no channel and no message.
"""

import argparse
import asyncio
import contextlib
import datetime as dt
import email.message
import email.utils
import errno
import functools
import gc
import gzip
import hashlib
import hmac
import inspect
import ipaddress
import itertools
import logging
import mimetypes
import os
import pathlib
import random
import re
import resource
import secrets
import signal
import socket
import sys
import tempfile
import time
import urllib.parse
import uuid
from typing import Any, Callable, Iterable, Iterator, NamedTuple

import aiohttp
import aiohttp_jinja2
import aiosmtplib
import jinja2
import voluptuous
from aiohttp import web

import metrics
import store

log = logging.getLogger("biff")

# ── Words ────────────────────────────────────────────────────────────────────────────────────────────────────
#
# Limits and names, each with its reason. A limit is a decision.

BODY_BYTES_MAX = 64 * 1024            # of a form: a message of 10,000 characters, percent-encoded in any script, and room
FIELDS_MAX = 50                       # in a form; ours have at most five
HEADER_BYTES_MAX = 8190               # of a line or a field; a cookie and a referrer are far below
HEADERS_MAX = 64                      # browsers send some twenty, proxies add a few
IDLE_S_MAX = 15                       # until a request's head is there, and between two requests on one connection
REQUEST_S_MAX = 15                    # for a body to arrive, and again for its answer to be made
ANSWER_S_MAX = 60                     # for an answer to be taken: fifty long messages over a poor telephone line
FILES_KEPT = 80                       # not for connections: the store, feeds and mail, and those that are accepted in one go
ACCEPTED_AT_ONCE = 16                 # before one is asked whether there is room; the rest wait for the next turn of the loop
LISTEN_QUEUE = 1_024                  # that the kernel holds till then: a community coming back
ACCEPT_AGAIN_S = 1                    # after the system had no file or memory for one more
STOP_S_MAX = 0.7                      # for requests under way when the server stops; Ctrl-C is answered within a second

ATTEMPTS_MAX = 5                      # at one transaction; whoever loses five times in a row is told
RETRY_S = 0.1                         # the first wait is below this, each next below twice the one before; a try takes 1 ms

QUEUE_JOBS_MAX = 1_000                # waiting in a queue; more means that its consumer does not keep up
DRAIN_S_MAX = 10                      # for queued jobs at shutdown
PRIORITY = 10                         # of a job that names none; lower goes first

SESSION_DAYS = 60                     # from signing in, however often it is used
SESSION_IDLE_DAYS = 30                # without use
SESSIONS_MAX = 50                     # of one person; the one used longest ago ends when another begins
USED_EVERY = dt.timedelta(days=1)     # how old "last used" may be: reading a page writes nothing, a task does, once a day

TOKEN_MINUTES = 10                    # of a sign-in link or code
CODE_TRIES_MAX = 3
EMAIL_CHARS_MAX = 254                 # RFC 5321
PATH_CHARS_MAX = 200                  # of the page that one comes back to after signing in; ours are shorter
MAILS_AN_ADDRESS = 3, 3_600           # per hour: nobody's mailbox is flooded through us
MAILS_A_CLIENT = 20, 3_600            # per hour: a classroom behind one address signs in, a machine gun does not
MAILS_A_SERVER = 60, 60               # per minute: what a small mail relay takes from one sender
MAIL_S_MAX = 10                       # below REQUEST_S_MAX, so that a slow relay is told as "not sent"
WRITES_A_PERSON = 120, 60             # unsafe requests per minute: more than hands do, less than what fills a disk unnoticed
LIMIT_KEYS_MAX = 100_000              # remembered for rate limits, about 30 MB; then those that are over are forgotten
EVICT_MAX = 500                       # expired documents in one transaction
PATH_CHARS_LOGGED = 200
GARBAGE_OBJECTS = 10_000              # made between two looks for cycles, some MB: with 700 a server that greets many looks all the time
PROGRESS_S = 0.5                      # between two lines of progress while a server catches up with its log

UNSAFE = frozenset({"POST", "PUT", "PATCH", "DELETE"})
COOKIE = web.RequestKey("cookie", tuple)          # the value and its seconds, if the answer is to set one
ERROR_ID = web.ResponseKey("error id", str)
TOKEN_FIELD, TOKEN_HEADER = "__anti-forgery-token", "X-CSRF-Token"

MAY_BE_TOKEN = re.compile(r"(?<![\w-])[\w-]{43,}(?![\w-])")

ROOT = pathlib.Path(__file__).parent
SCRIPTS = {
    "htmx.js": "htmx.org/dist/htmx.min.js",
    "hx-ws.js": "htmx.org/dist/ext/hx-ws.min.js",
    "hyperscript.js": "hyperscript.org/dist/_hyperscript.min.js",
}
CONTENT_SECURITY_POLICY = ("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
                           "form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
SECURITY_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Not "no-referrer": under it browsers send `Origin: null` with our own forms, and the origin check refuses them.
    "Referrer-Policy": "same-origin",
}
HTTPS_ONLY = {"Strict-Transport-Security": "max-age=31536000; includeSubDomains"}


# ── Errors ───────────────────────────────────────────────────────────────────────────────────────────────────

class BiffError(Exception):
    """The root of everything that this file raises on purpose."""


class StartError(BiffError):
    """The system cannot start; the sentence says why and what to do."""


class TransactionError(BiffError):
    """A transaction was refused before it was submitted; nothing was written."""


class SchemaError(TransactionError):
    """A document would not be what its type says. `doc_type` and `attribute` name it."""

    def __init__(self, message, doc_type, attribute):
        super().__init__(message)
        self.doc_type, self.attribute = doc_type, attribute


class ConstraintError(TransactionError):
    """A transaction function refused: a value that must be unique is taken, or there are as many as there may be."""


class ContentionError(TransactionError):
    """Others changed the same documents at every attempt."""


class QueueFullError(BiffError):
    """A queue holds as many jobs as it may."""


# ── The system ───────────────────────────────────────────────────────────────────────────────────────────────
#
# A component is `async def use_x(system)`: it puts what it opened into the system and the function that closes it on
# "biff/stop". They start in order and stop in reverse order; one that fails to start stops those before it, and one
# that fails to stop does not keep the others open.

async def start_system(components: Iterable[Callable], system: dict) -> dict:
    """The system, the same dict, with everything that the components add. Raises: StartError."""
    system.setdefault("biff/plugins", [])
    system.setdefault("biff/clock", lambda: dt.datetime.now(dt.timezone.utc))
    system["biff/stop"] = []
    try:
        for use in components:
            system = await use(system)
    except BaseException:
        await stop_system(system)
        raise
    return system


async def stop_system(system: dict) -> None:
    while system["biff/stop"]:
        stop = system["biff/stop"].pop()
        try:
            if inspect.isawaitable(stopping := stop()):
                await stopping
        except Exception:
            log.exception("A component did not stop cleanly")


def run(components: Iterable[Callable], system: dict) -> None:
    """Starts the system and serves until Ctrl-C or SIGTERM. Exit status 1, after one sentence, if it cannot go on."""
    log_to_stderr()
    try:
        asyncio.run(_serve(components, system))
    except StartError as error:
        sys.exit(str(error))
    if system.get("biff/failure"):
        sys.exit(f"{system['biff/name']} stopped: {system['biff/failure']}")


async def _serve(components, system):
    ended, loop = asyncio.Event(), asyncio.get_running_loop()
    system["biff/end"], system["biff/is-ending"] = ended.set, ended.is_set
    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, ended.set)
    await start_system(components, system)
    gc.freeze()                                     # what is there from the start stays: the collector need not walk it again and again
    gc.set_threshold(GARBAGE_OBJECTS)
    try:
        await ended.wait()
    finally:
        for signum in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(signum)      # a second Ctrl-C does not wait for anything
        await stop_system(system)


def assoc_db(ctx: dict) -> dict:
    """A new ctx with a fresh snapshot."""
    return {**ctx, "biff/db": ctx["biff/node"].db()}


def now(ctx: dict) -> dt.datetime:
    """The clock that sessions, sign-in and `NOW` are told by."""
    return ctx["biff/clock"]()


def parts(system: dict, key: str) -> list:
    """All routes, queues or tasks of all plugins, in order."""
    return [part for plugin in system["biff/plugins"] for part in plugin.get(key, ())]


def dicts(system: dict, key: str) -> dict:
    """All schemas or transaction functions of all plugins, by name. Raises: StartError if two plugins claim a name."""
    found: dict = {}
    for plugin in system["biff/plugins"]:
        if taken := found.keys() & plugin.get(key, {}).keys():
            raise StartError(f"Two plugins have a {key} named {min(taken)}.")
        found |= plugin.get(key, {})
    return found


# ── Configuration ────────────────────────────────────────────────────────────────────────────────────────────
#
# An argument wins over an environment variable, that over a line of config.env in the data folder, that over the default.
# Variables and lines have the same names: EELCHAT_MAIL_HOST, where the application is named eelchat. What would be seen
# in the list of processes, a password, is not an argument. The secret is made at the first start and never shown.

class Setting(NamedTuple):
    default: Any
    read: Callable[[str], Any]        # raises ValueError, with a sentence of its own or without
    help: str
    is_argument: bool = True


def _port(text):
    if not 0 <= int(text) <= 65_535:
        raise ValueError
    return int(text)


def _base_url(text):
    url = urllib.parse.urlsplit(text.rstrip("/"))
    if url.scheme not in ("http", "https") or not url.hostname or url.path or url.query or url.fragment or "@" in url.netloc:
        raise ValueError("wanted is http:// or https://, a name, perhaps a port, and nothing after it")
    return f"{url.scheme}://{url.netloc.lower()}"


def _networks(text):
    return [ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip()]


SETTINGS = {
    "host": Setting("127.0.0.1", str, "the address to listen on"),
    "port": Setting(8080, _port, "the port to listen on; 0 takes a free one"),
    "data": Setting(pathlib.Path("data"), pathlib.Path, "the folder of all that is kept"),
    "log": Setting(None, str, "postgresql://… of the log that several servers share; the folder then holds this one's index"),
    "base_url": Setting(None, _base_url, "the address that people type, such as https://chat.example.org"),
    "proxies": Setting([], _networks, "addresses of proxies whose X-Forwarded-For is believed, with commas between"),
    "metrics": Setting(None, _port, "a loopback port for /metrics in the Prometheus format"),
    "mail_host": Setting(None, str, "the mail server; without one, mail is printed to the console", False),
    "mail_port": Setting(587, _port, "its port; 465 speaks TLS from the first byte", False),
    "mail_user": Setting(None, str, "the name to sign in there with", False),
    "mail_password": Setting(None, str, "the password to sign in there with", False),
    "mail_from": Setting(None, str, "the address that mail comes from", False),
}


def arguments(name: str, description: str, argv: list[str] | None = None) -> dict:
    """What the command line says, as {setting: text}; only what was given. Prints help, and ends, when asked to."""
    parser = argparse.ArgumentParser(prog=name, description=description)
    for key, setting in SETTINGS.items():
        if setting.is_argument:
            shown = f" (default: {setting.default})" if setting.default else ""
            parser.add_argument("--" + key.replace("_", "-"), help=setting.help + shown, metavar=key.upper())
    return {key: text for key, text in vars(parser.parse_args(argv)).items() if text is not None}


async def use_config(system: dict) -> dict:
    prefix = system["biff/name"].upper() + "_"
    given = {prefix + key.upper(): str(text) for key, text in system.get("biff/arguments", {}).items()}
    folder = _setting("data", [given, os.environ], prefix)
    _make_folder(folder)
    sources = [given, os.environ, _config_file(folder / "config.env", prefix)]
    config = system["biff/config"] = {key: _setting(key, sources, prefix) for key in SETTINGS} | {"data": folder}
    if config["mail_host"] and not config["mail_from"]:
        raise StartError(f"{prefix}MAIL_HOST is set but {prefix}MAIL_FROM is not; mail needs an address that it comes from.")
    system["biff/secret"] = _secret(folder / "secret")
    system["biff/limits"], system["biff/seen"] = Limits(), {}
    system["biff/connections-max"] = max(files_max() - FILES_KEPT, files_max() // 4)
    await _use_metrics(system)
    system["biff/base-url"] = config["base_url"] or _address(config["host"], config["port"])
    return system


def files_max() -> int:
    """How many files the process may have open, after the soft limit, 1,024 on most machines, was raised to the hard one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


async def _use_metrics(system):
    """Figures are always kept, and told where a port is named for them."""
    figures, port = metrics.Metrics(system["biff/name"]), system["biff/config"]["metrics"]
    system["biff/metrics"] = figures
    system["biff/commit-seconds"] = figures.histogram("commit_seconds", "From a transaction's submission to its acknowledgement.")
    if port is None:
        return
    watching = asyncio.create_task(metrics.watch_loop(figures.histogram("loop_lag_seconds", "How late the event loop was.")))
    system["biff/stop"].append(functools.partial(_end_tasks, [watching]))
    try:
        runner = await metrics.serve(figures, port)
    except OSError as failure:
        raise StartError(f"Port {port} of {metrics.HOST} cannot be used for metrics ({os.strerror(failure.errno or 0)}): name another one with --metrics.") from None
    system["biff/stop"].append(runner.cleanup)
    print(f"Metrics are at http://{metrics.HOST}:{runner.addresses[0][1]}/metrics.", flush=True)


def _setting(key, sources, prefix):
    name = prefix + key.upper()
    text = next((source[name] for source in sources if source.get(name)), None)
    if text is None:
        return SETTINGS[key].default
    try:
        return SETTINGS[key].read(text)
    except ValueError as error:
        raise StartError(f"{name} (or --{key.replace('_', '-')}) is {text[:80]!r}, which cannot be read: {error}.") from None


def _make_folder(folder):
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise StartError(f"The data folder {folder} cannot be written to ({error.strerror}): make it yours, or name "
                         "another one with --data.") from None


def _config_file(path, prefix):
    """The lines NAME=value of a file, if there is one; # begins a comment line, quotes around a value are dropped."""
    found = {}
    for number, line in enumerate(path.read_text("utf-8").splitlines() if path.exists() else (), 1):
        line = line.strip().removeprefix("export ")
        if not line or line.startswith("#"):
            continue
        name, is_pair, value = line.partition("=")
        if not is_pair or name.strip().removeprefix(prefix).lower() not in SETTINGS or not name.startswith(prefix):
            raise StartError(f"{path} line {number} is not a setting. Settings are "
                             f"{', '.join(prefix + key.upper() for key in SETTINGS if key != 'data')}.")
        found[name.strip()] = value.strip().strip("\"'")
    return found


def _secret(path):
    """32 random bytes, kept in a file that only its owner reads; tokens and codes are nothing without them."""
    try:
        if not path.exists():
            new = path.with_suffix(".new")
            new.unlink(missing_ok=True)
            with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(secrets.token_bytes(32))
                file.flush()
                os.fsync(file.fileno())
            new.rename(path)
        secret = path.read_bytes()
    except OSError as error:
        raise StartError(f"The secret {path} cannot be read or made ({error.strerror}).") from None
    if len(secret) != 32:
        raise StartError(f"{path} has {len(secret)} bytes and not 32: put the right file back, or remove it for a new one.")
    return secret


def _address(host, port):
    """Where a browser on this machine finds the server."""
    shown = "localhost" if host in ("0.0.0.0", "::", "") else f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}"


# ── Transactions ─────────────────────────────────────────────────────────────────────────────────────────────
#
# A transaction is a list of documents with instructions, and of the store's own operations (tuples):
#
#     {"db/doc-type": "membership", "db.op/upsert": {"mem/user": user, "mem/comm": comm}, "mem/roles": ("db/default", set())}
#
# "db/op" is put (the default), create, update, merge or delete. Special values are tuples, never plain strings: what a
# person types is a string, and must stay one whatever it says. Create, update and merge become match + put, so that a
# change by someone else in between makes the transaction abort; then it is made again from a fresh snapshot.

NOW = ("db/now",)                     # the time of this attempt, the same everywhere in the transaction
DISSOC = ("db/dissoc",)               # update, merge: the attribute goes
IN_ANY_OP = {"db/now", "db/id", "db/unique"}
IN_MERGE = {"db/dissoc", "db/union", "db/difference", "db/add", "db/default"}
INSTRUCTIONS = {"db/doc-type", "db/op", "db.op/upsert"}


def temp_id(name: str) -> tuple:
    """Stands for a new id, the same for the same name throughout a transaction."""
    return ("db/id", name)


async def submit_tx(ctx: dict, tx: Any, retry: bool = True) -> store.Tx | None:
    """The transaction as the store's `submit` gives it, durable and committed; None if there was nothing to do.

    `tx` is a list, or a function of ctx that returns one and is called for each attempt. With `retry` false it is
    submitted once and may come back with `committed` False.
    Raises: SchemaError, ConstraintError, TransactionError before anything is written; ContentionError after five attempts.
    Source: Biff, submit-tx.
    """
    for attempt in range(ATTEMPTS_MAX if retry else 1):
        if attempt:
            await asyncio.sleep(random.uniform(0, RETRY_S * 2 ** (attempt - 1)))
        operations = operations_of({**assoc_db(ctx), "biff/now": now(ctx)}, tx)
        if not operations:
            return None
        begun = time.perf_counter()
        submitted = await ctx["biff/node"].submit(operations)
        ctx["biff/commit-seconds"].observe(time.perf_counter() - begun)
        if submitted.committed or not retry:
            return submitted
    raise ContentionError(f"Others changed the same documents at each of {ATTEMPTS_MAX} attempts. Nothing was written.")


def operations_of(ctx: dict, tx: Any) -> list:
    """The store's operations for a transaction, as of ctx's snapshot."""
    tx = list(tx(ctx) if callable(tx) else tx)
    tx = _resolved(tx, functools.partial(_without_ids_and_now, ctx, {}))
    tx = [made for part in tx for made in _without_upsert(ctx, part)]
    tx = [made for part in tx for made in _without_unique(part)]
    places = [f"operation {number} of {len(tx)}" for number in range(1, len(tx) + 1)]
    operations = [made for part, where in zip(tx, places) for made in _operations(ctx, part, where)]
    if any(op[0] == "call" for op in operations) and ctx["biff/db"].with_tx(operations) is None:
        raise ConstraintError("The transaction violated a constraint: what must be unique is not, or there would be too many. Nothing was written.")
    return operations


def _resolved(value, change):
    """The value with each tuple in it changed, innermost first."""
    if type(value) is dict:
        return {key: _resolved(part, change) for key, part in value.items()}
    if type(value) in (list, set, frozenset):
        return type(value)(_resolved(part, change) for part in value)
    if type(value) is tuple:
        return change(tuple(_resolved(part, change) for part in value))
    return value


def _without_ids_and_now(ctx, ids, value):
    match value:
        case ("db/now",):
            return ctx["biff/now"]
        case ("db/id", name):
            if name not in ids:
                ids[name] = ctx["biff/node"].new_id()
            return ids[name]
    return value


def _without_upsert(ctx, part):
    """Found: merged into it. Not found: a new document, and a call that aborts if someone else makes one too."""
    if type(part) is tuple or "db.op/upsert" not in part:
        return [part]
    pairs = part["db.op/upsert"]
    rest = {key: value for key, value in part.items() if key != "db.op/upsert"}
    document = {**rest, **pairs, "db/op": "merge"}
    id = lookup_id(ctx["biff/db"], *itertools.chain(*pairs.items()))
    return [{**document, "xt/id": id}] if id is not None else [document, store.call("biff/ensure-unique", pairs)]


def _without_unique(part):
    if type(part) is tuple:
        return [part]
    unique = {key: value[1] for key, value in part.items() if _special(value) == "db/unique"}
    return [part | unique, *(store.call("biff/ensure-unique", {key: value}) for key, value in unique.items())]


def _special(value):
    """The name of a special value, or None."""
    return value[0] if type(value) is tuple and value and value[0] in IN_ANY_OP | IN_MERGE else None


def _operations(ctx, part, where):
    if type(part) is tuple:
        return [part]
    kind, given = part.get("db/op", "put"), {key: value for key, value in part.items() if key not in INSTRUCTIONS}
    _check_instructions(part, kind, given, where)
    id = given.setdefault("xt/id", ctx["biff/node"].new_id())
    if kind == "delete":
        return [store.delete(id)]
    before = None if kind == "put" else ctx["biff/db"].entity(id)
    if (kind, before is None) in (("create", False), ("update", True)):
        state = "does not exist" if before is None else "exists"
        raise TransactionError(f"Attempted to {kind} a {part['db/doc-type']} that {state} ({where}). Nothing was written.")
    document = given if kind in ("put", "create") else _merged(before or {}, given)
    _check(ctx, part["db/doc-type"], document, where)
    return [store.put(document)] if kind == "put" else [store.match(id, before), store.put(document)]


def _check_instructions(part, kind, given, where):
    if kind not in ("put", "create", "update", "merge", "delete"):
        raise TransactionError(f"db/op is {kind!r}; wanted put, create, update, merge or delete ({where}).")
    if kind == "delete" and "xt/id" not in part or kind != "delete" and "db/doc-type" not in part:
        raise TransactionError(f"A {kind} needs {'xt/id' if kind == 'delete' else 'db/doc-type'} ({where}).")
    for key, value in given.items():
        if key.startswith(("db/", "db.op/")):
            raise TransactionError(f"{key} is not an instruction ({where}).")
        if kind in ("put", "create") and _special(value):
            raise TransactionError(f"{key} has {_special(value)}, which only update and merge know ({where}).")


def _merged(before, given):
    """The document with the given values over it, special values done."""
    after = before | given
    for key, value in given.items():
        if _special(value) == "db/dissoc" or _special(value) == "db/default" and key in before:
            after = {k: v for k, v in after.items() if k != key} | ({key: before[key]} if value != DISSOC else {})
        elif _special(value):
            after[key] = _combined(_special(value), before.get(key), value[1:])
    return after


def _combined(special, old, new):
    match special:
        case "db/union":
            return _several(old) | set(new)
        case "db/difference":
            return _several(old) - set(new)
        case "db/add":
            return sum(new, start=old or 0)
        case _:
            return new[0]


def _several(value):
    return set() if value is None else set(value) if isinstance(value, (list, set, frozenset)) else {value}


def _check(ctx, doc_type, document, where):
    """Checks a whole document against its type. The sentence names the attribute and shows no value: it may be private."""
    schema = ctx["biff/schema"].get(doc_type)
    if schema is None:
        raise TransactionError(f"No plugin has a schema for {doc_type} ({where}).")
    try:
        schema(document)
    except voluptuous.Invalid as invalid:
        first = invalid.errors[0] if isinstance(invalid, voluptuous.MultipleInvalid) else invalid
        attribute = str(first.path[0]) if first.path else "the document"
        message = f"{doc_type}: {attribute}: {first.msg} ({where}). Nothing was written."
        raise SchemaError(message, doc_type, attribute) from None


def ensure_unique(ctx: store.Context, pairs: dict) -> bool | None:
    """A transaction function: aborts if more than one document has all these pairs, after the writes so far."""
    return ensure_at_most(ctx, pairs, 1)


def ensure_at_most(ctx: store.Context, pairs: dict, count_max: int) -> bool | None:
    """The same for more than `count_max` documents."""
    counted = ctx.db.q({**_lookup(pairs), "find": ("count", "?e")}, *pairs.values())
    return False if counted and counted[0] > count_max else None


def at_most(count_max: int, pairs: dict) -> tuple:
    """A part of a transaction: with it, no more than this many documents have all these pairs, whoever else adds one now."""
    return store.call("biff/ensure-at-most", pairs, count_max)


def unchanged(ctx: dict, *ids: Any) -> list:
    """Parts of a transaction: it commits only if these documents are as they are in ctx's snapshot, and so are the rights that they give."""
    return [store.match(id, ctx["biff/db"].entity(id)) for id in ids]


async def use_store(system: dict) -> dict:
    system["biff/schema"] = {name: _schema(given) for name, given in dicts(system, "schema").items()}
    functions = {"biff/ensure-unique": ensure_unique, "biff/ensure-at-most": ensure_at_most} | dicts(system, "tx-fns")
    config, file = system["biff/config"], system["biff/config"]["data"] / f"{system['biff/name']}.db"
    try:
        if config["log"]:
            node = await asyncio.to_thread(_open_shared, system, functions)
        else:
            node = store.open(system.get("biff/database", file), functions)
    except (store.StoreError, OSError) as error:
        raise StartError(str(error)) from error
    system["biff/node"] = node
    system["biff/stop"].append(node.close)
    return system


def _open_shared(system, functions):
    """A log that other servers share, with an index in the data folder. What a page of one server carries, another must know as its own:
    the secret is the first server's, and in the log, where only hashes of tokens and cookies are."""
    config, told = system["biff/config"], [0.0]

    def progress(done, of):
        if system.get("biff/is-ending", bool)():
            raise StartError(f"Stopped at transaction {done:,} of {of:,}; the next start goes on from there.")
        if time.monotonic() - told[0] > PROGRESS_S or done == of and told[0]:
            told[0] = time.monotonic()
            filled = 40 * done // max(of, 1)
            print(f"catching up [{'#' * filled}{'.' * (40 - filled)}] {done:,} of {of:,}", file=sys.stderr, flush=True)
    if not config["log"].startswith(("postgresql://", "postgres://")):
        raise StartError("The log of several servers is named by an address that begins with postgresql://.")
    node = store.open(config["log"], functions, index=config["data"] / f"{system['biff/name']}-index.db", progress=progress)
    try:
        node.submit_tx([store.match("biff/secret", None), store.put({"xt/id": "biff/secret", "secret/bytes": system["biff/secret"]})])
        shared = node.db().entity("biff/secret")
        assert shared is not None, "it is there, whoever put it"
        system["biff/secret"] = shared["secret/bytes"]
    except BaseException:
        node.close()
        raise
    return node


def _schema(given):
    return given if isinstance(given, voluptuous.Schema) else voluptuous.Schema(given, required=True)


# ── Questions ────────────────────────────────────────────────────────────────────────────────────────────────

def q(db: store.Db, query: dict, *args: Any) -> list:
    return db.q(query, *args)


def lookup(db: store.Db, *pairs: Any, pattern: Iterable = ("*",)) -> dict | None:
    """A document that has all these attributes with these values, given as k, v, k, v …; any one if several, or None."""
    return next(iter(lookup_all(db, *pairs, pattern=pattern, limit=1)), None)


def lookup_all(db: store.Db, *pairs: Any, pattern: Iterable = ("*",), limit: int | None = None) -> list[dict]:
    return _found(db, ("pull", "?e", list(pattern)), pairs, limit)


def lookup_id(db: store.Db, *pairs: Any) -> Any:
    """The id of such a document; any one if several, or None."""
    return next(iter(_found(db, "?e", pairs, 1)), None)


def lookup_id_all(db: store.Db, *pairs: Any) -> list:
    return _found(db, "?e", pairs, None)


def _found(db, find, pairs, limit):
    pairs = dict(zip(pairs[::2], pairs[1::2], strict=True))
    query = {**_lookup(pairs), "find": find}
    return db.q(query if limit is None else query | {"limit": limit}, *pairs.values())


def _lookup(pairs):
    names = [f"?v{number}" for number in range(len(pairs))]
    return {"in": names, "where": [["?e", key, name] for key, name in zip(pairs, names)]}


# ── Listeners, queues, tasks ─────────────────────────────────────────────────────────────────────────────────
#
# They outlive whatever a plugin does in them: an exception is logged, and the next transaction, job or run follows.

async def use_tx_listener(system: dict) -> dict:
    """Calls each plugin's `on_tx(ctx, tx)` for every committed transaction, in order, in this loop. It must not wait."""
    listening = [plugin["on_tx"] for plugin in system["biff/plugins"] if "on_tx" in plugin]

    def hear(tx):
        ctx = assoc_db(system)
        for on_tx in listening:
            try:
                on_tx(ctx, tx)
            except Exception:
                log.exception("%s failed at transaction %d", _name(on_tx), tx.tx_id)

    node = system["biff/node"]
    listener = node.on_tx(hear)
    system["biff/stop"].append(listener.close)
    system["biff/metrics"].gauge("tx_lag", "Committed transactions that no listener has heard yet.", lambda: node.db().tx_id - listener.tx_id)
    return system


def _name(function):
    return getattr(function, "__qualname__", repr(function))


async def use_queues(system: dict) -> dict:
    """Runs the workers of each plugin's queue {"id", "consumer", "workers": 1}: `await consumer(ctx)`, with ctx["biff/job"]."""
    given = parts(system, "queues")
    queues = system["biff/queues"] = {queue["id"]: asyncio.PriorityQueue(QUEUE_JOBS_MAX) for queue in given}
    system["biff/job-numbers"] = itertools.count()
    workers = [asyncio.create_task(_work(system, queues[queue["id"]], queue["consumer"]))
               for queue in given for _ in range(queue.get("workers", 1))]
    system["biff/stop"].append(functools.partial(_drain, queues.values(), workers))
    return system


def submit_job(ctx: dict, queue_id: str, job: Any, priority: int = PRIORITY) -> asyncio.Future:
    """Queues a job; lower priorities go first, equal ones in order. A job does not survive a restart.

    Raises: QueueFullError.
    """
    done = asyncio.get_running_loop().create_future()
    done.add_done_callback(lambda done: done.cancelled() or done.exception())     # logged by the worker, and retrieved here
    try:
        ctx["biff/queues"][queue_id].put_nowait((priority, next(ctx["biff/job-numbers"]), job, done))
    except asyncio.QueueFull:
        raise QueueFullError(f"The queue {queue_id} holds {QUEUE_JOBS_MAX} jobs, as many as it may.") from None
    return done


async def submit_job_for_result(ctx: dict, queue_id: str, job: Any, priority: int = PRIORITY, timeout_s: float = 20) -> Any:
    """What the consumer returned; raises what it raised, or TimeoutError."""
    return await asyncio.wait_for(submit_job(ctx, queue_id, job, priority), timeout_s)


async def _work(system, queue, consumer):
    while True:
        _, _, job, done = await queue.get()
        try:
            result = await consumer({**assoc_db(system), "biff/job": job})
            done.cancelled() or done.set_result(result)
        except asyncio.CancelledError:
            done.cancel()
            raise
        except Exception as error:
            log.exception("%s failed at a job", _name(consumer))
            done.cancelled() or done.set_exception(error)
        finally:
            queue.task_done()


async def _drain(queues, workers):
    try:
        await asyncio.wait_for(asyncio.gather(*(queue.join() for queue in queues)), DRAIN_S_MAX)
    except TimeoutError:
        waiting = sum(queue.qsize() for queue in queues)
        log.warning("After %d s jobs are cut off and %d are lost", DRAIN_S_MAX, waiting)
    await _end_tasks(workers)


async def _end_tasks(tasks):
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def every(interval_s: float, jitter: float = 0.1) -> Callable[[], Iterator[float]]:
    """A schedule: at once, then each time after the interval, give or take a tenth, so that servers do not march in step."""
    def schedule():
        yield 0
        while True:
            yield interval_s * random.uniform(1 - jitter, 1 + jitter)
    return schedule


async def use_tasks(system: dict) -> dict:
    """Runs each plugin's task {"task", "schedule"}; a schedule is called once and yields the seconds before each run."""
    tasks = [asyncio.create_task(_repeat(system, task["task"], task["schedule"])) for task in parts(system, "tasks")]
    system["biff/stop"].append(functools.partial(_end_tasks, tasks))
    return system


async def _repeat(system, function, schedule):
    for wait_s in schedule():
        await asyncio.sleep(wait_s)
        try:
            await function(assoc_db(system))
        except Exception:
            log.exception("The task %s failed", _name(function))


# ── Pages ────────────────────────────────────────────────────────────────────────────────────────────────────
#
# One escaping environment renders pages and fragments: a second one would be the place where escaping is forgotten.
# Static files and the browser scripts are read once, and served from memory under an address that changes with them.

class Asset(NamedTuple):
    body: bytes
    gzipped: bytes | None
    type: str
    version: str


async def use_jinja(system: dict) -> dict:
    root = system.setdefault("biff/root", ROOT)
    assets = system["biff/assets"] = _assets(root)
    app = system["biff/app"] = web.Application(client_max_size=BODY_BYTES_MAX, middlewares=[
        _every_request(system), web.normalize_path_middleware(append_slash=False, remove_slash=True, merge_slashes=False)])
    system["biff/jinja"] = aiohttp_jinja2.setup(
        app, loader=jinja2.FileSystemLoader(root / "templates"), auto_reload=False, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        autoescape=lambda name: name is None or not name.endswith(".txt"))
    system["biff/jinja"].globals |= {"asset": functools.partial(_asset_url, assets), "name": system["biff/name"]}
    system["biff/jinja"].filters["addresses_apart"] = addresses_apart
    return system


def _assets(root):
    ours = root / "static"
    files = {path.relative_to(ours).as_posix(): path for path in sorted(ours.rglob("*")) if path.is_file()}
    files |= {name: root / "node_modules" / path for name, path in SCRIPTS.items()}
    try:
        return {name: _asset(name, path.read_bytes()) for name, path in files.items()}
    except FileNotFoundError as error:
        raise StartError(f"The browser scripts are not installed ({pathlib.Path(error.filename).name} is missing): "
                         "run `.venv/bin/pip install -e .` in the clone.") from None


def _asset(name, body):
    type = {"js": "text/javascript", "webmanifest": "application/manifest+json", "ico": "image/x-icon"}.get(
        name.rpartition(".")[2], mimetypes.guess_type(name)[0] or "application/octet-stream")
    is_text = type.startswith("text/") or type.endswith(("+xml", "+json"))
    gzipped = gzip.compress(body, 9, mtime=0) if is_text else None
    return Asset(body, gzipped, type, hashlib.sha256(body).hexdigest()[:16])


def _asset_url(assets, name):
    return f"/static/{name}?v={assets[name].version}"


async def static(ctx: dict) -> web.StreamResponse:
    asset = ctx["biff/assets"].get(ctx["params"]["name"])
    if asset is None:
        raise web.HTTPNotFound()
    request, etag = ctx["request"], f'"{asset.version}"'
    is_current = request.query.get("v") == asset.version
    headers = {"ETag": etag, "Vary": "Accept-Encoding",
               "Cache-Control": "public, max-age=31536000, immutable" if is_current else "no-cache"}
    if request.headers.get("If-None-Match") == etag:
        return web.Response(status=304, headers=headers)
    is_gzipped = asset.gzipped and "gzip" in request.headers.get("Accept-Encoding", "")
    if is_gzipped:
        headers["Content-Encoding"] = "gzip"
    return web.Response(body=asset.gzipped if is_gzipped else asset.body, headers=headers, content_type=asset.type,
                        charset="utf-8" if asset.type.startswith("text/") else None)


def render(ctx: dict, template: str, status: int = 200, **values: Any) -> web.Response:
    """A page. Every template knows csrf_token, base_url, path, uid and name beside the given values."""
    request = ctx["request"]
    known = {"csrf_token": csrf_token(ctx), "base_url": ctx["biff/base-url"], "path": request.path, "uid": ctx.get("uid")}
    return aiohttp_jinja2.render_template(template, request, known | values, status=status)


def fragment(system: dict, template: str, **values: Any) -> str:
    """A template's text outside a request, by the same environment."""
    return system["biff/jinja"].get_template(template).render({"base_url": system["biff/base-url"]} | values)


ADDRESS = re.compile(r"https?://[\w\[][^\s<>\"'`\\|{}\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]*")


def addresses_apart(text: str) -> list[tuple[str, bool]]:
    """The text in pieces, each with whether it is a web address, for a template to link. Only http and https are; a sentence's own marks are not."""
    pieces, end = [], 0
    for found in ADDRESS.finditer(text):
        address = found.group().rstrip(".,;:!?")
        if address.endswith(")") and address.count("(") < address.count(")"):
            address = address[:-1]
        pieces += [(text[end:found.start()], False), (address, True)]
        end = found.start() + len(address)
    return [piece for piece in [*pieces, (text[end:], False)] if piece[0]]


def is_local(path: str) -> bool:
    """Whether a redirect to it stays on this site, as browsers read addresses: they take \\ for / and skip tabs."""
    return re.fullmatch(r"/(?![/\\])[\x21-\x5b\x5d-\x7e]*", path) is not None


def redirect(ctx: dict, path: str) -> web.Response:
    """303 to a path of ours; for a request of htmx 204 with HX-Redirect, or it would put the page into a page."""
    if not is_local(path):
        raise ValueError(f"{path[:80]!r} leaves the site")
    if "HX-Request" in ctx["request"].headers:
        return web.Response(status=204, headers={"HX-Redirect": path})
    return web.Response(status=303, headers={"Location": path})


def url(path: str, **query: Any) -> str:
    return f"{path}?{urllib.parse.urlencode(query)}" if query else path


SENTENCES = {
    400: "That request could not be read.",
    403: "This is not allowed, or the page was open for too long. Reload it and try again.",
    404: "Page not found.",
    405: "This address cannot be used that way.",
    408: "The request took too long to arrive.",
    409: "Others changed the same things meanwhile. Reload the page and try again.",
    413: "That is more than we take at once.",
    415: "We take forms only, no files.",
    429: "Too many requests. Wait a little and try again.",
}
UNKNOWN = "Something went wrong."


def error(ctx: dict, status: int, sentence: str | None = None) -> web.Response:
    """A page that says no more than a sentence and an id, which stands in the log too. For htmx, only the text."""
    id, sentence = secrets.token_hex(4), sentence or SENTENCES.get(status, UNKNOWN)
    try:
        if "HX-Request" in ctx["request"].headers:
            response = web.Response(status=status, text=sentence if status < 500 else f"{sentence} If you report this, name the mark {id}.")
        else:
            response = render(ctx, "error.html", status, sentence=sentence, id=id)
    except Exception:
        log.exception("The error page failed")
        response = web.Response(status=status, text=f"{sentence} ({id})")
    response[ERROR_ID] = id
    return response


# ── Requests ─────────────────────────────────────────────────────────────────────────────────────────────────
#
# A route is (method, path, rule, handler); the rule says who may: it returns None, or the response that refuses. Before the
# rule is asked, a request that could change something has shown twice that it is ours: by where the browser says it comes
# from, and by a token that only our pages carry. A GET never writes to the store.

def anyone(ctx: dict) -> None:
    """The rule of what is open to all."""


def signed_in(ctx: dict) -> Any:
    return None if ctx["uid"] else ask_to_sign_in(ctx)


class Connection(web.RequestHandler):
    """One connection. What is no HTTP gets a sentence, and one line in the log: aiohttp would show it in both, cookies and all."""

    __slots__ = ("plug",)

    def __init__(self, plug: socket.socket, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.plug = plug

    def handle_error(self, request, status=500, exc=None, message=None):
        if request.writer.output_size:
            raise ConnectionError("the answer has begun, and cannot become another one")
        id = secrets.token_hex(4)
        log.log(*(logging.INFO, "Error %s: %d, what came is no request (%s)") if status < 500 else (logging.ERROR, "Error %s: %d (%s)"),
                id, status, type(exc).__name__, exc_info=exc if status >= 500 else None)
        headers = SECURITY_HEADERS | {"Cache-Control": "no-store", "Server": "eelchat"}
        response = web.Response(status=status, text=f"{SENTENCES.get(status, UNKNOWN)} ({id})\n", headers=headers)
        response.force_close()
        return response


def plug_of(request: web.Request) -> socket.socket:
    """The operating system's socket under a request, for what asyncio's transport does too slowly."""
    return request.protocol.plug       # type: ignore[attr-defined]      # it is a Connection


class Listener:
    """Makes connections of those who come to a plug, as asyncio's servers do, but `connection(plug)` knows its own. Beyond a bound they are cut
    at once: had they all files, the store could open none."""

    def __init__(self, plug: socket.socket, connection: Callable, take_place: Callable[[], bool]):
        self._plug, self._connection, self._take_place, self._loop = plug, connection, take_place, asyncio.get_running_loop()
        plug.listen(LISTEN_QUEUE)
        self._listen()

    def _listen(self):
        if self._plug.fileno() >= 0:                   # not closed by now
            self._loop.add_reader(self._plug, self._accept)

    def _accept(self):
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                plug, _ = self._plug.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as failure:
                log.error("out of system resources, nobody is let in for %d s: %s", ACCEPT_AGAIN_S, os.strerror(failure.errno or 0))
                self._loop.remove_reader(self._plug)
                self._loop.call_later(ACCEPT_AGAIN_S, self._listen)
                return
            if self._take_place():
                self._loop.create_task(self._loop.connect_accepted_socket(functools.partial(self._connection, plug), plug))
            else:
                plug.close()

    def close(self):
        self._loop.remove_reader(self._plug)
        self._plug.close()


def _counted(places, server):
    """A function that takes one of so many places, if one is left. How many are taken is asked only when none seems left: it copies a list."""
    left = places

    def take_place():
        nonlocal left
        if not left:
            left = max(0, places - len(server.connections))
        is_left = left > 0
        left -= is_left
        return is_left
    return take_place


async def use_web(system: dict) -> dict:
    app, config = system["biff/app"], system["biff/config"]
    app.on_response_prepare.append(functools.partial(_prepare, system))
    for route in [*parts(system, "routes"), ("GET", "/static/{name:.+}", anyone, static)]:
        if len(route) != 4 or not all(map(callable, route[2:])):
            raise StartError(f"The route {route[:2]} does not state who may use it.")
        method, path, rule, handler = route
        add = app.router.add_get if method == "GET" else functools.partial(app.router.add_route, method)
        add(path, _answering(system, rule, handler))
    runner = web.AppRunner(app, shutdown_timeout=STOP_S_MAX)
    await runner.setup()
    system["biff/stop"].append(runner.cleanup)
    loop = asyncio.get_running_loop()
    # No lingering: what follows a refused head, a gigabyte perhaps, is not read. keepalive_timeout is also the only deadline of a head.
    # Nor does the kernel ask whether browsers are still there: sockets are pinged, and other connections end by that deadline.
    connection = functools.partial(Connection, manager=runner.server, loop=loop, access_log=None, keepalive_timeout=IDLE_S_MAX, lingering_time=0,
                                   tcp_keepalive=False, max_line_size=HEADER_BYTES_MAX, max_field_size=HEADER_BYTES_MAX, max_headers=HEADERS_MAX)
    try:
        bound = await loop.create_server(asyncio.Protocol, config["host"], config["port"], start_serving=False)
    except OSError as failure:
        raise StartError(_cannot_listen(config, failure)) from None
    system["biff/port"] = bound.sockets[0].getsockname()[1]
    take_place = _counted(system["biff/connections-max"], runner.server)
    for plug in bound.sockets:
        system["biff/stop"].append(Listener(plug.dup(), connection, take_place).close)
    bound.close()
    system["biff/base-url"] = config["base_url"] or _address(config["host"], system["biff/port"])
    _say_where(system)
    return system


def _cannot_listen(config, failure):
    if failure.errno == errno.EADDRINUSE:
        return f"Port {config['port']} of {config['host']} is taken: stop what uses it, or name another one with --port."
    return f"{config['host']} port {config['port']} cannot be listened on ({os.strerror(failure.errno or 0)})."


def _say_where(system):
    name, base = system["biff/name"], system["biff/base-url"]
    print(f"{name} is at {base} (Ctrl-C stops it).")
    if not system["biff/config"]["mail_host"]:
        file = system["biff/config"]["data"] / "config.env"
        print(f"Sign-in links are printed here until {name.upper()}_MAIL_HOST stands in {file}.")
    if not is_secure(system):
        print("Over http, cookies cross the network readably: away from this machine, put a TLS proxy in front and "
              "name its https address with --base-url.")
    sys.stdout.flush()


def is_secure(system: dict) -> bool:
    return system["biff/base-url"].startswith("https://")


async def _prepare(system, request, response):
    """The headers of every response, whatever made it; where a socket begins there is no page to which they would apply."""
    response.headers.popall("Server", None)
    if isinstance(response, web.WebSocketResponse):
        return
    response.headers.update(SECURITY_HEADERS)
    if is_secure(system):
        response.headers.update(HTTPS_ONLY)
    response.headers.setdefault("Cache-Control", "no-store")
    if COOKIE in request:
        response.headers.add("Set-Cookie", _cookie_line(system, *request[COOKIE]))      # aiohttp has written its own by now


def _cookie_line(system, value, seconds):
    lasting = "" if seconds is None else f"; Max-Age={seconds}"
    return f"{cookie_name(system)}={value}; Path=/; HttpOnly; SameSite=Lax{lasting}{'; Secure' if is_secure(system) else ''}"


def _every_request(system):
    @web.middleware
    async def answer(request, handler):
        """One line in the log for each answer, and an error page for each failure. What becomes of a socket is told by whoever opened it."""
        begun = time.perf_counter()
        try:
            response = await handler(request)
        except web.HTTPException as found:
            if found.status < 400:
                raise
            response = error({**system, "request": request}, found.status)
            response.headers.extend({"Allow": found.headers["Allow"]} if "Allow" in found.headers else {})
        except ConnectionError:
            raise
        except ContentionError:
            response = error({**system, "request": request}, 409)
        except Exception as failure:
            response = error({**system, "request": request}, *_told(failure))
            log.exception("Error %s in %s", response[ERROR_ID], _shown(request))
            _end_if_closed(system, failure)
        if isinstance(response, web.WebSocketResponse):
            return response
        mark = f" error {response[ERROR_ID]}" if ERROR_ID in response else ""
        log.info("%.0f ms %d %s%s", (time.perf_counter() - begun) * 1000, response.status, _shown(request), mark)
        await _send(request, response)
        return response
    return answer


async def _send(request, response):
    """Writes the answer here and not in aiohttp, where a browser that does not read would hold it, and its connection, for ever."""
    try:
        async with asyncio.timeout(ANSWER_S_MAX):
            request.transport and request.transport.set_write_buffer_limits(0)      # sent is what the kernel has
            await response.prepare(request)
            await response.write_eof()
    except TimeoutError:
        log.info("an answer to %s is not taken: cut", _shown(request))
        request.transport and request.transport.abort()


def _told(failure):
    """The status of a failure, and the sentence that people read if it is not the usual one."""
    if isinstance(failure, store.UnreachableError):
        return 503, "The server is cut off from its log, so sending waits. Try again in a moment."
    return (503,) if isinstance(failure, TimeoutError) else (500,)


def _shown(request):
    """A request in the log: never its query, where addresses of people stand, and nothing that may be a token."""
    return f"{request.method} {_masked(request.raw_path.partition('?')[0])[:PATH_CHARS_LOGGED]}"


def _masked(text):
    return MAY_BE_TOKEN.sub("…", text)


def _end_if_closed(system, failure):
    """A store that stopped after a failed write refuses everything: a server that goes on would only say sorry."""
    if isinstance(failure, store.ClosedError) and "biff/end" in system:
        system["biff/failure"] = str(failure)
        system["biff/end"]()


def _answering(system, rule, handler):
    async def answer(request):
        is_upgrade = "websocket" in request.headers.get("Upgrade", "").lower()
        if (request.method in UNSAFE or is_upgrade) and not is_ours(system, request, is_upgrade):
            log.info("Refused, for it comes from no page of ours: %s", _shown(request))
            raise web.HTTPForbidden()
        ctx = await _ctx(system, request)
        if request.method in UNSAFE and not _has_token(ctx):
            log.info("Refused, for it has no token of this browser: %s by user %s", _shown(request), ctx["uid"])
            raise web.HTTPForbidden()
        if request.method in UNSAFE and ctx["uid"] and not is_allowed(ctx, (("writes", ctx["uid"]), *WRITES_A_PERSON)):
            raise web.HTTPTooManyRequests()
        async with asyncio.timeout(None if is_upgrade else REQUEST_S_MAX):
            refusal = await _called(rule, ctx)
            if refusal is None:
                return await _called(handler, ctx)
            log.info("Refused by %s: %s by user %s", _name(rule), _shown(request), ctx["uid"])
            return refusal
    answer.rule = rule                     # type: ignore[attr-defined]
    return answer


async def _called(function, ctx):
    result = function(ctx)
    return await result if inspect.isawaitable(result) else result


async def _ctx(system, request):
    fields = await _fields(request) if request.method in UNSAFE else {}
    ctx = {**assoc_db(system), "request": request, "biff/token": fields.pop(TOKEN_FIELD, ""),
           "params": {**request.query, **fields, **request.match_info}}
    session = ctx["session"] = _session(ctx)
    ctx["uid"] = session and session["session/user"]
    return ctx


async def _fields(request):
    """The fields of a form. Browsers end lines with CRLF in forms and with LF in scripts; here it is always LF."""
    try:
        async with asyncio.timeout(REQUEST_S_MAX):
            body = await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout() from None
    except (web.RequestPayloadError, aiohttp.ClientError):
        raise web.HTTPBadRequest() from None
    if body and request.content_type != "application/x-www-form-urlencoded":
        raise web.HTTPUnsupportedMediaType()
    try:
        pairs = urllib.parse.parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=FIELDS_MAX, errors="strict")
    except ValueError:
        raise web.HTTPBadRequest() from None
    return {key: value.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "") for key, value in pairs}


def is_ours(system: dict, request: web.Request, is_upgrade: bool = False) -> bool:
    """Whether the browser says that the request comes from a page of ours. A request that says nothing does not."""
    site = None if is_upgrade else request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site == "same-origin"
    origin, base = request.headers.get("Origin", ""), system["biff/base-url"]
    # The same host is as good as the base URL: people type localhost, 127.0.0.1 or the name of the machine.
    return origin == base or origin == f"{base.partition(':')[0]}://{request.headers.get('Host', '')}"


def client_of(ctx: dict) -> str:
    """Who asks, as far as rate limits care: an IPv4 address, or the /64 that an IPv6 household has.

    X-Forwarded-For is believed from the right, and only as long as its words come from proxies named at start.
    """
    request, proxies = ctx["request"], ctx["biff/config"]["proxies"]
    hops = [part.strip() for line in request.headers.getall("X-Forwarded-For", ()) for part in line.split(",")]
    address = request.remote or "local"
    while hops and _is_in(address, proxies):
        address = hops.pop()
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return "unknown"
    parsed = getattr(parsed, "ipv4_mapped", None) or parsed
    return str(parsed if parsed.version == 4 else ipaddress.ip_network((parsed, 64), strict=False))


def _is_in(address, networks):
    try:
        return any(ipaddress.ip_address(address) in network for network in networks)
    except ValueError:
        return False


class Limits:
    """How often something happened lately, in memory: counters do not belong in a log that keeps everything."""

    def __init__(self, clock=time.monotonic):
        self._clock, self._times = clock, {}

    def take(self, *limits) -> bool:
        """Counts it under every (key, count_max, window_s) if none is used up; else counts nothing and returns False."""
        moment = self._clock()
        if len(self._times) > LIMIT_KEYS_MAX:
            self._times = {key: kept for key, kept in self._times.items() if kept[-1][0] + kept[-1][1] > moment}
        taken = [[kept for kept in self._times.get(key, ()) if kept[0] + window_s > moment] for key, _, window_s in limits]
        if any(len(times) >= count_max for times, (_, count_max, _) in zip(taken, limits)):
            return False
        for times, (key, _, window_s) in zip(taken, limits):
            self._times[key] = [*times, (moment, window_s)]
        return True


def is_allowed(ctx: dict, *limits: Any) -> bool:
    """Whether each (key, count_max, window_s) has room, and then counts it: (("post", uid), 10, 10) is ten in ten seconds."""
    if is_taken := ctx["biff/limits"].take(*limits):
        return is_taken
    log.info("Refused by a limit: %s", " or ".join(key[0] if type(key) is tuple else key for key, _, _ in limits))
    return False


class LineFormatter(logging.Formatter):
    """One record never looks like two, whatever a user wrote, and what is long enough to be a token is not shown."""

    _second, _shown = 0, ""

    def formatTime(self, record, datefmt=None):
        if (second := int(record.created)) != self._second:
            self._second, self._shown = second, super().formatTime(record, "%Y-%m-%d %H:%M:%S")
        return f"{self._shown},{int(record.msecs):03d}"

    def format(self, record):
        text = _masked(super().format(record))
        if text.isprintable():                        # nearly every line; letter by letter costs as much as a query
            return text
        text = text.replace("\r", "").replace("\n", "\n    ")
        return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def log_to_stderr() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    # Looked up for every record, and shown in no line of ours. A third of a line's cost; the way is that of the logging HOWTO.
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


# ── Sessions ─────────────────────────────────────────────────────────────────────────────────────────────────
#
# A cookie holds 256 random bits and nothing else. Whoever has signed in has a document named by the hash of those bits, so
# that signing out is a transaction; a visitor who has not needs no document. The anti-forgery token is an HMAC of the cookie.

def cookie_name(system: dict) -> str:
    """`__Host-` keeps subdomains from planting a cookie; browsers drop such a one on plain http, which has its own name."""
    return ("__Host-" if is_secure(system) else "") + system["biff/name"]


def _cookie(ctx, is_made=False):
    request = ctx["request"]
    if COOKIE in request:
        return request[COOKIE][0]
    value = request.cookies.get(cookie_name(ctx), "")
    if re.fullmatch(r"[A-Za-z0-9_-]{43}", value):
        return value
    if is_made:
        request[COOKIE] = secrets.token_urlsafe(32), None
        return request[COOKIE][0]
    return None


def _set_cookie(ctx, value):
    ctx["request"][COOKIE] = value, SESSION_DAYS * 86_400


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _hmac(ctx, *words) -> str:
    return hmac.new(ctx["biff/secret"], "\0".join(words).encode("utf-8", "backslashreplace"), "sha256").hexdigest()


def csrf_token(ctx: dict) -> str:
    """Goes into every form of this browser; a browser without a cookie gets one with this response."""
    return _hmac(ctx, "anti-forgery", _cookie(ctx, is_made=True))


def _has_token(ctx):
    given = ctx["request"].headers.get(TOKEN_HEADER) or ctx["biff/token"]
    cookie = _cookie(ctx)
    return cookie is not None and hmac.compare_digest(_hmac(ctx, "anti-forgery", cookie).encode(),
                                                      given.encode("utf-8", "backslashreplace"))


def _session(ctx):
    """The session's document, if it is alive and so is its user. Its use is noted in memory; `keep_sessions` writes it."""
    if (cookie := _cookie(ctx)) is None:
        return None
    db, hashed, moment = ctx["biff/db"], _hash(cookie), now(ctx)
    found = db.entity(_session_id(hashed))
    if not found or found.get("session/hash") != hashed or not is_alive(found, moment) or db.entity(found["session/user"]) is None:
        return None
    if found["session/used-at"] + USED_EVERY < moment:
        ctx["biff/seen"][found["xt/id"]] = moment
    return found


def _session_id(hashed: str) -> str:
    """Half of the cookie's hash: found by its id, a session costs a third of a search, and it is looked for in every request."""
    return f"session-{hashed[:32]}"


def is_alive(session: dict, moment: dt.datetime) -> bool:
    return (moment < session["session/created-at"] + dt.timedelta(days=SESSION_DAYS)
            and moment < session["session/used-at"] + dt.timedelta(days=SESSION_IDLE_DAYS))


def sessions_of(db: store.Db, uid: Any) -> list[dict]:
    """A person's sessions, the last used first."""
    return sorted(lookup_all(db, "session/user", uid), key=lambda session: session["session/used-at"], reverse=True)


async def keep_sessions(ctx: dict) -> None:
    """Writes when sessions were last used, and evicts what has expired: a store that forgets nothing keeps no secrets."""
    seen = dict(ctx["biff/seen"])
    await submit_tx(ctx, lambda ctx: [
        {"db/doc-type": "session", "db/op": "update", "xt/id": id, "session/used-at": used_at}
        for id, used_at in seen.items() if ctx["biff/db"].entity(id)])
    for id in seen:
        del ctx["biff/seen"][id]
    moment = now(ctx)
    ends = [("token/expires-at", moment), ("session/created-at", moment - dt.timedelta(days=SESSION_DAYS)),
            ("session/used-at", moment - dt.timedelta(days=SESSION_IDLE_DAYS))]
    for attribute, end in ends:
        over = {"find": "?e", "in": ["?end"], "limit": EVICT_MAX, "where": [["?e", attribute, "?at"], [("<=", "?at", "?end")]]}
        await submit_tx(ctx, [store.evict(id) for id in set(ctx["biff/db"].q(over, end))])


# ── Signing in ───────────────────────────────────────────────────────────────────────────────────────────────
#
# Whoever reads an address's mail owns it. A link and a code work once, for ten minutes; a GET never redeems one, because
# mail scanners open links. In the browser that asked, a button that names the address is enough; in another, the address
# is asked for, so that nobody is signed in as somebody else by a link that was slipped to them. The store keeps hashes.
# Whether an address is known makes no difference to what is answered, or when.

EMAIL = re.compile(r"""[^\s@,;:<>()\[\]\\"]+@[^\s@,;:<>()\[\]\\"]+\.[^\s@,;:<>()\[\]\\"]+""")
ERRORS = {
    "invalid-email": "Invalid email. Try again with a different address.",
    "send-failed": "We weren't able to send an email to that address. If the problem persists, try another address.",
    "too-many": "Too many sign-in mails were asked for. Try again in an hour.",
    "invalid-link": "Invalid or expired link. Sign in to get a new link.",
    "incorrect-email": "Incorrect email address. Try again.",
    "invalid-code": "Invalid code.",
    "not-signed-in": "You must be signed in to view that page.",
}
AUTH_SCHEMA = {
    # Not UUIDs: when one is evicted nothing is left to tell what it was, and whoever hears of it shall see that it is none of theirs.
    "token": {"xt/id": str, "token/purpose": voluptuous.In(["link", "code"]), "token/hash": str, "token/email": str,
              "token/browser": str, "token/expires-at": dt.datetime, "token/tries": int,
              voluptuous.Optional("token/return-to"): str, voluptuous.Optional("token/used-at"): dt.datetime},
    "session": {"xt/id": str, "session/hash": str, "session/user": uuid.UUID, "session/agent": str,
                "session/created-at": dt.datetime, "session/used-at": dt.datetime},
}


def auth_plugin(app_path: str = "/app", home_path: str = "/", new_user_tx: Callable | None = None) -> dict:
    """Routes, documents and the task of signing in. `new_user_tx(ctx, uid, email)` builds a new user's documents."""
    def with_paths(handler):
        paths = {"biff/app-path": app_path, "biff/home-path": home_path, "biff/new-user-tx": new_user_tx or _new_user_tx}
        return functools.wraps(handler)(lambda ctx: handler(ctx | paths))
    routes = [
        ("GET", "/signin", anyone, signin_page), ("GET", "/link-sent", anyone, link_sent_page),
        ("POST", "/auth/send-link", anyone, send_link), ("POST", "/auth/send-code", anyone, send_code),
        ("GET", "/auth/verify-link/{token}", anyone, verify_link_page), ("POST", "/auth/verify-link", anyone, verify_link),
        ("GET", "/verify-code", anyone, verify_code_page), ("POST", "/auth/verify-code", anyone, verify_code),
        ("POST", "/auth/signout", anyone, signout), ("GET", "/sessions", signed_in, sessions_page),
        ("POST", "/sessions/others/revoke", signed_in, revoke_others), ("POST", "/sessions/{id}/revoke", signed_in, revoke)]
    return {"routes": [(method, path, rule, with_paths(handler)) for method, path, rule, handler in routes],
            "schema": AUTH_SCHEMA, "tasks": [{"task": keep_sessions, "schedule": every(60)}]}


def _new_user_tx(ctx, uid, email):
    return [{"db/doc-type": "user", "xt/id": uid, "user/email": ("db/unique", email), "user/joined-at": NOW}]


def error_text(params: dict) -> str | None:
    return ERRORS.get(params["error"], "There was an error.") if "error" in params else None


def normalized_email(text: str) -> str | None:
    email = text.strip().lower()
    return email if len(email) <= EMAIL_CHARS_MAX and email.isprintable() and EMAIL.fullmatch(email) else None


def ask_to_sign_in(ctx: dict) -> web.Response:
    """Redirects to the sign-in page, from which the browser comes back to the page that was asked for."""
    request = ctx["request"]
    is_page = request.method == "GET" and not {"HX-Request", "Upgrade"} & set(request.headers)
    return redirect(ctx, url("/signin", error="not-signed-in", **_way_back(ctx, request.path_qs if is_page else "")))


def _way_back(ctx, path=None):
    """{"return-to": where to go once signed in}, {} if that is nowhere or elsewhere. It travels in forms, and then in the token's document."""
    path = ctx["params"].get("return-to", "") if path is None else path
    return {"return-to": path} if len(path) <= PATH_CHARS_MAX and is_local(path) else {}


def signin_page(ctx: dict) -> web.StreamResponse:
    back = _way_back(ctx)
    return render(ctx, "signin.html", error=error_text(ctx["params"]), back=back, is_printed=not ctx["biff/config"]["mail_host"])


def link_sent_page(ctx: dict) -> web.StreamResponse:
    is_printed = not ctx["biff/config"]["mail_host"]
    return render(ctx, "link_sent.html", email=ctx["params"].get("email", ""), is_printed=is_printed)


async def send_link(ctx: dict) -> web.StreamResponse:
    on_error = ctx["params"].get("on-error")
    on_error = on_error if on_error in (ctx["biff/home-path"], "/signin") else "/signin"
    email, token = normalized_email(ctx["params"].get("email", "")), secrets.token_urlsafe(32)
    back = _way_back(ctx)
    if wrong := _refused(ctx, email):
        return redirect(ctx, url(on_error, error=wrong, **back))
    await submit_tx(ctx, [_token(ctx, "link", email, _hash(token))])
    link = f"{ctx['biff/base-url']}/auth/verify-link/{token}"
    if not await _mailed(ctx, email, f"Your link to {ctx['biff/name']}", "link", link=link):
        return redirect(ctx, url(on_error, error="send-failed", **back))
    return redirect(ctx, url("/link-sent", email=email))


async def send_code(ctx: dict) -> web.StreamResponse:
    email, code = normalized_email(ctx["params"].get("email", "")), f"{secrets.randbelow(10 ** 6):06}"
    back = _way_back(ctx)
    if wrong := _refused(ctx, email):
        return redirect(ctx, url("/signin", error=wrong, **back))
    key = {"token/purpose": "code", "token/email": email, "token/browser": _browser(ctx)}
    await submit_tx(ctx, [{"token/return-to": DISSOC} | _token(ctx, "code", email, _code_hash(ctx, email, code)) | {
        "db.op/upsert": key, "token/used-at": DISSOC}])
    if not await _mailed(ctx, email, f"Your code for {ctx['biff/name']}", "code", code=code):
        return redirect(ctx, url("/signin", error="send-failed", **back))
    return redirect(ctx, url("/verify-code", email=email, **back))


def _refused(ctx, email):
    if email is None:
        return "invalid-email"
    client = client_of(ctx)
    return None if is_allowed(ctx, (("mail to", email), *MAILS_AN_ADDRESS), (("mail for", client), *MAILS_A_CLIENT),
                              ("mails", *MAILS_A_SERVER)) else "too-many"


async def _mailed(ctx, email, subject, template, **values):
    text, html = (fragment(ctx, f"mail/{template}.{kind}", minutes=TOKEN_MINUTES, **values) for kind in ("txt", "html"))
    return await send_mail(ctx, email, subject, text, html=html)


def _token(ctx, purpose, email, hashed):
    back = {f"token/{key}": path for key, path in _way_back(ctx).items()}
    return {"db/doc-type": "token", "xt/id": f"token-{secrets.token_hex(16)}", "token/purpose": purpose, "token/hash": hashed, "token/email": email,
            "token/tries": 0, "token/browser": _browser(ctx), "token/expires-at": now(ctx) + dt.timedelta(minutes=TOKEN_MINUTES)} | back


def _browser(ctx):
    return _hmac(ctx, "browser", _cookie(ctx) or "")


def _code_hash(ctx, email, code):
    """Keyed, because a plain hash of six digits is undone by a million guesses."""
    return _hmac(ctx, "code", _browser(ctx), email, code)


def _is_good(token, ctx):
    return token is not None and "token/used-at" not in token and now(ctx) < token["token/expires-at"]


def _link(ctx):
    token = lookup(ctx["biff/db"], "token/hash", _hash(ctx["params"].get("token", "")), "token/purpose", "link")
    return token if _is_good(token, ctx) else None


def verify_link_page(ctx: dict) -> web.StreamResponse:
    token = _link(ctx)
    if token is None:
        return redirect(ctx, url("/signin", error="invalid-link"))
    is_same = token["token/browser"] == _browser(ctx)
    return render(ctx, "verify_link.html", token=ctx["params"]["token"], email=token["token/email"] if is_same else None,
                  error=error_text(ctx["params"]))


async def verify_link(ctx: dict) -> web.StreamResponse:
    token = _link(ctx)
    if token is None:
        return _no_sign_in(ctx, "link", url("/signin", error="invalid-link"))
    is_same = token["token/browser"] == _browser(ctx)
    if not is_same and normalized_email(ctx["params"].get("email", "")) != token["token/email"]:
        return _no_sign_in(ctx, "address", url(f"/auth/verify-link/{ctx['params']['token']}", error="incorrect-email"))
    signed = await _sign_in(ctx, token)
    return _no_sign_in(ctx, "link", url("/signin", error="invalid-link")) if signed is None else signed


def verify_code_page(ctx: dict) -> web.StreamResponse:
    back = _way_back(ctx)
    return render(ctx, "verify_code.html", email=ctx["params"].get("email", ""), back=back, error=error_text(ctx["params"]))


async def verify_code(ctx: dict) -> web.StreamResponse:
    email, code = normalized_email(ctx["params"].get("email", "")) or "", ctx["params"].get("code", "").strip()
    token = await _tried(ctx, email)
    if token and hmac.compare_digest(token["token/hash"], _code_hash(ctx, email, code)):
        if (signed := await _sign_in(ctx, token)) is not None:
            return signed
    return _no_sign_in(ctx, "code", url("/verify-code", error="invalid-code", email=email, **_way_back(ctx)))


def _no_sign_in(ctx, wrong, path):
    log.info("Not signed in, wrong or used %s, client %s", wrong, client_of(ctx))
    return redirect(ctx, path)


async def _tried(ctx, email):
    """The code's document with one more try on it, or None. The try is written first: guesses in parallel count too."""
    key = "token/purpose", "code", "token/email", email, "token/browser", _browser(ctx)

    def one_more(ctx):
        token: Any = lookup(ctx["biff/db"], *key)
        if not _is_good(token, ctx) or token["token/tries"] >= CODE_TRIES_MAX:
            return []
        return [{"db/doc-type": "token", "db/op": "update", "xt/id": token["xt/id"], "token/tries": ("db/add", 1)}]
    try:
        return await submit_tx(ctx, one_more) and lookup(ctx["biff/node"].db(), *key)
    except ContentionError:
        return None


async def _sign_in(ctx, token):
    """Redeems the token and begins a session, or None: of many who redeem one, `match` lets exactly one through."""
    value = secrets.token_urlsafe(32)
    try:
        tx = await submit_tx(ctx, functools.partial(_sign_in_tx, token_id=token["xt/id"], hashed=_hash(value)))
    except ContentionError:
        tx = None
    if tx is None:
        return None
    session = lookup(ctx["biff/node"].db(), "session/hash", _hash(value)) or {}         # it may be over by now
    log.info("Signed in: user %s, session %s, by %s, client %s", session.get("session/user"), session.get("xt/id"), token["token/purpose"], client_of(ctx))
    is_same = token["token/browser"] == _browser(ctx)      # whoever was slipped a link is not led anywhere by it
    _set_cookie(ctx, value)
    return redirect(ctx, token.get("token/return-to", ctx["biff/app-path"]) if is_same else ctx["biff/app-path"])


def _sign_in_tx(ctx, token_id, hashed):
    token = ctx["biff/db"].entity(token_id)
    if not _is_good(token, ctx):
        return []
    known = lookup_id(ctx["biff/db"], "user/email", token["token/email"])
    uid = known or ctx["biff/node"].new_id()
    crowd = sessions_of(ctx["biff/db"], uid)[SESSIONS_MAX - 1:]
    over = {session["xt/id"] for session in [*crowd, *filter(None, [ctx["session"]])]}
    return [{"db/doc-type": "token", "db/op": "update", "xt/id": token_id, "token/used-at": NOW},
            *([] if known else ctx["biff/new-user-tx"](ctx, uid, token["token/email"])),
            {"db/doc-type": "session", "xt/id": _session_id(hashed), "session/hash": hashed, "session/user": uid, "session/created-at": NOW,
             "session/used-at": NOW, "session/agent": _agent(ctx["request"].headers.get("User-Agent", ""))},
            *(store.evict(id) for id in over)]


def _agent(text):
    """A browser and its system, in words that its owner knows again."""
    browsers = {"Edg/": "Edge", "OPR/": "Opera", "Firefox/": "Firefox", "Chrome/": "Chrome", "Safari/": "Safari"}
    systems = {"Android": "Android", "iPhone": "iPhone", "iPad": "iPad", "Windows": "Windows", "Mac OS": "macOS",
               "Linux": "Linux"}
    browser = next((name for mark, name in browsers.items() if mark in text), "A browser")
    return browser + next((f" on {name}" for mark, name in systems.items() if mark in text), "")


async def signout(ctx: dict) -> web.StreamResponse:
    if ctx["session"]:
        await _end_sessions(ctx, [ctx["session"]["xt/id"]])
    ctx["request"][COOKIE] = secrets.token_urlsafe(32), None
    return redirect(ctx, ctx["biff/home-path"])


def sessions_page(ctx: dict) -> web.StreamResponse:
    alive = [session for session in sessions_of(ctx["biff/db"], ctx["uid"]) if is_alive(session, now(ctx))]
    return render(ctx, "sessions.html", sessions=alive, mine=ctx["session"]["xt/id"])


async def revoke(ctx: dict) -> web.StreamResponse:
    mine = {str(session["xt/id"]): session["xt/id"] for session in sessions_of(ctx["biff/db"], ctx["uid"])}
    if ctx["params"]["id"] == str(ctx["session"]["xt/id"]):
        return await signout(ctx)
    if ctx["params"]["id"] in mine:
        await _end_sessions(ctx, [mine[ctx["params"]["id"]]])
    return redirect(ctx, "/sessions")


async def revoke_others(ctx: dict) -> web.StreamResponse:
    others = [session["xt/id"] for session in sessions_of(ctx["biff/db"], ctx["uid"]) if session != ctx["session"]]
    await _end_sessions(ctx, others)
    return redirect(ctx, "/sessions")


async def _end_sessions(ctx, ids):
    """Evicted, not deleted: nobody asks which browsers somebody had two years ago. Their sockets close with this transaction."""
    await submit_tx(ctx, [store.evict(id) for id in ids])
    log.info("Signed out: user %s, sessions %s", ctx["uid"], ", ".join(map(str, ids)))


# ── Mail ─────────────────────────────────────────────────────────────────────────────────────────────────────

async def send_mail(ctx: dict, to: str, subject: str, text: str, html: str | None = None) -> bool:
    """Whether the mail was handed over; printed to the console, where no mail server is configured, counts."""
    config = ctx["biff/config"]
    if not config["mail_host"]:
        print(f"\nTO: {to}\nSUBJECT: {subject}\n\n{text}\n\nTo send mail instead of printing it, set "
              f"{ctx['biff/name'].upper()}_MAIL_HOST and _MAIL_FROM in {config['data']}/config.env.\n", flush=True)
        return True
    mail = email.message.EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = config["mail_from"], to, subject
    domain = config["mail_from"].rpartition("@")[2].rstrip(">")
    mail["Date"], mail["Message-ID"] = email.utils.localtime(), email.utils.make_msgid(domain=domain)
    mail.set_content(text)
    if html:
        mail.add_alternative(html, subtype="html")
    try:
        await aiosmtplib.send(mail, recipients=[to], **_smtp(config))
    except (aiosmtplib.SMTPException, OSError, ValueError) as failure:
        log.error("Mail could not be sent by %s: %s", config["mail_host"], type(failure).__name__)
        return False
    return True


def _smtp(config):
    """TLS is taken where it is offered, and demanded before a password is said."""
    is_tls = config["mail_port"] == 465
    return {"hostname": config["mail_host"], "port": config["mail_port"], "username": config["mail_user"],
            "password": config["mail_password"], "timeout": MAIL_S_MAX, "use_tls": is_tls,
            "start_tls": None if is_tls or not config["mail_password"] else True}


COMPONENTS = [use_config, use_store, use_jinja, use_queues, use_tx_listener, use_web, use_tasks]
