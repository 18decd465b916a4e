# SPDX-License-Identifier: Apache-2.0
"""What bicep/mainTemplate.json deploys: evaluated with parameters as a deployment would, every resource against the JSON Schemas."""
import base64
import copy
import ipaddress
import json
import re
import stat
import subprocess

import pytest
import yaml

from deployment import APP, BICEP, BUILD, GALLERY, GUIDE, IMAGE, REPO, TEMPLATE, Deployed, validate

SCENARIOS = {
    "guide": {},
    "scale set": {"instanceCount": 3},
    "scale set, private": {"instanceCount": 3, "publicEndpoint": False},
    "private": {"publicEndpoint": False},
    "own subnet": {"publicEndpoint": False,
                   "subnetId": "/subscriptions/s/resourceGroups/r/providers/Microsoft.Network/virtualNetworks/n/subnets/s"},
    "confidential": {"vmSize": "Standard_NCC40ads_H100_v5"},
    "confidential scale set": {"vmSize": "Standard_NCC40ads_H100_v5", "instanceCount": 2},
    "gallery image": {"imageId": GALLERY},
    "gallery image, scale set": {"imageId": GALLERY, "instanceCount": 2},
    "administrator": {"sshPublicKey": "ssh-ed25519 AAAA", "sshSourcePrefix": "203.0.113.0/24"},
    "metering": {"billingEnabled": True, "billingPlanId": "gold"},
    "metering across tenants": {"billingEnabled": True, "billingPlanId": "gold", "crossTenant": True},
    "plain": {"tlsMode": "off", "logLevel": "debug", "allowFineTuning": True},
    "keys, tags, console": {"apiKeys": f"a:{'0' * 64},b:{'f' * 64}", "tags": {"cost": "42"}, "bootDiagnostics": True, "secureBoot": False},
}


@pytest.mark.parametrize("parameters", SCENARIOS.values(), ids=SCENARIOS)
def test_valid(parameters):
    assert validate(TEMPLATE, {**GUIDE, **IMAGE, **parameters}) == (0, "", "")
    d = Deployed(**parameters)
    assert set(d.outputs) == {"endpoint", "outboundAddress", "principalId", "vmNames"}
    for r in d.all["resources"]:
        if r["type"] != "Microsoft.Authorization/roleAssignments":
            assert r["location"] == "westeurope"
            assert r["tags"] == {**parameters.get("tags", {}), "trustbridge-component": "appliance", "trustbridge-contract": "contract-123",
                                 "trustbridge-asset": "my-model-v1"}


def faults(tmp_path, change, parameters=None):
    """What validate.js says of the template after a change to it."""
    t = json.loads(TEMPLATE.read_text())
    change(t, {r["type"].split("/")[1]: r for r in t["resources"]})
    file = tmp_path / "t.json"
    file.write_text(json.dumps(t))
    rc, _, err = validate(file, {**GUIDE, **IMAGE, **(parameters or {})})
    assert rc == (1 if err else 0)
    return err


def drop_dependency(r, word):
    r["dependsOn"] = [d for d in r["dependsOn"] if word not in d]


BROKEN = [
    (lambda t, r: t["variables"]["securityProfile"].update(securityType="Trusted"),
     "securityType: must be equal to one of the allowed values TrustedLaunch,ConfidentialVM"),
    (lambda t, r: r["virtualMachines"]["properties"].update(vmSize="x"), "must NOT have additional properties vmSize"),
    (lambda t, r: r["virtualMachines"].update(properties={"osProfile": {"adminUsername": 7}}), "/osProfile/adminUsername: must be string"),
    (lambda t, r: t["variables"]["osDisk"].pop("createOption"), "/osDisk: must have required property 'createOption'"),
    (lambda t, r: r["networkInterfaces"]["properties"].update(provisioningState="Succeeded"), "additional properties provisioningState"),
    (lambda t, r: t["variables"]["inboundRules"][0]["properties"].update(priority="100"), "/priority: must be number"),
    (lambda t, r: r["virtualNetworks"].update(apiVersion="2024-01-01"), "/apiVersion: must be equal to constant 2025-03-01"),
    (lambda t, r: t["resources"].append({"type": "Microsoft.Network/vnets", "apiVersion": "2025-03-01", "name": "x"}),
     "vnets x: no schema for this type"),
    (lambda t, r: t["resources"].append(r["networkSecurityGroups"]), "two resources of one type have one name"),
    (lambda t, r: drop_dependency(r["virtualMachines"], "publicIPAddresses"), "which it does not depend on"),
    (lambda t, r: r["networkInterfaces"]["dependsOn"].append("[resourceId('Microsoft.Network/routeTables', 'x')]"),
     "which the template does not have"),
    (lambda t, r: r["networkInterfaces"]["dependsOn"].append("[resourceId('Microsoft.Compute/virtualMachines', 'trustbridge-vm')]"),
     "goes in a circle"),
    (lambda t, r: t["outputs"]["principalId"].update(
        value="[reference(resourceId('Microsoft.Compute/virtualMachineScaleSets', 'trustbridge-vmss'), '2025-04-01').x]"),
     "is not deployed"),
    (lambda t, r: r["virtualMachines"].update(name="[format('{0}-{1}', 'a')]"), "no argument {1}"),
    (lambda t, r: r["virtualMachines"].update(name="[toUpper('a')]"), "function toUpper is not known"),
    (lambda t, r: r["virtualMachines"].update(name="[variables('none')]"), "no variable none"),
    (lambda t, r: r["virtualMachines"].update(name="[format('a'"), "ends too early|expected"),
]


@pytest.mark.parametrize("change, says", BROKEN, ids=[b[1][:60] for b in BROKEN])
def test_fault_is_found(tmp_path, change, says):
    assert any(s in (err := faults(tmp_path, change)) for s in says.split("|")), err


PARAMETERS = [
    ({"assetId": None}, "parameter assetId: not given"),
    ({"assetId": ""}, "assetId: outside its limits"),
    ({"contractId": "x" * 101}, "contractId: outside its limits"),
    ({"instanceCount": 0}, "instanceCount: outside its limits"),
    ({"instanceCount": 17}, "instanceCount: outside its limits"),
    ({"instanceCount": "1"}, "instanceCount: a int is expected, not a string"),
    ({"vmSize": "Standard_D2s_v3"}, "vmSize: Standard_D2s_v3 is not allowed"),
    ({"tlsMode": "on"}, "tlsMode: on is not allowed"),
    ({"nonesuch": 1}, "nonesuch: the template has none of that name"),
]


@pytest.mark.parametrize("parameters, says", PARAMETERS, ids=[p[1] for p in PARAMETERS])
def test_parameter_is_refused(parameters, says):
    given = {k: v for k, v in {**GUIDE, **IMAGE, **parameters}.items() if v is not None}
    rc, out, err = validate(TEMPLATE, given)
    assert rc == 1 and out == "" and says in err


def rules(d):
    """The inbound rules by priority: (source, port, access)."""
    props = sorted((r["properties"] for r in d["networkSecurityGroups"]["properties"]["securityRules"]), key=lambda p: p["priority"])
    assert all(p["direction"] == "Inbound" and p["protocol"] in ("Tcp", "*") and p["sourcePortRange"] == "*" for p in props)
    assert len({p["priority"] for p in props}) == len(props)
    return [(p["sourceAddressPrefix"], p["destinationPortRange"], p["access"]) for p in props]


def admits(d, source, port):
    """Whether the rules let a source reach a port; a source is a tag or an address."""
    for prefix, ports, access in rules(d):
        inside = prefix in ("*", source)
        if "/" in prefix and source[0].isdigit():
            inside = ipaddress.ip_address(source) in ipaddress.ip_network(prefix)
        if inside and ports in ("*", str(port)):
            return access == "Allow"
    return None


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
def test_network_rules(scenario):
    d = Deployed(**{**scenario, "apiSourcePrefix": "198.51.100.0/24"})
    assert admits(d, "198.51.100.7", 8000) and not admits(d, "198.51.101.7", 8000) and not admits(d, "VirtualNetwork", 8000)
    assert admits(d, "AzureLoadBalancer", 8001) and not admits(d, "198.51.100.7", 8001)
    for source in ("198.51.100.7", "VirtualNetwork", "AzureLoadBalancer", "203.0.113.5"):
        assert admits(d, source, 8081) is False
    assert admits(d, "203.0.113.5", 22) is ("sshPublicKey" in scenario)
    assert admits(d, "198.51.100.7", 22) is False
    for port in (80, 443, 22222):
        assert admits(d, "198.51.100.7", port) is False


def test_nobody_reaches_the_api_unless_asked():
    d = Deployed()
    assert not admits(d, "198.51.100.7", 8000) and admits(d, "VirtualNetwork", 8000)


@pytest.mark.parametrize("half", [{"sshPublicKey": "ssh-ed25519 AAAA"}, {"sshSourcePrefix": "0.0.0.0/0"}])
def test_ssh_needs_key_and_source(half):
    assert all(port != "22" for _, port, _ in rules(Deployed(**half)))


def test_security_group_guards_every_way_in():
    for parameters in SCENARIOS.values():
        d = Deployed(**parameters)
        nsg = "/networkSecurityGroups/trustbridge-nsg"
        if "networkInterfaces" in d.types:
            assert d["networkInterfaces"]["properties"]["networkSecurityGroup"]["id"].endswith(nsg)
        else:
            nic = d["virtualMachineScaleSets"]["properties"]["virtualMachineProfile"]["networkProfile"]["networkInterfaceConfigurations"][0]
            assert nic["properties"]["networkSecurityGroup"]["id"].endswith(nsg)


def test_one_machine():
    d = Deployed()
    assert "virtualMachineScaleSets" not in d.types and "loadBalancers" not in d.types
    assert d["virtualMachines"]["identity"] == {"type": "SystemAssigned"}
    assert d["virtualMachines"]["plan"] == {"publisher": "contoso", "product": "model", "name": "vm-hidden"}
    assert d.vm["storageProfile"]["imageReference"] == {"publisher": "contoso", "offer": "model", "sku": "vm-hidden", "version": "latest"}
    assert d.vm["securityProfile"] == {"securityType": "TrustedLaunch", "uefiSettings": {"secureBootEnabled": True, "vTpmEnabled": True}}
    assert "securityProfile" not in d.vm["storageProfile"]["osDisk"]["managedDisk"]
    assert "dataDisks" not in d.vm["storageProfile"]
    assert d.vm["osProfile"]["allowExtensionOperations"] is False
    assert d.vm["diagnosticsProfile"]["bootDiagnostics"]["enabled"] is False
    assert d.outputs["vmNames"] == ["trustbridge-vm"]
    assert d.outputs["principalId"].endswith("trustbridge-vm:full.identity.principalId>")
    assert d.outputs["endpoint"].startswith("https://") and d.outputs["endpoint"].endswith("trustbridge-ip.dnsSettings.fqdn>:8000")


def test_scale_set():
    d = Deployed(instanceCount=3)
    vmss, lb = d["virtualMachineScaleSets"], d["loadBalancers"]["properties"]
    assert "virtualMachines" not in d.types and "networkInterfaces" not in d.types and "identity" not in vmss
    assert vmss["sku"] == {"name": "Standard_NC24ads_A100_v4", "tier": "Standard", "capacity": 3}
    assert vmss["properties"]["orchestrationMode"] == "Flexible"
    assert [p["properties"] for p in lb["probes"]] == [
        {"protocol": "Http", "port": 8001, "requestPath": "/health", "intervalInSeconds": 5, "probeThreshold": 2}]
    assert [(r["properties"]["frontendPort"], r["properties"]["backendPort"]) for r in lb["loadBalancingRules"]] == [(8000, 8000)]
    nic = vmss["properties"]["virtualMachineProfile"]["networkProfile"]["networkInterfaceConfigurations"][0]["properties"]
    pool = nic["ipConfigurations"][0]["properties"]["loadBalancerBackendAddressPools"][0]["id"]
    rule = lb["loadBalancingRules"][0]["properties"]
    lb_id = pool.rsplit("/backendAddressPools/", 1)[0]
    assert lb_id.endswith("/Microsoft.Network/loadBalancers/trustbridge-lb") and rule["backendAddressPool"]["id"] == pool
    assert rule["frontendIPConfiguration"]["id"] == f"{lb_id}/frontendIPConfigurations/{lb['frontendIPConfigurations'][0]['name']}"
    assert rule["probe"]["id"] == f"{lb_id}/probes/{lb['probes'][0]['name']}"
    assert d.outputs["vmNames"] == ["trustbridge-vmss"] and d.outputs["principalId"] == ""


def test_both_kinds_are_the_same_machine():
    one, many = Deployed(vmSize="Standard_NC40ads_H100_v5").vm, Deployed(vmSize="Standard_NC40ads_H100_v5", instanceCount=2)
    profile = many["virtualMachineScaleSets"]["properties"]["virtualMachineProfile"]
    for part in ("securityProfile", "storageProfile", "diagnosticsProfile"):
        assert one[part] == profile[part]
    same = {k: v for k, v in one["osProfile"].items() if k not in ("computerName", "customData")}
    assert same == {k: v for k, v in profile["osProfile"].items() if k not in ("computerNamePrefix", "customData")}
    assert cloud_config(one["osProfile"])["write_files"] == cloud_config(profile["osProfile"])["write_files"]


def test_private_endpoint():
    d = Deployed(publicEndpoint=False)
    assert d.types.count("publicIPAddresses") == 1
    assert "publicIPAddress" not in d["networkInterfaces"]["properties"]["ipConfigurations"][0]["properties"]
    assert d.outputs["endpoint"].endswith("trustbridge-nic.ipConfigurations.0.properties.privateIPAddress>:8000")
    d = Deployed(publicEndpoint=False, instanceCount=2)
    assert d.outputs["endpoint"].endswith("trustbridge-lb.frontendIPConfigurations.0.properties.privateIPAddress>:8000")


def test_own_subnet_makes_no_network():
    d = Deployed(**SCENARIOS["own subnet"])
    assert set(d.types) == {"networkSecurityGroups", "networkInterfaces", "virtualMachines"}
    assert d["networkInterfaces"]["properties"]["ipConfigurations"][0]["properties"]["subnet"]["id"] == SCENARIOS["own subnet"]["subnetId"]
    assert d.outputs["outboundAddress"] == ""


def test_confidential():
    d = Deployed(vmSize="Standard_NCC40ads_H100_v5")
    assert d.vm["securityProfile"]["securityType"] == "ConfidentialVM" and d.vm["securityProfile"]["uefiSettings"]["vTpmEnabled"] is True
    assert d.vm["storageProfile"]["osDisk"]["managedDisk"]["securityProfile"] == {"securityEncryptionType": "DiskWithVMGuestState"}
    assert d["networkInterfaces"]["properties"]["enableAcceleratedNetworking"] is False


def test_gallery_image_has_no_plan():
    d = Deployed(imageId=GALLERY)
    assert "plan" not in d["virtualMachines"] and d.vm["storageProfile"]["imageReference"] == {"id": GALLERY}


def test_login():
    os = Deployed().vm["osProfile"]
    assert os["linuxConfiguration"]["disablePasswordAuthentication"] is False and re.fullmatch(r"[0-9a-f-]{36}", os["adminPassword"])
    os = Deployed(sshPublicKey="ssh-ed25519 AAAA").vm["osProfile"]
    assert "adminPassword" not in os and os["linuxConfiguration"]["disablePasswordAuthentication"] is True
    assert os["linuxConfiguration"]["ssh"]["publicKeys"] == [{"path": "/home/tbadmin/.ssh/authorized_keys", "keyData": "ssh-ed25519 AAAA"}]


def test_role_only_for_metering():
    for name, parameters in SCENARIOS.items():
        d = Deployed(**parameters)
        assert d.types.count("roleAssignments") == ("metering" in name)
    p = Deployed(**SCENARIOS["metering"])["roleAssignments"]["properties"]
    assert p["roleDefinitionId"].endswith("/acdd72a7-3385-48ef-bd42-f606fba81ae7") and "delegatedManagedIdentityResourceId" not in p
    p = Deployed(**SCENARIOS["metering across tenants"])["roleAssignments"]["properties"]
    assert p["delegatedManagedIdentityResourceId"].endswith("/Microsoft.Compute/virtualMachines/trustbridge-vm")


def test_metering_has_one_submitter():
    d = Deployed(**{**SCENARIOS["metering"], "instanceCount": 5})
    assert d.types.count("virtualMachines") == 1 and "virtualMachineScaleSets" not in d.types


# ---- a closed image ----

CLOSED = {"closedImage": True, "imageId": GALLERY, "enrolmentCode": "tbe-abc", "apiKeys": f"a:{'0' * 64},b:{'f' * 64}"}


def user_data(machine):
    return json.loads(base64.b64decode(machine["userData"]))


@pytest.mark.parametrize("parameters", [{}, {"instanceCount": 3}, {"vmSize": "Standard_NCC40ads_H100_v5"}, {"billingEnabled": True, "billingPlanId": "gold"},
                                        {"tlsCertificate": "-----BEGIN CERTIFICATE-----\n", "tlsPrivateKey": "-----BEGIN PRIVATE KEY-----\n"}],
                         ids=["one", "scale set", "confidential", "metering", "TLS"])
def test_a_closed_image_gets_what_its_program_takes(parameters, tmp_path):
    """No agent, no login, no cloud-config; user data that tb-provision itself takes."""
    assert validate(TEMPLATE, {**GUIDE, **IMAGE, **CLOSED, **parameters}) == (0, "", "")
    d = Deployed(**CLOSED, **parameters)
    machine = d["virtualMachineScaleSets"]["properties"]["virtualMachineProfile"] if parameters.get("instanceCount") else d.vm
    os_profile = machine["osProfile"]
    assert os_profile.get("customData") is None and os_profile["linuxConfiguration"]["provisionVMAgent"] is False
    assert os_profile["allowExtensionOperations"] is False and os_profile["linuxConfiguration"].get("ssh") is None
    confidential = "vmSize" in parameters
    assert machine["securityProfile"]["securityType"] == ("ConfidentialVM" if confidential else "TrustedLaunch")
    assert machine["securityProfile"]["uefiSettings"]["vTpmEnabled"] is True
    said = user_data(machine)
    assert said["settings"]["TB_CONTRACT_ID"] == "contract-123" and said["credentials"]["enrolment-code"] == "tbe-abc\n"
    assert said["credentials"]["api-keys"] == f"a:{'0' * 64}\nb:{'f' * 64}\n" and ("tls-cert" in said["credentials"]) == ("tlsCertificate" in parameters)
    assert d.outputs["endpoint"].startswith("https://" if "tlsCertificate" in parameters else "http://")
    assert set(said["settings"]) == {"TB_CONTRACT_ID", "TB_ASSET_ID", "TB_LOG_LEVEL"}
    (tmp_path / "disk").write_bytes(base64.b64decode(machine["userData"]).ljust(65536, b"\0"))
    (tmp_path / "image.env").write_text("TB_EDC_ENDPOINT=https://c.example.com\nTB_RUNTIME_EXEC=/bin/x\nTB_BILLING_ENABLED=true\n")
    (tmp_path / "store").mkdir()
    p = subprocess.run([BUILD / "tb-provision", f"--image={tmp_path}/image.env", f"--media={tmp_path}/disk", f"--settings={tmp_path}/out.env",
                        f"--credentials={tmp_path}/store"], capture_output=True, text=True, timeout=30)
    assert p.returncode == 0, p.stderr
    assert "TB_CONTRACT_ID='contract-123'" in (tmp_path / "out.env").read_text()
    assert (tmp_path / "store/trustbridge.enrolment-code").read_text() == "tbe-abc\n"


def test_a_closed_image_is_told_an_application_for_its_contract_alone():
    """Where there is none by name: what is billed, and for whom, is the image's to say."""
    for parameters in ({}, {"billingEnabled": True, "billingPlanId": "gold"}):
        assert set(user_data(Deployed(managed_by=APP, **CLOSED, **parameters).vm)["settings"]) == {"TB_CONTRACT_ID", "TB_ASSET_ID", "TB_LOG_LEVEL"}
        said = user_data(Deployed(managed_by=APP, contractId="", **CLOSED, **parameters).vm)["settings"]
        assert said["TB_CONTRACT_ID"] == "application" and said["TB_BILLING_RESOURCE_ID"] == APP and len(said) == 4


@pytest.mark.parametrize("parameters", [{}, {"instanceCount": 2}, {"vmSize": "Standard_NCC40ads_H100_v5"}], ids=["one", "scale set", "confidential"])
def test_a_closed_image_has_a_disk_for_its_state(parameters):
    """What units/tb-state takes: empty, and no smaller than it wants. Who owns it is told by the TPM, so it goes with the machine."""
    assert validate(TEMPLATE, {**GUIDE, **IMAGE, **CLOSED, **parameters}) == (0, "", "")
    d = Deployed(**CLOSED, **parameters)
    storage = (d["virtualMachineScaleSets"]["properties"]["virtualMachineProfile"] if parameters.get("instanceCount") else d.vm)["storageProfile"]
    disk, = storage["dataDisks"]
    least = int(re.search(r"^LEAST_BYTES=(\d+)$", (REPO / "units/tb-state").read_text(), re.M)[1])
    assert disk["createOption"] == "Empty" and least <= disk["diskSizeGB"] << 30 and disk["caching"] == "None" and disk["deleteOption"] == "Delete"
    assert (disk["lun"], disk["managedDisk"]) == (0, {"storageAccountType": "Premium_LRS"}), "no name: a deployment may be repeated"
    assert "name" not in disk


def test_nothing_of_an_open_image_is_in_user_data():
    d = Deployed()
    assert d.vm.get("userData") is None and d.vm["osProfile"]["linuxConfiguration"]["provisionVMAgent"] is True


def test_who_deploys_a_closed_image_gets_no_login():
    d = Deployed(**CLOSED, sshPublicKey="ssh-ed25519 AAAA", sshSourcePrefix="203.0.113.0/24")
    assert d.vm["osProfile"]["linuxConfiguration"].get("ssh") is None
    assert not [r for r in d["networkSecurityGroups"]["properties"]["securityRules"] if r["properties"]["destinationPortRange"] == "22"]


# ---- customData ----

def cloud_config(os_profile):
    text = base64.b64decode(os_profile["customData"]).decode()
    assert text.startswith("#cloud-config\n") and len(text) < 64 * 1024
    return yaml.safe_load(text)


def files(d):
    return {f["path"]: (f, base64.b64decode(f["content"]).decode()) for f in cloud_config(d.vm["osProfile"])["write_files"]}


def settings(d):
    """The settings as systemd reads them: the last of a name holds."""
    entry, text = files(d)["/etc/trustbridge/trustbridge.env"]
    assert entry["append"] is True and entry["permissions"] == "0640"
    lines = [line for line in re.split(r"[\n\r]", text) if line and not line.startswith("#")]
    assert all(re.match(r"[A-Z_]+=", line) for line in lines)
    return dict(line.split("=", 1) for line in lines)


def known_settings():
    names = re.findall(r'^    \{"(TB_\w+)", KIND_', (REPO / "common/config.c").read_text(), re.M)
    assert len(names) > 20
    return set(names)


def test_settings_of_the_guide():
    assert settings(Deployed()) == {
        "TB_CONTRACT_ID": "contract-123", "TB_ASSET_ID": "my-model-v1", "TB_EDC_ENDPOINT": "https://controlplane.example.com",
        "TB_LOG_LEVEL": "info", "TB_ROUTES": settings(Deployed())["TB_ROUTES"],
        "TB_TLS_CERT": "/run/credentials/tb-proxy.service/tls-cert", "TB_TLS_KEY": "/run/credentials/tb-proxy.service/tls-key",
    }


@pytest.mark.parametrize("parameters", SCENARIOS.values(), ids=SCENARIOS)
def test_every_setting_is_one_of_the_daemons(parameters):
    if parameters.get("instanceCount", 1) == 1:
        assert set(settings(Deployed(managed_by=APP, **parameters))) <= known_settings()


def complaints(settings, tmp_path):
    """What a daemon says of settings before it goes on to miss its credentials."""
    env = {**settings, "TB_RUN_DIR": str(tmp_path), "TB_STATE_DIR": str(tmp_path), "CREDENTIALS_DIRECTORY": str(tmp_path)}
    r = subprocess.run([BUILD / "tb-hydrate"], env=env, capture_output=True, text=True, timeout=60)
    return [line for line in r.stderr.splitlines() if re.search(r"configuration error|TB_\w+:", line)]


def test_daemons_accept_the_settings(tmp_path):
    for parameters in ({}, SCENARIOS["plain"], SCENARIOS["metering"], SCENARIOS["keys, tags, console"]):
        assert not complaints(settings(Deployed(managed_by=APP, **parameters)), tmp_path)
    assert any("TB_CONTRACT_ID" in c for c in complaints(settings(Deployed(contractId="a b")), tmp_path))
    assert any("TB_EDC_ENDPOINT" in c for c in complaints(settings(Deployed(edcEndpoint="http://controlplane.example.com")), tmp_path))


def test_a_purchase_without_a_contract_gets_its_own(tmp_path):
    s = settings(Deployed(managed_by=APP.replace("/s/", "/0a1b2c3d-0000-4000-8000-00000000000f/"), contractId=""))
    assert s["TB_CONTRACT_ID"] == "application" and not complaints(s, tmp_path)
    # deployed by hand there is no purchase
    assert any("managed application" in c for c in complaints(settings(Deployed(contractId="")), tmp_path))


def test_settings_follow_the_parameters(tmp_path):
    s = settings(Deployed(tlsMode="off", logLevel="debug", allowFineTuning=True))
    assert "TB_TLS_CERT" not in s and s["TB_LOG_LEVEL"] == "debug" and s["TB_ROUTES"] == "/v1/*"
    s = settings(Deployed(managed_by=APP, **SCENARIOS["metering"]))
    assert {k: v for k, v in s.items() if "BILLING" in k} == {
        "TB_BILLING_ENABLED": "true", "TB_BILLING_RESOURCE_ID": APP, "TB_BILLING_PLAN_ID": "gold", "TB_BILLING_DIMENSION": "requests"}
    # An image may meter by itself; what it meters for only the deployment knows.
    s = settings(Deployed(managed_by=APP))
    assert {k: v for k, v in s.items() if "BILLING" in k} == {"TB_BILLING_RESOURCE_ID": APP}
    assert "TB_PROVIDER_KEY" not in s
    assert settings(Deployed(providerKey="RWQ+/=,RWR"))["TB_PROVIDER_KEY"] == "RWQ+/=,RWR"
    assert "TB_EVIL" not in settings(Deployed(providerKey="RWQ\r\nTB_EVIL=1"))
    assert "TB_BLOB_MIRROR" not in s
    mirrored = settings(Deployed(blobMirror="https://cache.internal:8443"))
    assert mirrored["TB_BLOB_MIRROR"] == "https://cache.internal:8443" and not complaints(mirrored, tmp_path)
    assert "TB_EVIL" not in settings(Deployed(blobMirror="https://cache\nTB_EVIL=1"))
    d = Deployed(apiKeys=f"a:{'0' * 64},b:{'f' * 64}")
    assert settings(d)["TB_API_KEYS"] == "/run/credentials/tb-proxy.service/api-keys"
    entry, text = files(d)["/etc/credstore/trustbridge.api-keys"]
    assert entry["permissions"] == "0600" and text == f"a:{'0' * 64}\nb:{'f' * 64}\n"


def test_the_enrolment_code_is_for_root_alone():
    code = "tbe-0123456789abcdefghjkmnpqrs"
    entry, text = files(Deployed(enrolmentCode=code))["/etc/credstore/trustbridge.enrolment-code"]
    assert entry["permissions"] == "0600" and text == code + "\n"
    template = json.loads(TEMPLATE.read_text())
    assert template["parameters"]["enrolmentCode"]["type"].lower() == "securestring"
    assert "enrolmentCode" not in json.dumps(template["outputs"])
    assert files(Deployed())["/etc/credstore/trustbridge.enrolment-code"][1] == "\n"  # as good as none


def test_fine_tuning_routes_are_closed_by_default():
    routes = settings(Deployed())["TB_ROUTES"].split(",")
    forwarded = lambda path: any(path == r or (r.endswith("*") and path.startswith(r[:-1])) for r in routes)
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/models/x", "/v1/embeddings", "/v1/responses"):
        assert forwarded(path), path
    for path in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/v1/fine_tuning/jobs", "/v1/finetune/jobs", "/v1/adapters", "/v1/files",
                 "/metrics"):
        assert not forwarded(path), path


@pytest.mark.parametrize("name", ["contractId", "assetId", "edcEndpoint", "billingPlanId", "billingDimension"])
@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_a_line_break_makes_no_setting(name, end):
    """The consumer chooses the parameters; the command that gets the model is the image's and must stay so."""
    d = Deployed(managed_by=APP, billingEnabled=True, **{"billingPlanId": "p", name: f"https://x{end}TB_RUNTIME_EXEC=/bin/cat{end}"})
    s = settings(d)
    assert "TB_RUNTIME_EXEC" not in s and set(s) <= known_settings()


def test_a_good_id_is_not_changed():
    name = "ABCxyz019_-"
    s = settings(Deployed(contractId=name, assetId=name))
    assert s["TB_CONTRACT_ID"] == s["TB_ASSET_ID"] == name
    assert settings(Deployed(assetId="Llama-3.1-8B"))["TB_ASSET_ID"] == "Llama-3.1-8B"


def test_several_dimensions_stay_a_list():
    s = settings(Deployed(managed_by=APP, billingEnabled=True, billingPlanId="p", billingDimension="requests,bytes"))
    assert s["TB_BILLING_DIMENSION"] == "requests,bytes"


def test_no_secret_in_custom_data():
    text = base64.b64decode(Deployed(sshPublicKey="ssh-ed25519 AAAA").vm["osProfile"]["customData"]).decode()
    template = json.loads(TEMPLATE.read_text())
    for kind in ("virtualMachines", "virtualMachineScaleSets"):
        assert kind in TEMPLATE.read_text()
    assert "adminPassword" not in json.dumps(template["variables"])
    assert cloud_config(Deployed().vm["osProfile"])["ssh_pwauth"] is False
    assert "BEGIN" not in text


def run_tls_command(d, tmp_path):
    """The certificate's command as cloud-init runs it, in another folder."""
    cmd = copy.deepcopy(cloud_config(d.vm["osProfile"])["bootcmd"][0])
    assert cmd[:3] == ["cloud-init-per", "instance", "tb-tls"]
    store = tmp_path / "credstore"
    cmd = [c.replace("/etc/credstore", str(store)) for c in cmd[3:]]
    subprocess.run(cmd, check=True, capture_output=True, timeout=60)
    return store


def test_certificate(tmp_path):
    store = run_tls_command(Deployed(publicEndpoint=False), tmp_path)
    key, cert = store / "trustbridge.tls-key", store / "trustbridge.tls-cert"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600 and "PRIVATE KEY" in key.read_text()
    text = subprocess.run(["openssl", "x509", "-in", str(cert), "-noout", "-text"], capture_output=True, text=True, check=True).stdout
    assert "DNS:trustbridge-vm" in text and "prime256v1" in text
    pub = [subprocess.run(["openssl", *a], capture_output=True, check=True).stdout for a in
           (["x509", "-in", str(cert), "-noout", "-pubkey"], ["pkey", "-in", str(key), "-pubout"])]
    assert pub[0] == pub[1]


def test_no_certificate_when_off(tmp_path):
    assert not run_tls_command(Deployed(publicEndpoint=False, tlsMode="off"), tmp_path).exists()


def test_same_shape_as_the_seed_of_the_virtual_machines():
    """cloud-init/user-data.yaml tells what the image expects: the same files, in the same encoding."""
    seed = {f["path"]: f for f in yaml.safe_load((REPO / "cloud-init/user-data.yaml").read_text())["write_files"]}
    env = files(Deployed())["/etc/trustbridge/trustbridge.env"][0]
    for key in ("permissions", "encoding"):
        assert env[key] == seed["/etc/trustbridge/trustbridge.env"][key]


def test_schemas_cover_every_resource():
    have = {f"{f.stem}/{t}@{d['properties']['apiVersion']['const']}" for f in (BICEP / "schemas").glob("*.json")
            for t, d in json.loads(f.read_text())["resourceDefinitions"].items()}
    assert have == {f"{r['type']}@{r['apiVersion']}" for r in json.loads(TEMPLATE.read_text())["resources"]}
