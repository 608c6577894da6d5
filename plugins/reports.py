"""Reports: a reader can report a message to the admins of the community, who dismiss the report or delete it.

A report names the message and the transaction at which it was reported, so admins see it as it was then, whatever its
author makes of it later, and a few messages around it. Nobody else sees anything of it, its author included.

Admins do not read private channels. Of a message there, or of a direct message, they see what was reported, who said it
and nothing around it: somebody who may read it has chosen to show them this one message, and the dialog says so. It
does not go to the channel's maker, who may be the one it is about, and a direct message has nobody above the two.
"""
import datetime as dt
import uuid

from voluptuous import All, Length, Optional, Schema

import biff
from plugins.edits import MESSAGE, in_message
from plugins.line import done
from plugins.names import author_of
from plugins.places import (Refused, admin_about, app_page, channel_path, community_admin, community_path,
                            gone_with_message, may_read, messages_of, told)
from store import delete

REASON_CHARS_MAX = 500
OPEN_MAX = 500                        # reports of a community that no admin has answered
OPEN_A_PERSON = 20                    # of those by one member
REPORTS_A_PERSON = 10, 3_600          # in an hour
SHOWN_MAX = 50                        # on a page, the newest; the others follow when these are answered
AROUND = 3                            # messages before it, and as many after it
TEXT_CHARS_SHOWN = 300                # of a message around it

SCHEMA = {
    "report": Schema({
        "xt/id": uuid.UUID,
        "report/comm": uuid.UUID,
        "report/channel": uuid.UUID,
        "report/msg": uuid.UUID,
        "report/mem": uuid.UUID,          # whose report it is
        "report/tx": int,                 # the message was read as it was then
        "report/at": dt.datetime,
        Optional("report/reason"): All(str, Length(1, REASON_CHARS_MAX)),
    }, required=True),
}

# ── Reporting ────────────────────────────────────────────────────────────────────────────────────────────────


async def report(ctx):
    """A message is reported once by one person; what they say the second time is passed over."""
    try:
        check(ctx)
        await biff.submit_tx(ctx, report_tx)
    except Refused as refused:
        return told(ctx, refused)
    except biff.ConstraintError:
        return biff.error(ctx, 422, f"The admins have {OPEN_A_PERSON} open reports of yours, or {OPEN_MAX} in all, as "
                                    "many as there may be. Write to one of them.")
    return done(ctx)


def check(ctx):
    """Raises: Refused."""
    reason, limit = ctx["params"].get("reason", "").strip(), (("reports", ctx["uid"]), *REPORTS_A_PERSON)
    if len(reason) > REASON_CHARS_MAX:
        raise Refused(422, f"A reason has at most {REASON_CHARS_MAX} characters; this one has {len(reason):,}.")
    if ctx["message"]["msg/mem"] in ("system", ctx["mem"]["xt/id"]):
        raise Refused(422, "Only messages of other people can be reported.")
    if not biff.is_allowed(ctx, limit):
        minutes = -(-biff.again_s(ctx, limit) // 60)
        raise Refused(429, f"One person reports at most {REPORTS_A_PERSON[0]} messages in an hour. Try again in "
                           f"{minutes} {'minute' if minutes == 1 else 'minutes'}.", 60 * minutes)


def report_tx(ctx):
    """Made anew for each attempt, with the rights of that moment; nothing if they are gone, or it is reported."""
    if in_message(ctx):
        return []
    mem, message, comm = ctx["mem"]["xt/id"], ctx["message"]["xt/id"], ctx["community"]["xt/id"]
    id, reason = uuid.uuid5(message, f"report {mem}"), ctx["params"].get("reason", "").strip()
    if ctx["biff/db"].entity(id):
        return []
    return [*biff.unchanged(ctx, mem, message),
            {"db/doc-type": "report", "xt/id": id, "report/comm": comm, "report/channel": ctx["channel"]["xt/id"],
             "report/msg": message, "report/mem": mem, "report/tx": ctx["biff/db"].tx_id, "report/at": biff.NOW,
             **({"report/reason": reason} if reason else {})},
            biff.at_most(OPEN_A_PERSON, {"report/mem": mem}), biff.at_most(OPEN_MAX, {"report/comm": comm})]


# ── Answering ────────────────────────────────────────────────────────────────────────────────────────────────


def reports_page(ctx):
    db = ctx["biff/db"]
    found = biff.q(db, {"find": ("pull", "?r", ["*"]), "in": ["?comm"], "where": [["?r", "report/comm", "?comm"]],
                        "order-by": [[("created", "?r"), "desc"]], "limit": SHOWN_MAX}, ctx["community"]["xt/id"])
    return app_page(ctx, "reports/page.html", is_aside=True, reports=[shown_of(ctx, one) for one in found],
                    base=reports_path(ctx["community"]))


def shown_of(ctx, report):
    """A report with its message as it was then, and what is around it now where this admin may read the channel."""
    db, node = ctx["biff/db"], ctx["biff/node"]
    channel, now = db.entity(report["report/channel"]), db.entity(report["report/msg"])
    then = node.db(report["report/tx"]).entity(report["report/msg"])
    may = channel is not None and may_read(channel, ctx["mem"]["xt/id"])
    before, after = around(db, channel, report["report/msg"]) if may else ([], [])
    state = "deleted" if now is None else "edited" if then and now.get("msg/text") != then.get("msg/text") else ""
    return {"report": report, "by": author_of(db, report["report/mem"]), "said": said_of(db, then) if then else None,
            "before": before, "after": after, "state": state, "channel": channel if may else None,
            "link": f"{channel_path(channel)}/at/{report['report/msg']}" if may and now else None}


def around(db, channel, id):
    """A few messages before and after one that stands, or stood, in a channel."""
    return [[said_of(db, one, TEXT_CHARS_SHOWN) for one in messages_of(db, channel, count=AROUND, **{side: id})[0]]
            for side in ("before", "after")]


def said_of(db, message, chars_max=None):
    return {"author": author_of(db, message["msg/mem"]), "text": message["msg/text"][:chars_max],
            "at": message["msg/created-at"], "files": len(message.get("msg/files", ()))}


def reported(ctx):
    """A rule: an admin, about a report in the same community."""
    return admin_about(ctx, "report", "report_id", "report/comm", "reports")


async def dismiss(ctx):
    """This report goes; others about the same message stay."""
    await biff.submit_tx(ctx, [*biff.unchanged(ctx, ctx["mem"]["xt/id"]), delete(ctx["report"]["xt/id"])])
    return biff.redirect(ctx, reports_path(ctx["community"]))


async def delete_reported(ctx):
    await biff.submit_tx(ctx, delete_tx)
    return biff.redirect(ctx, reports_path(ctx["community"]))


def delete_tx(ctx):
    """The message and what belongs to it, and all reports of it."""
    if reported(ctx):
        return []
    db, id = ctx["biff/db"], ctx["report"]["report/msg"]
    gone = [id, *gone_with_message(ctx, id)] if db.entity(id) else []
    return [*biff.unchanged(ctx, ctx["mem"]["xt/id"], id),
            *map(delete, [*gone, *biff.lookup_id_all(db, "report/msg", id)])]


def reports_path(community):
    return f"{community_path(community)}/reports"


# ── On pages ─────────────────────────────────────────────────────────────────────────────────────────────────


def on_report(changes, id, old, new):
    """The number of reports is told to admins alone, and to those who become or were one."""
    for document in old, new:
        if document and "report/comm" in document:
            for mem in biff.lookup_all(changes.db, "mem/comm", document["report/comm"], "mem/roles", "admin"):
                changes.touch_person(mem["mem/user"], "reports")
    if old and new and old.get("mem/roles") != new.get("mem/roles") and "mem/user" in new:
        changes.touch_person(new["mem/user"], "reports")


def reports_part(ctx, db, place, user, about):
    community_id = place.get("chan/comm") or ("comm/title" in place and place["xt/id"])
    mem = biff.lookup(db, "mem/user", user["xt/id"], "mem/comm", community_id) if community_id else None
    return biff.fragment(ctx, "reports/link.html", report_count=count_of(db, mem), community=db.entity(community_id),
                         is_news=True) if mem else ""


def count_of(db, mem):
    """The reports that wait for an admin; 0 for anybody else."""
    return len(biff.lookup_id_all(db, "report/comm", mem["mem/comm"])) if "admin" in mem["mem/roles"] else 0


def page_values(ctx):
    return {"report_count": count_of(ctx["biff/db"], ctx["mem"]) if ctx.get("mem") else 0,
            "report_reason_chars_max": REASON_CHARS_MAX}


REPORT = "/community/{id}/reports/{report_id}"
PLUGIN = {
    "schema": SCHEMA,
    "goes-with": {"channel": ["report/channel"]},
    "routes": [("POST", MESSAGE + "/report", in_message, report),
               ("GET", "/community/{id}/reports", community_admin, reports_page),
               ("POST", REPORT + "/dismiss", reported, dismiss),
               ("POST", REPORT + "/delete", reported, delete_reported)],
    "slots": {"message-actions": "reports/action.html", "dialogs": "reports/dialog.html", "menu": "reports/link.html"},
    "scripts": ["reports.js"],
    "page": page_values,
    "changes": [on_report],
    "person-parts": {"reports": reports_part},
}
