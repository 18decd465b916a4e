# SPDX-License-Identifier: Apache-2.0
"""bicep/evaluate.js, on which the other tests rely, against values that the documentation of ARM's functions gives."""
import json

import pytest

from deployment import APP, validate

ID = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/example"
VALUES = [
    ("plain", "plain"),
    ("[[x]", "[x]"),
    ("[format('{0}-{1}{{x}}', 'a', 2)]", "a-2{x}"),
    ("[format('it''s {0}', parameters('s'))]", "it's value"),
    ("[uriComponent('AZaz09_-')]", "AZaz09_-"),
    ("[uriComponent(' \n/=')]", "%20%0A%2F%3D"),
    ("[base64('one')]", "b25l"),
    ("[replace('a,b,c', ',', '\n')]", "a\nb\nc"),
    ("[toLower('AbC')]", "abc"),
    ("[startsWith('Standard_NCC40', 'standard_ncc')]", True),
    ("[contains(resourceGroup(), 'managedBy')]", True),
    ("[resourceGroup().managedBy]", APP),
    ("[contains(createArray('a', 'b'), 'c')]", False),
    ("[and(true(), or(false(), not(false())))]", True),
    ("[equals(createArray(1, 'x'), createArray(1, 'x'))]", True),
    ("[greater(2, 1)]", True),
    ("[if(empty(''), 'yes', reference('nothing').x)]", "yes"),
    ("[empty(createObject())]", True),
    ("[union(createObject('a', 1, 'b', 2), createObject('b', 3))]", {"a": 1, "b": 3}),
    ("[concat(createArray(1), createArray(2))]", [1, 2]),
    ("[concat('a', 'b')]", "ab"),
    ("[createObject('a', null(), 'b', createArray(variables('v').list[1]))]", {"b": ["second"]}),
    ("[resourceId('A.B/c', 'x')]", f"{ID}/providers/A.B/c/x"),
    ("[resourceId('A.B/c/d', 'x', 'y')]", f"{ID}/providers/A.B/c/x/d/y"),
    ("[resourceGroup().id]", ID),
    ("[reference(resourceId('A.B/c', 'r'), '2025-01-01').deep[0].x]", f"<{ID}/providers/A.B/c/r.deep.0.x>"),
    ("[reference(resourceId('A.B/c', 'r'), '2025-01-01', 'full').identity]", f"<{ID}/providers/A.B/c/r:full.identity>"),
]
FAULTS = [
    ("[newGuid()]", "newGuid() outside a default"),
    ("[format('{0} {1}', 'a')]", "no argument {1}"),
    ("[format('{', 'a')]", "single {"),
    ("[variables('v').none]", "no member none"),
    ("[resourceId('A.B/c/d', 'x')]", "2 names expected"),
    ("[concat('a' 'b')]", ", expected"),
    ("[concat('a'))]", ") is too much"),
    ("[reference(resourceId('A.B/c', 'other')).x]", "is not deployed"),
    ("[parameters('none')]", "parameter none is not known"),
]


def evaluate(tmp_path, values):
    t = {"parameters": {"s": {"type": "string", "defaultValue": "value"}}, "variables": {"v": {"list": ["first", "second"]}},
         "resources": [{"type": "A.B/c", "apiVersion": "2025-01-01", "name": "r"}], "outputs": {f"o{i}": {"value": v} for i, v in enumerate(values)}}
    (tmp_path / "t.json").write_text(json.dumps(t))
    return validate(tmp_path / "t.json", {}, "--print", "--managed-by", APP)


def test_values(tmp_path):
    rc, out, err = evaluate(tmp_path, [v for v, _ in VALUES])
    assert rc == 0, err
    assert [(v, json.loads(out)["outputs"][f"o{i}"]) for i, (v, _) in enumerate(VALUES)] == VALUES


@pytest.mark.parametrize("value, says", FAULTS, ids=[f[1] for f in FAULTS])
def test_faults(tmp_path, value, says):
    rc, out, err = evaluate(tmp_path, [value])
    assert rc == 1 and out == "" and says in err and err.count("\n") == 1
