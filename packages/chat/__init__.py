# SPDX-License-Identifier: MIT
"""The chat, installed: this folder holds its clone, and the command `eelchat` runs it as `python eelchat.py` does."""
import pathlib
import runpy
import sys

HOME = pathlib.Path(__file__).parent


def main() -> None:
    sys.path.insert(0, str(HOME))         # where its own modules are; nobody else's environment gets their names
    runpy.run_path(str(HOME / "eelchat.py"), run_name="__main__")
