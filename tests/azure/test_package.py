# SPDX-License-Identifier: Apache-2.0
"""The three files of a Managed Application together: as tbpkg package makes them, through the checks of arm-ttk and of the portal's
documentation. Each check is broken once, on purpose, to see it caught."""
import copy
import json
import re
import subprocess
import zipfile

import pytest

import armttk
import portal
from deployment import APP, BICEP, BUILD, GALLERY, GUIDE, IMAGE, REPO, TEMPLATE, validate

UI = json.loads((BICEP / "createUiDefinition.json").read_text())
VIEW = json.loads((BICEP / "viewDefinition.json").read_text())
# What the provider settles, by tbpkg package or in the image, and the consumer's portal does not ask.
PROVIDERS = {"assetId", "edcEndpoint", "imageId", "imagePublisher", "imageOffer", "imagePlan", "imageVersion", "secureBoot", "osDiskSizeGB",
             "billingEnabled", "billingPlanId", "billingDimension", "crossTenant", "adminUsername", "adminPassword", "sshPublicKey",
             "sshSourcePrefix", "bootDiagnostics", "tags", "providerKey", "closedImage", "tlsCertificate", "tlsPrivateKey"}


def packaged():
    """mainTemplate.json with the defaults that tbpkg package fills in."""
    t = json.loads(TEMPLATE.read_text())
    for name, value in {"assetId": GUIDE["assetId"], "edcEndpoint": GUIDE["edcEndpoint"], **IMAGE}.items():
        t["parameters"][name]["defaultValue"] = value
    return t


def resource(t, kind):
    return next(r for r in t["resources"] if r["type"].endswith("/" + kind))


def machine(t):
    return resource(t, "virtualMachines")["properties"]


def element(ui, name):
    lists = [ui["parameters"]["basics"], *(s["elements"] for s in ui["parameters"]["steps"])]
    return next(e for elements in lists for e in elements if e["name"] == name)


def step(ui, name):
    return next(s for s in ui["parameters"]["steps"] if s["name"] == name)


def add(ui, **members):
    ui["parameters"]["steps"][0]["elements"].append({"name": "extra", "label": "x", "toolTip": "x", **members})


def test_package_passes():
    found = armttk.check(packaged(), UI)
    assert not found, found


def test_repository_lacks_only_what_the_provider_fills_in():
    found = {(n, m.split()[1]) for n, _, m in armttk.check(TEMPLATE.read_text(), UI)}
    rule = "Parameters-Without-Default-Must-Exist-In-CreateUIDefinition"
    assert found == {(rule, "assetId"), (rule, "edcEndpoint")}


def portal_parameters(ui):
    """What the portal gives the template when the consumer fills in the contract and leaves the rest."""
    filled = {"contractId": GUIDE["contractId"], "enrolmentCode": ""}  # a password box has no default: left alone it is empty
    for c in portal.controls(ui):
        if c["type"] in portal.NO_TOOL_TIP or c["name"] in filled:
            continue
        choices = {v["label"]: v["value"] for v in c.get("constraints", {}).get("allowedValues", [])}
        value = c["recommendedSizes"][0] if "recommendedSizes" in c else c["defaultValue"]
        filled[c["name"]] = choices.get(value, value)
    return {**filled, "location": "westeurope"}


@pytest.mark.parametrize("image", ["contoso:model:vm-hidden", GALLERY])
def test_package_of_tbpkg(tmp_path, image):
    """The real thing: what tbpkg package writes, checked, and deployed with what the portal would send."""
    subprocess.run([BUILD / "tbpkg", "package", "--template-dir", BICEP, "--asset-id", GUIDE["assetId"], "--edc-endpoint", GUIDE["edcEndpoint"],
                    "--vm-image", image, "--output-zip", tmp_path / "app.zip"], check=True, capture_output=True, timeout=60)
    with zipfile.ZipFile(tmp_path / "app.zip") as z:
        z.extractall(tmp_path)
    template, ui, view = (json.loads((tmp_path / n).read_text()) for n in ("mainTemplate.json", "createUiDefinition.json", "viewDefinition.json"))
    assert not armttk.check(template, ui) and not list(portal.ui_faults(ui)) and not list(portal.view_faults(view))
    parameters = portal_parameters(ui)
    assert set(parameters) == set(ui["parameters"]["outputs"])
    assert validate(tmp_path / "mainTemplate.json", parameters) == (0, "", "")
    deployed = json.loads(validate(tmp_path / "mainTemplate.json", parameters, "--print", "--managed-by", APP)[1])
    machine = next(r for r in deployed["resources"] if r["type"] == "Microsoft.Compute/virtualMachines")
    assert ("plan" in machine) == (image != GALLERY) and machine["tags"]["trustbridge-asset"] == GUIDE["assetId"]


def test_package_of_tbpkg_that_asks_for_its_image(tmp_path):
    """--no-image: the form has one question more, the rules of certification still hold, and the answer is what the machines start from."""
    subprocess.run([BUILD / "tbpkg", "package", "--template-dir", BICEP, "--asset-id", GUIDE["assetId"], "--edc-endpoint", GUIDE["edcEndpoint"],
                    "--no-image", "--output-zip", tmp_path / "app.zip"], check=True, capture_output=True, timeout=60)
    with zipfile.ZipFile(tmp_path / "app.zip") as z:
        z.extractall(tmp_path)
    template, ui = (json.loads((tmp_path / n).read_text()) for n in ("mainTemplate.json", "createUiDefinition.json"))
    assert not armttk.check(template, ui) and not list(portal.ui_faults(ui))
    asked = element(ui, "imageId")
    assert re.search(asked["constraints"]["regex"], GALLERY)
    parameters = {**portal_parameters(ui), "imageId": GALLERY}
    assert set(parameters) == set(ui["parameters"]["outputs"])
    assert validate(tmp_path / "mainTemplate.json", parameters) == (0, "", "")
    deployed = json.loads(validate(tmp_path / "mainTemplate.json", parameters, "--print", "--managed-by", APP)[1])
    assert machine({"resources": deployed["resources"]})["storageProfile"]["imageReference"] == {"id": GALLERY}


def nested(**properties):
    return {"type": "Microsoft.Resources/deployments", "apiVersion": "2025-04-01", "name": "n", "location": "[parameters('location')]",
            "properties": properties}


def extension(t, **settings):
    t["resources"].append({"type": "Microsoft.Compute/virtualMachines/extensions", "apiVersion": "2025-04-01", "name": "a/b",
                           "location": "[parameters('location')]", "properties": settings})


BROKEN = {
    "Allowed-Values-Should-Actually-Be-Allowed": lambda t, u: element(u, "logLevel")["constraints"]["allowedValues"][0].update(value="trace"),
    "Controls-In-Outputs-Must-Exist": lambda t, u: u["parameters"]["outputs"].update(vmSize="[steps('machine').size]"),
    "CreateUIDefinition-Must-Have-Parameters": lambda t, u: u["parameters"].pop("basics"),
    "CreateUIDefinition-Must-Not-Have-Blanks": lambda t, u: element(u, "logLevel").update(label=""),
    "CreateUIDefinition-Should-Have-Schema": lambda t, u: u.update(version="0.1.1-preview"),
    "Credential-Confirmation-Should-Not-Be-Hidden": lambda t, u: add(u, type="Microsoft.Common.PasswordBox", options={"hideConfirmation": True},
                                                                     constraints={"regex": "^.{12,}$"}),
    "Handler-Must-Be-Correct": lambda t, u: u.update(handler="Microsoft.Compute.Other"),
    "HideExisting-Must-Be-Correctly-Handled": lambda t, u: add(u, type="Microsoft.Network.VirtualNetworkCombo"),
    "Location-Should-Be-In-Outputs": lambda t, u: u["parameters"]["outputs"].pop("location"),
    "Outputs-Must-Be-Present-In-Template-Parameters": lambda t, u: u["parameters"]["outputs"].update(other="[steps('machine').vmSize]"),
    "Parameters-Without-Default-Must-Exist-In-CreateUIDefinition": lambda t, u: u["parameters"]["outputs"].pop("contractId") and
    t["parameters"]["contractId"].pop("defaultValue"),
    "Password-Textboxes-Must-Be-Used-For-Password-Parameters": lambda t, u: u["parameters"]["outputs"].update(
        adminPassword="[steps('contract').contractId]"),
    "PasswordBoxes-Must-Have-Min-Length": lambda t, u: add(u, type="Microsoft.Common.PasswordBox", constraints={"regex": "^.{8,}$"}),
    "Textboxes-Are-Well-Formed": lambda t, u: element(u, "contractId")["constraints"].pop("validationMessage"),
    "Tooltips-Should-Be-Present": lambda t, u: element(u, "vmSize").pop("toolTip"),
    "Usernames-Should-Not-Have-A-Default": lambda t, u: add(u, type="Microsoft.Compute.UserNameTextBox", defaultValue="root"),
    "VMSizes-Must-Match-Template": lambda t, u: element(u, "vmSize")["constraints"]["allowedSizes"].pop(),
    "Validations-Must-Have-Message": lambda t, u: element(u, "contractId")["constraints"].update(validations=[{"regex": "^a$"}]),
    "DeploymentTemplate-Must-Not-Contain-Hardcoded-Uri": lambda t, u: t["variables"].update(cloudConfig="- curl https://x.vault.azure.net"),
    "Location-Should-Not-Be-Hardcoded": lambda t, u: resource(t, "virtualMachines").update(location="[resourceGroup().location]"),
    "Resources-Should-Have-Location": lambda t, u: resource(t, "virtualMachines").pop("location"),
    "VM-Size-Should-Be-A-Parameter": lambda t, u: machine(t)["hardwareProfile"].update(vmSize="Standard_NC4as_T4_v3"),
    "adminUsername-Should-Not-Be-A-Literal": lambda t, u: machine(t)["osProfile"].update(adminUsername="root"),
    "adminPassword-Should-Not-Be-A-Literal": lambda t, u: machine(t)["osProfile"].update(adminPassword="secret"),
    "Password-params-must-be-secure": lambda t, u: t["parameters"]["adminPassword"].update(type="string"),
    "Secure-String-Parameters-Cannot-Have-Default": lambda t, u: t["parameters"]["adminPassword"].update(defaultValue="secret"),
    "Outputs-Must-Not-Contain-Secrets": lambda t, u: t["outputs"].update(x={"type": "string", "value": "[parameters('adminPassword')]"}),
    "CommandToExecute-Must-Use-ProtectedSettings-For-Secrets": lambda t, u: extension(
        t, settings={"commandToExecute": "[parameters('adminPassword')]"}),
    "Secure-Params-In-Nested-Deployments": lambda t, u: t["resources"].append(nested(template={"x": "[parameters('adminPassword')]"})),
    "Parameter-Types-Should-Be-Consistent": lambda t, u: t["parameters"]["instanceCount"].update(defaultValue="1"),
    "Min-And-Max-Value-Are-Numbers": lambda t, u: t["parameters"]["instanceCount"].update(maxValue="16"),
    "Virtual-Machines-Should-Not-Be-Preview": lambda t, u: t["variables"].update(image={"sku": "x-preview", "version": "latest"}),
    "Deployment-Resources-Must-Not-Be-Debug": lambda t, u: t["resources"].append(nested(debugSetting={"detailLevel": "requestContent"})),
    "Resources-Should-Not-Be-Ambiguous": lambda t, u: resource(t, "virtualMachines").update(
        tags={"x": "[resourceId('Microsoft.Network/virtualNetworks/', 'x')]"}),
    "artifacts-parameter": lambda t, u: t["parameters"].update(_artifactsLocation={"type": "string", "defaultValue": "x"}),
    "apiVersions-Should-Be-Recent": lambda t, u: resource(t, "virtualMachines").update(apiVersion="2022-03-01"),
    "apiVersions-Should-Be-Recent-In-Reference-Functions": lambda t, u: t["outputs"].update(
        x={"type": "string", "value": "[reference(resourceId('Microsoft.Network/natGateways', 'x'), '2022-01-01').y]"}),
    "Reference-Function-Must-Not-Use-Preview-ApiVersion": lambda t, u: t["outputs"].update(
        x={"type": "string", "value": "[reference(parameters('imageId'), '2025-01-01-preview').y]"}),
    "DependsOn-Best-Practices": lambda t, u: resource(t, "virtualMachines")["dependsOn"].append("[concat('a', 'b')]"),
    "DependsOn-Must-Not-Be-Conditional": lambda t, u: resource(t, "virtualMachines")["dependsOn"].append("[if(true(), 'a', 'b')]"),
    "DeploymentTemplate-Schema-Is-Correct": lambda t, u: t.update(contentVersion="1.0"),
    "Dynamic-Variable-References-Should-Not-Use-Concat": lambda t, u: t["outputs"].update(
        x={"type": "string", "value": "[variables(concat('a', 'b'))]"}),
    "Expressions-May-Not-Be-Used-As-Parameter-Or-Variable-Names": lambda t, u: t["variables"].update({"[x": 1}),
    "IDs-Should-Be-Derived-From-ResourceIDs": lambda t, u: resource(t, "roleAssignments")["properties"].update(roleDefinitionId="acdd72a7"),
    "ManagedIdentityExtension-must-not-be-used": lambda t, u: extension(t, type="ManagedIdentityExtensionForLinux"),
    "Parameters-Must-Be-Referenced": lambda t, u: t["parameters"].update(unused={"type": "string", "defaultValue": "x"}),
    "Variables-Must-Be-Referenced": lambda t, u: t["variables"].update(unused=1),
    "providers_apiVersions-Is-Not-Permitted": lambda t, u: resource(t, "virtualMachines").update(
        apiVersion="[providers('Microsoft.Compute', 'virtualMachines').apiVersions[0]]"),
    "ResourceIds-should-not-contain": lambda t, u: t["outputs"].update(x={"type": "string", "value": "[resourceId(concat('a/', 'b'), 'c')]"}),
    "Template-Should-Not-Contain-Blanks": lambda t, u: resource(t, "virtualMachines").update(zones=[]),
    "VM-Images-Should-Use-Latest-Version": lambda t, u: t["parameters"]["imageVersion"].update(defaultValue="1.0.0"),
    "URIs-Should-Be-Properly-Constructed": lambda t, u: extension(t, settings={"fileUri": "[concat('https://', 'x')]"}),
}


@pytest.mark.parametrize("name", [n for n, _, _ in armttk.RULES])
def test_rule_catches(name):
    t, u = packaged(), copy.deepcopy(UI)
    BROKEN[name](t, u)
    assert name in {n for n, _, _ in armttk.check(t, u)}


def test_every_rule_is_broken_once():
    assert set(BROKEN) == {n for n, _, _ in armttk.RULES} and len(BROKEN) == len(armttk.RULES) > 50


def test_invalid_json_is_caught():
    assert armttk.check("{", UI)[0][:2] == ("JSONFiles-Should-Be-Valid", True)


def test_command_line(tmp_path, capsys):
    assert armttk.main(["armttk.py"]) == 2
    (tmp_path / "mainTemplate.json").write_text(json.dumps(packaged()))
    (tmp_path / "createUiDefinition.json").write_text(json.dumps(UI))
    assert armttk.main(["armttk.py", str(tmp_path)]) == 0
    u = copy.deepcopy(UI)
    u["handler"] = "x"
    (tmp_path / "createUiDefinition.json").write_text(json.dumps(u))
    capsys.readouterr()
    assert armttk.main(["armttk.py", str(tmp_path)]) == 1
    assert capsys.readouterr().out == "error Handler-Must-Be-Correct: handler x\n"


# ---- the portal ----

def test_definitions_are_as_documented():
    assert not list(portal.ui_faults(UI)) and not list(portal.view_faults(VIEW))


UI_BROKEN = [
    (lambda u: u.pop("handler"), "no handler"),
    (lambda u: u.update(extra=1), "unknown member extra"),
    (lambda u: step(u, "network").pop("subLabel"), "no subLabel"),
    (lambda u: element(u, "contractId").update(regex="x"), "unknown member regex"),
    (lambda u: element(u, "contractId").update(type="Microsoft.Common.TextBoxx"), "not a control"),
    (lambda u: element(u, "vmSize").pop("recommendedSizes"), "no recommendedSizes"),
    (lambda u: element(u, "vmSize").update(osPlatform="linux"), "none of Windows, Linux"),
    (lambda u: element(u, "tlsMode").update(defaultValue="selfSigned"), "the default be one of them"),
    (lambda u: element(u, "noTls")["options"].update(icon="Warn"), "none of None, Info"),
    (lambda u: element(u, "noTls").update(visible="[equals(steps('security').tls, 'off')]"), "there is no tls in security"),
    (lambda u: element(u, "noTls").update(visible="[eq(1, 1)]"), "function eq"),
    (lambda u: element(u, "noTls").update(visible="[empty('x']"), "parentheses"),
    (lambda u: element(u, "logLevel").update(name="contractId"), "stands twice"),
    (lambda u: u["parameters"].update(steps=[]), "a list with members"),
]
VIEW_BROKEN = [
    (lambda v: v["views"][0].update(kind="Summary"), "view Summary"),
    (lambda v: v["views"][1]["properties"]["charts"][0]["metrics"][0].update(aggregationType="average"), "'average' is none of"),
    (lambda v: v["views"][1]["properties"]["charts"][0]["metrics"][0].pop("resourceType"), "no resourceType"),
    (lambda v: v.update(contentVersion="1"), "contentVersion 1"),
    (lambda v: v.pop("$schema"), "no $schema"),
    (lambda v: v["views"][0]["properties"].update(title="x"), "unknown member title"),
]


@pytest.mark.parametrize("change, says", UI_BROKEN, ids=[b[1] for b in UI_BROKEN])
def test_ui_fault_is_found(change, says):
    u = copy.deepcopy(UI)
    change(u)
    assert any(says in f for f in portal.ui_faults(u)), list(portal.ui_faults(u))


@pytest.mark.parametrize("change, says", VIEW_BROKEN, ids=[b[1] for b in VIEW_BROKEN])
def test_view_fault_is_found(change, says):
    v = copy.deepcopy(VIEW)
    change(v)
    assert any(says in f for f in portal.view_faults(v)), list(portal.view_faults(v))


# ---- template and definitions agree, and with the daemons ----

def test_every_parameter_is_asked_or_the_providers():
    assert set(UI["parameters"]["outputs"]) | PROVIDERS == set(packaged()["parameters"])
    assert not set(UI["parameters"]["outputs"]) & PROVIDERS


def test_every_control_is_an_output():
    for c in portal.controls(UI):
        if c["type"] not in portal.NO_TOOL_TIP:
            where = f"[steps('{c.step}').{c['name']}]" if c.step else f"[basics('{c['name']}')]"
            assert UI["parameters"]["outputs"][c["name"]] == where


def test_choices_fit_the_parameters():
    kinds = {"string": str, "int": int, "bool": bool}
    for c in portal.controls(UI):
        for v in c.get("constraints", {}).get("allowedValues", []):
            p = packaged()["parameters"][c["name"]]
            assert type(v["value"]) is kinds[p["type"]]
            assert p.get("minValue", v["value"]) <= v["value"] <= p.get("maxValue", v["value"])
        values = {v["label"]: v["value"] for v in c.get("constraints", {}).get("allowedValues", [])}
        if "defaultValue" in c:
            assert values.get(c["defaultValue"], c["defaultValue"]) == packaged()["parameters"][c["name"]]["defaultValue"]


def regex(name):
    return element(UI, name)["constraints"]["regex"]


def test_contract_id_is_the_daemons():
    """One grammar: the portal's, the one in the code and the one in the documentation."""
    rules, code = ((REPO / "common" / n).read_text() for n in ("config_rules.h", "config.c"))
    assert [regex("contractId")] == re.findall(r"KIND_ID,\s*/\* (\S+) \*/", rules)
    assert '{"TB_CONTRACT_ID", KIND_ID' in code
    limit = int(re.search(r"#define TB_ID_MAX (\d+)", (REPO / "common/id.h").read_text())[1])
    letters = re.search(r'#define ID_CHARS "([^"]+)"', (REPO / "common/id.c").read_text())[1]
    for c in map(chr, range(128)):
        assert bool(re.search(regex("contractId"), c)) == (c in letters), c
    assert re.search(regex("contractId"), "x" * limit) and not re.search(regex("contractId"), "x" * (limit + 1))
    table = (REPO / "docs/configuration.md").read_text()
    assert f"| `TB_CONTRACT_ID` | required | `{regex('contractId')}`; `application`:" in table
    for name in ("contractId", "assetId"):
        assert packaged()["parameters"][name]["maxLength"] == limit


def test_api_keys_are_the_proxys():
    code, header = ((REPO / "services/proxy/gate" / n).read_text() for n in ("keys.c", "keys.h"))
    limit = int(re.search(r"#define TB_API_KEY_NAME_MAX (\d+)", header)[1])
    letters = re.search(r'strspn\(ret->name, "([^"]+)"\)', code)[1]
    code = lambda text: bool(re.fullmatch(regex("enrolmentCode"), text))
    assert code("tbe-0123456789abcdefghjkmnpqrs") and not code("tbe-0123456789abcdefghjkmnpqri") and not code("tbe-0")
    good = lambda keys: bool(re.fullmatch(regex("apiKeys"), keys))
    for c in map(chr, range(128)):
        assert good(f"{c}:{'0' * 64}") == (c in letters), c
    assert good("") and good(f"{'a' * limit}:{'0' * 64}") and good(",".join(f"k{i}:{'aF' * 32}" for i in range(64)))
    assert not good(f"{'a' * (limit + 1)}:{'0' * 64}") and not good(f"a:{'0' * 63}") and not good(f"a:{'0' * 64},") and not good("a")


def test_log_levels_are_the_daemons():
    levels = packaged()["parameters"]["logLevel"]["allowedValues"]
    assert levels == [v["value"] for v in element(UI, "logLevel")["constraints"]["allowedValues"]]
    for level in levels:
        assert f'"{level}"' in (REPO / "common/log.c").read_text()


NETWORK = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/r/providers/Microsoft.Network/virtualNetworks/net"


@pytest.mark.parametrize("name, good, bad", [
    ("apiSourcePrefix", ["VirtualNetwork", "203.0.113.7", "10.0.0.0/8", "0.0.0.0/0", "255.255.255.255/32"],
     ["", "*", "Internet", "10.0.0.0/33", "10.0.0", "300.1.1.1"]),
    ("namePrefix", ["trustbridge", "a-b", "abc"], ["ab", "Abc", "1ab", "ab-", "a" * 21, "a_b"]),
    ("blobMirror", ["", "https://cache.internal:8443", "https://10.0.0.4/a"], ["http://cache", "https://", "https://u@h", "https://h?q", "https://h/#f", "https://h\nx"]),
    ("subnetId", ["", f"{NETWORK}/subnets/s"], ["x", NETWORK, f"{NETWORK}/subnets/s/x"]),
])
def test_other_inputs(name, good, bad):
    assert all(re.search(regex(name), g) for g in good) and not any(re.search(regex(name), b) for b in bad)


def test_name_prefix_fits_the_template():
    p = packaged()["parameters"]["namePrefix"]
    for n in range(1, 30):
        assert bool(re.search(regex("namePrefix"), "a" * n)) == (p["minLength"] <= n <= p["maxLength"])
