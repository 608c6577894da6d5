"""The chat beyond the tutorial: one capability a file, each ending in a dict PLUGIN, which `eelchat.PLUGINS` names.

A plugin adds, each under its key and all of them optional (`feeds.py` is the first, `changes.py` says how pages live):
- "schema": {type: Schema} and "extends": {type: {attribute: what}} for a type of another plugin; "tx-fns" as in `biff`;
- "goes-with": {kind: [attributes]}: documents that point to a deleted channel (or message) by these go with it;
- "routes": (method, path, rule, handler), with rules of `places.py` or own; "on_tx", "queues", "tasks" as in `biff`;
- "commands": {name: Command}, what a message that begins with /name does, and its line in /help;
- "posted": f(ctx) → attributes that its fields of the form give a new message; "posted-tx": f(ctx, message) → what it
  adds to that message's transaction; both may raise `places.Refused`; "settings": {name: biff.Setting};
- "channel-values": f(ctx) → attributes of a channel that its form says, whose fields are in the slot "channel-form";
- "texts": [attribute], which `text-search` looks through;
- "beside-text": f(ctx, text) → attributes kept beside a message's text, None for none; "typed": f(ctx, message) → its
  text as its author would type it now; "held": f(db, message) → spans of its text that stand for something else;
- "slots": {slot: template}, its part of the page: "head", "head-end", "sidebar-head", "sidebar", "sidebar-foot",
  "welcome", "above-compose", "compose", "state", "message-head", "message-top", "message-foot", "message-actions",
  "message-actions-end", "pick", "menu", and "dialogs" and "you", which come when the first dialog is opened;
- "page": f(ctx) → values for them; "messages": f(db, messages) → {id: values} of messages, such as names; what changes
  them spoils ("names", "all"); "message-looks" likewise, kept until pages are told the message anew
  (`changes.retouch`); "filters": {name: f} for templates; "scripts": files of `static/`, loaded last;
- "leaving": [name], transaction functions f(ctx, mem_id) that go with a membership that ends;
- "changes": [f(changes, id, old, new)], what a document changed on open pages (`changes.later`: what may wait until
  somebody there looks), and "parts": {name: f(ctx, db, place, about) → fragment}, each live piece of a page;
  "person-parts" likewise for what is one person's own;
- "notices": {name: f(system, server, …)}, what another server says by `biff.notify` and nobody stores;
- "components" start with the system; one that watches sockets adds itself to "chat_watchers";
- "views": {name: f(ctx) → a page that stands at a channel's address with this name in its query}; it looks who may;
- "front": f(ctx) → where `/app` leads; "opening": f(ctx) → a page in the place of a channel's newest messages,
  or None. Bounds are constants at a plugin's head.
Arrows run eelchat → plugins → biff → store. A plugin may use another one; none imports eelchat.
"""
