"""The peers of bench/fanout.py: each takes a POST and writes one prebuilt frame to every open socket of its path.

    python bench/broadcasters.py bare|uwebsockets|aiohttp PORT FRAME_BYTES

They have no sign-in, no store and no templates. The difference between their cost and the chat's is what the chat's own
work costs.

`bare` is an asyncio protocol under uvloop. Of HTTP it knows only where a request ends and which key it carries.
`uwebsockets` is uWebSockets through socketify. `aiohttp` is the usual loop over `send_str`; it shows at which rate
aiohttp opens sockets.
"""

import asyncio
import base64
import collections
import hashlib
import re
import sys

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"       # RFC 6455, section 1.3
POSTED = b"HTTP/1.1 204 No Content\r\n\r\n"
BEGIN, END = "<article class='message'>", "</article>"     # the crowd counts messages by "<article "


def payload(frame_bytes):
    """A text that makes a frame of that size, with one message in it."""
    return BEGIN.ljust(frame_bytes - 4 - len(END), "x") + END


def text_frame(text):
    data = text.encode()
    return b"\x81\x7e" + len(data).to_bytes(2, "big") + data


class Bare(asyncio.Protocol):
    rooms, frame = collections.defaultdict(dict), b""

    def connection_made(self, transport):
        self.transport, self.room = transport, {}

    def data_received(self, data):
        if self in self.room:
            return                                   # a browser's pongs
        self.room = self.rooms[data.split(b" ", 2)[1]]
        if key := re.search(rb"(?i)sec-websocket-key: (\S+)", data):
            accept = base64.b64encode(hashlib.sha1(key[1] + GUID).digest())
            self.transport.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                                 b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n")
            self.room[self] = self.transport.write
        else:
            for write in self.room.values():
                write(self.frame)
            self.transport.write(POSTED)

    def connection_lost(self, error):
        self.room.pop(self, None)


async def bare(port, text):
    Bare.frame = text_frame(text)
    server = await asyncio.get_running_loop().create_server(Bare, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


def uwebsockets(port, text):
    import socketify
    app = socketify.App()

    def post(answer, request):
        app.publish(request.get_url(), text, socketify.OpCode.TEXT)
        answer.write_status(204).end_without_body()

    def upgrade(answer, request, context):
        headers = [request.get_header("sec-websocket-" + name) for name in ("key", "protocol", "extensions")]
        answer.upgrade(*headers, context, request.get_url())

    app.ws("/*", {"upgrade": upgrade,
                  "compression": socketify.CompressOptions.DISABLED, "max_backpressure": 64 * 1024 * 1024,
                  "idle_timeout": 0,
                  "open": lambda ws: ws.subscribe(ws.get_user_data()), "message": lambda ws, message, code: None})
    app.post("/*", post)
    app.listen(socketify.AppListenOptions(port=port, host="127.0.0.1"), lambda config: None)
    app.run()


def aiohttp(port, text):
    from aiohttp import web
    sockets = set()

    async def connect(request):
        ws = web.WebSocketResponse(compress=False)
        await ws.prepare(request)
        sockets.add(ws)
        async for _ in ws:
            pass
        sockets.discard(ws)
        return ws

    async def post(request):
        for ws in sockets:
            await ws.send_str(text)
        return web.Response(status=204)

    app = web.Application()
    app.add_routes([web.get("/{path:.*}", connect), web.post("/{path:.*}", post)])
    web.run_app(app, host="127.0.0.1", port=port, print=None, access_log=None, backlog=1024)


def main():
    kind, port, frame_bytes = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    if kind == "bare":
        import uvloop
        uvloop.run(bare(port, payload(frame_bytes)))
    else:
        {"uwebsockets": uwebsockets, "aiohttp": aiohttp}[kind](port, payload(frame_bytes))


if __name__ == "__main__":
    main()
