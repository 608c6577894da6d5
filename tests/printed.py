"""Runs the examples of documents, `python printed.py FILE.md …`.

Prints, as JSON, of each document its examples: the line, what the document says that it prints, and what it prints. All
```python blocks of a document are one session; a block without a language behind one is its output. In ```console
blocks, a shell runs what follows "$ ". In a table with a column "write" or "here", what stands there in each row is
evaluated, and with a column "`name(…)`", that function of the session is called with it; the column "gives" has the
result as Python writes it, or "says" a text. A row that has none there is not run.
"""
import contextlib
import io
import json
import logging
import pathlib
import re
import subprocess
import sys
import traceback
from operator import itemgetter

EXAMPLE = re.compile(r"^```(python|console)\n([\s\S]*?)^```\n(?:\n```\n([\s\S]*?)^```\n)?"
                     r"|^(?=.*(?:`\w+\(…\)`|\| (?:write|here) \|))(\|.*)\n\|[ :|-]+\|\n((?:\|.*\n)+)", re.MULTILINE)
CELL = re.compile(r"(?<!\\)\|")       # what stands between two cells
WRITTEN = "write", "here"             # heads of columns of expressions
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


def cells(row):
    return [cell.strip().replace("\\|", "|") for cell in CELL.split(row)[1:-1]]


def called(head, rows, session):
    """(what is said, what came) of each row of a table of calls."""
    names = cells(head)
    place, name = next((i, name[1:-4]) for i, name in enumerate(names) if name.endswith("(…)`") or name in WRITTEN)
    form = "({})" if names[place] in WRITTEN else f"{name}({{}})"
    result, shown = (names.index("gives"), repr) if "gives" in names else (names.index("says"), str)
    for row in filter(itemgetter(result), map(cells, rows.splitlines())):
        yield row[result].strip("`"), shown(eval(form.format(row[place].strip("`")), session))


def printed(path, session):
    """Each example of a document, up to the first that raises."""
    text = path.read_text()
    for example in EXAMPLE.finditer(text):
        kind, source, wanted, head, rows = example.groups()
        line = text.count("\n", 0, example.start()) + 2
        try:
            if head:
                yield from ((line + 1 + i, *row) for i, row in enumerate(called(head, rows, session)))
            elif kind == "console":
                yield line, source, answered(source)
            else:
                yield line, wanted or "", ran("\n" * (line - 1) + source, path.name, session)
        except Exception:
            yield line, "", traceback.format_exc()
            return


if __name__ == "__main__":
    logging.disable(logging.WARNING)      # of calls that a page lets abort
    json.dump({path.name: list(printed(path, {"__name__": "__main__"})) for path in map(pathlib.Path, sys.argv[1:])},
              sys.stdout)
