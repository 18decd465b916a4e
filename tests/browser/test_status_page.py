# SPDX-License-Identifier: Apache-2.0
"""The status page of tb-proxy in headless Chromium: it follows the state without a reload, breaks none of its own policy, fits a phone,
and can be read without a script."""

import itertools
import socket

import pytest

from proxy_daemon import boottime_us, make  # noqa: F401
from tbsys import wait_for


@pytest.fixture
def page(chromium, make):  # noqa: F811
    """(browser, proxy) on the page of a proxy in state Boot; what the page counts its own violations of the policy in is set up."""
    p = make().start(wait="Boot")
    chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    chromium.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    chromium.get("about:blank")
    chromium.get_log("browser")
    watch = chromium.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {
        "source": "window.violations = []; addEventListener('securitypolicyviolation', e => violations.push(e.violatedDirective));"})
    chromium.get(f"http://127.0.0.1:{p.health.getsockname()[1]}/")
    yield chromium, p
    assert chromium.execute_script("return window.violations || []") == []
    chromium.get("about:blank")
    chromium.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", watch)


def text(b, name):
    return b.execute_script("return document.querySelector(`[data-f=${arguments[0]}]`).textContent", name)


def live(b):
    return b.execute_script("return document.getElementById('live').textContent")


def errors(b):
    return [e for e in b.get_log("browser") if e["level"] in ("SEVERE", "WARNING")]


def test_it_follows_the_state(page):
    b, p = page
    b.execute_script("window.same = true")  # gone after a reload
    wait_for(lambda: live(b) == "live", what="the page to be live")
    assert text(b, "state") == "Boot" and b.title == "Boot - TrustBridge"
    p.lease(expires_at="2030-01-01T00:00:00Z", deadline_boottime_us=boottime_us() + 3 * 3600 * 10**6)
    p.write("tb-hydrate", "progress.json", state="downloading", bytes_done=1 << 30, bytes_total=4 << 30)
    wait_for(lambda: text(b, "state") == "Hydrate", what="Hydrate")
    wait_for(lambda: b.execute_script("return document.getElementById('p-hydrate').value") == 25, what="a quarter of the bar")
    assert b.execute_script("return document.getElementById('p-hydrate').getBoundingClientRect().height") > 0
    assert b.execute_script("return document.querySelector('[aria-current=step]').textContent") == "Hydrate"
    assert text(b, "lease").startswith("2 h 59 min") and text(b, "hydrate") == "1.0 GiB of 4.0 GiB"
    p.ready()
    wait_for(lambda: text(b, "state") == "Ready", what="Ready")
    assert b.execute_script("return document.getElementById('p-hydrate').getBoundingClientRect().height") == 0
    for _ in range(3):
        p.ask("POST", "/v1/chat/completions", b"{}")
    p.ask("GET", "/admin")

    def rows():
        return b.execute_script("return [...document.querySelectorAll('#rows tr')].map(r => [...r.cells].slice(1, 3).map(c => c.textContent))")
    wait_for(lambda: rows() == [["GET other path", "404"]] + [["POST /v1/chat/completions", "200"]] * 3, what="the requests")
    assert text(b, "answered") == "3"
    p.write("tb-authorize", "suspended", reason="contract_revoked")
    wait_for(lambda: text(b, "state") == "Suspended", what="Suspended")
    assert "contract revoked" in text(b, "sentence") and b.title == "Suspended - TrustBridge"
    assert b.execute_script("return window.same") and errors(b) == []


def test_it_finds_its_way_back_to_a_proxy_that_was_restarted(page):
    b, p = page
    wait_for(lambda: live(b) == "live", what="the page to be live")
    p.daemon.kill()
    wait_for(lambda: "not connected" in live(b), what="the page to notice")
    p.ready().start()
    wait_for(lambda: live(b) == "live" and text(b, "state") == "Ready", 30, "the page to be live again")


def luminance(rgb):
    c = [v / 255 for v in rgb]
    c = [v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in c]
    return 0.2126 * c[0] + 0.7152 * c[1] + 0.0722 * c[2]


CONTRASTS = """
function rgb(s) { return s.match(/[0-9.]+/g).map(Number); }
const out = [];
for (const e of document.querySelectorAll('body *')) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()) || !e.getClientRects().length || e.closest('.sr, svg')) continue;
    let back = e;
    while (back && (rgb(getComputedStyle(back).backgroundColor)[3] ?? 1) === 0) back = back.parentElement;
    out.push([e.textContent.trim().slice(0, 30), rgb(getComputedStyle(e).color).slice(0, 3), rgb(getComputedStyle(back).backgroundColor).slice(0, 3)]);
}
return out;"""


@pytest.mark.parametrize("width", [1280, 360])
def test_it_fits_and_can_be_read(page, width):
    b, p = page
    p.backend.routes["/v1/bad"] = lambda conn, rq: conn.sendall(b"nonsense\r\n\r\n") and None or False
    p.ready().wait_state("Ready")
    for path in ("/v1/chat/completions", "/v1/audio/transcriptions", "/admin", "/v1/bad"):
        p.ask("POST", path, b"{}")
    b.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500})
    for theme, suspended in itertools.product(("light", "dark"), (False, True)):
        b.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": theme}]})
        if suspended:
            p.write("tb-authorize", "suspended", reason="contract_revoked")
        else:
            (p.run / "tb-authorize/suspended").unlink(missing_ok=True)
        p.wait_state("Suspended" if suspended else "Ready")
        b.get(f"http://127.0.0.1:{p.health.getsockname()[1]}/")
        assert b.execute_script("return document.documentElement.scrollWidth") <= width
        assert box(b, ".steps li:last-child")[2] <= box(b, ".hero")[2]
        assert b.execute_script("return [...document.querySelectorAll('.steps li')].every(e => e.scrollWidth <= e.clientWidth)"), "a step is cut"
        texts = b.execute_script(CONTRASTS)
        assert len(texts) > 30
        for what, fore, back in texts:
            light, dark = sorted((luminance(fore), luminance(back)), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (theme, what, fore, back)
    assert b.execute_script("return [...document.querySelectorAll('img:not([alt]), html:not([lang])')].length") == 0
    names = b.execute_script("return [...document.querySelectorAll('section')].map(s => document.getElementById(s.getAttribute('aria-labelledby'))?.textContent)")
    assert len(names) == 5 and all(names)
    assert errors(b) == []


def box(b, selector):
    return b.execute_script("const r = document.querySelector(arguments[0]).getBoundingClientRect(); return [r.width, r.height, r.right]", selector)


@pytest.mark.parametrize("width", [1280, 360])
def test_the_model_on_its_way(page, width):
    """Bars, speeds, what is read and what is mended, in a window of any width; what there is nothing to say of is not there."""
    b, p = page
    b.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500})
    now, always = boottime_us(), 3600 * 10**6
    p.lease()
    p.write("tb-runtime", "delivery.json", state="streaming", mode="view", started_boottime_us=now)
    p.write("tb-hydrate", "progress.json", state="downloading", bytes_done=1 << 30, bytes_total=4 << 30, bytes_per_second=100 << 20,
            started_boottime_us=now, written_boottime_us=now + always)
    wait_for(lambda: text(b, "hydrate_more") == "downloading, 100.0 MiB/s, 31 s left", what="the speed")
    assert box(b, "[data-f=read]")[1] == 0 and box(b, "[data-f=records]")[1] == 0
    p.write("tb-decrypt", "progress.json", state="serving", bytes_done=1 << 29, bytes_total=4 << 30, read_bytes=1 << 28, served_bytes=1 << 28,
            cached_bytes=96 << 20, cache_bytes=96 << 20, started_boottime_us=now + 1, written_boottime_us=now + always,
            repairs={"waiting": 1, "fetched": 0, "records": [{"file": "<b>" + "m" * 90, "chunk": 17, "tries": 1, "state": "waiting"}]})
    wait_for(lambda: text(b, "records") == "1 being fetched once more", what="the record")
    assert box(b, ".wide")[0] > box(b, ".model h2")[0] - 2, "names are squeezed into a column"
    assert "chunk 17 of <b>mmm" in text(b, "records_more") and text(b, "read") == "256.0 MiB of 4.0 GiB"
    for selector in ("#p-hydrate", "#p-decrypt", "[data-f=read]", "[data-f=memory]", "[data-f=records_more]"):
        w, h, right = box(b, selector)
        assert w > 0 and h > 0 and right <= width, selector
    assert b.execute_script("return document.documentElement.scrollWidth") <= width
    b.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    b.get(f"http://127.0.0.1:{p.health.getsockname()[1]}/")
    body = b.find_element("tag name", "body").text
    b.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    for words in ("100.0 MiB/s", "256.0 MiB of 4.0 GiB", "96.0 MiB of at most 96.0 MiB", "1 being fetched once more", "chunk 17 of <b>mmm"):
        assert words in body, body
    p.write("tb-authorize", "suspended", reason="contract_revoked")
    p.wait_state("Suspended")
    b.get(f"http://127.0.0.1:{p.health.getsockname()[1]}/")
    assert box(b, "[data-f=hydrate]")[1] == 0


def test_it_can_be_read_without_a_script(page):
    b, p = page
    p.ready().wait_state("Ready")
    p.ask("GET", "/v1/models")
    b.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    b.get(f"http://127.0.0.1:{p.health.getsockname()[1]}/")
    body = b.find_element("tag name", "body").text
    b.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    for word in ("Ready", "Requests are served.", "GET /v1/models", "as of 20"):
        assert word in body, body


def test_one_viewer_too_many_is_told_and_comes_in_later(page):
    b, p = page
    b.get("about:blank")
    others = []
    for _ in range(8):
        s = socket.create_connection(("127.0.0.1", p.health.getsockname()[1]))
        s.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
        assert s.recv(12) == b"HTTP/1.1 200"
        others.append(s)
    b.get(f"http://127.0.0.1:{p.health.getsockname()[1]}/")
    wait_for(lambda: "not connected" in live(b), what="the page to be told")
    for s in others:
        s.close()
    wait_for(lambda: live(b) == "live", 30, "the page to come in")
    b.get_log("browser")  # the browser itself logs the 503
