"""The app in a real browser: Debian's Chromium, driven by Playwright."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from nnkit import data, runs
from nnkit.app import answers, markup
from nnkit.checkpoint import load_model, save_model

playwright = pytest.importorskip("playwright.sync_api")
pytest.importorskip("streamlit")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")

PATIENCE = 120_000  # milliseconds: a slow machine, busy with other tests, is no fault of the app
MARKUP = "<img src=x onerror=alert(1)> **bold** [link](http://a.b) :red[red] $x$"
NAMES = {"strange": "<b onclick=alert(1)>*strange*<b>-1", "other": "first-1"}
EVIL_REPORT = """<!DOCTYPE html><title>x</title><p id="words">as it was written</p>
<script>document.getElementById("words").textContent = "changed by a script"; top.document.title = "changed"</script>
<img src="http://127.0.0.1:9/tracker.png"><style>@import url("http://127.0.0.1:9/style.css")</style>"""


@pytest.fixture(scope="module")
def folder(tiny_runs, tmp_path_factory):
    """A folder with an ordinary run, and one from a stranger: markup for names, a report that wants more than show."""
    folder = tmp_path_factory.mktemp("app")
    shutil.copytree(tiny_runs / "runs/first-1", folder / "runs/first-1")
    strange = folder / "runs" / NAMES["strange"]
    shutil.copytree(tiny_runs / "runs/second-1", strange)
    model, metadata = load_model(strange / runs.MODEL)
    names = [f"{name} {MARKUP}" for name in metadata["class_names"]]
    save_model(strange / runs.MODEL, model, {"class_names": names, "normalize": metadata["normalize"]})
    figures = json.loads((strange / runs.METRICS).read_text())
    (strange / runs.METRICS).write_text(json.dumps({**figures, "recipe": MARKUP}))
    (strange / "report.html").write_text(EVIL_REPORT)
    return folder


@pytest.fixture(scope="module")
def address(folder):
    """Where the app is served, by the command that people give; it may not say anything but its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-W", "error", "-m", "nnkit", "app", "first-1", "--port", str(port)]
    environment = {**os.environ, "NNKIT_NUM_THREADS": "1"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=environment)
    try:
        for _ in range(1200):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health"):
                break
            assert process.poll() is None, (folder / "log").read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            status = process.wait(60)
        finally:
            process.kill()
    assert status == 128 + signal.SIGTERM
    assert (folder / "log").read_text().splitlines() == [
        f"nnkit app: http://localhost:{port}  (Ctrl-C ends it)",
        "nnkit: interrupted",
    ]


@pytest.fixture(scope="module")
def browser():
    playwright.expect.set_options(timeout=PATIENCE)
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, address):
    """Open a page of the app; whatever it does, it may ask nobody but the app, and open no dialogue."""
    contexts, asked, dialogues = [], [], []

    def open_page(path, **options):
        contexts.append(browser.new_context(**{"viewport": {"width": 1280, "height": 1200}, **options}))
        page = contexts[-1].new_page()
        page.set_default_timeout(PATIENCE)
        for event in ("requestfinished", "requestfailed"):
            page.on(event, lambda request: asked.append(request))
        page.on("dialog", lambda dialogue: (dialogues.append(dialogue.message), dialogue.dismiss()))
        page.goto(f"{address}/{path}")
        return page

    yield open_page
    for context in contexts:
        context.close()
    elsewhere = [request for request in asked if not request.url.startswith((address, "data:", "blob:"))]
    assert [request.url for request in elsewhere if request.failure != "csp"] == []  # what the browser let through
    assert dialogues == []


def cards(page, count):
    """Return the answers on the page, when there are so many."""
    found = page.locator(".nn-card")
    playwright.expect(found).to_have_count(count)
    return [found.nth(i) for i in range(count)]


def bars(card):
    """Read an answer off the page: the classes and their probabilities."""
    items = card.locator(".nn-bars li").all()
    return [(item.locator("span").inner_text(), item.locator("b").inner_text()) for item in items]


def choose(page, label, name):
    page.get_by_label(label, exact=False).first.click()
    page.get_by_role("option").filter(has_text=name).click()


def test_good_and_hostile_uploads(open_page, folder, hostile, tmp_path):
    page = open_page("")
    cards(page, 1)  # of a sample
    page.get_by_role("radio", name="Your pictures").or_(page.get_by_text("Your pictures")).first.click()
    shapes = data.make_shapes(2, seed=3).images
    good = answers.encode(shapes[0], "png")
    (tmp_path / "good.png").write_bytes(good)
    strange = f"{MARKUP.replace('/', ':')}.png"
    files = {strange: good, **hostile, "www.example.com.png": b"", "photo.jpg": answers.encode(shapes[1], "jpeg")}
    chooser = page.locator("input[type=file]")
    chooser.set_input_files([{"name": n, "mimeType": "image/png", "buffer": content} for n, content in files.items()])
    first, second = cards(page, 2)
    expected = runs.predict(folder / "runs/first-1", [tmp_path / "good.png"])[0]["classes"]
    assert bars(first) == [(entry["name"], markup.percent(entry["probability"])) for entry in expected]
    assert first.locator("h3").inner_text() == strange
    assert second.locator("h3").inner_text() == "photo.jpg"
    assert first.locator("img").count() == 2  # the two pictures, and none of the name's making
    assert all(first.locator("img").evaluate_all("all => all.map(image => image.naturalWidth > 0)"))
    refused = page.get_by_role("alert").all_inner_texts()
    assert [text.partition(":")[0] for text in refused] == [*hostile, "www.example.com.png"]
    assert page.get_by_test_id("stMain").locator("a:not([data-testid])").count() == 0  # none but the app's own

    chooser.set_input_files([{"name": "x.svg", "mimeType": "image/svg+xml", "buffer": hostile["drawing.png"]}])
    playwright.expect(page.get_by_text("not allowed")).to_be_visible()
    cards(page, 2)
    screenshot(page, "uploads")


def test_names_of_strangers_and_their_reports(open_page, folder):
    page = open_page("runs")
    inside = page.frame_locator("iframe")
    playwright.expect(inside.locator("h1")).to_contain_text("test images recognised")
    choose(page, "Run", NAMES["strange"])
    playwright.expect(inside.locator("#words")).to_have_text("as it was written")
    assert page.title() == "nnkit"
    assert MARKUP in page.locator(".nn-tiles").inner_text()
    screenshot(page, "runs")
    page.get_by_role("link", name="Compare").click()
    one, two = cards(page, 2)
    assert {one.locator("h3").inner_text(), two.locator("h3").inner_text()} == set(NAMES.values())
    assert sorted(card.locator("img").count() for card in (one, two)) == [2, 2]
    assert any(MARKUP in name for name, _ in bars(one) + bars(two))
    assert page.locator("a[href*='a.b']").count() == 0
    screenshot(page, "compare")


def test_on_a_phone_in_the_dark(open_page):
    page = open_page("", viewport={"width": 390, "height": 844}, color_scheme="dark", has_touch=True)
    cards(page, 1)
    page.get_by_role("button", name="5", exact=True).tap()
    for name in ("Predict", "Runs", "Compare"):
        page.get_by_role("link", name=name, exact=True).tap()
        page.locator(".nn-tiles" if name == "Runs" else ".nn-card").last.wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        outside = "all => all.map(e => e.getBoundingClientRect()).filter(r => r.left < 0 || r.right > 390.5).length"
        assert page.locator(".nn-card *, .nn-tiles *").evaluate_all(outside) == 0
        screenshot(page, f"phone-{name}")


def test_what_the_server_hands_out(address):
    def status(path, **headers):
        try:
            with urllib.request.urlopen(urllib.request.Request(f"{address}{path}", headers=headers)) as reply:
                return reply.status, dict(reply.headers), reply.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, dict(error.headers), b""

    code, headers, content = status("/reports/first-1")
    assert code == 200
    assert b"test images recognised" in content
    assert headers["content-security-policy"].startswith("sandbox; default-src 'none'")
    for path in ("/reports/third-1", "/reports/..", "/reports/%2e%2e%2f%2e%2e%2flog", "/reports/first-1%2fconfig.toml"):
        code, _, content = status(path)
        assert code in (400, 404) or b"<title>Streamlit</title>" in content, path
    assert status("/", Host="elsewhere.example")[0] == 400


def screenshot(page, name):
    """Keep a picture of the page where the environment says so, for people to look at."""
    place = os.environ.get("NNKIT_SCREENSHOTS")
    if place:
        page.wait_for_timeout(500)
        page.screenshot(path=Path(place) / f"{name}.png", full_page=True)
