"""Checks of the HTML page that need no browser."""

from __future__ import annotations

from html.parser import HTMLParser


class Page(HTMLParser):
    """Collects elements without a text alternative, ids and links within the page."""

    def __init__(self) -> None:
        super().__init__()
        self.unnamed: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        needed = {"img": "alt", "audio": "aria-label", "section": "aria-label", "nav": "aria-label", "th": "scope", "html": "lang"}
        if tag in needed and not values.get(needed[tag]):
            self.unnamed.append(f"<{tag}> without {needed[tag]}")
        self.ids += [str(values["id"])] if "id" in values else []
        if tag == "a" and (values.get("href") or "").startswith("#"):
            self.links.append(str(values["href"])[1:])


def assert_accessible(text: str) -> None:
    """Pictures, players and header cells have names, ids are unique, and each link of the page has a target."""
    page = Page()
    page.feed(text)
    assert page.unnamed == []
    assert len(set(page.ids)) == len(page.ids)
    assert page.links
    assert set(page.links) <= set(page.ids)
