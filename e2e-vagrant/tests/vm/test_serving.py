# SPDX-License-Identifier: Apache-2.0
"""The appliance from its first boot, looked at from outside wherever that is possible."""

import json
import shlex

import model
import tbsys
from chain import http_json
from scenario import ASSET, CONTRACT, SHORT, content
from tbsys import Daemon, free_port, wait_for


def plaintext_answer(source, body):
    """What a llama-server says that was given the files themselves."""
    port = free_port()
    direct = Daemon(shlex.split(model.llama_command(source / model.GGUF, port))).start()
    try:
        wait_for(lambda: tbsys.socket.socket().connect_ex(("127.0.0.1", port)) == 0, 60, "llama-server")
        wait_for(lambda: http_json(f"http://127.0.0.1:{port}/health")[0] == 200, 60, "health")
        return content(http_json(f"http://127.0.0.1:{port}/v1/chat/completions", body, timeout=60))
    finally:
        direct.stop()


def test_cold_boot_serves_what_the_plaintext_serves(vm, provider):
    assert content(vm.chat(model.CHAT)) == plaintext_answer(provider.source, model.CHAT)
    assert http_json(vm.url("/health"))[0] == 200


def test_no_unit_failed(vm):
    assert vm.sh("systemctl --failed --plain --no-legend").strip() == ""
    for unit in ("tb-authorize", "tb-hydrate", "tb-proxy", "tb-runtime", "tb-billing"):
        assert vm.show(f"{unit}.service", "NRestarts") == "0", unit
        assert vm.show(f"{unit}.service", "User") == unit


def test_a_request_is_audited_in_its_own_journal(vm):
    before = len([r for r in vm.journal("_SYSTEMD_UNIT=tb-proxy.service") if r.get("TB_STATUS") == "200"])
    content(vm.chat(SHORT))
    found = wait_for(lambda: [r for r in vm.journal("_SYSTEMD_UNIT=tb-proxy.service") if r.get("TB_STATUS") == "200"][before:], 15,
                     "an audit record")
    record = json.loads(found[-1]["MESSAGE"])
    assert record["contract_id"] == CONTRACT and record["asset_id"] == ASSET and record["path"] == "/v1/chat/completions"
    assert vm.sh("journalctl -b --no-pager -o cat _SYSTEMD_UNIT=tb-proxy.service").count("req_sha256") == 0


def test_what_an_operator_sees(vm):
    assert json.loads(vm.sh("tb-status --json"))["state"] == "Ready"
    screen = vm.sh("setpriv --reuid nobody --regid nogroup --clear-groups tb-status")
    assert "Ready" in screen and "systemd-journal" in screen, "whoever may not read the journal is told how"


def test_the_audit_is_intact_in_both_places(vm):
    content(vm.chat(SHORT))
    for place in ("--journal", vm.AUDIT_FILE):
        verdict = json.loads(vm.sh(f"tb-audit verify --json {place}"))
        assert verdict["intact"] and verdict["records"] > 0, verdict
