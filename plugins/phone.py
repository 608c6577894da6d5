"""Phone: the chat on a home screen, by a manifest, icons, and a service worker that shows the last pages offline."""
import json

from aiohttp import web

import biff

ICONS = ("icon-192.png", "192x192", "any"), ("icon-512.png", "512x512", "any"), ("icon-mask.png", "512x512", "maskable")
LIGHT = "#f6f3ec"                     # as in the style sheet


async def manifest(ctx):
    icons = [{"src": biff.asset_url(ctx["biff/assets"], name), "sizes": sizes, "type": "image/png", "purpose": purpose}
             for name, sizes, purpose in ICONS]
    made = {"name": ctx["biff/name"], "short_name": ctx["biff/name"], "id": "/app", "start_url": "/app", "scope": "/",
            "display": "standalone", "theme_color": LIGHT, "background_color": LIGHT, "icons": icons,
            "description": "A quiet place for your community to talk."}
    return web.json_response(made, content_type="application/manifest+json")


async def worker(ctx):
    """The service worker, which knows the addresses of what pages load. A new file makes it a new one."""
    assets = ctx["biff/assets"]
    files = [biff.asset_url(assets, name) for name in assets if name != "sw.js"]
    version = biff.hash_of("".join(files))[:16]
    head = f"const FILES = {json.dumps(files)}, VERSION = {json.dumps(version)};\n"
    return web.Response(text=head + assets["sw.js"].body.decode(), content_type="text/javascript",
                        headers={"Cache-Control": "no-cache"})


async def offline(ctx):
    return biff.render(ctx, "phone/offline.html")


PLUGIN = {
    "routes": [("GET", "/manifest.webmanifest", biff.anyone, manifest), ("GET", "/sw.js", biff.anyone, worker),
               ("GET", "/offline", biff.anyone, offline)],
}
