# %% [markdown]
# # What happened to the notes
# A notebook in the percent format, which Jupyter and editors open. It looks at the file of the running server.

# %%
import collections
import os

from eelstore import store

node = store.open(os.environ.get("NOTES", "notes.db"))
db = node.db()                        # one snapshot: all cells see the same moment, whatever is written meanwhile

# %%
db.table({"find": ["?text"], "where": [["?note", "note/text", "?text"]], "order-by": ["?text"], "limit": 10})

# %% [markdown]
# How often was each note written?

# %%
written = collections.Counter(op[1]["xt/id"] for tx in node.tx_log() for op in tx.ops if op[0] == "put")
print(f"{len(written)} notes, the busiest was written {max(written.values())} times")

# %%
node.close()
