"""Feeds as the world writes them: what parsers refuse, what they take for something else, and which entry is which."""
import json

import pytest

from plugins.feed_reader import entries_of

E = "http://eels.example"
AT = E + "/news/feed.xml"
DECLARED = '<?xml version="1.0" encoding="utf-8"?>'
MEDIA = 'xmlns:media="http://search.yahoo.com/mrss/"'
DC = 'xmlns:dc="http://purl.org/dc/elements/1.1/"'
CONTENT = 'xmlns:content="http://purl.org/rss/1.0/modules/content/"'
GLASS = "<item><title>Glass eels</title><link>http://eels.example/glass</link></item>"


def rss(items, head=DECLARED, spaces=""):
    return f'{head}<rss version="2.0" {spaces}><channel><title>Eels</title>{items}</channel></rss>'


def item(title, rest="", **tags):
    more = "".join(f"<{tag}>{text}</{tag}>" for tag, text in tags.items())
    return f"<item><title>{title}</title>{rest}{more}</item>"


def atom(entry, attributes=""):
    return f'{DECLARED}<feed xmlns="http://www.w3.org/2005/Atom" {attributes}><title>Eels</title>{entry}</feed>'


def entry(inside, title="Glass eels", attributes=""):
    return f"<entry {attributes}><id>tag:eels.example,2026:1</id><title>{title}</title>{inside}</entry>"


def json_feed(*items):
    return json.dumps({"version": "https://jsonfeed.org/version/1.1", "title": "Eels", "items": items})


def told(document, charset=""):
    return entries_of(document if isinstance(document, bytes) else document.encode(), AT, charset)


ONE_TITLE = {
    "declared utf-16, written as utf-8": (rss(item("Älv"), '<?xml version="1.0" encoding="utf-16"?>'), "Älv"),
    "a mark of utf-8 against its declaration": (
        b"\xef\xbb\xbf" + rss(item("Älv"), '<?xml version="1.0" encoding="iso-8859-1"?>').encode(), "Älv"),
    "latin-1 with quotation marks of Windows": (
        b"<?xml version='1.0' encoding='iso-8859-1'?>" + rss(item("“Älv”"), "").encode("cp1252"), "“Älv”"),
    "gb2312 with a character of gbk": (
        b"<?xml version='1.0' encoding='gb2312'?>" + rss(item("鳗鱼镕"), "").encode("gbk"), "鳗鱼镕"),
    "utf-16 without a mark": (rss(item("Älv"), "").encode("utf-16-le"), "Älv"),
    "a blank line and a comment before the declaration": ("\n<!-- from a cache -->" + rss(item("Älv")), "Älv"),
    "a control character": (rss(item("Äl&#7;v\x0b")), "Älv"),
    "a bare ampersand": (rss(item("Eels & AT&T & co")), "Eels & AT&T & co"),
    "a bare smaller-than": (rss(item("2 < 3 eels")), "2 < 3 eels"),
    "names of HTML": (rss(item("&Auml;lv &ndash; caf&eacute;")), "Älv – café"),
    "escaped twice": (rss(item("Eels&amp;#8217; &amp;quot;sea&amp;quot;")), "Eels’ \"sea\""),
    "an entity within CDATA": (rss(item("<![CDATA[Eels &amp; sea]]>")), "Eels & sea"),
    "escaped HTML": (rss(item("The &lt;b&gt;great&lt;/b&gt; sea")), "The great sea"),
    "elements in it": (rss(item("The <b>great</b> sea")), "The great sea"),
    "HTML of Atom": (
        atom('<entry><id>1</id><title type="html"><![CDATA[The <i>great</i> sea]]></title></entry>'), "The great sea"),
    "text of Atom that looks like HTML": (atom(entry("", "How to close &lt;b&gt;")), "How to close <b>"),
    "a title of media before it": (rss(f"<item><media:title>no</media:title>{item('Älv')[6:]}", spaces=MEDIA), "Älv"),
    "a title of Dublin Core before it": (rss(f"<item><dc:title>no</dc:title>{item('Älv')[6:]}", spaces=DC), "Älv"),
    "a title of Dublin Core alone": (rss("<item><dc:title>Älv</dc:title></item>", spaces=DC), "Älv"),
    "a picture with a title of its own": (rss(f"<item><image><title>no</title></image>{item('Älv')[6:]}"), "Älv"),
    "a line break of HTML": (rss(item("Eels&lt;br/&gt;and sea")), "Eels and sea"),
    "a script of HTML": (rss(item("&lt;script&gt;no&lt;/script&gt;Eels")), "Eels"),
    "XHTML of Atom": (atom('<entry><id>1</id><title type="xhtml"><div xmlns="http://www.w3.org/1999/xhtml">Eels &lt; '
                           '<em>sea</em> &amp; sky</div></title></entry>'), "Eels < sea & sky"),
    "a title of media whose namespace is not declared": (rss(f"<item><media:title>no</media:title>{item('Älv')[6:]}"),
                                                         "Älv"),
    "RSS 1.0 with prefixes": (
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:r="http://purl.org/rss/1.0/">'
        "<r:item><r:title>Glass eels</r:title></r:item></rdf:RDF>", "Glass eels"),
    "Atom 0.3": (
        '<feed version="0.3" xmlns="http://purl.org/atom/ns#"><entry><title>Älv</title></entry></feed>', "Älv"),
    "a family of emoji": (rss(item("👩‍👧‍👦 at sea")), "👩‍👧‍👦 at sea"),
    "Persian with joiners between": (rss(item("می‌رود")), "می‌رود"),
    "soft hyphens": (rss(item("Aal\u00adreuse")), "Aalreuse"),
    "no channel": (f'<rss version="2.0">{GLASS}</rss>', "Glass eels"),
    "items beside the channel": (
        f'<rss version="0.91"><channel><title>Eels</title></channel>{GLASS}</rss>', "Glass eels"),
    "RSS 0.90": (
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" '
        'xmlns="http://my.netscape.com/rdf/simple/0.9/">'
                 f"<channel><title>Eels</title></channel>{GLASS}</rdf:RDF>", "Glass eels"),
    "a namespace that nobody knows": (
        f'<rss version="2.0" xmlns="urn:eels"><channel>{GLASS}</channel></rss>', "Glass eels"),
    "a document type with an address": (
        rss(GLASS, '<!DOCTYPE rss PUBLIC "-//Netscape//DTD RSS 0.91//EN" "http://my.netscape.com/rss.dtd">'),
        "Glass eels"),
    "JSON behind a mark": (b"\xef\xbb\xbf" + json_feed({"id": "1", "title": "Älv"}).encode(), "Älv"),
    "JSON in utf-16": (json_feed({"id": "1", "title": "Älv"}).encode("utf-16"), "Älv"),
    "JSON with numbers": (json_feed({"id": 7.5, "title": 1984, "url": "/7"}), "1984"),
}


@pytest.mark.parametrize("document, title", ONE_TITLE.values(), ids=ONE_TITLE)
def test_an_odd_feed_is_read_for_the_title_that_it_means(document, title):
    """Without this, a feed that every other reader shows would be refused here, or shown with the wrong words."""
    assert [one.title for one in told(document)] == [title]


LINKS = {
    "with bare ampersands": (rss(item("A", link=E + "/?a=1&b=2")), E + "/?a=1&b=2"),
    "in CDATA, on a line of its own": (rss(item("A", link="\n<![CDATA[http://eels.example/?a&b]]>\n")), E + "/?a&b"),
    "without a scheme": (rss(item("A", link="//sea.example/a")), "http://sea.example/a"),
    "of a guid": (rss(item("A", guid=E + "/a")), E + "/a"),
    "of a guid that says that it is none": (
        rss(item("A", '<guid isPermaLink="false">http://eels.example/a</guid>')), ""),
    "from a base of the feed": (
        atom(entry('<link href="a"/>'), 'xml:base="http://sea.example/b/"'), "http://sea.example/b/a"),
    "from a base of the entry": (
        atom(entry('<link href="a"/>', attributes='xml:base="http://sea.example/c/"')), "http://sea.example/c/a"),
    "from a base of RSS": (
        rss(item("A", link="a"), spaces='xml:base="http://sea.example/b/"'), "http://sea.example/b/a"),
    "from the feed's own address": (rss(item("A", link="a")), E + "/news/a"),
    "after one for editing": (atom(entry('<link rel="edit" href="/no"/><link rel="alternate" href="/a"/>')), E + "/a"),
    "as HTML after JSON": (atom(entry('<link type="application/json" href="/no"/><link type="text/html" href="/a"/>')),
                           E + "/a"),
    "with the relation's whole name": (
        atom(entry('<link rel="http://www.iana.org/assignments/relation/alternate" href="/a"/>')),
                                       E + "/a"),
    "as the text of an element": (atom(entry("<link>http://eels.example/a</link>")), E + "/a"),
    "with a space and a line end in it": (rss(item("A", link="http://eels.example/a b\nc")), E + "/a%20bc"),
    "from a base within a base": (
        atom(entry('<link href="a"/>', attributes='xml:base="d/"'), 'xml:base="http://sea.example/b/"'),
        "http://sea.example/b/d/a"),
    "from a base of the link": (atom(entry('<link xml:base="http://sea.example/z/" href="a"/>')),
                                "http://sea.example/z/a"),
    "beside one to the feed itself": (
        rss(item("A", '<atom:link href="/no" rel="self"/>', link=E + "/a"),
            spaces='xmlns:atom="http://www.w3.org/2005/Atom"'), E + "/a"),
    "that an id is not": (atom("<entry><id>17</id><title>A</title></entry>"), ""),
}


@pytest.mark.parametrize("document, link", LINKS.values(), ids=LINKS)
def test_the_link_of_an_entry_is_the_page_that_it_is_about(document, link):
    """Without this, people who click on a headline would land nowhere, or in an editor."""
    assert [one.link for one in told(document)] == [link]


TEXTS = {
    "an empty body beside a description": (
        item("A", "<content:encoded></content:encoded>", description="The sea"), "The sea"),
    "a body of one picture": (
        item("A", '<content:encoded><![CDATA[<p><img src="a"></p>]]></content:encoded>', description="The sea"),
        "The sea"),
    "a script that never ends": (item("A", description="&lt;p&gt;The sea&lt;/p&gt;&lt;script&gt;no"), "The sea"),
}


@pytest.mark.parametrize("items, text", TEXTS.values(), ids=TEXTS)
def test_the_text_of_an_entry_is_the_first_that_has_words(items, text):
    """Without this, posts would come without their first lines wherever a feed leaves one of its two fields empty."""
    assert [one.text for one in told(rss(items, spaces=CONTENT))] == [text]


def test_a_summary_in_xhtml_is_read_for_its_words():
    """Without this, entries of Atom feeds would show tags, or nothing."""
    xhtml = '<summary type="xhtml"><div xmlns="http://www.w3.org/1999/xhtml">The <b>great</b> sea</div></summary>'
    assert [one.text for one in told(atom(entry(xhtml)))] == ["The great sea"]


DATES = {
    "Oct 5, 2026 10:30 PM GMT": "2026-10-05T22:30:00+00:00", "5 October 2026 10:30 p.m.": "2026-10-05T22:30:00+00:00",
    "Mon, 05 Oct 2026 10:30:00 Europe/Berlin": "2026-10-05T08:30:00+00:00",
    "Mon, 05 Oct 2026 10:30:00 +0200": "2026-10-05T08:30:00+00:00",
    "2026-10-05T10:30:00Z": "2026-10-05T10:30:00+00:00",
    "Mon, 05 Oct 2026 10:30:00 CEST": "2026-10-05T08:30:00+00:00",
    "Mon, 05 Oct 2026 10:30:00 EST": "2026-10-05T15:30:00+00:00", "Mon, 05 Oct 2026 10:30:00 QQT": "",
    "Mon, 05 Oct 2026 12:15:00 AM GMT": "2026-10-05T00:15:00+00:00", "5 Oct 2026 10.30 PM": "2026-10-05T22:30:00+00:00",
    "Lun, 05 Oct 2026 10:30:00 GMT": "2026-10-05T10:30:00+00:00", "20261005T103000Z": "2026-10-05T10:30:00+00:00",
    "2026-10-05T10:30:00 +0200": "2026-10-05T08:30:00+00:00",
    "2026-10-05T10:30:00.123456789Z": "2026-10-05T10:30:00+00:00",
    "2026-02-31T10:30:00Z": "", "Mon, 31 Feb 2026 10:30:00 GMT": "", "1791239400": "", "10/05/2026 10:30:00 PM": "",
    "Mon, 05 Oct 2026 10:30:00 Middle/Earth": "", "soon": "", "7": "", "05/10/2026": "",
}


@pytest.mark.parametrize("text, at", DATES.items())
def test_the_date_of_an_entry_is_right_or_is_not_told(text, at):
    """Without this, an entry would bear the wrong day, and feeds would be told in the wrong order."""
    assert [one.at for one in told(rss(item("A", pubDate=text)))] == [at]


CHARSETS = {"windows-1252": ("cp1252", "“Älv”"), "x-cp1252": ("cp1252", "“Älv”"), "iso88591": ("cp1252", "“Älv”"),
            "us-ascii": ("cp1252", "“Älv”"), "iso-8859-15": ("iso8859-15", "10 €"), "gbk": ("gb18030", "鳗鱼镕㐂"),
            "x-gbk": ("gbk", "鳗鱼"), "shift_jis": ("cp932", "①鰻"), "x-sjis": ("cp932", "①鰻"),
            "windows-31j": ("cp932", "①鰻"),
            "x-euc-jp": ("euc_jp", "鰻"), "euc-kr": ("cp949", "뱀장어 똠"), "windows-949": ("cp949", "뱀장어 똠"),
            "x-x-big5": ("big5hkscs", "鰻魚"), "koi8": ("koi8-r", "угорь"), "x-cp1251": ("cp1251", "угорь"),
            "windows-874": ("cp874", "ปลาไหล"), "iso-8859-8-i": ("iso8859-8", "צלופח"),
            "x-mac-roman": ("mac-roman", "Älv"), "utf8": ("utf-8", "Älv"), "no such charset": ("utf-8", "Älv")}


@pytest.mark.parametrize("label", CHARSETS)
def test_a_charset_is_read_under_each_label_that_browsers_know(label):
    """Without this, a feed in Japanese or Russian would be rows of question marks."""
    charset, text = CHARSETS[label]
    declared = rss(item(text), f'<?xml version="1.0" encoding="{label}"?>').encode(charset)
    assert titles(declared) == [text]
    assert [one.title for one in told(rss(item(text), "").encode(charset), label)] == [text]


def titles(document):
    return [one.title for one in told(document)]


def test_entries_without_a_date_stay_where_the_feed_has_them():
    """Without this, one entry without a date would turn a whole feed round."""
    newest_first = [item("C", pubDate="Wed, 07 Oct 2026 10:00:00 GMT"), item("B"),
                    item("A", pubDate="Mon, 05 Oct 2026 10:00:00 GMT")]
    assert titles(rss("".join(newest_first))) == titles(rss("".join(reversed(newest_first)))) == ["A", "B", "C"]
    assert titles(rss(item("C") + item("B") + item("A"))) == ["A", "B", "C"]


SHARED = {
    "no guid and one link": [item(f"Part {n}", f'<enclosure url="/{n}.mp3" type="audio/mpeg" length="1"/>',
                                  link=E + "/show") for n in "321"],
    "no guid, one link, no enclosure": [item(f"Part {n}", link=E + "/show") for n in "321"],
    "no guid and no link": [item(f"Part {n}") for n in "321"],
    "empty guids": [item(f"Part {n}", "<guid/>", link=f"{E}/{n}") for n in "321"],
    "blank guids": [item(f"Part {n}", guid=" \n", link=f"{E}/{n}") for n in "321"],
    "one guid, several links": [item(f"Part {n}", guid="eels", link=f"{E}/{n}") for n in "321"],
    "one guid and one link": [item(f"Part {n}", '<guid isPermaLink="false">eels</guid>', link=E + "/") for n in "321"],
}


@pytest.mark.parametrize("items", SHARED.values(), ids=SHARED)
def test_entries_that_share_a_guid_or_a_link_are_several(items):
    """Without this, such a feed would post one entry and then be silent for ever."""
    first, second, third = told(rss("".join(items)))
    assert [first.title, second.title, third.title] == ["Part 1", "Part 2", "Part 3"]
    assert len({first.id, second.id, third.id}) == 3
    alone, = told(rss(items[-1]))
    assert first.id in (alone.id, *alone.other_ids), "what was known alone is known again among others"


def test_an_entry_that_a_feed_shows_twice_is_one():
    """Without this, a feed that lists an entry with its correction would post both."""
    twice = item("Eel", '<guid isPermaLink="false">7</guid>', link=E + "/7")
    assert titles(rss(twice + twice.replace("Eel", "Eels"))) == ["Eel"]
    assert titles(rss(twice + item("B", guid="8") + twice)) == ["B", "Eel"]
