# SPDX-License-Identifier: Apache-2.0
"""A full disk under the audit trail."""

from chain import http_json
from scenario import SHORT, content, models, pids
from tbsys import wait_for


def test_without_room_for_the_audit_nothing_is_served(vm):
    before, last = pids(vm, "tb-authorize", "tb-proxy", "tb-runtime"), vm.audit_file()[-1]
    answers = []

    def ask():
        answers.append(models(vm))
        return answers[-1]

    vm.fill("/var")
    try:
        wait_for(lambda: ask() == 503, 400, "a refusal")  # what fits into the last block is still written
        status, body = http_json(vm.url("/v1/models"))
        answers.append(status)
        assert (status, body["error"]["code"]) == (503, "audit_unavailable")
        # The look at the disk may refuse before a record has failed: the last block still takes those of the refusals.
        wait_for(lambda: ask() == 503 and "cannot be written" in vm.status()["reason"], 400, "a record that cannot be written")
    finally:
        vm.unfill("/var")
    wait_for(lambda: ask() == 200, 400, "answers when there is room again")
    assert content(vm.chat(SHORT))
    # Refusals are requests, too: each has its record, once, in order.
    want = list(range(last + 1, last + len(answers) + 2))
    wait_for(lambda: vm.audit_file(last)[-1:] == want[-1:], 400, "the records of all requests", every=0.3)
    assert vm.audit_file(last) == want
    said = [r["MESSAGE"] for r in vm.journal("_SYSTEMD_UNIT=tb-proxy.service", "PRIORITY=6")]
    assert "audit: writing works again" in said
    assert pids(vm, *before) == before
