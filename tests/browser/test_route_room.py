"""The room Route in a browser: train on the first preset, see who answers what, and let the router write."""

from __future__ import annotations

import re

from tests.browser.page import Visit


def test_a_router_is_trained_and_writes(visit: Visit) -> None:
    visit.page.get_by_role("tab", name="Route", exact=True).click()
    visit.part("route-tasks").get_by_text("Word problems", exact=True).wait_for()
    visit.part("route-train").click()
    visit.part("route-state").get_by_text("Done after").wait_for()
    assert visit.part("route-plots").get_by_role("img").count() == 4
    assert "2.00" in visit.part("route-figures").inner_text()  # ReMix: ESS is k
    visit.part("route-pick").get_by_role("combobox").click()
    visit.page.get_by_role("option", name=re.compile("^Capitals")).click()
    visit.page.wait_for_function("document.querySelector('#route-prompt textarea').value.includes('capitals')")
    visit.part("route-write").click()
    visit.page.wait_for_function("document.querySelector('#route-written').innerText.includes('shout')")
    visit.page.get_by_role("tab", name="Why a softmax collapses").click()
    assert "99.2%" in visit.part("route-collapse").inner_text()
