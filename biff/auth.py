# SPDX-License-Identifier: MIT
"""Signing in.

A person who reads an address's mail owns the address. A link and a code work once, for ten minutes; a GET never redeems
one, because mail scanners open links. In the browser that asked, a button that names the address is enough; in another,
the address is asked for, so that nobody is signed in as somebody else by a link that was slipped to them. The store keeps
hashes. Whether an address is known makes no difference to what is answered, or when.
"""

import datetime as dt
import functools
import hmac
import logging
import re
import secrets
import uuid
from typing import Any, Callable

import voluptuous
from aiohttp import web

import store
from biff.jobs import every
from biff.limits import client_of, is_allowed
from biff.mail import send_mail
from biff.pages import fragment, is_local, redirect, render, url
from biff.requests import anyone
from biff.sessions import COOKIE, cookie_of, hash_of, hmac_of, is_alive, keep_sessions, session_id, sessions_of, set_cookie
from biff.system import now
from biff.tx import ContentionError, DISSOC, NOW, lookup, lookup_id, submit_tx

log = logging.getLogger("biff")

SESSIONS_MAX = 50                     # of one person; the one used longest ago ends when another begins
TOKEN_MINUTES = 10                    # of a sign-in link or code
CODE_TRIES_MAX = 3
EMAIL_CHARS_MAX = 254                 # RFC 5321
PATH_CHARS_MAX = 200                  # of the page that one comes back to after signing in; ours are shorter
MAILS_AN_ADDRESS = 3, 3_600           # per hour: nobody's mailbox is flooded through us
MAILS_A_CLIENT = 20, 3_600            # per hour: a classroom behind one address signs in, a machine gun does not
MAILS_A_SERVER = 60, 60               # per minute: what a small mail relay takes from one sender

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


def signed_in(ctx: dict) -> Any:
    return None if ctx["uid"] else ask_to_sign_in(ctx)


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
    await submit_tx(ctx, [_token(ctx, "link", email, hash_of(token))])
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
    return hmac_of(ctx, "browser", cookie_of(ctx) or "")


def _code_hash(ctx, email, code):
    """Keyed, because a plain hash of six digits is undone by a million guesses."""
    return hmac_of(ctx, "code", _browser(ctx), email, code)


def _is_good(token, ctx):
    return token is not None and "token/used-at" not in token and now(ctx) < token["token/expires-at"]


def _link(ctx):
    token = lookup(ctx["biff/db"], "token/hash", hash_of(ctx["params"].get("token", "")), "token/purpose", "link")
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
        tx = await submit_tx(ctx, functools.partial(_sign_in_tx, token_id=token["xt/id"], hashed=hash_of(value)))
    except ContentionError:
        tx = None
    if tx is None:
        return None
    session = lookup(ctx["biff/node"].db(), "session/hash", hash_of(value)) or {}         # it may be over by now
    log.info("Signed in: user %s, session %s, by %s, client %s", session.get("session/user"), session.get("xt/id"), token["token/purpose"], client_of(ctx))
    is_same = token["token/browser"] == _browser(ctx)      # whoever was slipped a link is not led anywhere by it
    set_cookie(ctx, value)
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
            {"db/doc-type": "session", "xt/id": session_id(hashed), "session/hash": hashed, "session/user": uid, "session/created-at": NOW,
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
