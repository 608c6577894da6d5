"""axe-core, which finds what keeps people from using a page: npm's, fetched once for each version beside this file."""
import json
import pathlib
import shutil

import chromium

HERE = pathlib.Path(__file__).parent
PACKAGE = HERE / "axe"
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22a", "wcag22aa", "best-practice"]
RULES = {
    "target-size": {"enabled": True},       # what one touches has 24 pixels (2.5.8)
    # Chromium and Firefox make what scrolls a stop of Tab by themselves: a code block needs no tabindex for it.
    "scrollable-region-focusable": {"enabled": False},
}
RUN = """async ([tags, rules, only, but]) => {
  const without = Object.fromEntries(but.map(rule => [rule, {enabled: false}]));
  const options = only ? {runOnly: only} : {runOnly: tags, rules: {...rules, ...without}};
  const {violations} = await axe.run(document, {...options, resultTypes: ["violations"]});
  const shown = node => `${node.target.join(" ")}: ${node.failureSummary.split("\\n").slice(1, 3).join(" ").trim()}`;
  return violations.map(({id, nodes}) => `${id}: ${nodes.slice(0, 3).map(shown).join(" | ")} (${nodes.length})`);
}"""


def source():
    """The text of axe-core.

    Raises: LookupError, where npm is missing or cannot fetch it.
    """
    version = json.loads((PACKAGE / "package.json").read_text())["dependencies"]["axe-core"]
    home = HERE / ".chromium" / f"axe-{version}"
    if not home.exists():
        with chromium.fetched(home, PACKAGE, "no axe-core: npm is missing") as (modules, ready):
            shutil.copy(modules / "axe-core/axe.min.js", ready)
    return (home / "axe.min.js").read_text()


async def complaints(page, axe, only=None, but=()):
    """The findings of axe on the page as it is, a line each; `only` names the rules, else all of TAGS but `but` count.

    `axe` is its text. It comes by the debugger's way, which the policy of the page does not close.
    """
    if not await page.evaluate("typeof axe === 'object'"):
        await page.evaluate(axe + "\n;undefined")
    return await page.evaluate(RUN, [TAGS, RULES, only, list(but)])
