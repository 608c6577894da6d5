"""Commands: a message that begins with / and the name of a command does something, and the system answers below it.

A command is a message and stays one. What it does, and the answer, stand after it in the same transaction; the
answer's place is its position there. What only looks like a command is posted for nobody: its author is told.
"""
import re
from typing import Callable, NamedTuple

import biff

NAME = re.compile(r"/([a-z]+)")
LIKE_ONE = re.compile(r"/([A-Za-z]{1,40})(?!\S)")          # not /etc/hosts, /2 or //
NOTHING = re.compile(r"\Z")


class Command(NamedTuple):
    help: str                                          # its line in /help
    tx: Callable                                       # (ctx, *words): what it adds to its message's transaction
    words: re.Pattern = NOTHING                        # matches what follows the name; its groups are the words
    is_for_admins: bool = False
    refusal: Callable | None = None                    # async (ctx, *words): why not, or None


def command_of(ctx, text):
    """The command that a text is, exactly, and its words; (None, ()) for any other text."""
    if (named := NAME.match(text)) and (command := biff.dicts(ctx, "commands").get(named[1])):
        if said := command.words.match(text, named.end()):
            return command, said.groups()
    return None, ()


def mistake_in(ctx, text):
    """A sentence for a text that looks like a command and is none; None for any other text."""
    named = LIKE_ONE.match(text)
    if not named or command_of(ctx, text)[0]:
        return None
    command = biff.dicts(ctx, "commands").get(named[1].lower())
    if command is None:
        return f"There is no command /{named[1]}. Nothing was posted. /help lists the commands."
    usage = command.help.partition(":")[0]
    return f"That is not how the command is written, so nothing was posted. Write it exactly so: {usage}"


async def refusal_of(ctx, text):
    """Why this command cannot be done, as far as one has to ask elsewhere; None for any other text."""
    command, words = command_of(ctx, text)
    if command and command.refusal and may(ctx, command):
        return await command.refusal(ctx, *words)


def may(ctx, command):
    return not command.is_for_admins or "admin" in ctx["roles"]


def command_tx(ctx, text, refusal=None):
    """The operations that a command adds to its message's transaction; none for other texts."""
    command, words = command_of(ctx, text)
    if command is None:
        return []
    if not may(ctx, command):
        refusal = "Only an admin of this community may do that."
    return [system_message(ctx["channel"]["xt/id"], refusal)] if refusal else command.tx(ctx, *words)


def system_message(channel_id, text):
    return {"db/doc-type": "message", "msg/mem": "system", "msg/text": text, "msg/channel": channel_id,
            "msg/created-at": biff.NOW}


def help_command_tx(ctx):
    return [system_message(ctx["channel"]["xt/id"], help_text(biff.dicts(ctx, "commands")))]


def help_text(commands):
    return "\n - ".join(["Commands:", *(command.help for command in commands.values())])


PLUGIN = {"commands": {"help": Command("/help: this list", help_command_tx)}}
