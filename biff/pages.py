# SPDX-License-Identifier: MIT
"""Pages: templates, static files, redirects and errors.

One escaping environment renders pages and fragments: a second one would be the place where escaping is forgotten.
Static files and the browser scripts are read once, and served from memory under an address that changes with them.
"""

import functools
import gzip
import hashlib
import ipaddress
import itertools
import logging
import mimetypes
import pathlib
import re
import secrets
import urllib.parse
from typing import Any, NamedTuple

import aiohttp_jinja2
import jinja2
import jinja2.ext
from aiohttp import web

from biff.sessions import csrf_token
from biff.system import StartError

log = logging.getLogger("biff")

BODY_BYTES_MAX = 128 * 1024           # of a form: a message of 10,000 characters of four bytes, percent-encoded
ERROR_ID = web.ResponseKey("error id", str)
ROOT = pathlib.Path(__file__).parent.parent
SCRIPTS = {
    "htmx.js": "htmx.org/dist/htmx.min.js",
    "hx-ws.js": "htmx.org/dist/ext/hx-ws.min.js",
    "hyperscript.js": "hyperscript.org/dist/_hyperscript.min.js",
}
CONTENT_SECURITY_POLICY = ("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
                           "media-src 'self'; connect-src 'self'; manifest-src 'self'; form-action 'self'; "
                           "base-uri 'none'; frame-ancestors 'none'")
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


class Asset(NamedTuple):
    body: bytes
    gzipped: bytes | None
    type: str
    version: str


class Inlined(jinja2.ext.Extension):
    """Puts what a template includes into its source, for each include at run time costs a page some 10 µs.

    `{% slot "menu" %}` stands for the templates that the extension's `slots` have under that name, one after the other.
    """
    TAG = re.compile(r'(?:^[ \t]+)?{% (include|slot) "([\w/.-]+)" %}', re.MULTILINE)

    def __init__(self, environment):
        super().__init__(environment)
        self.slots: dict[str, list[str]] = {}

    def preprocess(self, source, name, filename=None):
        return self.TAG.sub(self._inlined, source)

    def _inlined(self, tag):
        jinja = self.environment
        names = [tag[2]] if tag[1] == "include" else self.slots.get(tag[2], ())
        sources = [jinja.loader.get_source(jinja, name)[0] for name in names] if jinja.loader else []
        inlined = "".join(self.preprocess(source.removesuffix("\n"), None) for source in sources)
        return inlined + "{##}"                        # the line ends behind a tag, as it did


async def use_jinja(system: dict) -> dict:
    root = system.setdefault("biff/root", ROOT)
    assets = system["biff/assets"] = _assets(root)
    app = system["biff/app"] = web.Application(client_max_size=BODY_BYTES_MAX)
    system["biff/jinja"] = aiohttp_jinja2.setup(
        app, loader=jinja2.FileSystemLoader(root / "templates"), auto_reload=False, trim_blocks=True,
        lstrip_blocks=True, extensions=[Inlined], undefined=jinja2.StrictUndefined,
        autoescape=lambda name: name is None or not name.endswith(".txt"))
    # A filter of a constant is worked out when its template is compiled.
    system["biff/jinja"].filters["asset"] = functools.partial(asset_url, assets)
    system["biff/jinja"].globals["name"] = system["biff/name"]
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
    return Asset(body, gzipped, type, hashlib.sha256(body).hexdigest()[:8])


def asset_url(assets, name):
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
    known = {"csrf_token": csrf_token(ctx), "base_url": base_url_of(ctx), "path": request.path, "uid": ctx.get("uid")}
    page = aiohttp_jinja2.render_template(template, request, known | values, status=status)
    if ctx.get("uid"):
        page.headers["X-Person"] = str(ctx["uid"])     # for the service worker: it keeps the pages of one person only
    return page


def base_url_of(ctx: dict) -> str:
    """The base URL; where none is configured, the address by which this browser found the server.

    A request may claim any host, and a sign-in link must not lead elsewhere: only the address of the connection itself
    is believed, or localhost over loopback.
    """
    request = ctx["request"]
    here = request.transport and request.transport.get_extra_info("sockname")
    if ctx["biff/config"]["base_url"] or not here:
        return ctx["biff/base-url"]
    host, address = request.headers.get("Host", ""), ipaddress.ip_address(here[0].partition("%")[0])
    shown = f"[{address}]" if address.version == 6 else str(address)
    names = {shown} | ({"localhost"} if address.is_loopback else set())
    return f"http://{host}" if host in {f"{name}:{here[1]}" for name in names} else ctx["biff/base-url"]


def fragment(system: dict, template: str, **values: Any) -> str:
    """A template's text outside a request, by the same environment."""
    return system["biff/jinja"].get_template(template).render({"base_url": system["biff/base-url"]} | values)


# No quotes, brackets and stops of East Asian writing, which has no spaces; no marks that turn the direction of writing.
ADDRESS_GOES_ON = (r"[^\s<>\"'`\\|{}\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufdd0\ufdd1\ufeff\u2018-\u201f\u2026"
                   r"\u3001-\u3003\u3008-\u3011\u3014-\u301f\uff01\uff08\uff09\uff0c\uff0e\uff1a\uff1b\uff1f"
                   r"\uff3b\uff3d\uff5b\uff5d\uff5f-\uff64]*")
ADDRESS = re.compile(r"(?:(?i:https?)://(?:\w|\[[\da-fA-F:.]{2,45}\])|(?<![\w@.:/-])(?i:www)\.(?=[\w-]+\.\w))"
                     + ADDRESS_GOES_ON)
LINKS_MAX = 50                        # in a text; 1,100 of the shortest would make 94 KB of a message of 10,000 letters
SENTENCE_MARKS = ".,;:!?"             # at an address's end they are the sentence's


def addresses_apart(text: str, links_max: int = LINKS_MAX) -> list[tuple[str, bool]]:
    """The text in pieces, each with whether it is a web address, to be linked.

    Only http, https and www. are linked, and the first `links_max` of them. The marks of a sentence are no part of an
    address.
    """
    pieces, end = [], 0
    for found in itertools.islice(ADDRESS.finditer(text), links_max):
        address = without_marks(found.group())
        pieces += [(text[end:found.start()], False), (address, True)]
        end = found.start() + len(address)
    return [piece for piece in [*pieces, (text[end:], False)] if piece[0]]


def without_marks(address: str, marks: str = SENTENCE_MARKS) -> str:
    """The address without the marks at its end, and without the brackets there that it does not open itself."""
    surplus = {closing: address.count(closing) - address.count(opening) for opening, closing in ("()", "[]")}
    end = len(address)
    while address[end - 1] in marks or surplus.get(address[end - 1], 0) > 0:
        if address[end - 1] in surplus:
            surplus[address[end - 1]] -= 1
        end -= 1
    return address[:end]


def is_local(path: str) -> bool:
    """True if a redirect to it stays on this site, as browsers read addresses: they take \\ for / and skip tabs."""
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
            mark = f" If you report this, name the mark {id}." if status >= 500 else ""
            response = web.Response(status=status, text=sentence + mark)
        else:
            response = render(ctx, "error.html", status, sentence=sentence, id=id)
    except Exception:
        log.exception("The error page failed")
        response = web.Response(status=status, text=f"{sentence} ({id})")
    response[ERROR_ID] = id
    return response
