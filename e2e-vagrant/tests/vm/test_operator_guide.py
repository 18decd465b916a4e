# SPDX-License-Identifier: Apache-2.0
"""The operator guide, typed on a fresh machine from its first command to its last. Each row of the troubleshooting table is provoked where it
stands; its symptom must be on the screen of tb-status, and its remedy, typed as printed, must make the machine serve again.

TB_GUIDE_ROWS='not enough memory|status 404' make check-guide installs and configures, and then tries only the rows whose symptom this
expression finds."""

import json
import os
import re

import guide_faults
import guidebook
import pytest
from guide_machine import TARGET, FreshMachine
from tbsys import repo, wait_for

PATIENCE = 600  # of a machine that is emulated beside others; a limit, not a wait
GUIDE = guidebook.Guide((repo / "docs/operator-guide.md").read_text())


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    vm = FreshMachine(tmp_path_factory.mktemp("guide"), GUIDE.applied)
    try:
        yield vm.begin()
    finally:
        vm.end()


def do(vm, step):
    if step.kind == "apply":
        for command in GUIDE.applied:
            vm.type(command)
    elif step.kind == "set":
        vm.set_lines(step.text)
    elif step.kind == "watch":
        vm.watch(step.text)
    else:
        vm.type(step.text)


def read_on(machine, step):
    """A reader goes on when what he did has taken effect."""
    do(machine, step)
    if step.kind == "watch" or re.match(r"systemctl (re)?start (?!tb-configure)", step.text):
        machine.wait_state("Ready")


def meet(vm, row, provoke, see):
    """Provokes it, and waits until its symptom is on the screen."""
    see = see or row.quoted
    assert all(text in row.symptom for text in see), f"{row} does not quote {see}"
    provoke(vm)
    try:
        wait_for(lambda: all(guidebook.shown(text, vm.screen()) for text in see), PATIENCE, f"{see} on the screen", every=1)
    except AssertionError as e:
        raise AssertionError(f"{e}\n{vm.screen()}") from None


def well(vm, row):
    """Ready, and nothing of it is wrong any more. What the journal says of the past may stay on the screen."""
    rc, screen = vm.run("tb-status")
    now = screen.split("\nUnits\n")[0]
    return rc == 0 and not any(guidebook.shown(text, now) for text in row.quoted)


def check_row(vm, row):
    fault = guide_faults.FAULTS[guide_faults.key_of(row)]
    vm.wait_state("Ready", PATIENCE)
    try:
        for provoke, see in fault.tries:
            meet(vm, row, provoke, see)
    finally:
        fault.correct(vm)
    for step in row.steps:
        do(vm, step)
    vm.wait_state("Ready", PATIENCE)
    try:
        wait_for(lambda: well(vm, row), PATIENCE, f"{row.quoted} to leave the screen", every=1)
    except AssertionError as e:
        raise AssertionError(f"{e}\n{vm.screen()}") from None


def name_of(step):
    text = " ".join(step.quoted) if isinstance(step, guidebook.Row) else step.text or step.kind
    return f"{step.line}-{text.splitlines()[0][:60]}"


def test_each_row_has_its_fault():
    assert sorted(map(guide_faults.key_of, GUIDE.rows)) == sorted(guide_faults.FAULTS)
    assert len(GUIDE.rows) > 20 and len(GUIDE.applied) >= 1


ROWS = os.environ.get("TB_GUIDE_ROWS")
LAST = [s for s in GUIDE.steps if s.heading == "Remove"]  # after which there is no journal to look at


def steps_to_try():
    if not ROWS:
        return [s for s in GUIDE.steps if s not in LAST]
    return [s for s in GUIDE.steps if s.heading in ("Install", "Configure") or isinstance(s, guidebook.Row) and re.search(ROWS, s.symptom)]


@pytest.mark.parametrize("step", steps_to_try(), ids=name_of)
def test_guide(machine, step):
    if isinstance(step, guidebook.Row):
        check_row(machine, step)
    else:
        read_on(machine, step)


def test_the_catalog_explained_all_that_went_wrong(machine):
    """Whatever the faults made our programs say above notice has the id of a text."""
    text = machine.sh("journalctl --namespace=trustbridge -b -p warning -o json --output-fields=MESSAGE,MESSAGE_ID,SYSLOG_IDENTIFIER --no-pager")
    said = [r for r in map(json.loads, text.splitlines()) if r.get("SYSLOG_IDENTIFIER", "").startswith("tb-")]
    assert len(said) > (0 if ROWS else 10)
    explained = set(re.findall(r"^-- (\w{32})$", (repo / "units/trustbridge.catalog").read_text(), re.M))
    assert [r for r in said if r.get("MESSAGE_ID") not in explained] == []


@pytest.mark.parametrize("step", LAST, ids=name_of)
def test_removal(machine, step):
    read_on(machine, step)


def test_nothing_is_left_but_the_ledger(machine):
    gone = f"/etc/trustbridge /etc/credstore/trustbridge.* {TARGET} /var/lib/tb-authorize /var/log/trustbridge /var/log/journal/*.trustbridge"
    assert machine.run(f"ls -d {gone} 2>/dev/null")[1].split() == []
    machine.sh("test -e /var/lib/tb-billing/ledger.db")
