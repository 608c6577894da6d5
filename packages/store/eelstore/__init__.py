# SPDX-License-Identifier: MIT
"""An immutable, bitemporal document store. `eelstore.store` is store.py, the file that others copy into their programs.

    from eelstore import put, store

    node = store.open("chat.db")
"""
from . import store as store
from .store import *
from .store import __version__ as __version__
