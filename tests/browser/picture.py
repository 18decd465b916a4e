# SPDX-License-Identifier: Apache-2.0
"""`make picture`: docs/status-page.png, which the README shows, anew. The page is tb-proxy's; what the other programs say of a large model
is written here in their place, and so is the inference server."""

import base64
import json
import pathlib
import time

from proxy_backend import simple
from proxy_daemon import boottime_us, make  # noqa: F401
from tbsys import wait_for

PICTURE = pathlib.Path(__file__).resolve().parents[2] / "docs/status-page.png"
GIB = 1 << 30
ANSWER = json.dumps({"object": "chat.completion", "usage": {"prompt_tokens": 21, "completion_tokens": 17, "total_tokens": 38}}).encode()


def answers(conn, request):
    request.sha256()  # reads it
    conn.sendall(simple(ANSWER, extra="Content-Type: application/json\r\n"))


def tells(p):
    now, always = boottime_us(), 3600 * 10**6
    times = {"started_boottime_us": now, "written_boottime_us": now + always}
    p.lease(expires_at="2030-01-01T00:00:00Z", deadline_boottime_us=now + 3 * always,
            attested={"level": "image", "image": "acme-llm", "version": "1.3.0", "at": "2026-11-26T10:00:00Z"})
    p.write("tb-hydrate", "progress.json", state="complete", bytes_done=140 * GIB, bytes_total=140 * GIB, mirror="used", mirror_bytes=139 * GIB,
            storage_bytes=GIB, **times)
    p.write("tb-runtime", "delivery.json", state="streaming", mode="view", started_boottime_us=now)
    p.write("tb-decrypt", "progress.json", state="complete", bytes_done=140 * GIB, bytes_total=140 * GIB, read_bytes=140 * GIB, served_bytes=141 * GIB,
            cached_bytes=12 << 20, cache_bytes=96 << 20, started_boottime_us=now + 1, written_boottime_us=now + always,
            repairs={"waiting": 0, "fetched": 1,
                     "records": [{"file": "model-00001-of-00030.safetensors", "chunk": 4711, "tries": 1, "state": "fetched"}]})


def test_picture(chromium, make):  # noqa: F811
    p = make().start(wait="Boot")
    p.backend.routes["/v1/chat/completions"] = answers
    tells(p)
    p.wait_state("Ready")
    b = chromium
    b.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": 785, "height": 800, "deviceScaleFactor": 1, "mobile": False})
    b.get(f"http://127.0.0.1:{p.health.getsockname()[1]}/")
    for n in (1, 0, 4, 3, 1, 6, 4, 3, 1, 2):
        for _ in range(n):
            assert p.ask("POST", "/v1/chat/completions", b'{"messages": []}')[0] == 200
        time.sleep(1)  # the page draws requests in each second
    p.ask("GET", "/admin")
    wait_for(lambda: "404" in b.find_element("css selector", "#rows").text, 20, "the last request on the page")
    height = b.execute_script("return document.documentElement.scrollHeight")
    shot = b.execute_cdp_cmd("Page.captureScreenshot", {
        "captureBeyondViewport": True, "clip": {"x": 0, "y": 0, "width": 785, "height": height, "scale": 1}})
    PICTURE.write_bytes(base64.b64decode(shot["data"]))
