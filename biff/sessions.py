# SPDX-License-Identifier: MIT
"""Sessions: who asks, and that their own browser asks.

A cookie holds 256 random bits and nothing else. A person who signs in gets a document named by the hash of those bits,
so that signing out is a transaction; a visitor needs no document. The anti-forgery token is an HMAC of the cookie.
"""

import datetime as dt
import hashlib
import hmac
import re
import secrets
from typing import Any

from aiohttp import web

import store
from biff.system import is_secure, now
from biff.tx import lookup_all, submit_tx

SESSION_DAYS = 60                     # from signing in, however often it is used
SESSION_IDLE_DAYS = 30                # without use
USED_EVERY = dt.timedelta(days=1)     # of a session that is used all day, its last use is written so often: by a task
RESTS_AFTER = dt.timedelta(hours=1)   # without a use; then its last use is written, too
SEEN_MAX = 10_000                     # sessions whose last use is known in memory
EVICT_MAX = 200                       # expired documents in one transaction: some 20 ms
COOKIE = web.RequestKey("cookie", tuple)          # the value and its seconds, if the answer is to set one
TOKEN_FIELD, TOKEN_HEADER = "__anti-forgery-token", "X-CSRF-Token"


def cookie_name(system: dict) -> str:
    """`__Host-` keeps subdomains from planting a cookie. Browsers refuse such a name over plain http."""
    return ("__Host-" if is_secure(system) else "") + system["biff/name"]


def cookies_of(request: web.Request, name: str) -> list[str]:
    """The values of all cookies of exactly this name, in order, by the grammar: split at `;`, space and tab stripped.

    A lenient parser, as aiohttp's is, ends a cookie at a space and drops others within quotes: a page of a sibling
    domain could plant `x=1 __Host-eelchat=…`, and the reader would act in the account of whoever made that page.
    Source: RFC 6265, section 4.2.1.
    """
    pairs = [pair for line in request.headers.getall("Cookie", ()) for pair in line.split(";")]
    named = [pair.strip(" \t").partition("=") for pair in pairs]
    return [value for key, _, value in named if key == name]


def cookie_of(ctx, is_made=False):
    request = ctx["request"]
    if COOKIE in request:
        return request[COOKIE][0]
    values = cookies_of(request, cookie_name(ctx))
    if len(values) == 1 and re.fullmatch(r"[A-Za-z0-9_-]{43}", values[0]):
        return values[0]
    if is_made:
        request[COOKIE] = secrets.token_urlsafe(32), None
        return request[COOKIE][0]
    return None


def set_cookie(ctx, value):
    ctx["request"][COOKIE] = value, SESSION_DAYS * 86_400


def cookie_line(system, value, seconds):
    lasting = "" if seconds is None else f"; Max-Age={seconds}"
    secure = "; Secure" if is_secure(system) else ""
    return f"{cookie_name(system)}={value}; Path=/; HttpOnly; SameSite=Lax{lasting}{secure}"


def hash_of(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def hmac_of(ctx, *words) -> str:
    return hmac.new(ctx["biff/secret"], "\0".join(words).encode("utf-8", "backslashreplace"), "sha256").hexdigest()


def csrf_token(ctx: dict) -> str:
    """Goes into every form of this browser; a browser without a cookie gets one with this response."""
    return hmac_of(ctx, "anti-forgery", cookie_of(ctx, is_made=True))


def has_token(ctx):
    given = ctx["request"].headers.get(TOKEN_HEADER) or ctx["biff/token"]
    cookie = cookie_of(ctx)
    return cookie is not None and hmac.compare_digest(hmac_of(ctx, "anti-forgery", cookie).encode(),
                                                      given.encode("utf-8", "backslashreplace"))


def session_of(ctx):
    """The session's document, if it and its user are alive. Its use is noted in memory; `keep_sessions` writes it."""
    if (cookie := cookie_of(ctx)) is None:
        return None
    db, hashed, moment = ctx["biff/db"], hash_of(cookie), now(ctx)
    found = db.entity(session_id(hashed))
    if not found or found.get("session/hash") != hashed or not is_alive(found, moment):
        return None
    if db.entity(found["session/user"]) is None:
        return None
    _note_use(ctx["biff/seen"], found, moment)
    return found


def _note_use(seen, session, moment):
    seen.pop(session["xt/id"], None)
    seen[session["xt/id"]] = moment, session["session/used-at"]
    if len(seen) > SEEN_MAX:
        del seen[next(iter(seen))]


def last_use(ctx: dict, session: dict) -> dt.datetime:
    """The time of a session's last use, as far as this server knows."""
    return max([session["session/used-at"], *ctx["biff/seen"].get(session["xt/id"], ())])


def session_id(hashed: str) -> str:
    """Half of the cookie's hash. Every request looks for its session; by its id that costs a third of a search."""
    return f"session-{hashed[:32]}"


def is_alive(session: dict, moment: dt.datetime) -> bool:
    return (moment < session["session/created-at"] + dt.timedelta(days=SESSION_DAYS)
            and moment < session["session/used-at"] + dt.timedelta(days=SESSION_IDLE_DAYS))


def sessions_of(db: store.Db, uid: Any) -> list[dict]:
    """A person's sessions, the last used first."""
    return sorted(lookup_all(db, "session/user", uid), key=lambda session: session["session/used-at"], reverse=True)


def _is_due(at, written, moment):
    """True if a last use is to be written: the written one is a day old, or the session rests since."""
    return at > written + (RESTS_AFTER if at + RESTS_AFTER < moment else USED_EVERY)


async def keep_sessions(ctx: dict) -> None:
    """Writes when sessions were last used, and evicts what has expired, so that no secret stays in the history."""
    seen = {id: at for id, (at, written) in ctx["biff/seen"].items() if _is_due(at, written, now(ctx))}
    await submit_tx(ctx, lambda ctx: [
        {"db/doc-type": "session", "db/op": "update", "xt/id": id, "session/used-at": used_at}
        for id, used_at in seen.items() if (ctx["biff/db"].entity(id) or {}).get("session/used-at", used_at) < used_at])
    for id, at in seen.items():
        if ctx["biff/seen"].get(id, (None,))[0] == at:
            del ctx["biff/seen"][id]
    moment = now(ctx)
    ends = [("token/expires-at", moment), ("session/created-at", moment - dt.timedelta(days=SESSION_DAYS)),
            ("session/used-at", moment - dt.timedelta(days=SESSION_IDLE_DAYS))]
    for attribute, end in ends:
        over = {"find": "?e", "in": ["?end"], "limit": EVICT_MAX,
                "where": [["?e", attribute, "?at"], [("<=", "?at", "?end")]]}
        await submit_tx(ctx, [store.evict(id) for id in set(ctx["biff/db"].q(over, end))])
