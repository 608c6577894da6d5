"""Founders: who may found communities is the operator's word."""
import pytest

import biff
from people import a_chat, chat, kept_mails, person, Person      # noqa: F401
from plugins.founders import founders

REFUSED = "Only people whom the operator of this server has named"


@pytest.mark.parametrize("setting, may", [
    ("anyone", {"ann", "bob"}), ("nobody", set()), ("Ann@Example.com", {"ann"}), ("@example.org", {"bob"}),
    ("ann@example.com, @example.org", {"ann", "bob"})])
async def test_only_those_whom_the_operator_names_found_communities(tmp_path, monkeypatch, setting, may):
    """A server for one club would fill with strangers' communities."""
    (tmp_path / "config.toml").write_text(f'founders = "{setting}"\n')
    system = await a_chat(tmp_path, kept_mails(monkeypatch))
    for email in "ann@example.com", "bob@example.org":
        one = Person(system)
        await one.sign_in(email)
        page, answer = (await one.get("/app")).body_text, await one.post("/community", {"title": "Town"}, "/app")
        is_founder = email[:3] in may
        assert ("new-community" in page) == is_founder == ("/channel/" in answer.url.path)
        assert is_founder or answer.status == 403 and REFUSED in answer.body_text
        await one.browser.close()
    await biff.stop_system(system)


@pytest.mark.parametrize("setting", ["everybody", "ann@", "@", "@nowhere", "ann@example.com bob@example.com",
                                     "@a@b.org"])
async def test_a_setting_that_is_misspelled_is_refused_with_a_sentence(tmp_path, setting):
    """A typing mistake would open the server to all, or close it to its owner."""
    with pytest.raises(ValueError, match="wanted is anyone, nobody, or addresses"):
        founders(setting)
    (tmp_path / "config.toml").write_text(f'founders = ["{setting}"]\n')
    with pytest.raises(biff.StartError, match="founders"):
        await a_chat(tmp_path, [])
