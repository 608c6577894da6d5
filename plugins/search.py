"""Search: messages by their words, the newest first, in all channels that a person may read at this moment.

    eel "slow boat" from:ann in:general after:2026-10-01 before:2026-11-01 has:file

The store looks for all other words by its "text-search": all of them, in any case, parts of words too.
Each hit leads to its message in its place. The channels are those of the newest snapshot, and an unknown one and one
that is hidden get the same answer.
"""
import datetime as dt
import re
import unicodedata
import uuid
from typing import NamedTuple

from markupsafe import Markup, escape

import biff
import store
import store_text
from plugins.names import author_of, key_of
from plugins.places import Refused, app_page, channel_path, channels_for, community_path, in_community, zone_of
from plugins.private import as_seen
from plugins.text import in_words

PAGE_HITS = 30                        # a few screens
QUERY_CHARS_MAX = 200                 # the store takes 256 characters of words
SEARCHES_A_PERSON = 40, 60            # in a minute, pages of older hits among them
SEARCH_MS_MAX = 2_000                 # then a search is too wide for one person to keep a core busy with
EXCERPT_CHARS = 280                   # of a message: three lines
BEFORE_CHARS = 80                     # of these, before the first hit
FEW = 2_000                           # messages that are looked through one by one: 20 ms
FILES_A_MESSAGE = 10                  # a message is found once for each of its files

PART = re.compile(r'(?:(from|in|before|after|has):)?(?:"([^"]*)"?|([^\s"]+))', re.IGNORECASE)
NO_WORD = "Write a word to search for."
DAY_ALONE = "A day alone finds too much. Add a word, in:, from: or has:file."
NAMELESS = re.compile(r"user ([0-9a-f]{1,4})")
BARE = {f"{name}:" for name in ("from", "in", "before", "after", "has")}


class Asked(NamedTuple):
    """A question of a person: words, and the values of the filters."""
    words: str
    filters: list                     # (name, value)


def asked_of(query):
    """The words and the filters of what somebody typed. Raises: Refused."""
    words, filters = [], []
    for name, phrase, word in PART.findall(query):
        if not name and word.lower() in BARE:
            raise Refused(422, f"Write what you look for right behind {word.lower()} and without a space.")
        if name:
            filters.append((name.lower(), phrase or word))
        elif phrase or word:
            words.append(f'"{phrase}"' if phrase else word)
    if len(words) > store_text.SOUGHT_WORDS_MAX:
        raise Refused(422, f"A search has at most {store_text.SOUGHT_WORDS_MAX} words.")
    return Asked(" ".join(words), filters)


# ── The page ─────────────────────────────────────────────────────────────────────────────────────────────────


async def search_page(ctx):
    query = ctx["params"].get("q", "").strip()
    try:
        before = uuid.UUID(ctx["params"]["before"]) if "before" in ctx["params"] else None
    except ValueError:
        return biff.redirect(ctx, search_path(ctx))
    try:
        hits, older = await found(ctx, query, before) if query else ([], None)
    except Refused as refused:
        return answered(ctx, refused.status, query=query, mistake=refused.sentence)
    return answered(ctx, query=query, hits=hits, is_later=before is not None,
                    older=older and biff.url(search_path(ctx), q=query, before=older, **zone_in(ctx)))


def answered(ctx, status=200, **values):
    """A page that says what it wants is a page: browsers would complain of another status in their console."""
    shown = {"mistake": "", "hits": (), "older": None, "is_later": False} | values
    page = app_page(ctx, "search/page.html", is_aside=True, **shown)
    page.set_status(200 if status == 422 else status)
    return page


def zone_in(ctx):
    return {"zone": ctx["params"]["zone"]} if "zone" in ctx["params"] else {}


def search_path(ctx):
    return f"{community_path(ctx['community'])}/search"


async def found(ctx, query, before):
    """The hits of a page, and the id behind which older ones begin, or None. Raises: Refused."""
    if len(query) > QUERY_CHARS_MAX:
        raise Refused(422, f"A search has at most {QUERY_CHARS_MAX} characters; this one has {len(query)}.")
    asked, db = asked_of(query), ctx["biff/db"]
    channels = {one["xt/id"]: one for one in channels_for(ctx, db, ctx["mem"])}
    text, arguments = as_query(ctx, asked, channels, before)
    if not biff.is_allowed(ctx, (("searches", ctx["uid"]), *SEARCHES_A_PERSON)):
        raise Refused(429, "That were many searches. Try again in a minute.")
    try:
        ids = list(dict.fromkeys(await db.aq(text, *arguments)))
    except store.QueryLimitError:
        raise Refused(422, "This search takes too long. Add a longer word, in: or from:.") from None
    except store.QueryError:          # of signs that are no words, such as an accent alone
        raise Refused(422, NO_WORD) from None
    shown, marker = ids[:PAGE_HITS], marker_of(asked.words)
    messages = filter(None, map(db.entity, shown))         # one that was evicted meanwhile is in no snapshot
    return [hit_of(ctx, message, channels, marker) for message in messages], shown[-1] if len(ids) > PAGE_HITS else None


def hit_of(ctx, message, channels, marker):
    channel = as_seen(ctx["biff/db"], channels[message["msg/channel"]], ctx["mem"]["xt/id"])
    files = message.get("msg/files") or ()
    files = [ctx["biff/db"].entity(id) for id in (files if type(files) is list else [files])]
    return {"message": message, "author": author_of(ctx["biff/db"], message["msg/mem"]), "channel": channel,
            "path": f"{channel_path(channel)}/at/{message['xt/id']}", "text": excerpt(in_words(message), marker),
            "files": [file["file/name"] for file in files if file and "file/name" in file]}


# ── The question ─────────────────────────────────────────────────────────────────────────────────────────────


def as_query(ctx, asked, channels, before):
    """The query for the store, and its arguments. Raises: Refused."""
    where: list = []
    values: dict = {}
    here = chosen(ctx, asked, channels)
    is_small = bool(asked.words) and are_few(ctx["biff/db"], here)
    if is_small:
        where.append(["?message", "msg/channel", "?channel"])
        values["?channel", ...] = here
    else:
        narrow(where, values, "msg/channel", "?channel", here)
    if authors := authors_in(ctx, asked):
        narrow(where, values, "msg/mem", "?author", authors)
    is_only_files = has_files(asked) and not asked.words and {name for name, _ in asked.filters} == {"has"}
    if is_only_files:
        where.append(["?message", "msg/files", "?file"])
    elif has_files(asked):
        where.append(("not", ("not", ["?message", "msg/files"])))
    for sign, day in between(asked, zone_of(ctx["params"].get("zone", "")) or dt.timezone.utc):
        where += [["?message", "msg/created-at", "?at"], [(sign, "?at", day)]]
    if asked.words:
        where += [["?message", "msg/text", "?text"], [("has-words?", "?text", "?words")]] if is_small else [
            [("text-search", "msg/text", "?words"), [["?message"]]]]
        values["?words"] = asked.words
    elif {name for name, _ in asked.filters} <= {"before", "after"}:
        raise Refused(422, DAY_ALONE if asked.filters else NO_WORD)
    if before:
        where.append([("created-before", "?message", "?before")])
        values["?before"] = before
    count = (PAGE_HITS + 1) * (FILES_A_MESSAGE if is_only_files else 1)
    return {"find": "?message", "in": list(values), "where": where, "limit": count, "timeout": SEARCH_MS_MAX,
            "order-by": [[("created", "?message"), "desc"]]}, list(values.values())


def are_few(db, channels):
    """True if these channels have so few messages that looking at each is faster than walking a common word."""
    said = biff.q(db, {"find": "?channel", "in": [["?channel", ...]], "limit": FEW + 1,
                       "where": [["?message", "msg/channel", "?channel"]]}, channels)
    return len(said) <= FEW


def narrow(where, values, attribute, name, ids):
    """Adds that a message has one of these values."""
    where.append(["?message", attribute, name])
    if len(ids) == 1:
        values[name], = ids
    else:
        where.append([("==", name, f"{name}s")])
        values[f"{name}s"] = ids


def chosen(ctx, asked, channels):
    """The ids of the channels that in: names; of all that may be read, if it names none. Raises: Refused."""
    wanted = [value.lstrip("#@") for name, value in asked.filters if name == "in"]
    if not wanted:
        return set(channels)
    titles = {id: as_seen(ctx["biff/db"], one, ctx["mem"]["xt/id"])["chan/title"].casefold()
              for id, one in channels.items()}
    ids = set()
    for title in wanted:
        sought = title.casefold()
        here = {id for id, known in titles.items() if known == sought} or \
               {id for id, known in titles.items() if sought and known.startswith(sought)}
        if not here:
            raise Refused(422, f"You see no channel here that is called {title!r}.")
        ids |= here
    return ids


def authors_in(ctx, asked):
    """The ids of the memberships that from: names. Raises: Refused."""
    ids: set = set()
    for name in [value.lstrip("@") for kind, value in asked.filters if kind == "from"]:
        here = {ctx["mem"]["xt/id"]} if name.casefold() == "me" else \
            {"system"} if name.casefold() == "system" else members_named(ctx, name)
        if not here:
            raise Refused(422, f"Nobody here is called {name!r}.")
        ids |= here
    return ids


def members_named(ctx, name):
    """The members of this community who are or were called so; if none is, those whose name begins so."""
    db, comm = ctx["biff/db"], ctx["community"]["xt/id"]
    users = [user["xt/id"] for user in biff.lookup_all(db, "user/name-key", key_of(name), limit=100)]
    if named := {mem for user in users for mem in memberships_of(db, user, comm)}:
        return named
    if nameless := NAMELESS.fullmatch(name.casefold()):
        return {id for id in biff.lookup_id_all(db, "mem/comm", comm) if str(id).startswith(nameless[1])
                and author_of(db, id).name.casefold().startswith("user ")}
    rows = biff.q(db, {"find": ["?mem", "?name"], "in": ["?comm"], "where": [
        ["?mem", "mem/comm", "?comm"], ["?mem", "mem/user", "?user"], ["?user", "user/name", "?name"]]}, comm)
    return {mem for mem, known in rows if name and known.casefold().startswith(name.casefold())}


def memberships_of(db, user, comm):
    return {id for kind in ("mem", "former")
            if (id := biff.lookup_id(db, f"{kind}/user", user, f"{kind}/comm", comm)) is not None}


def has_files(asked):
    for value in (value for name, value in asked.filters if name == "has"):
        if value.casefold() not in ("file", "files"):
            raise Refused(422, f"has: knows has:file alone, and not {value!r}.")
        return True
    return False


def between(asked, zone):
    """The comparisons that before: and after: ask for: whole days where the person is, that day itself left out.

    Raises: Refused.
    """
    return [("<" if name == "before" else ">=", day_of(name, value, zone)) for name, value in asked.filters
            if name in ("before", "after")]


def day_of(name, value, zone):
    try:
        day = dt.date.fromisoformat(value) + dt.timedelta(days=name == "after")
        return dt.datetime.combine(day, dt.time(), zone).astimezone(dt.timezone.utc)
    except (ValueError, OverflowError):
        raise Refused(422, f"{name}: wants a day, such as {name}:2026-11-01, and not {value!r}.") from None


# ── What is shown of a message ───────────────────────────────────────────────────────────────────────────────


def marker_of(words):
    """A pattern that finds words in a text as `folded` gives it; None for no words."""
    parts = ["".join(folded(phrase or word)[0]).strip() for _, phrase, word in PART.findall(words)]
    short = re.compile(r"[^\W\u0e00-\U0010ffff]{1,2}")
    patterns = [r"(?<![^\W\u0e00-\U0010ffff])" * bool(short.fullmatch(part)) + r"\s+".join(map(re.escape, part.split()))
                for part in sorted(parts, key=len, reverse=True) if part]
    return re.compile("|".join(patterns)) if patterns else None


def folded(text):
    """A text without case and accents, as the store compares it, and for each of its characters the place in `text`."""
    chars, places = [], []
    for place, char in enumerate(text):
        for one in unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", char).casefold()):
            if not unicodedata.combining(one):
                chars.append("'" if one == "\u2019" else one)
                places.append(place)
    return chars, places


def excerpt(text, marker):
    """The piece of a text around what was found, which is marked."""
    chars, places = folded(text)
    spans = [(places[hit.start()], places[hit.end() - 1] + 1) for hit in marker.finditer("".join(chars))
             if hit.end() > hit.start()] if marker else []
    start = max(0, spans[0][0] - BEFORE_CHARS) if spans else 0
    end = start + EXCERPT_CHARS
    made, at = [Markup("…" if start else "")], start
    for first, last in spans:
        if at <= first < end:
            made += [escape(text[at:first]), Markup("<mark>{}</mark>").format(text[first:last])]
            at = last
    return Markup("").join([*made, escape(text[at:max(at, end)]), "…" if end < len(text) else ""])


PLUGIN = {
    "texts": ["msg/text"],
    "routes": [("GET", "/community/{id}/search", in_community, search_page)],
    "slots": {"sidebar-head": "search/box.html"},
    "page": lambda ctx: {"query_chars_max": QUERY_CHARS_MAX},
}
