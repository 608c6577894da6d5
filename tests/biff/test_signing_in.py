"""Signing in by link and by code, sessions, and the mail that carries them."""
import asyncio
import collections
import datetime as dt
import email
import email.policy
import itertools
import re
import secrets
import statistics
import time
import types
import uuid

import multidict
import pytest
import yarl
from aiosmtpd.controller import Controller

import biff
import eelchat
import store
from conftest import free_port
from people import Person, chat, person      # noqa: F401

MAIL_LOG = re.compile(r"/auth/verify-link/(\S+)")


@pytest.fixture
def later(chat):                             # noqa: F811
    """`later(minutes=10)` moves the clock that sessions and sign-in are told by. It stands: machines are slow."""
    begun = dt.datetime.now(dt.timezone.utc)

    def move(**delta):
        chat["biff/clock"] = lambda: begun + dt.timedelta(**delta)
    move()
    return move


def documents(chat, attribute):              # noqa: F811
    return chat["biff/node"].db().q({"find": ("pull", "?e", ["*"]), "where": [["?e", attribute]]})


async def asked(one, address="ann@example.com", path="/auth/send-link"):
    answer = await one.post(path, {"email": address})
    return answer.url.path, answer.url.query.get("error")


async def redeem(one, token, **fields):
    answer = await one.post("/auth/verify-link", {"token": token} | fields)
    return answer.url.path, answer.url.query.get("error")


# ── Links ────────────────────────────────────────────────────────────────────────────────────────────────────

async def test_a_link_signs_in_once_in_the_browser_that_asked_after_a_press_of_a_button(chat, person):  # noqa: F811
    """Mail scanners open links: a link that a GET redeems is used up before its owner clicks."""
    ann = await person()
    assert await asked(ann, " Ann@Example.com ") == ("/link-sent", None)
    token, before = ann.last_token(), chat["biff/node"].latest_tx.tx_id
    for method in ("GET", "HEAD", "GET"):
        async with ann.browser.request(method, f"{ann.base}/auth/verify-link/{token}") as page:
            assert page.status == 200 and (method == "HEAD" or "Sign in as ann@example.com" in await page.text())
    assert chat["biff/node"].latest_tx.tx_id == before
    assert await redeem(ann, token) == ("/app", None)
    assert await redeem(ann, token) == ("/signin", "invalid-link")
    assert [user["user/email"] for user in documents(chat, "user/email")] == ["ann@example.com"]


async def test_another_browser_is_asked_for_the_address(chat, person):      # noqa: F811
    """A link slipped to somebody would sign them in as somebody else, and they would write as them."""
    ann, other = await person(), await person()
    await asked(ann)
    token = ann.last_token()
    page = await other.get(f"/auth/verify-link/{token}")
    assert "ann@example.com" not in page.body_text and 'name="email"' in page.body_text
    assert await redeem(other, token) == (f"/auth/verify-link/{token}", "incorrect-email")
    assert await redeem(other, token, email="eve@example.com") == (f"/auth/verify-link/{token}", "incorrect-email")
    assert await redeem(other, token, email=" ANN@example.com") == ("/app", None)


@pytest.mark.parametrize("way", ["link", "code"])
async def test_who_follows_an_invitation_comes_back_to_it_once_signed_in(chat, person, way):      # noqa: F811
    """Without this, a person who is invited and has no account yet would end on an empty page that knows of no
    community."""
    ann, bob = await person("ann@example.com"), await person()
    community = await ann.invitation((await ann.new_channel())[0])
    page = await bob.get(f"/signin?return-to={community}")
    assert page.url.path == "/signin" and f'name="return-to" value="{community}"' in page.body_text
    fields = {"email": "bob@example.com", "return-to": page.url.query["return-to"]}
    answer = await bob.post(f"/auth/send-{way}", fields)
    if way == "code":
        answer = await bob.post("/auth/verify-code", {"email": "bob@example.com", "code": "",
                                                      "return-to": answer.url.query["return-to"]})
        assert answer.url.query["error"] == "invalid-code" and answer.url.query["return-to"] == community
        answer = await bob.post("/auth/verify-code", {"email": "bob@example.com", "code": bob.last_code()})
    else:
        answer = await bob.post("/auth/verify-link", {"token": bob.last_token()})
    assert answer.url.path == community and f'action="{community}"' in answer.body_text


async def test_signing_in_leads_back_to_a_page_and_never_to_a_part_of_one(chat, person):      # noqa: F811
    """Who signs in again would end at an address that shows a fragment, or that only forms are sent to."""
    one = await person()

    def way_back(answer):
        target = answer.headers.get("HX-Redirect") or answer.headers["Location"]
        assert target.startswith("/signin?error=not-signed-in")
        return yarl.URL(target).query.get("return-to")
    page = {"path": "/sessions?x=1", "allow_redirects": False}
    assert way_back(await one.get(**page)) == "/sessions?x=1"
    assert way_back(await one.get(**page, headers={"HX-Request": "true"})) is None
    assert way_back(await one.post("/sessions/others/revoke", allow_redirects=False)) is None


@pytest.mark.parametrize("elsewhere", ["https://evil.example/", "//evil.example", "/\\evil.example", "/\t/evil.example",
                                       "evil", "/" + "x" * 500])
async def test_signing_in_leads_nowhere_but_here(chat, person, elsewhere):      # noqa: F811
    """A sign-in link that ends at a stranger's copy of our page asks for the next one there."""
    ann, other = await person(), await person()
    await ann.post("/auth/send-link", {"email": "ann@example.com", "return-to": elsewhere})
    assert (await redeem(ann, ann.last_token()))[0] == "/app"
    await ann.post("/auth/send-link", {"email": "ann@example.com", "return-to": "/sessions"})
    assert (await redeem(other, ann.last_token(), email="ann@example.com"))[0] == "/app", "only who asked is led on"


async def test_of_fifty_who_redeem_one_link_at_once_one_is_signed_in(chat, person, say):      # noqa: F811
    """A link would be worth as many sessions as there are fingers quick enough."""
    ann = await person()
    await asked(ann)
    fields = {"token": ann.last_token(), "__anti-forgery-token": await ann.token("/signin")}

    async def press():
        async with ann.browser.post(f"{ann.base}/auth/verify-link", data=fields, headers={"Origin": ann.base},
                                    allow_redirects=False) as answer:
            return answer.headers["Location"]
    answers = await asyncio.gather(*(press() for _ in range(50)))
    say(f"{answers.count('/app')} of 50 signed in, {len(documents(chat, 'session/hash'))} session; asked 1 and 1")
    assert answers.count("/app") == 1 and len(documents(chat, "session/hash")) == 1


@pytest.mark.parametrize("path", ["/auth/send-link", "/auth/send-code"])
async def test_links_and_codes_live_ten_minutes(chat, person, later, path):      # noqa: F811
    """Mail lies about: a link that works for an hour is a password sent by mail."""
    ann = await person()

    async def used():
        if path == "/auth/send-link":
            return (await redeem(ann, ann.last_token()))[0]
        return (await ann.post("/auth/verify-code", {"email": "ann@example.com", "code": ann.last_code()})).url.path
    await asked(ann, path=path)
    later(minutes=10, seconds=2)
    assert await used() != "/app"
    later(minutes=11)
    await asked(ann, path=path)
    later(minutes=21, seconds=-2)
    assert await used() == "/app"


async def test_what_is_not_a_link_of_ours_signs_nobody_in(chat, person):      # noqa: F811
    """Without this, an altered token, a token that a mail program cut short, or a code's hash would do."""
    ann = await person()
    await asked(ann), await asked(ann, path="/auth/send-code")
    token = re.search(MAIL_LOG, chat["mails"][0][1]).group(1)
    for wrong in (token[:-1], token + "x", token.swapcase(), "", "x" * 5000, biff.hash_of(token), ann.last_code(), "é"):
        assert (await redeem(ann, wrong))[1] == "invalid-link"
    assert documents(chat, "session/hash") == []


async def test_a_link_of_an_attacker_does_not_change_who_somebody_is(chat, person):      # noqa: F811
    """Without this, a person would write under an attacker's account, and tell the attacker everything."""
    victim, attacker = await person("victim@example.com"), await person()
    await asked(attacker, "attacker@example.com")
    token, before = attacker.last_token(), [cookie.value for cookie in victim.browser.cookie_jar]
    page = await victim.get(f"/auth/verify-link/{token}")
    assert "asked for in another browser" in page.body_text
    for fields in {}, {"email": "victim@example.com"}, {"email": ""}:
        assert (await redeem(victim, token, **fields))[1] == "incorrect-email"
    assert [cookie.value for cookie in victim.browser.cookie_jar] == before
    assert "victim@example.com" in (await victim.get("/app")).body_text
    assert "Sign in as attacker@example.com" in (
        await attacker.get(f"/auth/verify-link/{token}")).body_text, "the button names the address"


# ── Codes ────────────────────────────────────────────────────────────────────────────────────────────────────

async def guess(one, code, address="ann@example.com"):
    answer = await one.post("/auth/verify-code", {"email": address, "code": code})
    return answer.url.path


async def test_a_code_signs_in_once_and_three_wrong_tries_end_it(chat, person):      # noqa: F811
    """Without this, somebody would try all million codes."""
    ann = await person()
    await asked(ann, path="/auth/send-code")
    code = ann.last_code()
    wrong = f"{(int(code) + 1) % 10 ** 6:06}"
    assert [await guess(ann, code) for code in (wrong, wrong, code, code)] == ["/verify-code", "/verify-code", "/app",
                                                                               "/verify-code"]
    bob = await person()
    await asked(bob, "bob@example.com", "/auth/send-code")
    code = bob.last_code()
    wrong = f"{(int(code) + 1) % 10 ** 6:06}"
    assert [await guess(bob, code, "bob@example.com") for code in (wrong, wrong, wrong, code)] == ["/verify-code"] * 4


async def test_guesses_in_parallel_are_three_guesses(chat, person):      # noqa: F811
    """Fifty requests at once would each be the first."""
    ann = await person()
    await asked(ann, path="/auth/send-code")
    token = await ann.token("/signin")

    async def press(code):
        fields = {"email": "ann@example.com", "code": code, "__anti-forgery-token": token}
        async with ann.browser.post(f"{ann.base}/auth/verify-code", data=fields, headers={"Origin": ann.base},
                                    allow_redirects=False) as answer:
            return answer.headers["Location"]
    wrong = [f"{(int(ann.last_code()) + n) % 10 ** 6:06}" for n in range(1, 20)]
    assert "/app" not in await asyncio.gather(*map(press, wrong))
    assert documents(chat, "token/tries")[0]["token/tries"] == 3
    assert await guess(ann, ann.last_code()) == "/verify-code"


async def test_no_reader_of_the_shared_log_can_guess_a_code(chat, person):      # noqa: F811
    """The key of the codes lay in the log beside their hashes: a million guesses, and one signs in as anybody."""
    ann = await person()
    await asked(ann, path="/auth/send-code")
    code, token = ann.last_code(), documents(chat, "token/code")[0]
    words = [word for word in token.values() if isinstance(word, str)] + [""]
    known = itertools.chain.from_iterable(itertools.permutations(words + ["code", code], size) for size in range(1, 5))
    assert not [guessed for guessed in known if biff.hmac_of(chat, *guessed) == token["token/code"]]
    cookie = next(cookie.value for cookie in ann.browser.cookie_jar)
    assert biff.hmac_of(chat, "code", cookie, "ann@example.com",
                        code) == token["token/code"], "the wall is the cookie alone"


async def test_nobody_uses_up_or_uses_another_browsers_code(chat, person):      # noqa: F811
    """Without this, anybody who knows an address could keep its owner out, or guess from a thousand machines."""
    ann, eve = await person(), await person()
    await asked(ann, path="/auth/send-code")
    code = ann.last_code()
    assert [await guess(eve, guessed) for guessed in ("000000", "000001", "000002", "000003",
                                                      code)] == ["/verify-code"] * 5
    assert await guess(ann, code) == "/app"


# ── Mail ─────────────────────────────────────────────────────────────────────────────────────────────────────

async def test_a_known_and_an_unknown_address_are_answered_alike(chat, person):      # noqa: F811
    """Anyone could ask who is here."""
    await person("known@example.com")
    one = await person()
    answers = [await one.post("/auth/send-link", {"email": address})
               for address in ("known@example.com", "stranger@example.com")]
    known, unknown = [re.sub("known@|stranger@", "", re.sub(r'value="\w+"', "", answer.body_text))
                      for answer in answers]
    assert known == unknown and [answer.status for answer in answers] == [200, 200]


async def test_nobodys_mailbox_is_flooded_through_us(chat, person, say):      # noqa: F811
    """Without this, anybody could fill a stranger's mailbox through the sign-in form."""
    one = await person()
    errors = [(await asked(one, "victim@example.com"))[1] for _ in range(6)]
    assert errors == [None] * 3 + ["too-many"] * 3
    more = [(await asked(one, f"v{n}@example.com"))[1] for n in range(25)]
    say(f"{len(chat['mails'])} mails for one client, {errors.count(None)} to one address; asked at most 20 and 3 an "
        "hour")
    assert more.count(None) == 17 and len(chat["mails"]) == 20
    forged = await one.post("/auth/send-link", {"email": "w@example.com"}, headers={"X-Forwarded-For": "9.9.9.9"})
    assert forged.url.query["error"] == "too-many"


def refusals(chat, clients, address="victim@example.com"):      # noqa: F811
    """The number of these clients, each asking for a mail to an address, that are refused; all within one minute."""
    chat["biff/config"]["proxies"] = biff.networks("127.0.0.1")

    def asking(client):
        request = types.SimpleNamespace(remote="127.0.0.1", headers=multidict.CIMultiDict({"X-Forwarded-For": client}))
        return chat | {"request": request}
    return sum(biff.auth._refused(asking(client), address) is not None for client in clients)


async def test_nobody_keeps_anybody_from_signing_in(chat, say):      # noqa: F811
    """Three requests an hour for somebody's address locked its owner out."""
    eve = refusals(chat, ["203.0.113.9"] * 25)
    assert eve == 22 and refusals(chat, ["198.51.100.4"]) == 0, "her own share is used up, and the owner's is not"
    network = refusals(chat, (f"2001:db8:7:{n:x}::1" for n in range(2 ** 15)))
    owner = refusals(chat, ["198.51.100.4", "2001:db8:8::1"])
    say(f"{2 ** 15:,} networks of one /48: {2 ** 15 - network} mails, asked at most 6; the owner refused {owner} "
        "times, asked 0")
    assert 2 ** 15 - network <= 6 and owner == 0


@pytest.mark.parametrize("client, is_same", [
    ("203.0.113.7:51234", "203.0.113.7"), ("203.0.113.7:1", "203.0.113.7"), ("::ffff:203.0.113.7", "203.0.113.7"),
    ("[::ffff:203.0.113.7]:9", "203.0.113.7"),
    ("[2001:db8::3]:443", "2001:db8::/64"), ("[2001:db8::3]", "2001:db8::/64"), ("2001:db8::3", "2001:db8::/64"),
    ("fe80::1%eth0", "fe80::/64"),
    ("_hidden", "unknown"), ("203.0.113.7:", "unknown"), ("[2001:db8::3", "unknown"), ("1.2.3.4.5:6", "unknown")])
def test_a_proxy_that_appends_ports_names_the_same_client(client, is_same):
    """Each connection would be a client of its own, or all would share the budget of one that cannot be read."""
    request = types.SimpleNamespace(remote="127.0.0.1", headers=multidict.CIMultiDict({"X-Forwarded-For": client}))
    assert biff.client_of({"request": request, "biff/config": {"proxies": biff.networks("127.0.0.1")}}) == is_same


async def test_link_and_code_come_in_one_mail_and_each_uses_up_both(chat, person):      # noqa: F811
    """Whoever reads mail on the telephone needs the code,
    whoever reads it beside the chat the link; nobody knows before."""
    ann, bob = await person(), await person()
    assert await asked(ann) == ("/link-sent", None) and len(chat["mails"]) == 1
    token, code = ann.last_token(), ann.last_code()
    assert 'action="/auth/verify-code"' in (await ann.get("/link-sent?email=ann%40example.com")).body_text
    assert await guess(ann, code) == "/app" and await redeem(ann, token) == ("/signin", "invalid-link")
    await asked(bob, "bob@example.com", "/auth/send-code")
    assert (await redeem(bob, bob.last_token()))[0] == "/app"
    assert await guess(bob, bob.last_code(), "bob@example.com") == "/verify-code"


async def test_a_mail_that_was_asked_for_elsewhere_still_signs_its_owner_in(chat, person):      # noqa: F811
    """A stranger who uses up all mails of an hour has filled the mailbox with links that work for its owner alone."""
    eve, ann = await person(), await person()
    await asked(eve)
    text = chat["mails"][-1][1]
    assert "The code works in the browser in which it was asked for, the link in any." in text
    assert "(A browser, " in text
    assert await guess(ann, ann.last_code()) == "/verify-code"
    assert (await redeem(ann, ann.last_token(), email="ann@example.com"))[0] == "/app"


async def test_without_a_mail_server_every_page_of_signing_in_says_where_the_link_is(chat, person):      # noqa: F811
    """A newcomer would wait for a mail that nobody sends."""
    one = await person()
    for path in "/signin", "/link-sent?email=a", "/verify-code?email=a":
        assert "printed in the terminal in which the server runs" in (await one.get(path)).body_text
        chat["biff/config"]["mail_host"] = "mail.example.org"
        assert "terminal" not in (await one.get(path)).body_text
        chat["biff/config"]["mail_host"] = None


async def test_a_mailed_link_leads_to_where_it_was_asked_for_and_nowhere_else(chat, person):      # noqa: F811
    """At localhost a link to 127.0.0.1 opens without the browser's cookie;
    a forged host would send the link to a stranger."""
    one, port = await person(), chat["biff/port"]

    async def link(host):
        await one.post("/auth/send-link", {"email": f"{uuid.uuid4()}@example.com"},
                       headers={"Host": host, "Origin": f"http://{host}"})
        return re.search(r"(http\S+)/auth/verify-link/", chat["mails"][-1][1]).group(1)
    here = f"http://127.0.0.1:{port}"
    assert [await link(host) for host in (f"127.0.0.1:{port}",
                                          f"localhost:{port}")] == [here, f"http://localhost:{port}"]
    assert [await link(host) for host in ("evil.example", f"evil.example:{port}", f"127.0.0.2:{port}",
                                          "127.0.0.1:1")] == [here] * 4
    chat["biff/config"]["base_url"] = here
    assert await link(f"localhost:{port}") == here


async def test_a_thousand_requests_are_few_mails_to_anyone_and_from_anyone(chat, person, say):      # noqa: F811
    """Without this, the sign-in form would send mail to strangers, and the server would be listed as one that does."""
    one, sent = await person(), {"address": collections.Counter(), "client": collections.Counter()}
    chat["biff/config"]["proxies"], chat["biff/limits"] = biff.networks("127.0.0.1"), biff.Limits(lambda: 0.0)
    token = await one.token("/signin")
    for n in range(1000):
        address, client = f"v{n % 37}@example.com", f"9.9.{n % 11}.9"
        fields = {"email": address, biff.TOKEN_FIELD: token}
        async with one.browser.post(f"{one.base}/auth/send-{('link', 'code')[n % 2]}", data=fields,
                                    headers={"Origin": one.base, "X-Forwarded-For": f"{n}.1.1.1, {client}"},
                                    allow_redirects=False) as answer:
            if "too-many" not in answer.headers["Location"]:
                sent["address"][address] += 1
                sent["client"][client] += 1
    most = {kind: max(counted.values()) for kind, counted in sent.items()}
    say(f"1,000 requests for 37 addresses from 11 clients in a minute: {len(chat['mails'])} mails, at most "
        f"{most['address']} to an address and {most['client']} for a client; asked at most 60, 3 and 20")
    assert len(chat["mails"]) == sent["address"].total() == 60 and most["address"] <= 3 and most["client"] <= 20


async def test_known_and_unknown_addresses_take_the_same_time(chat, person, say, monkeypatch):      # noqa: F811
    """A stopwatch would tell who is here."""
    for limit in "MAILS_A_CLIENT_TO_ONE", "MAILS_AN_ADDRESS", "MAILS_A_CLIENT", "MAILS_A_SERVER":
        monkeypatch.setattr(biff.auth, limit, (10 ** 6, 60))
    await person("known@example.com")
    one, times = await person(), {"known@example.com": [], "stranger@example.com": []}
    token = await one.token("/signin")
    for turn in range(60):
        for address, taken in list(times.items())[::(-1) ** turn]:         # each goes first as often as the other
            begun = time.perf_counter()
            async with one.browser.post(f"{one.base}/auth/send-link", data={"email": address, biff.TOKEN_FIELD: token},
                                        headers={"Origin": one.base}, allow_redirects=False) as answer:
                assert answer.headers["Location"].startswith("/link-sent")
            taken.append((time.perf_counter() - begun) * 1000)
    known, stranger = map(statistics.median, times.values())
    apart = statistics.median(one - other for one, other in zip(*times.values()))
    say(f"median of 60: {known:.2f} ms for a known address, {stranger:.2f} ms for an unknown one, {apart:+.2f} ms from "
        "one to the other of a pair; asked within 5 ms")
    assert abs(apart) < 2 * 5


def test_limits_forget_after_their_window_and_count_all_or_nothing():
    """A limit that is never lifted locks people out; a limit that counts refusals is never lifted."""
    moment = [0.0]
    limits = biff.Limits(lambda: moment[0])
    assert [limits.take(("a", 2, 10), ("all", 3, 60)) for _ in range(4)] == [True, True, False, False]
    assert limits.take(("b", 2, 10), ("all", 3, 60)) and not limits.take(("b", 2, 10), ("all", 3, 60))
    moment[0] = 10.0
    assert not limits.take(("a", 2, 10), ("all", 3, 60)) and limits.take(("a", 2, 10))
    moment[0] = 60.0
    assert limits.take(("a", 2, 10), ("all", 3, 60))


@pytest.mark.parametrize("address", ["", "ann", "ann@", "@example.com", "ann@example", "a b@example.com",
                                     "ann@example.com\nBcc: eve@example.com",
                                     "ann@example.com,eve@example.com", "ann,eve@example.com", "<ann@example.com>",
                                     "ann@example.com;x@y.z",
                                     "ann\r\n@example.com", "ann\u202e@example.com", "x" * 250 + "@example.com",
                                     '"a"@example.com',
                                     "=?utf-8?q?ann=40evil.example=2c?=@example.com",
                                     "=?utf-8?b?YUBiLmM=?=@example.com", ".ann@example.com",
                                     "ann.@example.com", "a..b@example.com", "x" * 65 + "@example.com",
                                     "ann@-example.com", "ann@example-.com",
                                     "ann@exa_mple.com", "ann@" + "x" * 64 + ".com", "ann@example.123", "ann@127.0.0.1",
                                     "ann@[127.0.0.1]",
                                     "ann@example..com", "ann@example.com.", "änn@example.com", "ann@\ud800.example",
                                     "ann@xn--a.example"])
async def test_what_is_not_one_address_gets_no_mail(chat, person, address):      # noqa: F811
    """A line break in an address is another recipient, an encoded word another header,
    and others were an error of ours."""
    assert await asked(await person(), address.encode("utf-8", "replace").decode()) == ("/signin", "invalid-email")
    assert chat["mails"] == []
    assert biff.normalized_email(address) is None


@pytest.mark.parametrize("typed, kept", [
    ("Ann@Example.com", "ann@example.com"), ("o'neil+eels@example.co.uk", "o'neil+eels@example.co.uk"),
    ("a.b_c-d@xn--bcher-kva.example", "a.b_c-d@xn--bcher-kva.example"),
    ("ann@bücher.example", "ann@xn--bcher-kva.example"), ("ann@BÜCHER.example", "ann@xn--bcher-kva.example"),
    ("ann@bu\u0308cher.example", "ann@xn--bcher-kva.example"),
    ("ann@例え。テスト", "ann@xn--r8jz45g.xn--zckzah"), ("{}@example.com", "{}@example.com")])
def test_an_address_is_one_account_however_a_browser_spells_its_domain(typed, kept):
    """Ann would have one account in Firefox and another one in Safari,
    and mail servers without SMTPUTF8 would not reach her."""
    assert biff.normalized_email(f" {typed} ") == kept and biff.normalized_email(kept) == kept


@pytest.mark.parametrize("address", ["=?utf-8?q?a=40b.example=2c_c?=@example.com", "ann@example.com, eve@example.com",
                                     "ann@example.com\nBcc: eve@example.com"])
async def test_a_header_that_cannot_be_built_is_an_answer_and_no_error(mail_server, address, monkeypatch):
    """The second wall behind the address's grammar:
    with it gone, the header still refuses what becomes another address."""
    system, mailbox = mail_server
    monkeypatch.setattr(biff.auth, "normalized_email", str)
    one = Person(system)
    assert await asked(one, address.replace("\n", "\r\n")) == ("/signin", "send-failed") and mailbox.mails == []
    await one.browser.close()


class Mailbox:
    def __init__(self):
        self.mails = []

    async def handle_DATA(self, server, session, envelope):
        self.mails.append((envelope.rcpt_tos, email.message_from_bytes(envelope.content, policy=email.policy.default)))
        return "550 no such mailbox" if "full@" in envelope.rcpt_tos[0] else "250 OK"


@pytest.fixture
async def mail_server(tmp_path):
    """The chat with a real mail server on loopback: `(system, mailbox)`."""
    mailbox = Mailbox()
    port = free_port()
    controller = Controller(mailbox, hostname="127.0.0.1", port=port)
    controller.start()
    (tmp_path / "config.toml").write_text(f"mail_host = '127.0.0.1'\nmail_port = {port}\nmail_from = 'Eel "
                                          "<eel@example.org>'\n")
    system = await biff.start_system(eelchat.COMPONENTS, eelchat.initial_system({"data": str(tmp_path), "port": 0}))
    yield system, mailbox
    await biff.stop_system(system)
    controller.stop()


async def test_mail_goes_out_by_smtp_in_text_and_html_to_one_recipient(mail_server):
    """The day a mail server is configured would be the first on which anybody tries it."""
    system, mailbox = mail_server
    one = Person(system)
    assert await asked(one) == ("/link-sent", None)
    recipients, mail = mailbox.mails[0]
    token = re.search(MAIL_LOG, mail.get_body(["plain"]).get_content()).group(1)
    assert recipients == ["ann@example.com"] == [mail["To"]] and mail["From"] == "Eel <eel@example.org>"
    assert mail["Date"] and mail["Message-ID"]
    assert f'href="{system["biff/base-url"]}/auth/verify-link/{token}"' in mail.get_body(["html"]).get_content()
    assert await redeem(one, token) == ("/app", None)
    assert await asked(one, "full@example.com") == ("/signin", "send-failed")
    await one.browser.close()


# ── Sessions ─────────────────────────────────────────────────────────────────────────────────────────────────

async def is_in(one):
    return (await one.get("/app")).url.path == "/app"


async def test_signing_in_changes_the_cookie_and_signing_out_ends_it_for_whoever_has_a_copy(chat, person):  # noqa: F811
    """A cookie planted before, or copied after, would be a key for ever."""
    ann, thief = await person(), await person()
    await ann.get("/signin")
    planted = [cookie.value for cookie in ann.browser.cookie_jar]
    await ann.sign_in("ann@example.com")
    mine = [cookie.value for cookie in ann.browser.cookie_jar]
    assert len(planted) == len(mine) == 1 and planted != mine
    thief.browser.cookie_jar.update_cookies({"eelchat": mine[0]}, yarl.URL(ann.base))
    assert await is_in(thief)
    await ann.post("/auth/signout")
    assert not await is_in(ann) and not await is_in(thief) and documents(chat, "session/hash") == []


async def test_a_thousand_forged_cookies_sign_nobody_in(chat, person):      # noqa: F811
    """Without this, a guess would be a key: all of a person's rights rest on this one value."""
    await person("ann@example.com")
    hashed = documents(chat, "session/hash")[0]["session/hash"]
    forged = [hashed, hashed[:43], "", "x", "é" * 43, str(documents(chat, "session/hash")[0]["xt/id"]),
              *(secrets.token_urlsafe(32) for _ in range(1000))]
    one, accepted = await person(), 0
    for cookie in forged:
        async with one.browser.get(f"{one.base}/app", headers={"Cookie": f"eelchat={cookie}"},
                                   allow_redirects=False) as answer:
            accepted += answer.status == 200
    assert accepted == 0


async def test_a_session_ends_sixty_days_after_signing_in_or_thirty_without_use(chat, person, later):  # noqa: F811
    """Without this, the cookies in a browser that is sold would sign its buyer in."""
    ann = await person("ann@example.com")
    for days in (29, 57):
        later(days=days)
        assert await is_in(ann)
        await biff.keep_sessions(biff.assoc_db(chat))
    later(days=60)
    assert not await is_in(ann)
    await biff.keep_sessions(biff.assoc_db(chat))
    assert documents(chat, "session/hash") == []
    bob = await person()
    later(days=0)
    await bob.sign_in("bob@example.com")
    later(days=31)
    assert not await is_in(bob)


async def test_what_has_expired_is_gone_from_the_past_too(chat, person, later):      # noqa: F811
    """A store that forgets nothing would keep every address that was ever typed into the form."""
    ann = await person()
    await asked(ann)
    before, (token,) = chat["biff/node"].latest_tx.tx_id, documents(chat, "token/hash")
    later(minutes=11)
    await biff.keep_sessions(biff.assoc_db(chat))
    assert chat["biff/node"].db(before).entity(token["xt/id"]) is None and documents(chat, "token/hash") == []


async def test_sessions_are_listed_to_their_owner_who_ends_them_and_nobody_else_does(chat, person):      # noqa: F811
    """A person who stays signed in on a browser at the library must be able to end that session from home."""
    home, library, eve = [await person(f"{name}@example.com") for name in ("ann", "ann", "eve")]
    page = (await home.get("/sessions")).body_text
    (other,) = re.findall(r"/sessions/(session-[0-9a-f]{32})/revoke", page)
    await eve.post(f"/sessions/{other}/revoke")
    assert await is_in(library) and (await eve.get("/sessions")).body_text.count("/revoke") == 0
    await home.post(f"/sessions/{other}/revoke")
    assert await is_in(home) and not await is_in(library) and await is_in(eve)
    third = await person("ann@example.com")
    await home.post("/sessions/others/revoke")
    assert await is_in(home) and not await is_in(third) and await is_in(eve)


async def test_whoever_is_no_user_any_more_is_signed_out_without_a_loop(chat, person):      # noqa: F811
    """Without this, two pages would redirect to each other for ever."""
    ann = await person("ann@example.com")
    await chat["biff/node"].submit([store.evict(documents(chat, "user/email")[0]["xt/id"])])
    assert (await ann.get("/app")).url.path == "/signin"


async def test_the_store_holds_no_token_no_code_and_no_cookie(chat, person, tmp_path):      # noqa: F811
    """Without this, everybody who reads a backup could sign in as anybody."""
    ann = await person()
    await asked(ann)
    await asked(ann, path="/auth/send-code")
    token, code = re.search(MAIL_LOG, chat["mails"][0][1]).group(1), ann.last_code()
    await redeem(ann, token)
    cookie = next(iter(ann.browser.cookie_jar)).value
    kept = b"".join(path.read_bytes() for path in tmp_path.glob("eelchat.db*") if path.is_file())
    assert b"ann@example.com" in kept
    assert not any(value.encode() in kept for value in (token, cookie))
    hashes = [document["token/hash"] for document in documents(chat, "token/hash")]
    assert biff.hash_of(code) not in hashes and biff.hash_of("ann@example.com" + code) not in hashes


async def test_devices_say_their_browser_and_when_they_were_seen_last(chat, person, later):      # noqa: F811
    """One would not know which of five sessions is the phone that was lost."""
    home, phone = await person("ann@example.com"), await person()
    phone.browser.headers["User-Agent"] = "Mozilla/5.0 (Android 14; Mobile; rv:128.0) Gecko/128.0 Firefox/128.0"
    await phone.sign_in("ann@example.com")
    node, mine = chat["biff/node"], {"find": "?s", "where": [["?s", "session/agent", "Firefox on Android"]]}
    (session,), began = node.db().q(mine), biff.now(chat)

    async def seen():
        text = (await home.get("/sessions")).body_text
        assert text.count("This browser") == 1 and "Firefox on Android" in text
        return dt.datetime.fromisoformat(re.search(r'Last seen <time datetime="([^"]+)"', text)[1]) - began
    later(minutes=90)
    await phone.get("/app")
    await biff.keep_sessions(biff.assoc_db(chat))      # the links in the mails are over by now
    before = node.db().tx_id
    assert dt.timedelta(minutes=89) < await seen() < dt.timedelta(minutes=91)
    await biff.keep_sessions(biff.assoc_db(chat))
    assert node.db().tx_id == before, "nothing is written while it is used"
    later(minutes=240)
    await biff.keep_sessions(biff.assoc_db(chat))
    assert node.db().tx_id == before + 1, "its last use is written once it rests"
    chat["biff/seen"].clear()
    assert dt.timedelta(minutes=89) < await seen() < dt.timedelta(minutes=91)
