# SPDX-License-Identifier: Apache-2.0
"""A purchase makes, changes and ends a contract: notifications of managed applications in any order, again and again, with Azure Resource
Manager answering, silent or not asked."""

import json
import random
import re
import secrets
import signal
import uuid

import pytest

import postgresql
import tbsys
from azure_manager import SUBSCRIPTION, Application, Manager, contract_of, error
from controlplane_server import ASSET, KEY, Server, until_limited
from machine_identity import Machine

PATH = "/api/v1/purchases/resource"
PLAN = "acme/models/standard"


class Seller:
    """A control plane that takes notifications."""

    def __init__(self, directory, *options, verify=True, database=None, name="server", manager=None):
        directory.mkdir(exist_ok=True)
        self.manager, self.sig = manager or Manager(), secrets.token_urlsafe(24)
        self.sigs = directory / f"{name}.sig"
        self.sigs.write_text(self.sig + "\n")
        self.server = Server(directory / "data", "--purchase-sig-file", self.sigs, "--arm", self.manager.url,
                             *([] if verify else ["--purchase-verify", "false"]), *options, database=database, name=name)
        self.server.daemon.env["AZURE_POD_IDENTITY_AUTHORITY_HOST"] = self.manager.url

    def __enter__(self):
        self.server.start()
        return self

    def __exit__(self, *exc):
        self.server.daemon.stop()
        self.manager.__exit__()

    def sell(self, *options, name="standard", plan=PLAN):
        assert self.server.register()[0] in (200, 201)
        self.server.cli("offer", "add", name, "--plan", plan, "--asset", ASSET, *(options or ["--mode", "open"]))

    def notify(self, notice, sig=None, path=PATH, times=1):
        body = notice if isinstance(notice, (str, bytes)) else json.dumps(notice)
        for _ in range(times):
            status, answer, _ = self.server.call("POST", f"{path}?sig={self.sig if sig is None else sig}", body, {"Content-Type": "application/json"})
        return status, answer

    def told(self, notice, **kw):
        assert self.notify(notice, **kw) == (200, {"status": "accepted"})

    def purchases(self):
        return {a["application_id"]: a for a in json.loads(self.server.cli("purchase", "list", "--json"))}

    def state(self, app):
        return self.purchases().get(app.id.lower(), {}).get("state")

    def is_(self, app, state):
        tbsys.wait_for(lambda: self.state(app) == state, what=f"{app.id} being {state}, not {self.state(app)}")
        return self.purchases()[app.id.lower()]

    def contracts(self):
        return {c["contract_id"]: c for c in json.loads(self.server.cli("contract", "list", "--json"))}

    def contract(self, app):
        return self.contracts().get(contract_of(app.id))

    def serves(self, app):
        body = self.server.authorize(contract_of(app.id))[1]
        return body.get("decryption_key_hex") == KEY or body["reason"]

    def changes(self):
        return [json.loads(line) for line in self.server.cli("changes").splitlines()]

    def log(self):
        return self.server.log.read_text()


@pytest.fixture(scope="module")
def postgres():
    with postgresql.PostgreSQL() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def seller(request, tmp_path):
    database = request.getfixturevalue("postgres").create("p" + secrets.token_hex(4)) if request.param == "postgresql" else None
    with Seller(tmp_path, database=database) as s:
        yield s


@pytest.fixture()
def alone(tmp_path):
    """Without Resource Manager."""
    with Seller(tmp_path, verify=False) as s:
        yield s


def test_the_life_of_a_purchase(seller):
    seller.sell("--mode", "open", "--max-hw", "2", "--lease-seconds", "600")
    app = Application(seller.manager, "llama")
    seller.told(app.accepted())
    row = seller.is_(app, "granted")
    assert row["contract_id"] == contract_of(app.id) and row["resource_usage_id"] == app.usage_id and row["source"] == PLAN
    assert row["managed_group"] == app.managed.lower()
    c = seller.contract(app)
    assert (c["asset_id"], c["state"], c["lease_seconds"], c["max_hw"], c["mode"]) == (ASSET, "active", 600, 2, "open")
    assert seller.serves(app) is True
    seller.told(app.succeeded())
    seller.told(app.event("PATCH", "Succeeded"))
    seller.told(app.deleting())
    seller.is_(app, "ended")
    assert seller.serves(app) == "application_deleted"
    seller.told(app.deleted())
    tbsys.wait_for(lambda: "DELETE Deleted" in json.dumps(seller.purchases()), what="the last notification")
    assert seller.serves(app) == "application_deleted"
    actions = [(c["action"], c["object"]) for c in seller.changes() if c["actor"] == "marketplace"]
    assert actions == [("contract.buy", contract_of(app.id)), ("contract.end", contract_of(app.id))]
    for word in ("PUT Accepted", "PUT Succeeded", "PATCH Succeeded", "DELETE Deleting", "DELETE Deleted"):
        assert f"{app.id.lower()}: {word}" in seller.log()
    assert seller.sig not in seller.log()


def test_service_catalog(seller):
    definition = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/defs/providers/Microsoft.Solutions/applicationDefinitions/Models"
    seller.server.register()
    seller.server.cli("offer", "add", "catalog", "--definition", definition, "--asset", ASSET, "--mode", "open")
    app = Application(seller.manager, "internal", definition=definition)
    seller.told(app.accepted())
    row = seller.is_(app, "granted")
    assert row["source"] == definition.lower() and row["resource_usage_id"] == ""
    assert seller.serves(app) is True


def test_sig(seller):
    seller.sell()
    app = Application(seller.manager, "llama")
    notice = app.accepted()
    for sig in ("", "x", seller.sig[:-1], seller.sig + "x", seller.sig.swapcase()):
        status, body = seller.notify(notice, sig=sig)
        assert (status, body["error"]) == (403, "forbidden"), sig
    status, body, _ = seller.server.call("POST", PATH, notice)  # none
    assert status == 403 and seller.purchases() == {}
    assert seller.server.call("GET", f"{PATH}?sig={seller.sig}")[0] == 405
    seller.told(notice, path="/api/v1/purchases//resource")  # the provider ended the URL with a slash
    seller.is_(app, "granted")
    with seller.sigs.open("a") as f:
        f.write("another-sig-of-24-bytes!\n")
    seller.server.daemon.stop()
    seller.server.start()
    seller.told(app.event("PATCH", "Succeeded"), sig="another-sig-of-24-bytes!")
    seller.told(app.event("PATCH", "Succeeded"))
    assert "another-sig" not in seller.log() and seller.sig not in seller.log()


def test_guesses_of_the_sig_are_slowed(tmp_path):
    with Seller(tmp_path) as s:
        assert until_limited(lambda n: s.notify({}, sig=f"guess-number-{n}")[0]) == {403}
        # with the right one too: Azure comes again
        tbsys.wait_for(lambda: s.notify({}, sig="guess") and s.notify({})[0] == 429, what="a right notice that is limited, too")
    with Server(tmp_path / "none" / "data") as plain:
        assert plain.call("POST", f"{PATH}?sig=x", {})[0] == 404


def test_bodies_that_are_none(seller):
    app = Application(seller.manager, "llama")
    good = app.accepted()
    for body in ("", "{", "[]", "null", "{}", json.dumps({**good, "applicationId": "/subscriptions/x"}), json.dumps({**good, "eventType": "P U T"}),
                 json.dumps({**good, "provisioningState": 7}), json.dumps({**good, "applicationId": app.id + "/../x"}),
                 json.dumps({**good, "applicationId": app.id.replace("customer-rg", "a?b")}), "{" * 2000, b"\xff\xfe"):
        status, answer = seller.notify(body)
        assert (status, answer["error"]) == (400, "invalid_request"), body
    status, answer = seller.notify(json.dumps({**good, "error": {"message": "x" * 70000}}))
    assert (status, answer["error"]) == (413, "payload_too_large")
    assert seller.purchases() == {} and seller.manager.calls == []
    odd = {**good, "eventType": "POST", "provisioningState": "Paused", "eventTime": "tomorrow", "new": {"member": [1]}, "plan": None, "billingDetails": 3}
    seller.sell()
    seller.told(odd)  # Resource Manager says what is
    seller.is_(app, "granted")


def test_an_offer_that_is_not_known_waits_for_it(seller):
    assert seller.server.register()[0] == 201
    app = Application(seller.manager, "llama", plan=("acme", "models", "gold"))
    seller.told(app.accepted())
    row = seller.is_(app, "held")
    assert "acme/models/gold" in row["problem"] and "offer add" in row["problem"] and seller.contract(app) is None
    assert "acme/models/gold" in seller.server.cli("purchase", "list")
    assert seller.serves(app) == "contract_invalid"
    seller.told(app.succeeded())
    seller.server.cli("offer", "add", "gold", "--plan", "Acme/Models/Gold", "--asset", ASSET, "--mode", "open")
    seller.is_(app, "granted")
    assert seller.serves(app) is True
    assert seller.log().count("no offer has the plan") == 1
    assert "another offer has the plan" in seller.server.cli("offer", "add", "more", "--plan", "acme/models/gold", "--asset", ASSET, rc=64)


def test_deletion_before_the_purchase(seller):
    seller.sell()
    app = Application(seller.manager, "llama")
    put, delete = app.event("PUT", "Accepted"), app.event("DELETE", "Deleted")
    seller.told(delete)
    seller.is_(app, "ended")
    seller.told(put)  # late: Resource Manager has no such application
    tbsys.wait_for(lambda: "PUT Accepted" in seller.log(), what="the late notification")
    seller.is_(app, "ended")
    assert seller.contract(app) is None


def test_replays_and_disorder_make_one_contract(seller):
    seller.sell()
    app = Application(seller.manager, "llama")
    notices = [app.accepted(), app.event("PUT", "Succeeded"), app.event("PATCH", "Succeeded")]
    app.be("Succeeded")
    notices *= 7
    random.Random(7).shuffle(notices)
    for n in notices:
        seller.told(n)
    seller.is_(app, "granted")
    assert [c["action"] for c in seller.changes() if c["actor"] == "marketplace"] == ["contract.buy"]
    assert len([c for c in seller.contracts() if c.startswith("app-")]) == 1 and seller.log().count("(again)") == 18
    gone = [app.event("DELETE", "Deleting"), app.event("DELETE", "Deleted")] * 3
    app.be(None)
    for n in [*gone, *notices]:
        seller.told(n)
    seller.is_(app, "ended")
    assert [c["action"] for c in seller.changes() if c["actor"] == "marketplace"] == ["contract.buy", "contract.end"]
    assert seller.serves(app) == "application_deleted"


def test_bought_again_after_its_deletion(seller, tmp_path):
    """The same application id, another purchase: the machines and codes of the first are none of it."""
    seller.sell("--mode", "enrolled")
    app = Application(seller.manager, "llama")
    seller.told(app.accepted())
    seller.is_(app, "granted")
    seller.told(app.succeeded())
    contract, first = contract_of(app.id), app.usage_id
    code = seller.server.cli("contract", "code", contract, "--code-uses", "5").strip()
    old = Machine(tmp_path, "old")
    assert old.enrol(seller.server, contract, code)[0] == 200 and old.authorize(seller.server, contract)[1]["decryption_key_hex"] == KEY
    seller.told(app.deleting())
    seller.told(app.deleted())
    seller.is_(app, "ended")
    seller.told(app.bought_again())
    row = seller.is_(app, "granted")
    assert row["resource_usage_id"] == app.usage_id != first and seller.contract(app)["state"] == "active"
    assert old.authorize(seller.server, contract)[1]["reason"] == "machine_unknown"
    assert Machine(tmp_path, "more").enrol(seller.server, contract, code)[1]["reason"] == "enrolment_code_used"


def test_a_deletion_that_fails_takes_nothing(seller, tmp_path):
    seller.sell("--mode", "enrolled")
    app = Application(seller.manager, "llama")
    seller.told(app.accepted())
    seller.told(app.succeeded())
    seller.is_(app, "granted")
    contract = contract_of(app.id)
    m = Machine(tmp_path)
    assert m.enrol(seller.server, contract, seller.server.cli("contract", "code", contract).strip())[0] == 200
    tbsys.wait_for(lambda: seller.purchases()[app.id.lower()]["event"] == "PUT Succeeded", what="the deployment")
    tbsys.wait_for(lambda: any(c for c in seller.manager.calls), what="a look")
    seller.told(app.deleting())
    seller.is_(app, "ended")
    app.be("Failed")
    seller.told(app.event("DELETE", "Failed", "DeletionFailed"))
    seller.is_(app, "granted")
    assert m.authorize(seller.server, contract)[1]["decryption_key_hex"] == KEY  # the machine is still its
    assert "DELETE Failed: DeletionFailed: it went wrong" in seller.log() and "\x1b" not in seller.log()


def test_a_deployment_that_fails(seller):
    seller.sell()
    app, other = Application(seller.manager, "llama"), Application(seller.manager, "served")
    seller.told(app.accepted())
    seller.is_(app, "granted")
    seller.told(app.failed())
    seller.is_(app, "ended")
    assert seller.serves(app) == "application_failed"
    seller.told(app.succeeded())  # the customer tried again
    seller.is_(app, "granted")
    assert seller.serves(app) is True
    seller.told(other.succeeded())
    seller.is_(other, "granted")
    seller.told(other.failed())  # an update: what serves goes on
    tbsys.wait_for(lambda: seller.purchases()[other.id.lower()]["event"] == "PUT Failed", what="the failure")
    assert seller.serves(other) is True


def test_resource_manager_that_is_away_refuses_or_lies(seller):
    seller.sell()
    app = Application(seller.manager, "llama")
    seller.manager.fault = error(503, "ServiceUnavailable")
    seller.told(app.accepted())
    tbsys.wait_for(lambda: seller.purchases()[app.id.lower()].get("problem"), what="the problem")
    assert seller.state(app) == "new" and seller.contract(app) is None
    seller.manager.fault, seller.manager.denied = None, True
    seller.told(app.event("PATCH", "Succeeded"))  # looked at again, now
    tbsys.wait_for(lambda: "Reader" in seller.purchases()[app.id.lower()].get("problem", ""), what="the refusal")
    seller.manager.denied = False
    seller.told(app.succeeded())
    assert "problem" not in seller.is_(app, "granted")
    # a 404 that is not the application's says nothing of it, nor does one that nobody announced
    seller.manager.fault = error(404, "SubscriptionNotFound")
    seller.told(app.event("DELETE", "Deleting"))
    tbsys.wait_for(lambda: "404" in seller.purchases()[app.id.lower()].get("problem", ""), what="the strange 404")
    assert seller.serves(app) is True
    seller.manager.fault = error(404, "ResourceNotFound")
    before = len(seller.manager.calls)
    seller.told(app.event("PATCH", "Succeeded"))
    tbsys.wait_for(lambda: len(seller.manager.calls) > before, what="a look")
    assert seller.serves(app) is True and seller.state(app) == "granted"
    seller.told(app.event("DELETE", "Deleted"))
    seller.is_(app, "ended")


def test_forged_notifications_change_nothing(seller):
    """Who has the sig alone neither makes a contract nor ends one."""
    seller.sell()
    app, none = Application(seller.manager, "llama"), Application(seller.manager, "none")
    seller.told(app.succeeded())
    seller.is_(app, "granted")
    before = len(seller.manager.calls)
    seller.told(app.event("DELETE", "Deleted"))
    seller.told(none.event("PUT", "Succeeded"))
    tbsys.wait_for(lambda: len(seller.manager.calls) >= before + 2, what="two looks")
    tbsys.wait_for(lambda: seller.state(none) == "new", what="the other application")
    assert seller.serves(app) is True and seller.contract(none) is None


def test_a_queue_survives_the_server(tmp_path):
    with Seller(tmp_path) as s:
        s.sell()
        app = Application(s.manager, "llama")
        s.manager.fault = error(503, "ServiceUnavailable")
        s.told(app.accepted())
        tbsys.wait_for(lambda: s.purchases()[app.id.lower()].get("problem"), what="the problem")
        s.server.daemon.kill(signal.SIGKILL)
        s.manager.fault = None
        s.server.start()
        s.is_(app, "granted")


def test_replicas_side_by_side(tmp_path, postgres):
    database = postgres.create("replicas")
    with Seller(tmp_path, database=database, name="one") as one, \
            Seller(tmp_path, database=database, name="two", manager=one.manager) as two:
        one.sell()
        apps = [Application(one.manager, f"app-{n}") for n in range(12)]
        for n, app in enumerate(apps):
            notice = app.accepted()
            for s in (one, two) * 2:
                s.told(notice)
        for app in apps:
            one.is_(app, "granted")
        assert [c["action"] for c in two.changes() if c["actor"] == "marketplace"] == ["contract.buy"] * 12
        one.server.daemon.kill(signal.SIGKILL)
        for app in apps:
            two.told(app.deleted())
        for app in apps:
            two.is_(app, "ended")


def test_a_contract_that_the_customer_names(seller):
    """Of a private offer. A contract's id is no secret: naming one neither binds nor ends it."""
    seller.server.register()
    seller.server.cli("contract", "add", "acme-1", "--asset", ASSET, "--mode", "open")
    app = Application(seller.manager, "llama", contract="acme-1")
    thief = Application(seller.manager, "thief", contract="acme-1", subscription="99999999-0000-4000-8000-000000000009")
    nobody = Application(seller.manager, "nobody", contract="no-such")
    for a in (app, thief, nobody):
        seller.told(a.succeeded())
        assert "contract await" in seller.is_(a, "held")["problem"]
    assert "--subscription" in seller.server.cli("contract", "await", "acme-1", rc=64)
    assert "no contract" in seller.server.cli("contract", "await", "none", "--subscription", SUBSCRIPTION, rc=66)
    seller.server.cli("contract", "await", "acme-1", "--subscription", SUBSCRIPTION.upper())
    assert seller.is_(app, "granted")["contract_id"] == "acme-1"
    second = Application(seller.manager, "second", contract="acme-1")
    seller.told(second.succeeded())
    assert "another application" in seller.is_(second, "held")["problem"]
    for a in (thief, second):
        seller.told(a.deleted())
        seller.is_(a, "ended")
    assert seller.contracts()["acme-1"]["state"] == "active"
    seller.told(app.deleted())
    seller.is_(app, "ended")
    assert seller.server.authorize("acme-1")[1]["reason"] == "application_deleted"


def test_a_contract_is_bought_by_one_application_however_many_had_it(seller):
    """Of those that had it before, none stands in for the one that has it now."""
    seller.server.register()
    seller.server.cli("contract", "add", "acme-1", "--asset", ASSET, "--mode", "open")
    seller.server.cli("contract", "await", "acme-1", "--subscription", SUBSCRIPTION)
    apps = [Application(seller.manager, f"llama-{n}", contract="acme-1") for n in range(4)]
    for a in apps[:2]:  # one after the other
        seller.told(a.succeeded())
        seller.is_(a, "granted")
        seller.told(a.deleted())
        seller.is_(a, "ended")
    now, other = apps[2:]
    seller.told(now.succeeded())
    seller.is_(now, "granted")
    seller.told(other.succeeded())
    assert "another application" in seller.is_(other, "held")["problem"]
    seller.told(other.deleted())
    seller.is_(other, "ended")
    assert seller.server.authorize("acme-1")[1]["status"] == "authorized"


def test_what_a_person_refused_stays_refused(seller):
    seller.sell()
    app = Application(seller.manager, "llama")
    seller.told(app.succeeded())
    seller.is_(app, "granted")
    seller.server.cli("contract", "revoke", contract_of(app.id))
    seller.told(app.event("PATCH", "Succeeded"))
    seller.told(app.deleted())
    seller.is_(app, "ended")
    assert seller.serves(app) == "contract_revoked"
    seller.told(app.bought_again())
    seller.is_(app, "granted")
    assert seller.serves(app) == "contract_revoked" and "stays refused" in seller.log()
    seller.server.cli("contract", "allow", contract_of(app.id))
    assert seller.serves(app) is True


def test_another_plan(seller):
    seller.sell("--mode", "open", "--max-hw", "1")
    seller.server.cli("offer", "add", "gold", "--plan", "acme/models/gold", "--asset", ASSET, "--mode", "open", "--max-hw", "8")
    app = Application(seller.manager, "llama")
    seller.told(app.succeeded())
    seller.is_(app, "granted")
    assert seller.contract(app)["max_hw"] == 1
    app.plan = ("acme", "models", "gold")
    seller.told(app.succeeded())
    tbsys.wait_for(lambda: seller.contract(app)["max_hw"] == 8, what="the terms of the other plan")
    seller.server.cli("offer", "remove", "gold")
    assert [o["offer_id"] for o in json.loads(seller.server.cli("offer", "list", "--json"))] == ["standard"]
    assert "no offer" in seller.server.cli("offer", "remove", "gold", rc=66)


def test_a_purchase_is_billed_to_its_plan_and_usage_id(seller):
    seller.sell("--mode", "open", "--dimensions", "requests,tokens=ktok")
    seller.server.cli("offer", "add", "bad", "--plan", "acme/models/gold", "--asset", ASSET, "--dimensions", "gold", rc=64)
    app = Application(seller.manager, "llama")
    seller.told(app.accepted())
    seller.is_(app, "granted")
    terms = seller.server.cli("contract", "bill", contract_of(app.id))
    assert f"resource {app.usage_id}, plan {PLAN.rsplit('/', 1)[1]}, dimensions requests,tokens=ktok" in terms
    assert seller.server.authorize(contract_of(app.id))[1]["billed_by"] == "control_plane"
    assert "by its machines" in seller.server.cli("contract", "bill", "contract-allow")


def test_without_resource_manager_the_newest_event_counts(alone):
    alone.sell()
    app = Application(alone.manager, "llama")
    accepted, succeeded = app.event("PUT", "Accepted"), app.event("PUT", "Succeeded")
    deleting, deleted = app.event("DELETE", "Deleting"), app.event("DELETE", "Deleted")
    alone.told(succeeded)
    alone.is_(app, "granted")
    alone.told(accepted)
    alone.told(deleted)
    alone.is_(app, "ended")
    for late in (accepted, succeeded, deleting):
        alone.told(late)
    alone.is_(app, "ended")
    assert alone.serves(app) == "application_deleted"
    app.usage_id = str(uuid.uuid4())
    alone.told(app.event("PUT", "Accepted"))
    alone.is_(app, "granted")
    assert alone.serves(app) is True
    alone.told(app.event("PUT", "Failed", "Boom"))
    alone.is_(app, "ended")
    assert alone.serves(app) == "application_failed" and alone.manager.calls == []


# -- machines without a code -------------------------------------------------------------------------------------------

def enrol(seller, contract, machine, token):
    return machine.take(seller.server.call("POST", "/api/v1/machines/enrol",
                                           {"contract_id": contract, "identity_token": token, "csr": machine.csr()}))


def test_a_machine_of_the_purchase_enrols_by_its_managed_identity(seller, tmp_path):
    seller.sell("--mode", "enrolled", "--max-hw", "2")
    app, other = Application(seller.manager, "llama"), Application(seller.manager, "other")
    for a in (app, other):
        seller.told(a.succeeded())
        seller.is_(a, "granted")
    contract, vm = contract_of(app.id), f"{app.managed}/providers/Microsoft.Compute/virtualMachines/tb-vm"
    assert seller.serves(app) == "enrolment_required"
    m = Machine(tmp_path)
    for resource, good, reason in ((vm, False, "identity_untrusted"), (None, True, "identity_untrusted"),
                                   (vm.replace("mrg-llama", "mrg-llama2"), True, "identity_not_of_purchase"),
                                   (vm.replace("/mrg-", "/x/mrg-"), True, "identity_not_of_purchase"),
                                   (f"{other.managed}/providers/Microsoft.Compute/virtualMachines/x", True, "identity_not_of_purchase"),
                                   (f"{app.managed}/providers/Microsoft.Storage/storageAccounts/x", True, "identity_not_of_purchase")):
        status, body = enrol(seller, contract, m, seller.manager.machine_token(resource, good))
        assert (status, body["reason"]) == (403, reason), resource
    for token in ("x", "a.b.c", "a." + "Z" * 100, "", "x" * 9000):
        assert enrol(seller, contract, m, token)[0] in (400, 403)
    token = seller.manager.machine_token(vm)
    assert enrol(seller, contract, m, token)[0] == 200
    assert m.authorize(seller.server, contract)[1]["decryption_key_hex"] == KEY
    assert enrol(seller, contract, m, token)[0] == 200  # no answer came
    assert token not in seller.log() and vm.lower() in seller.server.cli("changes")
    # expelled is the machine, whatever key it makes next
    seller.server.cli("machine", "expel", contract, "--machine", m.id)
    again = Machine(tmp_path, "again")
    assert enrol(seller, contract, again, seller.manager.machine_token(vm))[1]["reason"] == "machine_expelled"
    assert enrol(seller, contract, again, seller.manager.machine_token(vm + "-2"))[0] == 200
    seller.manager.fault = error(503, "ServiceUnavailable")
    seller.told(app.deleted())
    seller.manager.fault = None
    seller.told(app.event("DELETE", "Deleted"))
    seller.is_(app, "ended")
    assert enrol(seller, contract, Machine(tmp_path, "late"), seller.manager.machine_token(vm + "-3"))[1]["reason"] == "contract_inactive"


def test_an_identity_is_one_machine_and_enrols_few_keys(seller, tmp_path):
    """Who has the token of a machine can take its place, which shows, and not make machines without end."""
    seller.sell("--mode", "enrolled", "--max-hw", "2")
    app = Application(seller.manager, "llama")
    seller.told(app.succeeded())
    seller.is_(app, "granted")
    contract, vm = contract_of(app.id), f"{app.managed}/providers/Microsoft.Compute/virtualMachines/tb-vm"
    token = seller.manager.machine_token(vm)
    machines = [Machine(tmp_path, f"m{n}") for n in range(13)]
    for n, m in enumerate(machines[:12]):
        assert enrol(seller, contract, m, token)[0] == 200
        assert m.authorize(seller.server, contract)[1]["status"] == "authorized"  # the one before has left its slot
        if n:
            assert machines[n - 1].authorize(seller.server, contract)[1]["reason"] == "machine_unknown"
            assert machines[n - 1].renew(seller.server)[1]["reason"] == "machine_unknown"
    assert [m["hw_id"] for m in json.loads(seller.server.cli("machine", "list", "--json"))] == [machines[11].id]
    status, body = enrol(seller, contract, machines[12], token)
    assert (status, body["reason"]) == (403, "enrolment_limit_reached") and "tomorrow" in body["message"]
    assert enrol(seller, contract, machines[11], token)[0] == 200  # no answer came
    assert machines[11].authorize(seller.server, contract)[1]["decryption_key_hex"] == KEY
    assert enrol(seller, contract, machines[12], seller.manager.machine_token(vm + "-2"))[0] == 200  # another machine
    # the instances of a scale set share an id, and are so many machines
    one, two = Machine(tmp_path, "one"), Machine(tmp_path, "two")
    fleet = seller.manager.machine_token(vm.replace("virtualMachines/tb-vm", "virtualMachineScaleSets/fleet"))
    assert enrol(seller, contract, one, fleet)[0] == enrol(seller, contract, two, fleet)[0] == 200
    assert one.renew(seller.server)[0] == two.renew(seller.server)[0] == 200


def test_a_stranger_makes_the_server_ask_nobody(seller, tmp_path):
    """What a token says is looked at before Resource Manager is asked who wrote it; and guesses are slowed."""
    seller.sell("--mode", "enrolled")
    app = Application(seller.manager, "llama")
    seller.told(app.succeeded())
    seller.is_(app, "granted")
    m, machines = Machine(tmp_path), "providers/Microsoft.Compute/virtualMachines"

    def asked():
        return [c for c in seller.manager.calls if "/subscriptions?" in str(c)]
    for contract, group in ((contract_of(app.id), "/subscriptions/x/resourceGroups/mine"), ("no-such", app.managed), ("contract-allow", app.managed)):
        assert enrol(seller, contract, m, seller.manager.machine_token(f"{group}/{machines}/vm"))[0] == 403
    assert not asked()
    assert enrol(seller, contract_of(app.id), m, seller.manager.machine_token(f"{app.managed}/{machines}/vm", good=False))[0] == 403
    assert len(asked()) == 1
    until_limited(lambda n: enrol(seller, f"no-such-{n}", m, seller.manager.machine_token(f"{app.managed}/{machines}/vm"))[0], spent=10)
    assert len(asked()) == 1


def test_an_identity_is_nothing_where_resource_manager_is_not_asked(alone, tmp_path):
    alone.sell("--mode", "enrolled")
    app = Application(alone.manager, "llama")
    alone.told(app.succeeded())
    alone.is_(app, "granted")
    token = alone.manager.machine_token(f"{app.managed}/providers/Microsoft.Compute/virtualMachines/vm")
    assert enrol(alone, contract_of(app.id), Machine(tmp_path), token)[1]["reason"] == "identity_untrusted"


def test_settings_that_are_wrong(tmp_path):
    short = tmp_path / "short"
    short.write_text("too-short\n")
    good = tmp_path / "good"
    good.write_text("a" * 32)
    for options, words in (([("--purchase-sig-file"), str(tmp_path / "none")], "cannot read the purchase sig file"),
                           (["--purchase-sig-file", str(short)], "fewer than 16"),
                           (["--purchase-sig-file", str(good), "--purchase-verify", "maybe"], "true or false"),
                           (["--purchase-sig-file", str(good), "--arm", "ftp://x"], "--arm")):
        s = Server(tmp_path / "data", *options)
        s.data.mkdir(exist_ok=True)
        text = s.cli("serve", "--listen", "127.0.0.1:0", *options, rc=78 if "sig file" in words or "fewer" in words else 64)
        assert words in text and "too-short" not in text
    assert re.search("--plan .* is not PUBLISHER", Server(tmp_path / "data").cli("offer", "add", "x", "--plan", "a/b", "--asset", "m", rc=64))
