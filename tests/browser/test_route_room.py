"""The room Route in a browser: train on the first preset, see who answers what, and let the router write."""

from __future__ import annotations

import re

from playwright.sync_api import expect

from tests.browser.page import Visit


def test_a_router_is_trained_and_writes(visit: Visit) -> None:
    visit.page.get_by_role("tab", name="Route", exact=True).click()
    visit.part("route-tasks").get_by_text("Word problems", exact=True).wait_for()
    visit.part("route-train").click()
    visit.part("route-state").get_by_text("Done after").wait_for()
    expect(visit.part("route-plots").get_by_role("img")).to_have_count(4)
    expect(visit.part("route-figures")).to_contain_text("2.00")  # ReMix: ESS is k
    visit.part("route-pick").get_by_role("combobox").click()
    visit.page.get_by_role("option", name=re.compile("^Capitals")).click()
    expect(visit.part("route-prompt").get_by_role("textbox")).to_have_value(re.compile("capitals"))
    visit.part("route-write").click()
    expect(visit.part("route-written")).to_contain_text("shout")
    visit.page.get_by_role("tab", name="Why a softmax collapses").click()
    expect(visit.part("route-collapse")).to_contain_text("99.2%")
