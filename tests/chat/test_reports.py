"""Reports: admins see a reported message as it was, in its surroundings, and nobody else sees anything of it."""
import uuid

import pytest

import biff
from people import chat, person      # noqa: F401
from plugins import reports
from store import delete, put


@pytest.fixture
async def three(chat, person):      # noqa: F811
    """Ann is the admin, Bob says something, and Eve reads it."""
    people = [await person(f"{name}@example.com") for name in ("ann", "bob", "eve")]
    community, channel = await people[0].new_channel()
    for one in people[1:]:
        await one.join(community)
    return *people, community, channel


async def report(one, channel, id, reason=""):
    return await one.post(f"{channel}/message/{id}/report", {"reason": reason}, channel, {"HX-Request": "true"})


async def said(one, channel, text):
    id = uuid.uuid4()
    assert (await one.say(channel, text, id)).status == 204
    return id


def open_reports(one):
    return biff.q(one.chat["biff/node"].db(), {"find": ("pull", "?r", ["*"]), "where": [["?r", "report/at"]]})


async def test_admins_see_a_reported_message_as_it_was_in_its_surroundings(three):
    """A person who insults somebody and then edits the message would look innocent."""
    ann, bob, eve, community, channel = three
    for text in "one", "two":
        await said(ann, channel, text)
    id = await said(bob, channel, "a <b>rude</b> word")
    await said(ann, channel, "three")
    assert (await report(eve, channel, id, "It is <i>rude</i>.")).status == 204
    await bob.post(f"{channel}/message/{id}", {"text": "a kind word"}, channel, {"HX-Request": "true"})
    page = (await ann.get(f"{community}/reports")).body_text
    for shown in "one", "two", "three", "a &lt;b&gt;rude&lt;/b&gt; word", "It is &lt;i&gt;rude&lt;/i&gt;.":
        assert shown in page
    assert "edited since" in page
    assert "a kind word" not in page and f"{channel}/at/{id}" in page and "Reports (1)" in page
    for one in bob, eve:
        assert "rude" not in (await one.get(f"{community}/reports")).body_text
        assert "Reports (1)" not in (await one.get(channel)).body_text
    await ann.chat["biff/node"].submit([delete(id)])
    page = (await ann.get(f"{community}/reports")).body_text
    assert "a &lt;b&gt;rude&lt;/b&gt; word" in page and "deleted since" in page


@pytest.mark.parametrize("act, remaining, is_there", [("dismiss", 1, True), ("delete", 0, False)])
async def test_admins_dismiss_a_report_or_delete_its_message(three, act, remaining, is_there):
    """A list that only grows is read by nobody; a message deleted for one report is done with for all."""
    ann, bob, eve, community, channel = three
    id = await said(bob, channel, "rude")
    await said(eve, channel, "hm")
    assert (await report(eve, channel, id)).status == 204 and (await report(eve, channel, id)).status == 204
    assert (await report(ann, channel, id)).status == 204 and len(open_reports(ann)) == 2, "one a person"
    first = open_reports(ann)[0]["xt/id"]
    assert (await eve.post(f"{community}/reports/{first}/{act}", page=channel)).status == 403
    await ann.post(f"{community}/reports/{first}/{act}", page=channel)
    assert len(open_reports(ann)) == remaining and (ann.chat["biff/node"].db().entity(id) is not None) == is_there


async def test_of_a_private_channel_admins_see_the_reported_message_alone(three):
    """A report must not open a private channel to those who are not in it, nor leave its people alone with it."""
    ann, bob, eve, community, _ = three
    node = bob.chat["biff/node"]
    mems = [biff.lookup_id(node.db(), "mem/user", biff.lookup_id(node.db(), "user/email", f"{name}@example.com"))
            for name in ("bob", "eve")]
    private = {"xt/id": uuid.uuid4(), "chan/title": "secret", "chan/comm": uuid.UUID(community.rpartition("/")[2]),
               "chan/mems": set(mems), "chan/maker": mems[0]}
    await node.submit([put(private)])
    channel = f"{community}/channel/{private['xt/id']}"
    await said(eve, channel, "between us")
    id = await said(bob, channel, "rude")
    assert (await report(eve, channel, id)).status == 204
    page = (await ann.get(f"{community}/reports")).body_text
    assert "rude" in page and "between us" not in page and "secret" not in page and channel not in page


async def test_reports_are_bounded_and_say_so(three, monkeypatch):
    """A script would fill the admins' list, and a novel would be a reason."""
    ann, bob, eve, community, channel = three
    ids = [await said(bob, channel, f"rude {n}") for n in range(4)]
    assert (await report(bob, channel, ids[0])).status == 422, "one's own"
    assert "at most 500 characters" in (await report(eve, channel, ids[0], "x" * 501)).body_text
    monkeypatch.setattr(reports, "OPEN_A_PERSON", 1)
    assert [(await report(eve, channel, id)).status for id in ids[:2]] == [204, 422]
    monkeypatch.setattr(reports, "REPORTS_A_PERSON", (3, 3_600))
    answers = [await report(eve, channel, id) for id in ids[2:]]
    assert [answer.status for answer in answers] == [422, 429] and "Try again in 60 minutes" in answers[1].body_text
