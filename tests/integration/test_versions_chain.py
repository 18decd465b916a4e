# SPDX-License-Identifier: Apache-2.0
"""Promotions end to end: the control plane, the chain with tb-update, and clients that must notice nothing."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time

import pytest

from tbsys import program, read_json, wait_for
from versions_fleet import RUNTIME, Clients, fleet, metrics, plane  # noqa: F401


@pytest.mark.parametrize("delivery", ["view", "dir"])
def test_a_promotion_is_served_without_a_refused_request(fleet, delivery):
    fleet.start(bus=fleet.bus, TB_DELIVERY=delivery)
    assert fleet.served() == (200, 1) and fleet.serving()["version"] == 1
    clients = Clients(fleet)
    fleet.publish(b"is slow")
    fleet.ask_now()
    fleet.wait_update("ready", serving=1, next=2)
    wait_for(lambda: fleet.chain.status()["asset_version"] == {"serving": 1, "next": 2, "state": "ready", "when": "manual"}, what="/status")
    assert 'tb_asset_version{which="serving"} 1\ntb_asset_version{which="next"} 2\n' in metrics(fleet)
    assert 'tb_update_state{state="ready"} 1\n' in metrics(fleet)
    assert fleet.served() == (200, 1), "downloaded beside, and not switched to"
    fleet.tell("switch")
    fleet.wait_update("none", serving=2)
    wait_for(lambda: (200, 2) in clients.answers, what="an answer of the new one")
    answers = clients.stop()
    assert set(answers) == {(200, 1), (200, 2)}, [a for a in answers if a[0] != 200]
    versions = [v for _, v in answers]
    assert versions.index(2) > 3
    wait_for(lambda: not (fleet.chain.target / "model.manifest.json").exists(), what="the old ciphertext to go")
    assert set(os.listdir(fleet.chain.target)) == {"serving.json", f"{fleet.asset}@2"}
    assert {r["status"] for r in fleet.chain.audit() if r["path"] == "/v1/echo"} == {200}


def test_rollback_is_promoting_the_older_one(fleet):
    fleet.publish(b"two")
    fleet.start()
    assert fleet.served() == (200, 2)
    fleet.promote(1)
    fleet.ask_now()
    fleet.wait_update("ready", serving=2, next=1)
    fleet.promote(2)  # and that is taken back before anybody switched
    fleet.ask_now()
    fleet.wait_update("none", serving=2)
    fleet.promote(1)
    fleet.ask_now()
    fleet.wait_update("ready", serving=2, next=1)
    fleet.tell("switch")
    fleet.wait_update("none", serving=1)
    assert fleet.served() == (200, 1)


@pytest.mark.parametrize("text, why, within", [(b"will not start", "ended again and again", "60s"), (b"is never well", "within TB_SWITCH_TIMEOUT", "6s")])
def test_a_version_that_does_not_serve_gives_way_and_is_not_tried_again(fleet, text, why, within):
    fleet.start(bus=fleet.bus, TB_SWITCH_TIMEOUT=within)
    bad = fleet.publish(text)
    fleet.ask_now()
    fleet.wait_update("ready", next=bad)
    fleet.tell("switch")
    fleet.wait_update("failed", serving=1, next=bad)
    assert why in fleet.update()["reason"], fleet.update()
    fleet.chain.wait_state("Ready")
    assert fleet.served() == (200, 1) and fleet.serving() == {"asset_id": fleet.asset, "version": 1, "beside": False}
    os.kill(fleet.chain.pid("tb-update"), signal.SIGKILL)  # it remembers
    wait_for(lambda: fleet.chain.units["tb-update"].restarts >= 1, what="tb-update's restart")
    fleet.ask_now()
    fleet.wait_update("failed", serving=1, next=bad)
    good = fleet.publish(b"three")
    fleet.ask_now()
    fleet.wait_update("ready", serving=1, next=good)
    fleet.tell("switch")
    fleet.wait_update("none", serving=good)
    assert fleet.served() == (200, good)
    assert set(os.listdir(fleet.chain.target)) == {"serving.json", f"{fleet.asset}@{good}"}


def test_a_failed_version_is_tried_again_when_told(fleet):
    fleet.start(bus=fleet.bus)
    bad = fleet.publish(b"will not start")
    fleet.ask_now()
    fleet.wait_update("ready", next=bad)
    fleet.tell("switch")
    fleet.wait_update("failed", next=bad)
    fleet.chain.wait_state("Ready")
    fleet.script.write_text(RUNTIME.replace("will not start", "does start"))
    fleet.tell("retry")
    fleet.wait_update("ready", serving=1, next=bad)
    fleet.tell("switch")
    fleet.wait_update("none", serving=bad)
    assert fleet.served() == (200, bad)


def test_who_comes_while_a_version_fails_is_served_by_the_one_before(fleet):
    fleet.start(bus=fleet.bus, TB_SWITCH_TIMEOUT="3s")
    bad = fleet.publish(b"is never well")
    fleet.ask_now()
    fleet.wait_update("ready", next=bad)
    clients = Clients(fleet)
    fleet.tell("switch")
    fleet.wait_update("failed", serving=1, next=bad)
    fleet.chain.wait_state("Ready")
    answers = clients.stop()
    assert set(answers) == {(200, 1)}, set(answers)


@pytest.mark.parametrize("then", ["the one before", "another one"])
def test_who_comes_while_a_promotion_is_taken_back_is_served_by_the_one_before(fleet, then):
    """In the middle of the switch: nothing has failed that could be told, and still nobody is refused."""
    fleet.start(bus=fleet.bus, TB_SWITCH_TIMEOUT="8s")
    bad = fleet.publish(b"is never well")
    fleet.ask_now()
    fleet.wait_update("ready", next=bad)
    clients = Clients(fleet)
    fleet.tell("switch")
    fleet.wait_update("switching", next=bad)
    if then == "the one before":
        fleet.promote(1)
    else:
        fleet.publish(b"three")
    fleet.ask_now()
    fleet.wait_update(*(["none"] if then == "the one before" else ["ready"]), serving=1)
    fleet.chain.wait_state("Ready")
    answers = clients.stop()
    assert set(answers) == {(200, 1)}, set(answers)


def test_a_kill_on_the_way_back_does_not_try_the_failed_version_again(fleet):
    """As the kill leaves it, after serving.json names the version before and before anything is said of it."""
    fleet.start(bus=fleet.bus, TB_SWITCH_TIMEOUT="8s")
    bad = fleet.publish(b"is never well")
    fleet.ask_now()
    fleet.wait_update("ready", next=bad)
    fleet.tell("switch")
    fleet.wait_update("switching", next=bad)
    told = fleet.chain.run / "tb-update" / "update.json"
    before = told.read_text()
    fleet.wait_update("failed", serving=1, next=bad)
    told.write_text(before)
    os.kill(fleet.chain.pid("tb-update"), signal.SIGKILL)
    fleet.wait_update("failed", serving=1, next=bad)
    fleet.chain.wait_state("Ready")
    assert (fleet.chain.log_dir / "tb-update.log").read_text().count(f"version {bad} is switched to") == 1


def test_a_complete_version_that_is_lost_is_fetched_again(fleet):
    fleet.start(bus=fleet.bus)
    n = fleet.publish(b"two")
    fleet.ask_now()
    fleet.wait_update("ready", next=n)
    for f in (fleet.chain.target / f"{fleet.asset}@{n}").iterdir():
        f.unlink()
    fleet.tell("switch")
    fleet.wait_update("none", serving=n)
    assert fleet.served() == (200, n)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM], ids=["kill", "restart"])
def test_what_was_asked_for_outlives_an_end_while_requests_are_waited_for(fleet, end):
    fleet.start(bus=fleet.bus)
    n = fleet.publish(b"two")
    fleet.ask_now()
    fleet.wait_update("ready", next=n)
    answers = []
    t = threading.Thread(target=lambda: answers.append(fleet.served(3)))
    t.start()
    wait_for(lambda: "tb_requests_in_flight 1" in metrics(fleet), what="the request in flight")
    fleet.tell("switch")
    fleet.wait_update("draining")
    os.kill(fleet.chain.pid("tb-update"), end)
    fleet.wait_update("none", serving=n)
    t.join()
    assert answers == [(200, 1)] and not ordered(fleet).exists()


def ordered(fleet):
    return fleet.chain.state / "tb-update" / "ordered.json"


def test_what_was_asked_for_outlives_a_reboot(fleet):
    """Ordered while it is downloaded, or at any time before it is done."""
    fleet.start(bus=fleet.bus)
    n = fleet.publish(b"two")
    fleet.ask_now()
    fleet.wait_update("ready", next=n)
    t = threading.Thread(target=fleet.served, args=(3,))
    t.start()
    wait_for(lambda: "tb_requests_in_flight 1" in metrics(fleet), what="the request in flight")
    fleet.tell("switch")
    wait_for(ordered(fleet).exists, what="the order")
    fleet.chain.stop()
    t.join()
    shutil.rmtree(fleet.chain.run)
    fleet.start(bus=fleet.bus)
    fleet.wait_update("none", serving=n)
    wait_for(lambda: not ordered(fleet).exists(), what="the end of the order")


def test_a_runtime_that_was_stopped_by_hand_stays_so(fleet):
    """Whatever a window or an operator's switch wants: the next start takes the new version, and that is said."""
    fleet.start("window 00:00-24:00", bus=fleet.bus)
    fleet.chain.by_hand("stop", "tb-runtime.service")
    n = fleet.publish(b"two")
    fleet.ask_now()
    fleet.wait_update("ready", next=n, reason="tb-runtime.service was stopped by hand, and its next start takes this version")
    r = subprocess.run([program("tb-update"), "switch"], env={"TB_RUN_DIR": str(fleet.chain.run)}, capture_output=True, text=True, timeout=60)
    assert r.returncode == 75 and "systemctl start tb-runtime.service" in r.stdout, r
    assert not fleet.chain.units["tb-runtime"].daemon.running() and fleet.serving()["previous"] == 1
    fleet.chain.by_hand("start", "tb-runtime.service")
    fleet.wait_update("none", serving=n)
    assert fleet.served() == (200, n)


def test_a_trial_that_is_stopped_by_hand_proves_nothing(fleet):
    """It is not gone back from, until the provider takes the promotion back; and nobody but who stopped the runtime starts it."""
    fleet.start(bus=fleet.bus, TB_SWITCH_TIMEOUT="5s")
    bad = fleet.publish(b"is never well")
    fleet.ask_now()
    fleet.wait_update("ready", next=bad)
    fleet.tell("switch")
    wait_for(lambda: read_json(fleet.chain.run / "tb-runtime" / "delivery.json").get("asset_version") == bad, what="the new version's runtime")
    fleet.chain.by_hand("stop", "tb-runtime.service")
    fleet.wait_update("ready", next=bad)
    os.kill(fleet.chain.pid("tb-update"), signal.SIGKILL)
    fleet.wait_update("ready", next=bad)
    assert fleet.serving()["version"] == bad and not fleet.chain.units["tb-runtime"].daemon.running()
    fleet.promote(1)
    fleet.ask_now()
    fleet.wait_update("none")
    assert fleet.serving()["version"] == 1 and not fleet.chain.units["tb-runtime"].daemon.running()
    fleet.chain.by_hand("start", "tb-runtime.service")
    fleet.wait_update("none", serving=1)
    fleet.chain.wait_state("Ready")


def test_a_runtime_that_fails_just_before_its_restart_is_started(fleet):
    """It ran when tb-update looked, and had failed when systemd came to the job: try-restart does nothing then, and says that it did well."""
    fleet.start(bus=fleet.bus)
    n = fleet.publish(b"two")
    fleet.ask_now()
    fleet.wait_update("ready", next=n)
    answer, said = fleet.chain._systemctl, []

    def failed_meanwhile(words, connection):
        if words == ["try-restart", "tb-runtime.service"] and words not in said:
            fleet.chain.fail_meanwhile("tb-runtime")
        said.append(words)
        return answer(words, connection)

    fleet.chain._systemctl = failed_meanwhile
    fleet.tell("switch")
    fleet.wait_update("none", serving=n)
    assert fleet.served() == (200, n)
    jobs = [verb for verb, unit in said if unit == "tb-runtime.service"]
    assert jobs == ["try-restart", "reset-failed", "start"], jobs


@pytest.mark.parametrize("killed", [False, True], ids=["", "and tb-update was killed"])
def test_a_stop_by_hand_in_the_middle_of_a_switch_is_not_undone(fleet, killed):
    """The operator's stop is the last word, however far tb-update has come: while it chooses the version it has asked for nothing yet."""
    fleet.start(bus=fleet.bus)
    n = fleet.publish(b"two")
    fleet.ask_now()
    fleet.wait_update("ready", next=n)
    choose = fleet.chain.switch.start

    def stopped_meanwhile():
        fleet.chain.switch.start = choose
        fleet.chain.by_hand_meanwhile("stop", "tb-runtime.service")
        if killed:
            os.kill(fleet.chain.pid("tb-update"), signal.SIGKILL)
        return choose()

    fleet.chain.switch.start = stopped_meanwhile
    fleet.tell("switch")
    wait_for(lambda: fleet.serving().get("version") == n, what="the choice")
    fleet.wait_update("ready", serving=1, next=n, reason="tb-runtime.service was stopped by hand, and its next start takes this version")
    assert not fleet.chain.units["tb-runtime"].daemon.running() and fleet.serving()["previous"] == 1
    assert fleet.served()[0] == 503, "nobody waits for what nobody starts"
    fleet.chain.by_hand("start", "tb-runtime.service")
    fleet.wait_update("none", serving=n)
    assert fleet.served() == (200, n)


def test_the_next_start_of_the_runtime_takes_it(fleet):
    fleet.start("restart", bus=fleet.bus)
    fleet.publish(b"two")
    fleet.ask_now()
    wait_for(lambda: fleet.serving().get("version") == 2, what="the choice")
    fleet.wait_update("ready", serving=1, next=2)
    assert fleet.served() == (200, 1), "the one that serves goes on"
    assert fleet.serving()["previous"] == 1
    os.kill(fleet.chain.pid("tb-runtime"), signal.SIGKILL)
    fleet.wait_update("none", serving=2)
    assert fleet.served() == (200, 2) and "previous" not in fleet.serving()


def test_what_was_served_before_there_were_versions(fleet):
    """An upgrade of the package while it serves: tb-update is new, and the model is loaded already."""
    fleet.start()
    (fleet.chain.target / "serving.json").unlink()
    (fleet.chain.state / "tb-hydrate" / "serving.json").unlink()
    fleet.ask_now()
    wait_for(lambda: (fleet.chain.target / "serving.json").exists(), what="the number of what serves")
    assert fleet.serving() == {"asset_id": fleet.asset, "version": 1, "beside": False}
    fleet.wait_update("none", serving=1)
    fleet.publish(b"two")
    fleet.ask_now()
    fleet.wait_update("ready", serving=1, next=2)
    delivery = fleet.chain.run / "tb-runtime" / "delivery.json"
    said = read_json(delivery)
    del said["asset_version"]
    (delivery.parent / "new").write_text(json.dumps(said))
    (delivery.parent / "new").rename(delivery)
    wait_for(lambda: read_json(fleet.chain.run / "tb-proxy" / "proxy.json")["healthy_version"] == 0, what="a delivery without a number")
    t = threading.Thread(target=fleet.served, args=(3,))
    t.start()
    wait_for(lambda: "tb_requests_in_flight 1" in metrics(fleet), what="the request in flight")
    fleet.tell("switch")
    fleet.wait_update("draining")
    fleet.wait_update("none", serving=2)
    t.join()
    assert fleet.served() == (200, 2)


def test_in_the_window(fleet):
    """A window that is open now; and one that is not, which says when."""
    now = time.localtime()
    day = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"][(now.tm_wday + 2) % 7]
    fleet.start(f"window {day} 02:00-02:01", bus=fleet.bus)
    fleet.publish(b"two")
    fleet.ask_now()
    fleet.wait_update("ready", serving=1, next=2, when="window")
    assert "T" in fleet.update()["switch_at"]
    fleet.chain.stop()
    fleet.start("window 00:00-24:00", bus=fleet.bus)
    fleet.wait_update("none", serving=2)
    assert fleet.served() == (200, 2)


def test_a_wait_has_an_end(fleet):
    """A model that takes longer than TB_SWITCH_HOLD: a 503 with Retry-After, and then the new one."""
    fleet.start(bus=fleet.bus, TB_SWITCH_HOLD="1s", TB_SWITCH_TIMEOUT="12s")
    fleet.publish(b"is never well")
    fleet.ask_now()
    fleet.wait_update("ready", next=2)
    fleet.tell("switch")
    fleet.wait_held("switching")
    c = http.client.HTTPConnection("127.0.0.1", fleet.chain.public_port, timeout=60)
    c.request("POST", "/v1/echo", "0")
    r = c.getresponse()
    assert (r.status, r.headers["Retry-After"]) == (503, "5") and json.loads(r.read())["error"]["code"] == "not_ready"
    assert fleet.chain.status()["state"] != "Ready"
    fleet.wait_update("failed")
    fleet.chain.wait_state("Ready")


def test_what_is_in_flight_ends_before_the_switch(fleet):
    fleet.start(bus=fleet.bus)
    fleet.publish(b"two")
    fleet.ask_now()
    fleet.wait_update("ready", next=2)
    answers = []
    t = threading.Thread(target=lambda: answers.append(fleet.served(3)))
    t.start()
    wait_for(lambda: "tb_requests_in_flight 1" in metrics(fleet), what="the request in flight")
    fleet.tell("switch")
    fleet.wait_held("draining")
    assert fleet.served() == (200, 2), "who comes now waits, and is served by the new one"
    t.join()
    assert answers == [(200, 1)]


def held_client(fleet, half=False):
    """Sends a request that has to wait, and closes its side, or goes."""
    s = socket.create_connection(("127.0.0.1", fleet.chain.public_port))
    name = "held-half" if half else "held-gone"
    s.sendall(f"POST /v1/held HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nX-Request-Id: {name}\r\nConnection: close\r\n\r\n0".encode())
    if half:
        s.shutdown(socket.SHUT_WR)
        return s
    return s.close()


def audited(fleet, request_id):
    return [r for r in fleet.chain.audit() if r.get("request_id") == request_id]


def test_a_client_that_goes_while_it_waits_is_served_nothing(fleet):
    """And one that has only closed its side gets its answer."""
    fleet.start(bus=fleet.bus)
    fleet.publish(b"two")
    fleet.ask_now()
    fleet.wait_update("ready", next=2)
    t = threading.Thread(target=lambda: fleet.served(6))
    t.start()
    wait_for(lambda: "tb_requests_in_flight 1" in metrics(fleet), what="the request in flight")
    fleet.tell("switch")
    fleet.wait_held("draining")
    held_client(fleet)
    waiting = held_client(fleet, half=True)
    wait_for(lambda: audited(fleet, "held-gone"), what="the record of the one that has gone")
    assert fleet.update()["state"] == "draining", "it waited for nothing"
    gone, = audited(fleet, "held-gone")
    assert (gone["status"], gone["error"], gone["bytes_in"], gone["req_complete"]) == (499, "client_closed", 0, False)
    fleet.wait_update("none", serving=2)
    with waiting, waiting.makefile("rb") as f:
        answer = f.read()
    assert b"HTTP/1.1 200 " in answer and answer.endswith(fleet.sha[2].encode()), answer
    t.join()


def test_promoted_while_suspended(fleet):
    fleet.start(bus=fleet.bus)
    fleet.plane.cli("contract", "revoke", fleet.contract)
    fleet.ask_now()
    fleet.chain.wait_state("Suspended")
    fleet.publish(b"two")
    assert fleet.update().get("state") == "none"
    fleet.plane.cli("contract", "add", fleet.contract, "--asset", fleet.asset, "--mode", "open", "--replace")
    fleet.ask_now()
    fleet.chain.wait_state("Ready")
    assert fleet.served() == (200, 1), "it resumes with what it has"
    fleet.wait_update("ready", serving=1, next=2)
    fleet.tell("switch")
    fleet.wait_update("none", serving=2)


def test_kills_of_tb_update_at_any_moment(fleet):
    """The next one finishes the work: in the end the promoted version serves, and nothing of another one is left."""
    fleet.start(bus=fleet.bus)
    for i in range(4):
        n = fleet.publish(f"round {i}".encode())
        fleet.ask_now()
        for j in range(5):
            time.sleep(0.05 + 0.11 * ((i * 5 + j * 3) % 7))
            with contextlib.suppress(AttributeError, ProcessLookupError):
                os.kill(fleet.chain.pid("tb-update"), signal.SIGKILL)
            wait_for(lambda: fleet.chain.units["tb-update"].daemon.notified("READY") == "1", what="tb-update")
            fleet.tell("switch")
        wait_for(lambda: fleet.serving().get("version") == n and "previous" not in fleet.serving(), 60, f"version {n}")
        fleet.wait_update("none", serving=n)
        assert fleet.served() == (200, n)
        assert set(os.listdir(fleet.chain.target)) == {"serving.json", f"{fleet.asset}@{n}"}


@pytest.mark.alone("the new version has 4 s to serve")
@pytest.mark.parametrize("phase", ["draining", "switching"])
def test_revoked_in_a_switch(fleet, phase):
    """Who waits is told at once; what was ordered is done when the contract is back, and nothing has failed meanwhile."""
    fleet.start(bus=fleet.bus, TB_SWITCH_TIMEOUT="4s")
    n = fleet.publish(b"is slow")
    fleet.ask_now()
    fleet.wait_update("ready", next=n)
    busy = threading.Thread(target=fleet.served, args=(3,))
    busy.start()
    wait_for(lambda: "tb_requests_in_flight 1" in metrics(fleet), what="the request in flight")
    fleet.tell("switch")
    fleet.wait_update(phase, next=n)
    answers = []
    held = threading.Thread(target=lambda: answers.append(fleet.served()[0]))
    held.start()
    fleet.plane.cli("contract", "revoke", fleet.contract)
    fleet.ask_now()
    fleet.chain.wait_state("Suspended")
    held.join(30)
    assert answers == [403], answers
    busy.join()
    assert fleet.update()["state"] != "failed" and fleet.served()[0] == 403
    fleet.plane.cli("contract", "add", fleet.contract, "--asset", fleet.asset, "--mode", "open", "--replace")
    fleet.ask_now()
    fleet.wait_update("none", serving=n)
    assert fleet.served() == (200, n)


def served_or_cut(fleet):
    with contextlib.suppress(OSError, http.client.HTTPException):  # by the end of the proxy
        fleet.served(1)


def test_kills_of_the_others_in_a_switch(fleet):
    """Each in each phase: in the end the promoted version serves."""
    fleet.start(bus=fleet.bus)
    for phase in ("downloading", "draining", "switching"):
        for name in ("tb-authorize", "tb-proxy", "tb-runtime"):
            n = fleet.publish(b"is slow")
            fleet.ask_now()
            wait_for(lambda: fleet.update().get("next") == n, what="the next version")
            if phase != "downloading":
                fleet.wait_update("ready", next=n)
            busy = threading.Thread(target=served_or_cut, args=(fleet,))
            busy.start()
            wait_for(lambda: "tb_requests_in_flight 1" in metrics(fleet), what="the request in flight")
            fleet.tell("switch")
            if phase != "downloading":
                fleet.wait_update(phase, next=n)
            with contextlib.suppress(AttributeError, ProcessLookupError):
                os.kill(fleet.chain.pid(name), signal.SIGKILL)
            busy.join()
            fleet.wait_update("none", serving=n, timeout=150)
            fleet.chain.wait_state("Ready")
            assert fleet.served() == (200, n), (phase, name)


def test_promotions_back_and_forth(fleet):
    """Faster than anything comes of them: in the end the last one serves, and no version has failed."""
    fleet.start("window 00:00-24:00", bus=fleet.bus)
    fleet.publish(b"two")
    fleet.publish(b"three")
    for i, n in enumerate((1, 3, 2, 1, 2, 3, 1, 3, 1, 2)):
        fleet.promote(n)
        fleet.ask_now()
        time.sleep(0.13 * (i % 4))
    fleet.wait_update("none", serving=2, timeout=90)
    fleet.chain.wait_state("Ready")
    assert fleet.served() == (200, 2) and "previous" not in fleet.serving()
    assert not (fleet.chain.state / "tb-update" / "failed.json").exists()
