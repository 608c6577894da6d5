"""The same notes at the terminal, also while the server runs.

    python notes.py notes.db add "Buy eels"
    python notes.py notes.db list [--as-of TX_ID]
    python notes.py notes.db undo ID
"""
import argparse
import sys
import uuid

from eelstore import Node, delete, match, put, store

NOTES = {"find": ["?note", "?text"], "where": [["?note", "note/text", "?text"]], "order-by": ["?text"]}


def undo(node: Node, id: uuid.UUID) -> int:
    """Writes what the note was before its last change, as a change of its own: the history keeps both."""
    now, *before = reversed(node.db().history(id)) or [None]
    if now is None:
        sys.exit(f"There is no note {id}.")
    back = put(before[0].document) if before and before[0].document else delete(id)
    return node.submit_tx([match(id, now.document), back], check=True).tx_id


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("add").add_argument("text")
    commands.add_parser("list").add_argument("--as-of", type=int, metavar="TX_ID")
    commands.add_parser("undo").add_argument("id", type=uuid.UUID)
    said = parser.parse_args()
    with store.open(said.file) as node:
        if said.command == "add":
            id = node.new_id()
            node.submit_tx([put({"xt/id": id, "note/text": said.text})])
            print(id)
        elif said.command == "undo":
            print(f"undone by transaction {undo(node, said.id)}")
        else:
            print(node.db(said.as_of).table(NOTES))


if __name__ == "__main__":
    main()
