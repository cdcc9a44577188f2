"""The page in headless Chromium: quiet, alone, sortable, and whole at every width."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from page_records import HOSTILE, full, hostile, judged
from record_builders import cell

from tpprof.reports.page.render import render
from tpprof.reports.record.schema import Record

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if not (BROWSER and DRIVER) and not os.environ.get("CI"):
    pytest.skip("needs Debian's chromium and chromium-driver", allow_module_level=True)

from selenium.webdriver import Chrome, ChromeOptions  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402

SWITCHES = (
    "headless",
    "no-sandbox",
    "disable-gpu",
    "disable-quic",
    "no-first-run",
    "disable-background-networking",
    "disable-component-update",
    "disable-sync",
    "disable-dev-shm-usage",
    "hide-scrollbars",
)


def broken() -> Record:
    """A run of which one cell failed at length."""
    run = full()
    run.cells.append(cell("random", "rows", 1.0, 1, samples=[], error="no memory " * 200))
    return run


PAGES = {
    "full": [full],
    "hostile": [hostile],
    "two": [full, hostile],
    "broken": [broken],
    "gate": [],
}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    options = ChromeOptions()
    options.binary_location = BROWSER or "chromium"
    for switch in SWITCHES:
        options.add_argument(f"--{switch}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=Service(DRIVER or "chromedriver"))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Addresses of pages by name."""
    folder, found = tmp_path_factory.mktemp("pages"), {}
    for name, makers in PAGES.items():
        path = Path(folder) / f"{name}.html"
        records = [make() for make in makers]
        gate = None if records else judged(HOSTILE[0])
        path.write_text(render(records, [HOSTILE[0], HOSTILE[3]][: len(records)], gate))
        found[name] = path.as_uri()
    return found


def visit(
    browser: Chrome, address: str, width: int = 1280, scheme: str = "light", scripts: bool = True
) -> None:
    """Open a page at a width; what an earlier page logged is forgotten."""
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not scripts})
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    wanted = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
    media = {"features": [{"name": name, "value": value} for name, value in wanted.items()]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    browser.get(address)


def requests(browser: Chrome) -> list[str]:
    """Addresses that the page asked for."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]


@pytest.mark.parametrize("name", PAGES)
def test_no_error_and_no_request(browser: Chrome, pages: dict[str, str], name: str) -> None:
    visit(browser, pages[name])
    asked = requests(browser)
    assert browser.get_log("browser") == []
    assert pages[name] in asked, "requests are seen at all"
    assert all(address.startswith("data:") for address in asked if address != pages[name])
    assert browser.execute_script("return window.pwned") is None


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", PAGES)
def test_nothing_sticks_out(
    browser: Chrome, pages: dict[str, str], name: str, width: int, scheme: str
) -> None:
    visit(browser, pages[name], width, scheme)
    assert browser.execute_script("return document.documentElement.scrollWidth") == width
    wide = browser.execute_script(
        "return [...document.querySelectorAll('section, figure, figure svg, .verdict, dl')]"
        ".filter(e => e.getBoundingClientRect().right > innerWidth + 0.5).map(e => e.outerHTML)"
    )
    assert wide == []


def test_light_and_dark_differ_and_figures_follow(browser: Chrome, pages: dict[str, str]) -> None:
    program = (
        "return [getComputedStyle(document.body).backgroundColor,"
        " getComputedStyle(document.querySelector('figure svg text')).fill]"
    )
    seen = []
    for scheme in ("light", "dark"):
        visit(browser, pages["full"], scheme=scheme)
        seen.append(browser.execute_script(program))
    assert seen[0][0] != seen[1][0]
    assert seen[0][1] != seen[1][1]


def column(browser: Chrome, place: int) -> list[str]:
    cells = browser.find_elements(By.CSS_SELECTOR, f"table.sortable td:nth-child({place + 1})")
    return [cell.get_property("textContent") for cell in cells]


def test_the_table_is_sorted_by_a_click(browser: Chrome, pages: dict[str, str]) -> None:
    visit(browser, pages["full"])
    heads = browser.find_elements(By.CSS_SELECTOR, "table.sortable th")
    place = next(n for n, head in enumerate(heads) if "latency" in head.text)
    before = column(browser, 0)
    heads[place].find_element(By.TAG_NAME, "button").click()
    assert column(browser, 0) == ["mustdrop", "fastv", "fastv", "vanilla"]
    assert heads[place].get_attribute("aria-sort") == "ascending"
    heads[place].find_element(By.TAG_NAME, "button").click()
    assert column(browser, 0) == ["vanilla", "fastv", "fastv", "mustdrop"] == before


def test_a_failed_row_neither_widens_nor_stops_the_table(
    browser: Chrome, pages: dict[str, str]
) -> None:
    program = "return document.querySelector('table.sortable').offsetWidth"
    visit(browser, pages["full"])
    whole = browser.execute_script(program)
    visit(browser, pages["broken"])
    assert browser.execute_script(program) <= whole + 40
    for button in browser.find_elements(By.CSS_SELECTOR, "table.sortable th button"):
        button.click()
    assert browser.get_log("browser") == []


def test_in_print_nothing_is_cut_off(browser: Chrome, pages: dict[str, str]) -> None:
    visit(browser, pages["hostile"])
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    hidden = browser.execute_script(
        "return [...document.querySelectorAll('h1, li, dd, td, .meta, .headline, .scroll')]"
        ".filter(e => {const s = getComputedStyle(e);"
        " return s.maxHeight !== 'none' || s.overflowX !== 'visible' || s.overflowY !== 'visible'})"
        ".map(e => e.tagName)"
    )
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert hidden == []


def test_values_are_shown_where_hovered_over(browser: Chrome, pages: dict[str, str]) -> None:
    visit(browser, pages["full"])
    shown = browser.execute_script(
        "const mark = document.querySelector('#r0-promise .tip');"
        "mark.dispatchEvent(new PointerEvent('pointerenter'));"
        "const box = document.querySelector('.hover'); return [box.hidden, box.textContent];"
    )
    assert shown[0] is False
    assert "promised" in shown[1]


def test_it_works_without_scripts(browser: Chrome, pages: dict[str, str]) -> None:
    visit(browser, pages["full"], 390, scripts=False)
    assert browser.find_elements(By.CSS_SELECTOR, "th button, .hover") == []
    assert column(browser, 0) == ["vanilla", "fastv", "fastv", "mustdrop"]
    assert len(browser.find_elements(By.CSS_SELECTOR, "figure svg")) >= 10
    assert browser.find_elements(By.CSS_SELECTOR, "svg .tip > title")
    assert browser.find_elements(By.CSS_SELECTOR, "a[download][href^='data:']")
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
