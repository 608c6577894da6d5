"""Runs the examples of a document, `python printed.py FILE.md`.

Prints, as JSON, for each example its line, what the document says that it prints, and what it prints. All ```python
blocks of a document are one session; a block without a language behind one is its output. In ```console blocks, a shell
runs what follows "$ ".
"""
import contextlib
import io
import json
import pathlib
import re
import subprocess
import sys

EXAMPLE = re.compile(r"^```(python|console)\n(.*?)^```\n(?:\n```\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)
COMMAND_S_MAX = 60


def ran(source, name, session):
    """The output of a block of Python."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(source, name, "exec"), session)
    return out.getvalue()


def answered(block):
    """A console block with the answers that its commands give."""
    said = ""
    for line in block.splitlines():
        if line.startswith("$ "):
            done = subprocess.run(["bash", "-c", line[2:]], capture_output=True, text=True, timeout=COMMAND_S_MAX)
            said += f"{line}\n{done.stdout}"
    return said


def printed(path):
    text, session = path.read_text(), {"__name__": "__main__"}
    for example in EXAMPLE.finditer(text):
        kind, source, wanted = example.groups()
        line = text.count("\n", 0, example.start()) + 2
        if kind == "console":
            yield line, source, answered(source)
        else:
            yield line, wanted or "", ran("\n" * (line - 1) + source, path.name, session)


if __name__ == "__main__":
    json.dump(list(printed(pathlib.Path(sys.argv[1]))), sys.stdout)
