"""The Modalities room in a browser: draw, listen, ask, override, measure."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.conftest import visiting
from tests.browser.page import Server

pytestmark = pytest.mark.browser


def test_a_visitor_shows_plays_asks_and_overrides(browser: Browser, server: Server) -> None:
    with visiting(browser, server) as visit:
        visit.page.get_by_role("tab", name="Modalities").click()
        expect(visit.page.locator("#mixture-said p")).to_have_text("two red stars on white")
        expect(visit.page.locator("#lamps .lit")).to_have_text("vision")
        visit.part("make-sound").click()
        expect(visit.part("lamps")).to_contain_text("image+audio")
        expect(visit.part("asked").get_by_role("combobox")).to_have_value("Answer the question you hear.")
        visit.part("ask-all").click()
        expect(visit.page.locator("#mixture-said tr")).to_have_count(4)
        expect(visit.page.locator("#mixture-said tr.lit")).to_contain_text(re.compile("vision.*red", re.DOTALL))
        visit.part("route-by").get_by_text("base alone").click()
        expect(visit.page.locator("#lamps .lit")).to_have_text("base alone")
        visit.part("ask").click()
        expect(visit.page.locator("#decisions li").first).to_have_text(re.compile("forced"))
        visit.page.get_by_role("tab", name="Measured").click()
        expect(visit.page.locator("#matrix tr")).to_have_count(5)
        visit.page.get_by_role("tab", name="A Phi-4 folder").click()
        visit.part("phi-show").click()
        expect(visit.page.locator("#phi-views table.heat")).to_have_count(3)
