"""Learn and Scoreboard in a browser: judged on the embedded skills, learned, seen in the preview, and undone."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.page import Visit

pytestmark = pytest.mark.browser


def test_judge_open_a_row_learn_and_undo(visit: Visit, tmp_path: Path) -> None:
    sessions = visit.part("rooms")
    sessions.get_by_role("tab", name="Scoreboard").click()
    expect(visit.part("score-adapters").get_by_role("checkbox")).to_have_count(2)
    visit.number("score-count").fill("10")
    methods = visit.part("score-methods").get_by_role("combobox")
    methods.focus()
    for _ in range(2):  # cat alone stays
        methods.press("Backspace")
    visit.part("judge").click()
    expect(visit.part("score-state")).to_contain_text("Done: 6 rows")
    expect(visit.part("multiples").locator(".main-svg").first).to_be_visible()
    with visit.page.expect_download() as started:
        visit.part("board-csv").click()
    started.value.save_as(tmp_path / "rows.csv")
    rows = list(csv.DictReader((tmp_path / "rows.csv").open()))
    assert {row["row"] for row in rows} >= {"base", "math", "shout", "cat 1,1", "cat 0.5,0.5"}
    assert {row["task"] for row in rows} == {"math+shout:test", "math+shout:kept", "math:test", "shout:test"}
    visit.choose("open-row", "cat 0.5,0.5 (merge)")
    expect(visit.part("score-state")).to_contain_text("on the desk")

    sessions.get_by_role("tab", name="Learn").click()
    expect(visit.part("examples").get_by_role("combobox")).to_have_value("Word problems + Capitals")
    visit.page.get_by_role("button", name="Settings: shape").click()
    visit.part("learn-steps").get_by_role("spinbutton").fill("4")
    visit.part("learn").click()
    expect(visit.part("learn-state")).to_contain_text("after 4 steps")
    expect(visit.part("learn-heat").locator("td.more, td.less")).to_have_count(2 * 56)
    expect(visit.part("learn-curve").locator("svg")).to_be_visible()

    sessions.get_by_role("tab", name="Compose").click()
    expect(visit.open_tab("keeping", "recipe")).to_contain_text("learned: soup")
    visit.part("undo").click()
    expect(visit.slider("weight-0")).to_have_value("0.5")
    visit.part("undo").click()
    expect(visit.slider("weight-0")).to_have_value("1")
