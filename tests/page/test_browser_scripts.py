"""The page's scripts in a real browser: one that is missing, and a browser that denies storage."""

from __future__ import annotations

from playwright.sync_api import Browser
from support.browser import DENY_STORAGE, SAMPLE, Rigged


def test_a_script_that_is_not_there_is_told(rigged: Rigged, browser: Browser) -> None:
    """The player, and the gallery, say so in their own places; the rest of the page is there."""
    for script, place in (("player.js", "#player .banner"), ("gallery.js", "#samples p")):
        context = browser.new_context()
        page = context.new_page()
        page.route(f"**/page/{script}", lambda route: route.abort())
        page.goto(rigged.url)
        page.wait_for_selector(f"{place}:has-text('could not be started: reload the page')")
        assert page.is_enabled("#run")
        context.close()


def test_a_browser_that_denies_storage(rigged: Rigged, browser: Browser) -> None:
    """As in another site's IFrame: everything works, only a reload forgets."""
    context = browser.new_context()
    context.add_init_script(DENY_STORAGE)
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(rigged.url)
    page.wait_for_function("window.wanvae && health.dataset.state === 'ready'")
    page.click(f".sample[title='{SAMPLE}']")
    page.wait_for_selector("#about:has-text('Latent,')")
    page.click("#run")
    page.wait_for_selector(".status:has-text('Finished')")
    page.wait_for_function("window.wanvae.state.drawn === 17")
    dark = "document.body.classList.contains('dark')"
    before = page.evaluate(dark)
    page.click("#theme")
    page.click(".loop")
    assert page.evaluate(dark) != before and page.get_attribute(".loop", "aria-pressed") == "true"
    assert not [error for error in errors if "denied" in error], errors
    context.close()
