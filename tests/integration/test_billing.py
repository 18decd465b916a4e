# SPDX-License-Identifier: Apache-2.0
"""tb-billing against a counter file written as tb-proxy writes it (common/usage.h), with SIGKILL at random instants."""

import json
import random
import signal
import subprocess
import time

import pytest
from billing_daemon import COUNTERS, UNITS, Book, Usage, azure, billing, env, hour_text, ledger, metered, now_hour  # noqa: F401
from metering_standin import APPLICATION, Standin
from tbsys import CA, program, read_json, wait_for


def test_usage_is_booked_once_whoever_is_killed(env, tmp_path):
    usage = Usage(tmp_path / "state/tb-proxy/usage")
    rng = random.Random(7)
    d = billing(env, tmp_path)
    for _ in range(12):
        d.start().wait_notify("READY", "1")
        end = time.monotonic() + rng.random() * 0.3
        while time.monotonic() < end:
            usage.add(rng.choice(COUNTERS), rng.randrange(1, 1000))
            d.kill(signal.SIGHUP)  # book now, so that kills land inside bookings
            time.sleep(0.002)
        d.kill()
    d.start().wait_notify("READY", "1")
    usage.add("requests", 1)
    assert d.stop() == 0  # books once more
    assert ledger(env) == usage.value


def test_waits_for_a_proxy_that_never_ran(env, tmp_path):
    d = billing(env, tmp_path).start().wait_notify("READY", "1")
    wait_for(lambda: "Waiting" in (d.notified("STATUS") or ""), what="STATUS")
    usage = Usage(tmp_path / "state/tb-proxy/usage")
    usage.add("requests", 3)
    wait_for(lambda: ledger(env)["requests"] == 3, what="the booking")
    assert d.stop() == 0


def test_a_new_counter_file_is_a_new_epoch(env, tmp_path):
    usage = Usage(tmp_path / "state/tb-proxy/usage")
    usage.add("requests", 10)
    d = billing(env, tmp_path).start().wait_notify("READY", "1")
    usage = Usage(tmp_path / "state/tb-proxy/usage", epoch=b"fedcba9876543210")
    usage.add("requests", 4)
    assert d.stop() == 0
    assert ledger(env)["requests"] == 14


@pytest.mark.parametrize("how", ["removed", "removed alone", "replaced"])
def test_a_ledger_that_goes_away_while_it_is_open_is_put_back(env, tmp_path, how):
    """With all that was booked; nothing is billed twice, and a log that was left beside it does no harm."""
    usage = Usage(tmp_path / "state/tb-proxy/usage")
    usage.add("requests", 10)
    db = tmp_path / "state/tb-billing/ledger.db"
    d = billing(env, tmp_path).start().wait_notify("READY", "1")
    for n in (1, 2):
        wait_for(lambda: ledger(env)["requests"] == usage.value["requests"], what="the booking")
        for name in ("ledger.db",) if how == "removed alone" else ("ledger.db", "ledger.db-wal", "ledger.db-shm"):
            (db.parent / name).unlink(missing_ok=True)
        if how == "replaced":
            db.write_bytes(b"something else")
        wait_for(lambda: d.log_text().count("ledger.db was removed or replaced; it is written again as it was") == n, what="the ledger")
        usage.add("requests", 5)
    wait_for(lambda: ledger(env)["requests"] == 20, what="the booking")
    d.kill()
    d.start().wait_notify("READY", "1")
    usage.add("requests", 1)
    assert d.stop() == 0
    assert ledger(env)["requests"] == 21
    assert len(list(db.parent.glob("ledger.db.corrupt-*"))) == (2 if how == "replaced" else 0)


def test_a_damaged_ledger_is_named_and_left_alone(env, tmp_path):
    db = tmp_path / "state/tb-billing/ledger.db"
    db.parent.mkdir(parents=True)
    db.write_bytes(b"Z" * 8192)
    d = billing(env, tmp_path).start()
    assert d.wait() == 76
    assert str(db) in d.log_text()
    assert db.read_bytes() == b"Z" * 8192


def test_counters_that_go_back_stop_billing(env, tmp_path):
    usage = Usage(tmp_path / "state/tb-proxy/usage")
    usage.add("requests", 10)
    d = billing(env, tmp_path).start().wait_notify("READY", "1")
    usage.add("requests", -5)
    d.kill(signal.SIGHUP)
    assert d.wait() == 76
    assert "went back" in d.log_text()
    assert ledger(env)["requests"] == 10


def test_disk_full_is_an_io_error_and_loses_nothing(env, tmp_path):
    small = tmp_path / "state/tb-billing"
    small.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", small], check=True)
    try:
        usage = Usage(tmp_path / "state/tb-proxy/usage")
        usage.add("requests", 5)
        d = billing(env, tmp_path).start().wait_notify("READY", "1")
        assert d.stop() == 0
        fill = open(small / "fill", "wb", buffering=0)
        with pytest.raises(OSError):
            while True:
                fill.write(b"x" * 4096)
                fill.flush()
        usage.add("requests", 2)
        assert d.start().wait() == 74
        fill.close()
        (small / "fill").unlink()
        d.start().wait_notify("READY", "1")
        assert d.stop() == 0
        assert ledger(env)["requests"] == 7
    finally:
        subprocess.run(["umount", small], check=True)


@pytest.mark.parametrize("args,rc", [(["--help"], 0), (["--version"], 0), (["ledger", "--bogus"], 64), (["bogus"], 64)])
def test_command_line(env, args, rc):
    r = subprocess.run([program("tb-billing"), *args], env={k: str(v) for k, v in env.items()}, capture_output=True, text=True)
    assert r.returncode == rc


def test_bad_settings_are_reported_together(tmp_path):
    r = subprocess.run([program("tb-billing")], env={"PATH": "/bin", "TB_ASSET_ID": "a b", "TB_STATE_DIR": "x"}, capture_output=True,
                       text=True)
    assert r.returncode == 78
    for name in ("TB_ASSET_ID", "TB_STATE_DIR", "TB_CONTRACT_ID", "TB_EDC_ENDPOINT"):
        assert name in r.stderr


# -- the marketplace ------------------------------------------------------------------------------------------------------

def test_hours_that_are_over_are_accepted(env, tmp_path, azure):
    env = metered(env, azure, "requests,gb_transferred")
    book = Book(env, tmp_path)
    book.use(2, "requests", 41)
    book.use(2, "gb_transferred", 2**30 // 4)
    book.use(5, "requests", 1)
    usage = Usage(tmp_path / "state/tb-proxy/usage")
    usage.add("requests", 7)
    d = billing(env, tmp_path).start().wait_notify("READY", "1")
    wait_for(lambda: len(book.states().get("ACCEPTED", [])) == 3, what="three hours to be accepted")
    assert d.stop() == 0
    assert {(k[1], k[2] - now_hour()): e["quantity"] for k, e in azure.accepted.items()} == {
        ("requests", -2): 41, ("gb_transferred", -2): 0.25, ("requests", -5): 1}
    assert all(path == "/api/batchUsageEvent" for path, _, _ in azure.requests) and len(azure.requests) == 2
    [still] = book.states()["OPEN"]
    assert (still["dimension"], still["quantity"]) == ("requests", 7)


def test_the_managed_application_is_found(env, tmp_path, azure):
    env = metered(env, azure, TB_BILLING_RESOURCE_ID="")
    book = Book(env, tmp_path)
    book.use(2, "requests", 3)
    azure.managed_by = None
    d = billing(env, tmp_path).start().wait_notify("READY", "1")
    wait_for(lambda: "no managed application owns it; set TB_BILLING_RESOURCE_ID" in d.log_text(), what="the reason")
    assert azure.requests == [] and book.states().keys() <= {"FROZEN"}
    azure.managed_by = APPLICATION
    d.kill(signal.SIGHUP)
    wait_for(lambda: azure.quantity("requests") == 3, what="the event")
    assert d.stop() == 0


def test_over_tls_and_by_usage_id(env, tmp_path, azure):
    ca = CA(tmp_path / "ca")
    real = Standin(tls=ca.issue("server"))
    real.tokens = azure.tokens
    guid = "01234567-89ab-cdef-0123-456789abcdef"
    env = metered(env, azure, TB_METERING_ENDPOINT=real.url, TB_CA_FILE=ca.cert, TB_INSECURE_HTTP="false", TB_BILLING_RESOURCE_ID=guid,
                  TB_ARM_ENDPOINT="https://arm.example")
    book = Book(env, tmp_path)
    book.use(2, "requests", 3)
    d = billing(env, tmp_path).start().wait_notify("READY", "1")
    wait_for(lambda: real.quantity("requests") == 3, what="the event")
    assert d.stop() == 0
    assert [k[0] for k in real.accepted] == [guid]
    assert all(token not in d.log_text() for token in azure.tokens)
    real.close()


@pytest.mark.parametrize("seed", range(10))
def test_each_unit_once_whatever_dies_or_fails(env, tmp_path, azure, seed):
    """Whole processes: killed at random instants, the API failing in every way it knows. The engine's own 200 seeds, with clocks and
    hours, are in tests/unit/billing/test_money.c."""
    rng = random.Random(seed)
    env = metered(env, azure, "requests,tokens,bytes,gb_transferred")
    book, usage = Book(env, tmp_path), Usage(tmp_path / "state/tb-proxy/usage")
    used = dict.fromkeys(UNITS, 0)
    for ago in range(2, 20):
        for dimension in UNITS:
            if rng.random() < 0.5:
                quantity = rng.randrange(1, 10**rng.randrange(1, 12))
                used[dimension] += quantity
                book.use(ago, dimension, quantity)
    azure.faults = [rng.choice([*Standin.FAULTS, None]) for _ in range(25)]
    d = billing(env, tmp_path)

    def count(name, n):
        usage.add(name, n)
        used["requests"] += n if name == "requests" else 0
        used["tokens"] += n if name in ("prompt_tokens", "completion_tokens") else 0
        for dimension in ("bytes", "gb_transferred"):
            used[dimension] += n if name in ("bytes_in", "bytes_out") else 0

    while azure.faults:
        d.start().wait_notify("READY", "1")
        end = time.monotonic() + rng.random() * 0.2
        while time.monotonic() < end:
            count(rng.choice(COUNTERS[:5]), rng.randrange(1, 1000))
            d.kill(signal.SIGHUP)  # also: try again now
            time.sleep(0.01)
        d.kill()
    d.start().wait_notify("READY", "1")
    wait_for(lambda: book.states().keys() <= {"ACCEPTED", "OPEN"}, what="all hours to be accepted",
             every=0.2)
    assert d.stop() == 0
    for dimension, unit in UNITS.items():
        held = sum(e["quantity"] for e in book.events() if e["dimension"] == dimension and e["state"] != "ACCEPTED")
        assert azure.quantity(dimension) * unit + held == used[dimension], dimension


def test_what_is_refused_is_parked_alarmed_and_tried_again(env, tmp_path, azure):
    env = metered(env, azure, "requests,prompt_tokens")
    book = Book(env, tmp_path)
    book.use(2, "requests", 3)
    book.use(2, "prompt_tokens", 4)
    d = billing(env, tmp_path).start().wait_notify("READY", "1")
    wait_for(lambda: "PARKED" in book.states(), what="the parking")
    [parked] = book.states()["PARKED"]
    assert (parked["dimension"], parked["quantity"], parked["reason"]) == ("prompt_tokens", 4, "InvalidDimension: InvalidDimension")
    assert "prompt_tokens 4 of" in d.log_text() and azure.quantity("requests") == 3
    assert "prompt_tokens" in book.cli("ledger").stdout
    azure.dimensions.add("prompt_tokens")
    d.kill(signal.SIGHUP)
    wait_for(lambda: azure.quantity("prompt_tokens") == 4, what="the event")
    assert d.stop() == 0
    assert book.states().keys() == {"ACCEPTED"}


def test_a_refusal_says_what_the_details_say(env, tmp_path, azure):
    detail = {"message": "planId is not valid", "target": "planId"}
    refusal = {"error": {"code": "BadArgument", "message": "One or more errors have occurred.", "details": [detail]}}
    azure.faults = [(400, refusal)]
    env = metered(env, azure)
    book = Book(env, tmp_path)
    book.use(2, "requests", 3)
    d = billing(env, tmp_path).start().wait_notify("READY", "1")
    [parked] = wait_for(lambda: book.states().get("PARKED"), what="the parking")
    assert parked["reason"] == "BadArgument: One or more errors have occurred.; planId: planId is not valid"
    assert "planId: planId is not valid" in d.log_text() and "planId is not valid" in book.cli("ledger").stdout
    assert d.stop() == 0


def test_late_usage_goes_into_the_open_hour_and_raises_an_alarm(env, tmp_path, azure):
    env = metered(env, azure)
    book = Book(env, tmp_path)
    book.use(30, "requests", 5)
    d = billing(env, tmp_path).start().wait_notify("READY", "1")
    wait_for(lambda: "has not been accepted by the marketplace for 29 hours" in d.log_text(), what="the alarm")
    [e] = book.events()
    assert (e["hour"], e["since"], e["state"], e["quantity"]) == (hour_text(now_hour()), hour_text(now_hour() - 30), "OPEN", 5)
    assert d.stop() == 0
    assert azure.accepted == {}


@pytest.mark.parametrize("verdict,sum", [("accepted", 0), ("missing", 5)])
def test_an_event_in_doubt_is_resolved_by_a_person(env, tmp_path, azure, verdict, sum):
    env = metered(env, azure)
    book = Book(env, tmp_path)
    book.use(30, "requests", 5, state="SENT", doubt=1)
    d = billing(env, tmp_path).start().wait_notify("READY", "1")
    wait_for(lambda: "PARKED" in book.states(), what="the parking")
    assert "IN DOUBT" in book.cli("ledger").stdout
    hour = hour_text(now_hour() - 30)
    assert book.cli("resolve", hour, "bytes", verdict).returncode == 66
    assert book.cli("resolve", "yesterday", "requests", verdict).returncode == 64
    assert book.cli("resolve", hour, "requests", verdict).returncode == 0
    d.kill(signal.SIGHUP)
    wait_for(lambda: [e["quantity"] for e in book.states().get("OPEN", [])] == ([5] if sum else []), what="the open hour")
    assert [e["quantity"] for e in book.states().get("ACCEPTED", [])] == ([] if sum else [5])
    assert d.stop() == 0


def test_the_end_of_the_subscription_outlives_a_restart(env, tmp_path, azure):
    env = metered(env, azure)
    book = Book(env, tmp_path)
    flag = tmp_path / "state/tb-billing/ended"
    book.use(2, "requests", 5)
    azure.faults = ["429", "401", "500", "403"]
    azure.active = False
    d = billing(env, tmp_path).start().wait_notify("READY", "1")
    wait_for(lambda: d.kill(signal.SIGHUP) or flag.exists() or azure.faults, what="weather or the end")
    while azure.faults:
        assert not flag.exists()
        d.kill(signal.SIGHUP)
        time.sleep(0.05)
    wait_for(lambda: d.kill(signal.SIGHUP) or flag.exists(), what="the end")
    assert "ResourceNotActive" in read_json(flag)["reason"]
    d.kill()
    flag.unlink()  # the ledger knows it too
    d.start().wait_notify("READY", "1")
    wait_for(flag.exists, what="the flag")
    assert "subscription has ended" in d.log_text()
    azure.active = True
    d.kill(signal.SIGHUP)
    wait_for(lambda: not flag.exists(), what="the end of the end")
    assert d.stop() == 0
    assert azure.quantity("requests") == 5


def test_one_at_a_time(env, tmp_path):
    d = billing(env, tmp_path).start().wait_notify("READY", "1")
    r = subprocess.run([program("tb-billing")], env={k: str(v) for k, v in env.items()}, capture_output=True, text=True, timeout=30)
    assert r.returncode == 75 and "another tb-billing" in r.stderr
    assert d.stop() == 0


def test_the_ledger_can_be_shown_without_settings(env, tmp_path):
    """As an operator's shell has none."""
    assert billing(env, tmp_path).start().wait_notify("READY", "1").stop() == 0
    shell = {"PATH": "/bin", "TB_STATE_DIR": str(tmp_path / "state")}
    r = subprocess.run([program("tb-billing"), "ledger"], env=shell, capture_output=True, text=True)
    assert r.returncode == 0 and "BILLED BY" in r.stdout
    r = subprocess.run([program("tb-billing"), "ledger"], env={"PATH": "/bin", "TB_STATE_DIR": str(tmp_path / "none")}, capture_output=True,
                       text=True)
    assert r.returncode == 66 and not (tmp_path / "none").exists()


@pytest.mark.parametrize("name,value", [("TB_METERING_ENDPOINT", "http://market.example"), ("TB_IMDS_ENDPOINT", "http://imds.example"),
                                        ("TB_IMDS_ENDPOINT", "https://169.254.169.254"), ("TB_BILLING_DIMENSION", "request"),
                                        ("TB_BILLING_DIMENSION", "requests,requests"), ("TB_BILLING_RESOURCE_ID", "app"),
                                        ("TB_BILLING_PLAN_ID", "")])
def test_settings_are_checked(env, name, value):
    env = {**env, "TB_BILLING_ENABLED": "true", "TB_BILLING_PLAN_ID": "p", name: value}
    r = subprocess.run([program("tb-billing")], env={k: str(v) for k, v in env.items()}, capture_output=True, text=True, timeout=30)
    assert r.returncode == 78 and name in r.stderr


def test_what_the_marketplace_does_not_have(env, tmp_path, azure):
    """What a person who gives the machine up, or its package, is told."""
    paid = metered(env, azure)
    book = Book(paid, tmp_path)
    usage = Usage(tmp_path / "state/tb-proxy/usage")
    assert book.cli("unreported").stdout == "All usage is reported.\n"
    book.use(3, "requests", 41, "ACCEPTED")
    assert book.cli("unreported").stdout == "All usage is reported.\n"
    book.use(2, "requests", 17, "PARKED", doubt=1)
    usage.add("requests", 5)
    usage.add("bytes_in", 1000)
    r = book.cli("unreported")
    assert r.returncode == 0 and "Not accepted by the marketplace:" in r.stdout and " 41 " not in r.stdout, r
    assert f"{hour_text(now_hour() - 2)}  requests" in r.stdout and "IN DOUBT" in r.stdout
    assert "not booked yet:\n  requests                              5\n  bytes_in                           1000\n" in r.stdout


def test_what_a_machine_that_bills_nothing_has_booked(env, tmp_path):
    usage = Usage(tmp_path / "state/tb-proxy/usage")
    usage.add("requests", 5)
    d = billing(env, tmp_path).start().wait_notify("READY", "1")
    wait_for(lambda: ledger(env)["requests"] == 5, what="the booking")
    assert d.stop() == 0
    r = subprocess.run([program("tb-billing"), "unreported"], env={k: str(v) for k, v in env.items()}, text=True, capture_output=True)
    assert r.returncode == 0 and "bills nothing by itself" in r.stdout and "requests                              5" in r.stdout, r


def test_what_the_control_plane_bills_makes_no_events(env, tmp_path, azure):
    """From one booking to the next, and exactly: what is reported as billed here is what events were made of."""
    env = metered(env, azure, "requests")
    lease = tmp_path / "run/tb-authorize/lease.json"
    lease.parent.mkdir(parents=True)

    def told(**more):
        lease.with_suffix(".new").write_text(json.dumps({"state": "authorized", "reason": "", "contract_id": "c", "asset_id": "a", **more}))
        lease.with_suffix(".new").rename(lease)

    def report():
        path = tmp_path / "run/tb-billing/report.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def events():
        r = subprocess.run([program("tb-billing"), "ledger", "--json"], env={k: str(v) for k, v in env.items()}, capture_output=True,
                           text=True, timeout=30)
        return sum(e["quantity"] for e in json.loads(r.stdout)["events"])

    told()
    usage = Usage(tmp_path / "state/tb-proxy/usage")
    usage.add("requests", 5)
    d = billing(env, tmp_path).start().wait_notify("READY", "1")
    wait_for(lambda: report().get("used", {}).get("requests") == 5, what="the booking")
    assert events() == 5 and "self_billed" not in report()
    told(billed_by="control_plane")
    wait_for(lambda: report().get("self_billed") == {"requests": 5}, what="it to heed what it was told")
    usage.add("requests", 100)
    wait_for(lambda: report()["used"]["requests"] == 105, what="the next booking")
    assert events() == 5 and report()["self_billed"] == {"requests": 5}
    lease.unlink()  # tb-authorize starts anew: what was so stays so
    d.kill()
    d.wait()
    usage.add("requests", 100)
    d = billing(env, tmp_path).start().wait_notify("READY", "1")
    wait_for(lambda: report()["used"]["requests"] == 205, what="the booking of the next start")
    assert events() == 5 and report()["self_billed"] == {"requests": 5}
    told()
    wait_for(lambda: "self_billed" not in report(), what="it to bill by itself again")
    usage.add("requests", 3)
    wait_for(lambda: events() == 8, what="the next event")
    assert d.stop() == 0
