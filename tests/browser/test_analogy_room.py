"""The Analogy room as a visitor drives it: b' is there at once, follows a drag, and is saved."""

from __future__ import annotations

import re

from playwright.sync_api import expect

from tests.browser.page import Visit

FIGURE = re.compile(r"[\d.]+ dB from the right answer")


def test_b2_follows_the_drag_and_is_kept(visit: Visit) -> None:
    page = visit.page
    page.get_by_role("tab", name="Analogy", exact=True).click()
    picture, state = page.locator("#slot-b2 img"), visit.part("analogy-state")
    expect(state).to_contain_text(FIGURE)
    with visit.dragging("strength") as to:
        for share in (0.4, 0.05):  # each place gives a picture of its own while the thumb is still held
            before, address = state.inner_text(), str(picture.get_attribute("src"))
            to(share)
            expect(state).not_to_have_text(before)
            expect(state).to_contain_text(FIGURE)
            expect(picture).not_to_have_attribute("src", address)
    visit.open_tab("space-tabs", "save-analogy").click()
    page.locator("#saved", has_text="read back and compared").wait_for()
    page.locator("#download-analogy").wait_for()
