# SPDX-License-Identifier: Apache-2.0
"""bicep/generate.js against pairs of Bicep and ARM written by hand from Bicep's documented semantics, and what it must refuse."""
import json
import pathlib
import shutil
import subprocess

import pytest

REPO = pathlib.Path(__file__).resolve().parents[2]
GENERATE = ["node", str(REPO / "bicep/generate.js")]
IP = "resource ip 'Microsoft.Network/publicIPAddresses@2024-10-01' = {\n  name: 'ip-${p}'\n}\n"
IP_ID = "resourceId('Microsoft.Network/publicIPAddresses', format('ip-{0}', parameters('p')))"


def generate(tmp_path, source, *args):
    file = tmp_path / "x.bicep"
    file.write_text(source)
    return subprocess.run([*GENERATE, str(file), *args], capture_output=True, text=True, timeout=60)


def template(tmp_path, source):
    r = generate(tmp_path, source)
    assert r.returncode == 0, r.stderr
    return json.loads(r.stdout)


VALUES = [
    ("'a'", "a"),
    ("''", ""),
    ("'[a'", "[[a"),
    (r"'it\'s \${x} \\ \u{41}\n'", "it's ${x} \\ A\n"),
    ("12", 12),
    ("true", True),
    ("null", None),
    ("[]", []),
    ("{}", {}),
    ("['a', p]", ["a", "[parameters('p')]"]),
    ("{\n  a: p\n  'b-c': 1\n}", {"a": "[parameters('p')]", "b-c": 1}),
    ("p", "[parameters('p')]"),
    ("v", "[variables('v')]"),
    ("o.a.b", "[parameters('o').a.b]"),
    ("o.a[0]", "[parameters('o').a[0]]"),
    ("o[p]", "[parameters('o')[parameters('p')]]"),
    ("'${p}'", "[format('{0}', parameters('p'))]"),
    ("'a${p}b${n}c'", "[format('a{0}b{1}c', parameters('p'), parameters('n'))]"),
    ("'${p} ${p}'", "[format('{0} {1}', parameters('p'), parameters('p'))]"),  # white space between two of them
    ("'{${p}}'", "[format('{{{0}}}', parameters('p'))]"),
    ("'it\\'s ${p}'", "[format('it''s {0}', parameters('p'))]"),
    ("'a${b ? 'x' : 'y${p}'}'", "[format('a{0}', if(parameters('b'), 'x', format('y{0}', parameters('p'))))]"),
    ("'''\none\ntwo ${p} \\n\n'''", "one\ntwo ${p} \\n\n"),
    ("'''one'''", "one"),
    ("format('''\n{0}\n''', p)", "[format('{0}\n', parameters('p'))]"),
    ("p == 'x'", "[equals(parameters('p'), 'x')]"),
    ("p != 'x'", "[not(equals(parameters('p'), 'x'))]"),
    ("n > 1", "[greater(parameters('n'), 1)]"),
    ("n >= 1", "[greaterOrEquals(parameters('n'), 1)]"),
    ("n < 1", "[less(parameters('n'), 1)]"),
    ("n <= 1", "[lessOrEquals(parameters('n'), 1)]"),
    ("!b", "[not(parameters('b'))]"),
    ("b && (n > 1)", "[and(parameters('b'), greater(parameters('n'), 1))]"),
    ("b || !empty(p)", "[or(parameters('b'), not(empty(parameters('p'))))]"),
    ("b ? 'x' : p", "[if(parameters('b'), 'x', parameters('p'))]"),
    ("n > 1 ? 1 : 2", "[if(greater(parameters('n'), 1), 1, 2)]"),
    ("b ? o.a : (o.c)", "[if(parameters('b'), parameters('o').a, parameters('o').c)]"),
    ("b ? null : true", "[if(parameters('b'), null(), true())]"),
    ("b ? { a: p } : {}", "[if(parameters('b'), createObject('a', parameters('p')), createObject())]"),
    ("b ? [1, 'x'] : []", "[if(parameters('b'), createArray(1, 'x'), createArray())]"),
    ("union(o, { k: '[x' })", "[union(parameters('o'), createObject('k', '[x'))]"),
    ("resourceGroup().id", "[resourceGroup().id]"),
    ("replace(p, '\\n', '')", "[replace(parameters('p'), '\n', '')]"),
]


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    """All of VALUES in one run."""
    params = "param p string\nparam n int\nparam b bool\nparam o object\nvar v = 'v'\n"
    lines = "".join(f"var x{i} = {source}\n" for i, (source, _) in enumerate(VALUES))
    return template(tmp_path_factory.mktemp("values"), params + lines)["variables"]


@pytest.mark.parametrize("i", range(len(VALUES)), ids=[v[0] for v in VALUES])
def test_value(values, i):
    assert values[f"x{i}"] == VALUES[i][1]


def test_template_frame(tmp_path):
    t = template(tmp_path, "// nothing\nparam p string\n")
    assert list(t) == ["$schema", "contentVersion", "metadata", "parameters", "resources"]
    assert t["$schema"] == "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#"
    assert t["contentVersion"] == "1.0.0.0" and "languageVersion" not in t and t["resources"] == []


def test_parameters(tmp_path):
    t = template(tmp_path, "@description('d')\n@allowed([\n  'a'\n  'b'\n])\n@minLength(1)\n@maxLength(9)\nparam p string = 'a'\n"
                           "@minValue(1)\n@maxValue(3)\nparam n int = 2\n@secure()\nparam s string = newGuid()\n"
                           "param l string = resourceGroup().location\n"
                           "param q string = '${p}-x'\nparam e object = {}\nparam f array = []\nparam g bool\n@secure()\nparam h object\n")
    assert t["parameters"] == {
        "p": {"type": "string", "defaultValue": "a", "allowedValues": ["a", "b"], "minLength": 1, "maxLength": 9,
              "metadata": {"description": "d"}},
        "n": {"type": "int", "defaultValue": 2, "minValue": 1, "maxValue": 3},
        "s": {"type": "securestring", "defaultValue": "[newGuid()]"},
        "l": {"type": "string", "defaultValue": "[resourceGroup().location]"},
        "q": {"type": "string", "defaultValue": "[format('{0}-x', parameters('p'))]"},
        "e": {"type": "object", "defaultValue": {}},
        "f": {"type": "array", "defaultValue": []},
        "g": {"type": "bool"},
        "h": {"type": "secureobject"},
    }


def test_resource(tmp_path):
    body = "{\n  name: 'ip-${p}'\n  location: p\n  tags: {\n    a: 'b'\n  }\n}\n"
    t = template(tmp_path, f"param p string\nresource ip 'Microsoft.Network/publicIPAddresses@2024-10-01' = if (p == 'x') {body}")
    assert t["resources"] == [{
        "condition": "[equals(parameters('p'), 'x')]",
        "type": "Microsoft.Network/publicIPAddresses",
        "apiVersion": "2024-10-01",
        "name": "[format('ip-{0}', parameters('p'))]",
        "location": "[parameters('p')]",
        "tags": {"a": "b"},
    }]


REFERENCES = [
    ("ip.id", f"[{IP_ID}]"),
    ("ip.name", "[format('ip-{0}', parameters('p'))]"),
    ("ip.properties.ipAddress", f"[reference({IP_ID}, '2024-10-01').ipAddress]"),
    ("ip.properties.a[0].b", f"[reference({IP_ID}, '2024-10-01').a[0].b]"),
    ("ip.identity.principalId", f"[reference({IP_ID}, '2024-10-01', 'full').identity.principalId]"),
    ("'x-${ip.id}'", f"[format('x-{{0}}', {IP_ID})]"),
    ("(p == 'x') ? ip.id : null", f"[if(equals(parameters('p'), 'x'), {IP_ID}, null())]"),
    ("viaVariable", "[variables('viaVariable')]"),
    ("viaTwo.k", "[variables('viaTwo').k]"),
]


@pytest.mark.parametrize("source, arm", REFERENCES, ids=[r[0] for r in REFERENCES])
@pytest.mark.parametrize("ip_first", [True, False])
def test_reference_brings_its_dependency(tmp_path, source, arm, ip_first):
    """However a resource is named, by id, by name, in a string or through variables, and whatever the order of declaration."""
    nic = ("resource nic 'Microsoft.Network/networkInterfaces@2024-10-01' = {\n  name: 'nic'\n  properties: {\n    list: [\n      {\n"
           f"        x: {source}\n      }}\n    ]\n  }}\n}}\n")
    variables = "var viaTwo = {\n  k: viaVariable\n}\nvar viaVariable = ip.id\n"
    t = template(tmp_path, "param p string\n" + (IP + variables + nic if ip_first else nic + variables + IP))
    by_type = {r["type"].split("/")[1]: r for r in t["resources"]}
    assert by_type["networkInterfaces"]["properties"]["list"][0]["x"] == arm
    assert by_type["networkInterfaces"]["dependsOn"] == [f"[{IP_ID}]"]
    assert "dependsOn" not in by_type["publicIPAddresses"]


def test_each_dependency_once(tmp_path):
    vm = ("resource vm 'Microsoft.Compute/virtualMachines@2025-04-01' = {\n  name: 'vm'\n"
          "  tags: {\n    a: ip.id\n    b: nic.id\n    c: ip.properties.x\n  }\n}\n")
    nic = "resource nic 'Microsoft.Network/networkInterfaces@2024-10-01' = {\n  name: 'nic'\n}\n"
    t = template(tmp_path, "param p string\n" + vm + IP + nic)
    assert t["resources"][0]["dependsOn"] == [f"[{IP_ID}]", "[resourceId('Microsoft.Network/networkInterfaces', 'nic')]"]


def test_name_of_another_resource_in_a_name(tmp_path):
    other = "resource nic 'Microsoft.Network/networkInterfaces@2024-10-01' = {\n  name: '${ip.name}-nic'\n}\n"
    t = template(tmp_path, "param p string\n" + IP + other)
    assert t["resources"][1]["name"] == "[format('{0}-nic', format('ip-{0}', parameters('p')))]"
    assert t["resources"][1]["dependsOn"] == [f"[{IP_ID}]"]


def test_outputs(tmp_path):
    t = template(tmp_path, "param p string\n" + IP + "@description('d')\noutput o string = ip.properties.ipAddress\noutput l array = [ip.name]\n")
    assert t["outputs"] == {
        "o": {"type": "string", "metadata": {"description": "d"}, "value": f"[reference({IP_ID}, '2024-10-01').ipAddress]"},
        "l": {"type": "array", "value": ["[format('ip-{0}', parameters('p'))]"]},
    }


REFUSED = [
    ("param p string?", "does not parse|type"),
    ("param p 'a' | 'b'", "type"),
    ("type t = string", "not supported"),
    ("param p t", "type t"),
    ("targetScope = 'subscription'", "not supported"),
    ("module m 'm.bicep' = {\n  name: 'm'\n}", "not supported"),
    ("import * as f from 'f.bicep'", "not supported|does not parse"),
    ("func f(a string) string => a", "not supported|does not parse"),
    ("var x = [for i in range(0, 3): i]", "for_statement is not supported"),
    ("var x = map([1], i => i)", "function map is not supported"),
    ("var x = loadTextContent('x')", "function loadTextContent is not supported"),
    ("var x = 1 + 2", "operator \\+ is not supported"),
    ("var x = y", "y is not declared"),
    ("var x = x", "refers to itself"),
    ("var x = -1", "negative"),
    ("var x = { a: 1, A: 2 }", "stands twice"),
    ("var x = 1\nvar x = 2", "declared twice"),
    ("var x = 'a\\q'", "unknown escape|does not parse"),
    ("var x = newGuid()", "newGuid"),
    ("var x = 'caf\u00e9'", "line 1: only printable ASCII"),
    ("var x = (", "does not parse"),
    ("param o object\nvar x = o.?a", "safe access|does not parse"),
    ("param b bool\nparam o object\nvar x = b ? 'a' : o.c", "parentheses"),  # the parser would read (b ? 'a' : o).c
    ("param b bool\nvar x = b && b || b", "parentheses"),
    ("param b bool\nvar x = b == b && b", "parentheses"),
    ("param b bool\nvar x = b ? 1 : b ? 2 : 3", None),
    ("@secure()\nparam p int", "secure"),
    ("@batchSize(1)\nparam p int", "decorator @batchSize"),
    ("@description('d')\nresource r 'A.B/c@2024-01-01' = {\n  name: 'r'\n}", "decorator @description"),
    ("resource r 'A.B/c@2024-01-01' existing = {\n  name: 'r'\n}", "existing"),
    ("resource r 'A.B/c@2024-01-01' = [for i in range(0, 2): {\n  name: 'r${i}'\n}]", "not supported"),
    ("resource r 'A.B/c/d@2024-01-01' = {\n  name: 'r'\n}", "child types"),
    ("resource r 'A.B/c@2024-01-01-preview' = {\n  name: 'r'\n}", "preview"),
    ("resource r 'A.B/c@2024-01-01' = {\n  location: 'x'\n}", "no name"),
    ("resource r 'A.B/c@2024-01-01' = {\n  name: 'r'\n  parent: r\n}", "property parent"),
    ("resource r 'A.B/c@2024-01-01' = {\n  name: 'r'\n}\nvar x = r", "as a value"),
    ("resource r 'A.B/c@2024-01-01' = {\n  name: 'r'\n}\nvar x = r.properties.y", "known only at run time"),
    ("resource r 'A.B/c@2024-01-01' = {\n  name: 'r'\n}\nparam p string = r.id", "other parameters only|resource in a"),
    ("resource r 'A.B/c@2024-01-01' = {\n  name: 'r'\n}\nresource q 'A.B/c@2024-01-01' = {\n  name: r.properties.x\n}",
     "known only at run time"),
]


@pytest.mark.parametrize("source, why", REFUSED, ids=[r[0].split("\n")[-1][:50] for r in REFUSED])
def test_refuses(tmp_path, source, why):
    r = generate(tmp_path, source + "\n", "-o", str(tmp_path / "out.json"))
    if why is None:  # right associative, and read so
        assert r.returncode == 0
        return
    assert r.returncode == 1 and r.stdout == ""
    assert r.stderr.startswith(f"generate.js: {tmp_path}/x.bicep: line "), r.stderr
    assert any(w in r.stderr for w in why.replace("\\", "").split("|")), r.stderr
    assert not (tmp_path / "out.json").exists()


def test_usage_and_missing_file(tmp_path):
    assert subprocess.run(GENERATE, capture_output=True).returncode == 2
    assert subprocess.run([*GENERATE, "a", "--chekc", "b"], capture_output=True).returncode == 2
    r = subprocess.run([*GENERATE, str(tmp_path / "none.bicep")], capture_output=True, text=True)
    assert r.returncode == 1 and "none.bicep" in r.stderr and "no such file" in r.stderr


def test_main_template_is_generated(tmp_path):
    """The committed template is what the generator makes of main.bicep, to the byte."""
    out = REPO / "bicep/mainTemplate.json"
    r = subprocess.run([*GENERATE, str(REPO / "bicep/main.bicep"), "--check", str(out)], capture_output=True, text=True)
    assert r.returncode == 0, r.stderr
    (tmp_path / "old.json").write_text(out.read_text() + " ")
    r = subprocess.run([*GENERATE, str(REPO / "bicep/main.bicep"), "--check", str(tmp_path / "old.json")], capture_output=True, text=True)
    assert r.returncode == 1 and "run bicep/generate.js" in r.stderr


def same(a, b):
    """Equal but for key order (JSON's), metadata and the order of dependsOn."""
    if isinstance(a, dict) and isinstance(b, dict):
        ka, kb = ({k for k in d if k != "metadata"} for d in (a, b))
        return ka == kb and all(sorted(a[k]) == sorted(b[k]) if k == "dependsOn" else same(a[k], b[k]) for k in ka)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def test_compiler_agrees(tmp_path):
    """Where the Bicep compiler is installed it must agree; the comparison itself is tried everywhere."""
    ours = json.loads((REPO / "bicep/mainTemplate.json").read_text())
    other = json.loads(json.dumps(ours))
    other["metadata"] = {"_generator": {"name": "bicep"}}
    for r in other["resources"]:
        r.get("dependsOn", []).reverse()
    assert same(ours, other)
    other["resources"][-1]["dependsOn"].append("x")
    assert not same(ours, other)
    if shutil.which("bicep"):
        r = subprocess.run(["bicep", "build", "--stdout", str(REPO / "bicep/main.bicep")], capture_output=True, text=True, timeout=300)
        assert r.returncode == 0, r.stderr
        assert same(ours, json.loads(r.stdout))
