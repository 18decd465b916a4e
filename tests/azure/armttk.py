#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The checks of the ARM Template Test Toolkit (arm-ttk) that Partner Center runs on a package, written anew for machines without
PowerShell. Each has the name it has there; a blocking one refuses the package, any other is a warning. Where arm-ttk asks Azure
(the newest API versions, the hosts of every cloud) the answer stands here as a table.

usage: armttk.py FOLDER    FOLDER has mainTemplate.json and createUiDefinition.json; exit status 1 if a blocking check fails"""
import datetime
import json
import pathlib
import re
import sys

import portal

RULES = []


def rule(name, blocking=True):
    def add(check):
        RULES.append((name, blocking, check))
        return check
    return add


class Package:
    def __init__(self, template, ui):
        self.template_text, self.ui_text = (t if isinstance(t, str) else json.dumps(t) for t in (template, ui))
        self.t, self.ui = json.loads(self.template_text), json.loads(self.ui_text)
        self.parameters, self.resources = self.t.get("parameters", {}), self.t.get("resources", [])
        self.outputs = self.ui.get("parameters", {}).get("outputs", {})
        self.controls = list(portal.controls(self.ui))

    def expand(self, text):
        """An expression with its variables put in, so that a rule sees what they stand for."""
        for _ in range(9):
            text = re.sub(r"variables\('(\w+)'\)", lambda m: as_expression(self.t.get("variables", {}).get(m[1], "")), text)
        return text

    def output_of(self, control):
        """Names of the outputs that are a control's value."""
        where = re.escape(f"steps('{control.step}').{control['name']}" if control.step else f"basics('{control['name']}')")
        return [k for k, v in self.outputs.items() if re.fullmatch(rf"\[{where}(\.\w+)?\]", str(v))]


def as_expression(value):
    return value[1:-1] if is_expression(value) else repr(value)


def is_expression(value):
    return isinstance(value, str) and value.startswith("[") and not value.startswith("[[") and value.endswith("]")


def walk(value, path=()):
    """(path, key, value) of every member of every object in a JSON value."""
    if isinstance(value, dict):
        for k, v in value.items():
            yield path, k, v
            yield from walk(v, (*path, k))
    elif isinstance(value, list):
        for i, v in enumerate(value):
            yield from walk(v, (*path, i))


def blank(value):
    return value is None or value == {} or value == [] or (isinstance(value, str) and not value.strip())


def of_type(p, kind):
    return [r for r in p.resources if r.get("type", "").lower() == kind.lower()]


def secure(p):
    return [n for n, v in p.parameters.items() if v.get("type", "").lower().startswith("secure")]


# ---- createUiDefinition.json ----

@rule("Allowed-Values-Should-Actually-Be-Allowed")
def allowed_values(p):
    for c in p.controls:
        offered = [v.get("value") for v in c.get("constraints", {}).get("allowedValues", [])]
        for name in p.output_of(c):
            allowed = p.parameters.get(name, {}).get("allowedValues")
            for value in offered if allowed else []:
                if value not in allowed:
                    yield f"{c['name']} offers {value!r}, which parameter {name} does not allow"


@rule("Controls-In-Outputs-Must-Exist")
def controls_exist(p):
    steps = {s["name"] for s in p.ui["parameters"].get("steps", [])}
    known = {(c.step, c["name"]) for c in p.controls}
    for name, value in p.outputs.items():
        for step, element in re.findall(r"steps\('([^']+)'\)(?:\.(\w+))?", str(value)):
            if step not in steps or (element and (step, element) not in known):
                yield f"output {name}: no {element or 'step'} in {step}"
        for element in re.findall(r"basics\('([^']+)'\)", str(value)):
            if (None, element) not in known:
                yield f"output {name}: no {element} in basics"


@rule("CreateUIDefinition-Must-Have-Parameters")
def has_parameters(p):
    for part in ("basics", "steps", "outputs"):
        if part not in p.ui.get("parameters", {}):
            yield f"parameters.{part} is missing"


@rule("CreateUIDefinition-Must-Not-Have-Blanks", blocking=False)
def ui_blanks(p):
    for path, key, value in walk(p.ui):
        if blank(value) and key not in ("basics", "defaultValue", "steps"):
            yield f"{'.'.join(map(str, path))}.{key} is empty"


@rule("CreateUIDefinition-Should-Have-Schema")
def ui_schema(p):
    version = p.ui.get("version")
    url = f"https://schema.management.azure.com/schemas/{version}/createuidefinition.multivm.json#"
    if p.ui.get("$schema", "").lower() != url or version != "0.1.2-preview":
        yield f"$schema and version must both say 0.1.2-preview, not {p.ui.get('$schema')} and {version}"


@rule("Credential-Confirmation-Should-Not-Be-Hidden")
def confirmation(p):
    for c in p.controls:
        asks = c["type"] in ("Microsoft.Common.PasswordBox", "Microsoft.Compute.CredentialsCombo")
        if asks and c.get("options", {}).get("hideConfirmation"):
            yield f"{c['name']} hides the confirmation"


@rule("Handler-Must-Be-Correct")
def handler(p):
    if p.ui.get("handler") not in ("Microsoft.Azure.CreateUIDef", "Microsoft.Compute.MultiVm"):
        yield f"handler {p.ui.get('handler')}"


NEW_OR_EXISTING = ("Microsoft.Storage.StorageAccountSelector", "Microsoft.Network.PublicIpAddressCombo", "Microsoft.Network.VirtualNetworkCombo")


@rule("HideExisting-Must-Be-Correctly-Handled")
def hide_existing(p):
    for c in p.controls:
        if c["type"] not in NEW_OR_EXISTING:
            continue
        where = f"steps('{c.step}').{c['name']}" if c.step else f"basics('{c['name']}')"
        for part in ("resourceGroup", "newOrExisting"):
            if c.get("options", {}).get("hideExisting") is not True and not any(f"{where}.{part}" in str(v) for v in p.outputs.values()):
                yield f"{c['name']} may choose what exists, but no output has its {part}"


@rule("Location-Should-Be-In-Outputs")
def location_output(p):
    if not any("location()" in str(v) for v in p.outputs.values()):
        yield "no output is [location()]"


@rule("Outputs-Must-Be-Present-In-Template-Parameters")
def outputs_are_parameters(p):
    known = {n.lower() for n in p.parameters} | {"applicationresourcename", "jitaccesspolicy", "managedidentity", "managedresourcegroupid"}
    for name in p.outputs:
        if name.lower() not in known:
            yield f"output {name} is no parameter of the template"


@rule("Parameters-Without-Default-Must-Exist-In-CreateUIDefinition")
def parameters_are_outputs(p):
    for name, v in p.parameters.items():
        if "defaultValue" not in v and name not in p.outputs:
            yield f"parameter {name} has no default and is no output"


@rule("Password-Textboxes-Must-Be-Used-For-Password-Parameters")
def password_controls(p):
    for c in p.controls:
        for name in p.output_of(c):
            is_secure = p.parameters.get(name, {}).get("type", "").lower() == "securestring"
            if (c["type"] == "Microsoft.Common.PasswordBox") != is_secure and (is_secure or c["type"] == "Microsoft.Common.PasswordBox"):
                yield f"{c['name']} is a {c['type']} and parameter {name} a {p.parameters.get(name, {}).get('type')}"


@rule("PasswordBoxes-Must-Have-Min-Length")
def password_length(p):
    for c in p.controls:
        if c["type"] == "Microsoft.Common.PasswordBox":
            least = [int(n) for n in re.findall(r"\{(\d+),\d*\}", c.get("constraints", {}).get("regex", ""))]
            if not least or max(least) < 12:
                yield f"{c['name']} must ask for 12 characters or more"


@rule("Textboxes-Are-Well-Formed")
def text_boxes(p):
    for c in p.controls:
        if c["type"] != "Microsoft.Common.TextBox":
            continue
        constraints = c.get("constraints", {})
        if not constraints.get("regex") or not constraints.get("validationMessage"):
            yield f"{c['name']} needs constraints.regex and constraints.validationMessage"
            continue
        try:
            pattern = re.compile(constraints["regex"])
        except re.error as e:
            yield f"{c['name']}: {e}"
            continue
        if not re.search(r"\{\d+,\d+\}", pattern.pattern):
            yield f"{c['name']}: the regex sets no range of lengths"
        if c.get("defaultValue") and not pattern.search(c["defaultValue"]):
            yield f"{c['name']}: its own default does not match"


@rule("Tooltips-Should-Be-Present")
def tool_tips(p):
    for c in p.controls:
        if c["type"] not in portal.NO_TOOL_TIP and blank(c.get("toolTip")):
            yield f"{c['name']} has no toolTip"


@rule("Usernames-Should-Not-Have-A-Default")
def user_names(p):
    for c in p.controls:
        if c["type"] == "Microsoft.Compute.UserNameTextBox" and c.get("defaultValue"):
            yield f"{c['name']} has a default"


@rule("VMSizes-Must-Match-Template")
def vm_sizes(p):
    for c in p.controls:
        if c["type"] != "Microsoft.Compute.SizeSelector":
            continue
        names = p.output_of(c)
        if not names or names[0] not in p.parameters:
            yield f"{c['name']} is no output that the template knows"
            continue
        parameter, sizes = p.parameters[names[0]], c.get("constraints", {}).get("allowedSizes")
        if sizes and parameter.get("defaultValue", sizes[0]) not in sizes:
            yield f"{c['name']} does not offer the template's default"
        # Beyond arm-ttk: both lists are one.
        if parameter.get("allowedValues") and sizes != parameter["allowedValues"]:
            yield f"{c['name']} and parameter {names[0]} list different sizes"


@rule("Validations-Must-Have-Message")
def validations(p):
    for path, key, value in walk(p.ui):
        if key == "validations":
            for v in value:
                if blank(v.get("message")):
                    yield f"{'.'.join(map(str, path))}: a validation without message"


# ---- mainTemplate.json: what blocks ----

HOSTS = """management.azure.com login.microsoftonline.com graph.windows.net graph.microsoft.com core.windows.net vault.azure.net
database.windows.net batch.core.windows.net azuredatalakestore.net azuredatalakeanalytics.net gallery.azure.com api.loganalytics.io attest.azure.net
dev.azuresynapse.net azure-automation.net trafficmanager.net core.usgovcloudapi.net core.chinacloudapi.cn management.usgovcloudapi.net
management.chinacloudapi.cn login.microsoftonline.us login.chinacloudapi.cn vault.usgovcloudapi.net vault.azure.cn""".split()


@rule("DeploymentTemplate-Must-Not-Contain-Hardcoded-Uri")
def hosts(p):
    for host in HOSTS:
        for m in re.finditer(re.escape(host), p.template_text, re.I):
            if not p.template_text[:m.start()].lower().endswith("https://schema."):
                yield f"names the host {host}"


@rule("Location-Should-Not-Be-Hardcoded")
def hard_coded_location(p):
    location = p.parameters.get("location")
    if location and location.get("type") != "string":
        yield "parameter location must be a string"
    if location and location.get("defaultValue") not in (None, "[resourceGroup().location]", "[deployment().location]", "global"):
        yield f"default of parameter location is {location['defaultValue']}"
    if re.search(r"(resourceGroup|deployment)\(\)\.location", json.dumps({k: v for k, v in p.t.items() if k != "parameters"}), re.I):
        yield "resourceGroup().location stands outside of parameters"
    for r in p.resources:
        if "location" in r and r["location"] != "global" and not is_expression(r["location"]):
            yield f"{r.get('name')}: location {r['location']}"


@rule("Resources-Should-Have-Location")
def have_location(p):
    for r in p.resources:
        if "location" in r and not (is_expression(r["location"]) or r["location"] == "global"):
            yield f"{r.get('name')}: location must be an expression or global"
        if "location" not in r and not r.get("type", "").startswith("Microsoft.Authorization/"):
            yield f"{r.get('name')}: no location"


@rule("VM-Size-Should-Be-A-Parameter")
def size_is_parameter(p):
    sizes = [v for _, k, v in walk(p.resources) if k == "vmSize"]
    sizes += [r.get("sku", {}).get("name", "") for r in of_type(p, "Microsoft.Compute/virtualMachineScaleSets")]
    for size in sizes:
        if not is_expression(size) or "parameters('" not in p.expand(size):
            yield f"size {size}"


def literal(p, key):
    for _, k, v in walk({"resources": p.resources, "variables": p.t.get("variables", {})}):
        if k.lower() == key.lower() and isinstance(v, str) and not is_expression(v):
            yield f"{k} is the literal {v}"


@rule("adminUsername-Should-Not-Be-A-Literal")
def user_literal(p):
    yield from literal(p, "adminUsername")


@rule("adminPassword-Should-Not-Be-A-Literal")
def password_literal(p):
    yield from literal(p, "adminPassword")


@rule("Password-params-must-be-secure")
def password_parameters(p):
    for name, v in p.parameters.items():
        if re.search(r"password|secret|accountkey", name, re.I) and not v.get("type", "").lower().startswith("secure") and \
           v.get("type") not in ("bool", "int"):
            yield f"parameter {name} is a {v.get('type')}"


@rule("Secure-String-Parameters-Cannot-Have-Default")
def secure_default(p):
    for name in secure(p):
        default = p.parameters[name].get("defaultValue")
        if default and not (isinstance(default, str) and is_expression(default) and re.search(r"newGuid\s*\(\s*\)", default, re.I)):
            yield f"parameter {name} has a default"


@rule("Outputs-Must-Not-Contain-Secrets")
def output_secrets(p):
    for name, o in p.t.get("outputs", {}).items():
        text = p.expand(json.dumps(o))
        if re.search(r"\blist\w*\s*\(", text, re.I):
            yield f"output {name} calls a list function"
        if "password" in name.lower():
            yield f"output {name}: its name says password"
        for s in secure(p):
            if f"parameters('{s}')" in text:
                yield f"output {name} has the secure parameter {s}"


@rule("CommandToExecute-Must-Use-ProtectedSettings-For-Secrets")
def command_to_execute(p):
    for path, key, value in walk(p.resources):
        if key == "commandToExecute" and "protectedSettings" not in path and \
           (re.search(r"\blist\w*\s*\(", str(value), re.I) or any(f"parameters('{s}')" in p.expand(str(value)) for s in secure(p))):
            yield f"{'.'.join(map(str, path))}: a secret in the clear"


@rule("Secure-Params-In-Nested-Deployments")
def nested_deployments(p):
    for r in of_type(p, "Microsoft.Resources/deployments"):
        inner = r.get("properties", {}).get("expressionEvaluationOptions", {}).get("scope") == "inner"
        if not inner and any(f"parameters('{s}')" in json.dumps(r.get("properties", {}).get("template", {})) for s in secure(p)):
            yield f"{r.get('name')}: evaluated outside, it would show a secure parameter"


@rule("Parameter-Types-Should-Be-Consistent")
def parameter_types(p):
    kinds = {"string": str, "securestring": str, "int": int, "bool": bool, "array": list, "object": dict, "secureobject": dict}
    for name, v in p.parameters.items():
        default = v.get("defaultValue")
        if v.get("type", "").lower() not in kinds:
            yield f"parameter {name}: unknown type {v.get('type')}"
        elif default is not None and not is_expression(default) and type(default) is not kinds[v["type"].lower()]:
            yield f"parameter {name}: a {v['type']} with the default {default!r}"


@rule("Min-And-Max-Value-Are-Numbers")
def min_max(p):
    for name, v in p.parameters.items():
        for key in ("minValue", "maxValue", "minLength", "maxLength"):
            if key in v and type(v[key]) is not int:
                yield f"parameter {name}: {key} is {v[key]!r}"


@rule("Virtual-Machines-Should-Not-Be-Preview")
def preview_machines(p):
    for _, key, value in walk({"v": p.t.get("variables", {}), "r": p.resources}):
        if key == "imageReference" and "preview" in p.expand(json.dumps(value)).lower():
            yield "a preview image"
    for kind in ("virtualMachines", "virtualMachineScaleSets"):
        for r in of_type(p, f"Microsoft.Compute/{kind}"):
            if "preview" in r.get("apiVersion", "").lower():
                yield f"{r.get('name')}: preview API version"


@rule("Deployment-Resources-Must-Not-Be-Debug")
def debug(p):
    for r in of_type(p, "Microsoft.Resources/deployments"):
        if r.get("properties", {}).get("debugSetting", {}).get("detailLevel", "none").lower() != "none":
            yield f"{r.get('name')}: debugSetting"


@rule("Resources-Should-Not-Be-Ambiguous")
def ambiguous(p):
    """arm-ttk has switched off its demand for a resource group before each type; what is left is a type that can be no type."""
    for kind, rest in re.findall(r"\bresourceId\(\s*'([^']*/[^']*)'((?:[^()]|\((?:[^()]|\([^()]*\))*\))*)\)", p.template_text):
        depth, names = 0, 0
        for c in rest:
            depth += {"(": 1, ")": -1}.get(c, 0)
            names += c == "," and depth == 0
        if kind.endswith("/") or names != kind.count("/"):
            yield f"resourceId of {kind} with {names} names"


@rule("artifacts-parameter")
def artifacts(p):
    has = [n in p.parameters for n in ("_artifactsLocation", "_artifactsLocationSasToken")]
    if any(has) and (not all(has) or p.parameters["_artifactsLocationSasToken"]["type"].lower() != "securestring"):
        yield "_artifactsLocation and a secure _artifactsLocationSasToken go together"


# ---- mainTemplate.json: what only warns ----

# The newest stable API version of each type when main.bicep was last looked at, and when that was: arm-ttk takes a version that is the
# newest, or less than two years old.
NEWEST = {"Microsoft.Authorization/roleAssignments": "2022-04-01"}
REVIEWED = datetime.date(2026, 11, 24)


def recent(kind, version):
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", version):
        return False
    return NEWEST.get(kind) == version or (REVIEWED - datetime.date.fromisoformat(version)).days < 730


@rule("apiVersions-Should-Be-Recent", blocking=False)
def api_versions(p):
    for r in p.resources:
        if not recent(r.get("type", ""), r.get("apiVersion", "")):
            yield f"{r.get('type')}: {r.get('apiVersion')}"


@rule("apiVersions-Should-Be-Recent-In-Reference-Functions", blocking=False)
def reference_versions(p):
    of = {r.get("type"): r.get("apiVersion") for r in p.resources}
    for kind, version in re.findall(r"reference\(resourceId\('([^']+)'.*?\), '(\d[^']*)'", p.template_text):
        if version != of.get(kind, version) or not recent(kind, version):
            yield f"reference to {kind} with {version}"


@rule("Reference-Function-Must-Not-Use-Preview-ApiVersion", blocking=False)
def reference_preview(p):
    for version in re.findall(r"reference\([^\"]*?'(\d{4}-\d{2}-\d{2}-preview)'", p.template_text):
        yield version


def depends_on(p):
    return [(r.get("name"), d) for r in p.resources for d in r.get("dependsOn", [])]


@rule("DependsOn-Best-Practices", blocking=False)
def depends_practice(p):
    for name, d in depends_on(p):
        if re.match(r"\s*\[\s*concat\s*\(", d) and "copyIndex(" not in d:
            yield f"{name}: dependsOn starts with concat"


@rule("DependsOn-Must-Not-Be-Conditional", blocking=False)
def depends_conditional(p):
    for name, d in depends_on(p):
        if re.match(r"\s*\[\s*if\s*\(", d):
            yield f"{name}: dependsOn starts with if"


@rule("DeploymentTemplate-Schema-Is-Correct", blocking=False)
def template_schema(p):
    url = r"https://schema\.management\.azure\.com/schemas/(2015-01-01|2019-04-01)/deploymentTemplate\.json#"
    if not re.fullmatch(url, p.t.get("$schema", "")):
        yield f"$schema {p.t.get('$schema')}"
    if not re.fullmatch(r"\d+\.\d+\.\d+\.\d+", p.t.get("contentVersion", "")):
        yield f"contentVersion {p.t.get('contentVersion')}"


@rule("Dynamic-Variable-References-Should-Not-Use-Concat", blocking=False)
def dynamic_variables(p):
    if re.search(r"variables\(\s*concat\s*\(", p.template_text, re.I):
        yield "variables(concat("


@rule("Expressions-May-Not-Be-Used-As-Parameter-Or-Variable-Names", blocking=False)
def expression_names(p):
    for name in [*p.parameters, *p.t.get("variables", {})]:
        if name.startswith("["):
            yield name


NOT_RESOURCES = {"appid", "clientid", "keyid", "objectid", "principalid", "subscriptionid", "tenantid", "vlanid"}


@rule("IDs-Should-Be-Derived-From-ResourceIDs", blocking=False)
def ids(p):
    good = r"\s*\[\s*((extension|subscription|tenant)ResourceId|resourceId|if|parameters|reference|variables|subscription|guid)\s*\("
    for path, key, value in walk(p.resources):
        is_id = key.lower().endswith("id") and key.lower() not in NOT_RESOURCES and "tags" not in path
        if is_id and isinstance(value, str) and not re.match(good, value):
            yield f"{'.'.join(map(str, path))}.{key} is {value}"


@rule("ManagedIdentityExtension-must-not-be-used", blocking=False)
def identity_extension(p):
    if re.search(r"ManagedIdentityExtensionFor(Linux|Windows)", p.template_text, re.I):
        yield "use a managed identity"


@rule("Parameters-Must-Be-Referenced", blocking=False)
def unused_parameters(p):
    for name in p.parameters:
        if f"parameters('{name}')" not in p.template_text:
            yield name


@rule("Variables-Must-Be-Referenced", blocking=False)
def unused_variables(p):
    for name in p.t.get("variables", {}):
        if f"variables('{name}')" not in p.template_text:
            yield name


@rule("providers_apiVersions-Is-Not-Permitted", blocking=False)
def providers(p):
    if re.search(r"providers\s*\([^)]*\)\s*\.\s*apiVersions", p.template_text, re.I):
        yield "providers().apiVersions"


@rule("ResourceIds-should-not-contain", blocking=False)
def id_parts(p):
    for m in re.finditer(r"resourceId\(\s*(concat|resourceGroup|subscription)\s*\(", p.template_text, re.I):
        yield m[0]


@rule("Template-Should-Not-Contain-Blanks", blocking=False)
def template_blanks(p):
    may = {"resources", "outputs", "variables", "parameters", "functions", "properties", "defaultValue", "value"}
    for path, key, value in walk(p.t):
        if blank(value) and key not in may and not key.startswith("["):
            yield f"{'.'.join(map(str, path))}.{key} is empty"


@rule("VM-Images-Should-Use-Latest-Version", blocking=False)
def image_version(p):
    for _, key, value in walk({"v": p.t.get("variables", {}), "r": p.resources}):
        text = json.dumps(value)
        if key == "imageReference":
            for name in re.findall(r"parameters\('(\w*[vV]ersion)'\)", p.expand(text)):
                if p.parameters.get(name, {}).get("defaultValue") != "latest":
                    yield f"default of {name} is not latest"
            if isinstance(value, dict) and "version" in value and not is_expression(value["version"]) and value["version"] != "latest":
                yield f"version {value['version']}"


@rule("URIs-Should-Be-Properly-Constructed", blocking=False)
def uris(p):
    for path, key, value in walk(p.resources):
        if key.lower().endswith(("uri", "url")) and isinstance(value, str) and re.match(r"\s*\[\s*(concat|format)\s*\(", value):
            yield f"{'.'.join(map(str, path))}.{key}: use uri()"


def check(template, ui):
    """[(name, blocking, message)]; the template and the definition are texts or JSON values."""
    try:
        p = Package(template, ui)
    except ValueError as e:
        return [("JSONFiles-Should-Be-Valid", True, str(e))]
    return [(name, blocking, message) for name, blocking, test in RULES for message in test(p)]


def main(argv):
    if len(argv) != 2:
        print(__doc__.rsplit("\n\n", 1)[1], file=sys.stderr)
        return 2
    folder = pathlib.Path(argv[1])
    found = check(*((folder / n).read_text() for n in ("mainTemplate.json", "createUiDefinition.json")))
    for name, blocking, message in found:
        print(f"{'error' if blocking else 'warning'} {name}: {message}")
    return 1 if any(b for _, b, _ in found) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
