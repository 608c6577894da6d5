"""Founders: the operator says who may found communities: anyone, some people by their addresses, or nobody.

    founders = ["ann@example.org", "@example.com"]     # in config.toml; "anyone", which is the default; or "nobody"
"""
import biff
from plugins.places import signed_in


def founders(text):
    """The setting as "anyone", "nobody", or a set of addresses and of domains with their @."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    if [word.lower() for word in words] in (["anyone"], ["nobody"]):
        return words[0].lower()
    return frozenset(map(address_or_domain, words))


def address_or_domain(word):
    email = biff.normalized_email(f"anyone{word}" if word.startswith("@") else word)
    if email is None:
        raise ValueError("wanted is anyone, nobody, or addresses with commas between, where @example.org is everybody "
                         f"there, and {word[:60]!r} is none of these")
    return email.removeprefix("anyone") if word.startswith("@") else email


def may_found(ctx, user):
    allowed, email = ctx["biff/config"]["founders"], user["user/email"]
    return allowed == "anyone" or allowed != "nobody" and bool({email, f"@{email.rpartition('@')[2]}"} & allowed)


def founder(ctx):
    """A rule: somebody whom the operator lets found communities."""
    if refusal := signed_in(ctx):
        return refusal
    if not may_found(ctx, ctx["user"]):
        return biff.error(ctx, 403, "Only people whom the operator of this server has named found communities here. "
                                    "Ask for an invitation to one that there is.")


PLUGIN = {
    "settings": {"founders": biff.Setting("anyone", founders, "who may found communities: anyone, nobody, or addresses",
                                          False)},
    "page": lambda ctx: {"may_found": may_found(ctx, ctx["user"])},
}
