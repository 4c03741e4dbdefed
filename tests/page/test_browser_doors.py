"""In a browser: what another page can do to the server, who may frame the page, and how a hung server looks."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from playwright.sync_api import Browser, Page
from support.browser import SAMPLE, STRANGER, Rigged, Visitor

# Tells what of a request a page gets to see, in one word.
ASK = """async ([url, options]) => {
    try {
        const answer = await fetch(url, options);
        return answer.type === "opaque" ? "opaque" : `${answer.status} ${await answer.text()}`;
    } catch {
        return "nothing";
    }
}"""
QUICK = """const timeout = AbortSignal.timeout.bind(AbortSignal);
AbortSignal.timeout = () => timeout(500);"""


@pytest.fixture(scope="module")
def other_port() -> Iterator[int]:
    """The port of another program's pages on this machine; /frame?ADDRESS frames one."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            _, _, address = self.path.partition("?")
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(f"<iframe src='{address}'></iframe>".encode() if address else b"another page")

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context()
    yield context.new_page()
    context.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", STRANGER])
def test_another_page_can_neither_read_nor_write(
    rigged: Rigged, visitor: Visitor, other_port: int, host: str
) -> None:
    rigged.hold(2)
    visitor.choose(SAMPLE)
    job = visitor.run()
    rigged.wait_held(2)
    page = visitor.context.new_page()  # of the same browser, with its cookies
    page.goto(f"http://{host}:{other_port}/")
    upload = {"method": "POST", "headers": {"Content-Type": "multipart/form-data; boundary=x"}}
    for path, options in (
        ("health", {}),
        ("config", {"credentials": "include"}),
        (f"live/{job}/state", {"credentials": "include"}),
        (f"live/{job}/stop", {"method": "POST", "credentials": "include"}),
        ("gradio_api/upload", upload),
        ("gradio_api/queue/join", {"method": "POST", "body": "{}"}),
    ):
        assert page.evaluate(ASK, [f"{rigged.url}/{path}", options]) == "nothing", path
        options = {**options, "mode": "no-cors", "headers": {}}
        assert page.evaluate(ASK, [f"{rigged.url}/{path}", options]) in ("opaque", "nothing"), path
    with page.expect_navigation():
        page.evaluate(f"""(() => {{
            const form = document.createElement("form");
            Object.assign(form, {{ method: "POST", action: "{rigged.url}/live/{job}/stop" }});
            document.body.append(form);
            form.submit();
        }})()""")
    assert "Pages of another address" in page.inner_text("body")
    page.close()
    assert not visitor.wait("s.run.state === 'running'")["run"]["stopping"]
    rigged.release(2)
    assert visitor.wait("s.settled")["run"]["state"] == "finished"


def test_a_strangers_name_that_leads_here_is_not_answered(rigged: Rigged, page: Page) -> None:
    port = rigged.app.port
    answer = page.goto(f"http://{STRANGER}:{port}/")
    assert answer is not None and answer.status == 403
    assert "--allow-host" in page.inner_text("body") and page.context.cookies() == []
    text = page.evaluate(ASK, ["health", {}])
    assert text.startswith("403 ") and "ready" not in text
    assert page.evaluate(ASK, ["gradio_api/upload", {"method": "POST"}]).startswith("403 ")


def test_a_notebook_of_this_machine_may_frame_the_page(rigged: Rigged, page: Page, other_port: int) -> None:
    page.goto(f"http://localhost:{other_port}/frame?{rigged.url}")
    frame = page.frame_locator("iframe")
    frame.locator(f".sample[title='{SAMPLE}']").click()
    frame.locator("#about:has-text('Latent,')").wait_for()
    frame.locator("#run").click()
    frame.locator(".status:has-text('Finished')").wait_for()


def test_a_stranger_may_not_frame_the_page(rigged: Rigged, page: Page, other_port: int) -> None:
    refusals: list[str] = []
    page.on("console", lambda message: refusals.append(message.text))
    page.goto(f"http://{STRANGER}:{other_port}/frame?{rigged.url}")
    assert page.frame_locator("iframe").locator(".sample").count() == 0
    assert any("frame-ancestors" in text for text in refusals), refusals


def test_a_server_that_hangs_is_not_called_ready(rigged: Rigged, browser: Browser) -> None:
    context = browser.new_context()
    context.add_init_script(QUICK)
    page = context.new_page()
    page.goto(rigged.url)
    page.wait_for_function("window.wanvae && health.dataset.state === 'ready'")
    rank = rigged.app.rank_pid(0)
    os.kill(rank, signal.SIGSTOP)
    try:
        page.wait_for_selector("#health:has-text('no answer')")
        assert "The server does not answer" in page.inner_text(".banner")
        page.wait_for_selector("#run[disabled]")
    finally:
        os.kill(rank, signal.SIGCONT)
    page.wait_for_selector("#health:has-text('ready')")
    page.wait_for_selector(".banner", state="hidden")
    context.close()


def test_markup_that_gets_into_the_page_runs_nothing(visitor: Visitor) -> None:
    page = visitor.page
    page.evaluate("""async () => {
        document.querySelector("#about").insertAdjacentHTML(
            "beforeend", "<img src='data:,' onerror='window.caught = 1'><a href='javascript:window.caught = 2'>x</a>");
        const script = document.createElement("script");
        script.textContent = "window.caught = 3";
        document.head.append(script);
        await new Promise((resolve) => setTimeout(resolve, 300));
        document.querySelector("#about a").click();
    }""")
    page.wait_for_timeout(100)
    assert page.evaluate("window.caught") is None
    assert any("inline" in error for error in visitor.errors)
    visitor.errors.clear()  # the policy's refusals
