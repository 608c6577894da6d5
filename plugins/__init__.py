"""What goes beyond the tutorial: one capability a file, each ending in a dict PLUGIN, which `eelchat.PLUGINS` names.

A plugin adds, each under its key, and all of them optional:
- "schema": document types; "routes": (method, path, rule, handler); "tx-fns": functions that run inside a transaction;
- "on_tx": what hears every transaction; "queues", "tasks": work beside requests, as in `biff`;
- "goes-with": {kind: [attributes]}: documents that point with such an attribute to one that is deleted go with it;
- "commands": {name: Command}, what a message that begins with /name does.
Arrows run eelchat → plugins → biff → store: a plugin may use another one and imports nothing of eelchat. See `feeds.py`.
"""
