"""The Analogy room as a visitor drives it: b' is there at once, follows a drag, and is saved."""

from __future__ import annotations

from tests.browser.page import Visit

WATCH = """() => {
  window.__drawn = new Set();
  new MutationObserver(() => {
    const picture = document.querySelector('#slot-b2 img');
    if (picture) window.__drawn.add(picture.src);
  }).observe(document.querySelector('#slot-b2'), {subtree: true, childList: true, attributes: true});
}"""


def test_b2_follows_the_drag_and_is_kept(visit: Visit) -> None:
    page = visit.page
    page.get_by_role("tab", name="Analogy", exact=True).click()
    page.locator("#slot-b2 img").wait_for()
    page.locator("#analogy-state", has_text="dB from the right answer").wait_for()
    page.evaluate(WATCH)
    visit.drag("strength", 0.05)
    page.wait_for_function("window.__drawn.size >= 2")  # a picture on the way, and the last
    visit.open_tab("space-tabs", "save-analogy").click()
    page.locator("#saved", has_text="read back and compared").wait_for()
    assert page.locator("#download-analogy").is_visible()
