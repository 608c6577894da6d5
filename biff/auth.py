# SPDX-License-Identifier: MIT
"""Signing in.

A person who reads an address's mail owns the address. Each mail carries a link and a code, which work once, for ten
minutes. A GET never redeems a link, because mail scanners open links. In the browser that asked, a button that names
the address is enough; in another, the link asks for the address, so that nobody is signed in as somebody else by a link
that was slipped to them. A code works only in the browser that asked for it: its hash is keyed by that browser's
cookie, which stands in no log. Whether an address is known makes no difference to what is answered, or when.
"""

import datetime as dt
import functools
import hmac
import logging
import re
import secrets
import uuid
from typing import Any, Callable

import idna
import voluptuous
from aiohttp import web

import store
from biff.jobs import every
from biff.limits import client_of, is_allowed, networks_of
from biff.mail import send_mail
from biff.pages import base_url_of, fragment, is_local, redirect, render, url
from biff.requests import anyone
from biff.sessions import (COOKIE, cookie_of, hash_of, hmac_of, is_alive, keep_sessions, last_use, session_id,
                           sessions_of, set_cookie)
from biff.system import now
from biff.tx import ContentionError, NOW, lookup, lookup_all, lookup_id, submit_tx

log = logging.getLogger("biff")

SESSIONS_MAX = 50                     # of one person; the one used longest ago ends when another begins
TOKEN_MINUTES = 10                    # of a sign-in link or code
CODE_TRIES_MAX = 3
EMAIL_CHARS_MAX = 254                 # RFC 5321
PATH_CHARS_MAX = 200                  # of the page that one comes back to after signing in; ours are shorter
LOCAL_CHARS_MAX = 64                  # RFC 5321, of what stands before the @
MAILS_A_CLIENT_TO_ONE = 3, 3_600      # per hour, from one client to one address: somebody who mistypes a code twice
MAILS_A_NETWORK_TO_ONE = 6, 3_600     # the same for an IPv6 /48, which has as many clients as it likes
MAILS_AN_ADDRESS = 30, 3_600          # per hour, from all: ten strangers do not use it up before its owner asks
MAILS_A_CLIENT = 20, 3_600            # per hour: a classroom behind one address signs in, a machine gun does not
MAILS_A_NETWORK = 60, 3_600           # of an IPv6 /48
MAILS_A_SERVER = 60, 60               # per minute: what a small mail relay takes from one sender

# Source: RFC 5322, section 3.2.3 (atext, dot-atom); RFC 1123, section 2.1 (letters, digits and hyphens).
ATOM = r"[a-z0-9!#$%&'*+/=?^_`{|}~-]+"
LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
ADDRESS = re.compile(rf"{ATOM}(?:\.{ATOM})*@(?:{LABEL}\.)+(?!\d+$){LABEL}")

ERRORS = {
    "invalid-email": "Invalid email. Try again with a different address.",
    "send-failed": "We weren't able to send an email to that address. If the problem persists, try another address.",
    "too-many": "Too many sign-in mails were asked for. If one of the last ten minutes is in your mailbox, its link "
                "works here too; else try again in an hour.",
    "invalid-link": "Invalid or expired link. Sign in to get a new link.",
    "incorrect-email": "Incorrect email address. Try again.",
    "invalid-code": "Invalid code.",
    "not-signed-in": "You must be signed in to view that page.",
    "signed-out": "You signed out in another tab. Sign in to come back: what you were writing is kept for you.",
}
AUTH_SCHEMA = {
    # Ids are text: of an evicted document only the id is left, and listeners skip what is no UUID.
    # token/hash is the hash of the link, token/code that of the code.
    "token": {"xt/id": str, "token/hash": str, "token/code": str, "token/email": str, "token/browser": str,
              "token/expires-at": dt.datetime, "token/tries": int,
              voluptuous.Optional("token/return-to"): str, voluptuous.Optional("token/used-at"): dt.datetime},
    "session": {"xt/id": str, "session/hash": str, "session/user": uuid.UUID, "session/agent": str,
                "session/created-at": dt.datetime, "session/used-at": dt.datetime},
}


def signed_in(ctx: dict) -> Any:
    return None if ctx["uid"] else ask_to_sign_in(ctx)


def auth_plugin(app_path: str = "/app", home_path: str = "/", new_user_tx: Callable | None = None) -> dict:
    """Routes, documents and the task of signing in. `new_user_tx(ctx, uid, email)` builds a new user's documents."""
    def with_paths(handler):
        paths = {"biff/app-path": app_path, "biff/home-path": home_path,
                 "biff/new-user-tx": new_user_tx or _new_user_tx}
        return functools.wraps(handler)(lambda ctx: handler(ctx | paths))
    routes = [
        ("GET", "/signin", anyone, signin_page), ("GET", "/link-sent", anyone, link_sent_page),
        ("POST", "/auth/send-link", anyone, send_link), ("POST", "/auth/send-code", anyone, send_code),
        ("GET", "/auth/verify-link/{token}", anyone, verify_link_page),
        ("POST", "/auth/verify-link", anyone, verify_link),
        ("GET", "/verify-code", anyone, verify_code_page), ("POST", "/auth/verify-code", anyone, verify_code),
        ("POST", "/auth/signout", anyone, signout), ("GET", "/sessions", signed_in, sessions_page),
        ("POST", "/sessions/others/revoke", signed_in, revoke_others),
        ("POST", "/sessions/{id}/revoke", signed_in, revoke)]
    return {"routes": [(method, path, rule, with_paths(handler)) for method, path, rule, handler in routes],
            "schema": AUTH_SCHEMA, "tasks": [{"task": keep_sessions, "schedule": every(60)}]}


def _new_user_tx(ctx, uid, email):
    return [{"db/doc-type": "user", "xt/id": uid, "user/email": ("db/unique", email), "user/joined-at": NOW}]


def error_text(params: dict) -> str | None:
    return ERRORS.get(params["error"], "There was an error.") if "error" in params else None


def normalized_email(text: str) -> str | None:
    """The address in small letters, its domain as mail servers write it (xn--…); None if it is not one address.

    One spelling is one account, whichever a browser sends. Quoted names and names beyond ASCII are refused, because
    not every mail server takes them; `=?`, because mail programs would read what follows as an encoded word.
    """
    local, _, domain = text.strip().rpartition("@")
    if not local.isascii() or len(local) > LOCAL_CHARS_MAX or "=?" in local:
        return None
    try:
        domain = idna.encode(domain[:EMAIL_CHARS_MAX], uts46=True, std3_rules=True).decode()
    except (idna.IDNAError, UnicodeError):
        return None
    email = f"{local.lower()}@{domain}"
    return email if len(email) <= EMAIL_CHARS_MAX and ADDRESS.fullmatch(email) else None


def ask_to_sign_in(ctx: dict) -> web.Response:
    """Redirects to the sign-in page, from which the browser comes back to the page that was asked for."""
    request = ctx["request"]
    is_page = request.method == "GET" and not {"HX-Request", "Upgrade"} & set(request.headers)
    return redirect(ctx, url("/signin", error="not-signed-in", **_way_back(ctx, request.path_qs if is_page else "")))


def _way_back(ctx, path=None):
    """{"return-to": where to go once signed in}, {} if that is nowhere or elsewhere.

    It travels in forms, and then in the token's document.
    """
    path = ctx["params"].get("return-to", "") if path is None else path
    return {"return-to": path} if len(path) <= PATH_CHARS_MAX and is_local(path) else {}


def signin_page(ctx: dict) -> web.StreamResponse:
    return render(ctx, "signin.html", error=error_text(ctx["params"]), email=ctx["params"].get("email", ""),
                  back=_way_back(ctx), is_printed=_is_printed(ctx))


def link_sent_page(ctx: dict) -> web.StreamResponse:
    return render(ctx, "link_sent.html", email=ctx["params"].get("email", ""), back=_way_back(ctx),
                  is_printed=_is_printed(ctx))


def verify_code_page(ctx: dict) -> web.StreamResponse:
    return render(ctx, "verify_code.html", email=ctx["params"].get("email", ""), back=_way_back(ctx),
                  error=error_text(ctx["params"]), is_printed=_is_printed(ctx))


def _is_printed(ctx):
    return not ctx["biff/config"]["mail_host"]


async def send_link(ctx: dict) -> web.StreamResponse:
    on_error = ctx["params"].get("on-error")
    return await _send(ctx, "/link-sent", on_error if on_error in (ctx["biff/home-path"], "/signin") else "/signin")


async def send_code(ctx: dict) -> web.StreamResponse:
    return await _send(ctx, "/verify-code", "/signin")


async def _send(ctx, then, on_error):
    """Mails a link and a code, and goes on to `then`, or back to `on_error` with the reason and what was typed."""
    typed, back = ctx["params"].get("email", "")[:EMAIL_CHARS_MAX], _way_back(ctx)
    email = normalized_email(ctx["params"].get("email", ""))
    wrong = _refused(ctx, email)
    if wrong is None and not await _mailed(ctx, email):
        wrong = "send-failed"
    return redirect(ctx, url(on_error, error=wrong, email=typed, **back) if wrong else url(then, email=email, **back))


def _refused(ctx, email):
    """Why no mail goes out now, None if one may.

    Strangers who ask in somebody's name use up their own share of that person's mails, and hardly the owner's.
    """
    if email is None:
        return "invalid-email"
    client, *around = networks_of(ctx)
    limits = [(("mail", client, email), *MAILS_A_CLIENT_TO_ONE), (("mail for", client), *MAILS_A_CLIENT),
              (("mail to", email), *MAILS_AN_ADDRESS), ("mails", *MAILS_A_SERVER)]
    for network in around:
        limits += [(("mail", network, email), *MAILS_A_NETWORK_TO_ONE), (("mail for", network), *MAILS_A_NETWORK)]
    return None if is_allowed(ctx, *limits) else "too-many"


async def _mailed(ctx, email):
    """True if the mail was handed over. The mail names the browser and the time of the request."""
    token, code, name = secrets.token_urlsafe(32), f"{secrets.randbelow(10 ** 6):06}", ctx["biff/name"]
    await submit_tx(ctx, [_token(ctx, email, token, code)])
    base, asked_from = base_url_of(ctx), _agent(ctx["request"].headers.get("User-Agent", ""))
    values = {"link": f"{base}/auth/verify-link/{token}", "code": code, "base_url": base, "minutes": TOKEN_MINUTES,
              "asked_from": asked_from, "asked_at": now(ctx)}
    text, html = (fragment(ctx, f"mail/signin.{kind}", **values) for kind in ("txt", "html"))
    return await send_mail(ctx, email, f"Sign in to {name}", text, html=html)


def _token(ctx, email, token, code):
    back = {f"token/{key}": path for key, path in _way_back(ctx).items()}
    return {"db/doc-type": "token", "xt/id": f"token-{secrets.token_hex(16)}", "token/email": email, "token/tries": 0,
            "token/hash": hash_of(token), "token/code": _code_hash(ctx, email, code), "token/browser": _browser(ctx),
            "token/expires-at": now(ctx) + dt.timedelta(minutes=TOKEN_MINUTES)} | back


def _browser(ctx):
    return hmac_of(ctx, "browser", cookie_of(ctx) or "")


def _code_hash(ctx, email, code):
    """Keyed by the browser's cookie: a million guesses undo a hash of six digits for any reader of a key in the log."""
    return hmac_of(ctx, "code", cookie_of(ctx) or "", email, code)


def _is_good(token, ctx):
    return token is not None and "token/used-at" not in token and now(ctx) < token["token/expires-at"]


def _link(ctx):
    token = lookup(ctx["biff/db"], "token/hash", hash_of(ctx["params"].get("token", "")))
    return token if _is_good(token, ctx) else None


def verify_link_page(ctx: dict) -> web.StreamResponse:
    token = _link(ctx)
    if token is None:
        return redirect(ctx, url("/signin", error="invalid-link"))
    is_same = token["token/browser"] == _browser(ctx)
    return render(ctx, "verify_link.html", token=ctx["params"]["token"], error=error_text(ctx["params"]),
                  email=token["token/email"] if is_same else None)


async def verify_link(ctx: dict) -> web.StreamResponse:
    token = _link(ctx)
    if token is None:
        return _no_sign_in(ctx, "link", url("/signin", error="invalid-link"))
    is_same = token["token/browser"] == _browser(ctx)
    if not is_same and normalized_email(ctx["params"].get("email", "")) != token["token/email"]:
        return _no_sign_in(ctx, "address", url(f"/auth/verify-link/{ctx['params']['token']}", error="incorrect-email"))
    signed = await _sign_in(ctx, token, "link")
    return _no_sign_in(ctx, "link", url("/signin", error="invalid-link")) if signed is None else signed


async def verify_code(ctx: dict) -> web.StreamResponse:
    email, code = normalized_email(ctx["params"].get("email", "")) or "", ctx["params"].get("code", "").strip()
    token = await _tried(ctx, email)
    if token and hmac.compare_digest(token["token/code"], _code_hash(ctx, email, code)):
        if (signed := await _sign_in(ctx, token, "code")) is not None:
            return signed
    return _no_sign_in(ctx, "code", url("/verify-code", error="invalid-code", email=email, **_way_back(ctx)))


def _no_sign_in(ctx, wrong, path):
    log.info("Not signed in, wrong or used %s, client %s", wrong, client_of(ctx))
    return redirect(ctx, path)


async def _tried(ctx, email):
    """The newest mail's document with one more try on it, or None.

    The try is written first, so that guesses in parallel count too.
    """
    def newest(db):
        mails: list = lookup_all(db, "token/email", email, "token/browser", _browser(ctx))
        return max(mails, key=lambda token: token["token/expires-at"], default=None)

    def one_more(ctx):
        token: Any = newest(ctx["biff/db"])
        if not _is_good(token, ctx) or token["token/tries"] >= CODE_TRIES_MAX:
            return []
        return [{"db/doc-type": "token", "db/op": "update", "xt/id": token["xt/id"], "token/tries": ("db/add", 1)}]
    try:
        return await submit_tx(ctx, one_more) and newest(ctx["biff/node"].db())
    except ContentionError:
        return None


async def _sign_in(ctx, token, by):
    """Redeems the token and begins a session, or None: of many who redeem one, `match` lets exactly one through."""
    value = secrets.token_urlsafe(32)
    try:
        tx = await submit_tx(ctx, functools.partial(_sign_in_tx, token_id=token["xt/id"], hashed=hash_of(value)))
    except ContentionError:
        tx = None
    if tx is None:
        return None
    session = lookup(ctx["biff/node"].db(), "session/hash", hash_of(value)) or {}         # it may be over by now
    log.info("Signed in: user %s, session %s, by %s, client %s", session.get("session/user"), session.get("xt/id"), by,
             client_of(ctx))
    is_same = token["token/browser"] == _browser(ctx)      # a link that was slipped to somebody leads them nowhere
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
            {"db/doc-type": "session", "xt/id": session_id(hashed), "session/hash": hashed, "session/user": uid,
             "session/created-at": NOW, "session/used-at": NOW,
             "session/agent": _agent(ctx["request"].headers.get("User-Agent", ""))},
            *(store.evict(id) for id in over)]


def _agent(text):
    """A browser and its system, in words that its owner knows again."""
    browsers = {"Edg": "Edge", "OPR/": "Opera", "SamsungBrowser/": "Samsung Internet", "Firefox/": "Firefox",
                "FxiOS/": "Firefox", "CriOS/": "Chrome", "Chrome/": "Chrome", "Safari/": "Safari"}
    systems = {"Android": "Android", "iPhone": "iPhone", "iPad": "iPad", "Windows": "Windows", "CrOS": "ChromeOS",
               "Mac OS": "macOS", "Linux": "Linux"}
    browser = next((name for mark, name in browsers.items() if mark in text), "A browser")
    return browser + next((f" on {name}" for mark, name in systems.items() if mark in text), "")


async def signout(ctx: dict) -> web.StreamResponse:
    if ctx["session"]:
        await _end_sessions(ctx, [ctx["session"]["xt/id"]])
    ctx["request"][COOKIE] = secrets.token_urlsafe(32), None
    return redirect(ctx, ctx["biff/home-path"])


def sessions_page(ctx: dict) -> web.StreamResponse:
    alive = [session | {"seen-at": last_use(ctx, session)} for session in sessions_of(ctx["biff/db"], ctx["uid"])
             if is_alive(session, now(ctx))]
    alive.sort(key=lambda session: (session["xt/id"] == ctx["session"]["xt/id"], session["seen-at"]), reverse=True)
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
    """Evicts them, so that no history says which browsers somebody had. Their sockets close with this transaction."""
    await submit_tx(ctx, [store.evict(id) for id in ids])
    log.info("Signed out: user %s, sessions %s", ctx["uid"], ", ".join(map(str, ids)))
