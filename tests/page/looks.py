"""Questions about a page that is open: can everybody use it, whatever their eyes, screen or hands."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Page

from tests.page.browser import tools

FOCUSABLE = "a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex='0']"

# An element's place in the document, and what a person would call it.
_NAME_OF = """element => [
    element.tagName.toLowerCase(), [...document.querySelectorAll('*')].indexOf(element),
    (element.innerText || element.getAttribute('aria-label') || element.name || '').slice(0, 40)
].join(' ')"""
_REACHABLE = f"""() => [...document.querySelectorAll("{FOCUSABLE}")]
    .filter(one => one.checkVisibility({{visibilityProperty: true}}) && !one.disabled)
    .map({_NAME_OF})"""
_FOCUSED = f"""() => {{
    const one = document.activeElement
    if (!one || one === document.body || one === document.documentElement) return null
    const style = getComputedStyle(one), box = one.getBoundingClientRect()
    return {{
        name: ({_NAME_OF})(one),
        ring: style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 1,
        seen: box.width > 0 && box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth,
    }}
}}"""
_WIDE = """() => {
    const root = document.documentElement
    if (root.scrollWidth <= root.clientWidth) return []
    const isWide = one => one.getBoundingClientRect().right > root.clientWidth + 1
    const wide = [...document.body.querySelectorAll('*')].filter(isWide)
    return wide.map(one => one.tagName + '.' + one.className + ' ' + (one.innerText || '').slice(0, 60))
}"""
_AXE = """axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']})
    .then(found => found.violations.flatMap(one => [one.id + ': ' + one.help,
        ...one.nodes.map(node => '  ' + node.html.slice(0, 200) + ' ' + node.failureSummary)]).join('\\n'))"""


def violations(page: Page) -> str:
    """What axe-core has against a page, in words; nothing is empty."""
    session = page.context.new_cdp_session(page)
    script = (tools() / "axe.min.js").read_text()
    # Not as a script of the page, whose security policy lets none in.
    session.send("Runtime.evaluate", {"expression": script})
    found = session.send("Runtime.evaluate", {"expression": _AXE, "awaitPromise": True, "returnByValue": True})
    session.detach()
    assert "exceptionDetails" not in found, found
    return str(found["result"]["value"])


def too_wide(page: Page) -> list[str]:
    """What makes a page scroll sideways."""
    found: list[str] = page.evaluate(_WIDE)
    return found


def reachable(page: Page) -> list[str]:
    """All that a person could use with a mouse."""
    found: list[str] = page.evaluate(_REACHABLE)
    return found


def walk_by_tab(page: Page) -> list[dict[str, Any]]:
    """Where the focus goes from top to end: name, whether a ring shows it, whether it is on screen."""
    seen: list[dict[str, Any]] = []
    page.evaluate("() => { document.activeElement?.blur(); scrollTo(0, 0) }")
    for _ in range(2 * len(reachable(page)) + 2):
        page.keyboard.press("Tab")
        found = page.evaluate(_FOCUSED)
        if found is None or (seen and found["name"] == seen[0]["name"]):
            return seen
        seen.append(found)
    raise AssertionError(f"the focus goes round in circles: {[one['name'] for one in seen[:20]]}")
