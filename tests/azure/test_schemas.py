# SPDX-License-Identifier: Apache-2.0
"""bicep/schemas/derive.js on a package that is small enough to write down, and the schemas that it made."""
import json
import subprocess

import pytest

from deployment import BICEP

MAPPERS = """
exports.Thing = { type: { name: "Composite", className: "Thing", modelProperties: {
    name: { serializedName: "name", readOnly: true, type: { name: "String" } },
    tags: { serializedName: "tags", type: { name: "Dictionary", value: { type: { name: "String" } } } },
    mode: { serializedName: "properties.mode", required: true, type: { name: "String" } },
    size: { serializedName: "properties.size", constraints: { InclusiveMinimum: 1, InclusiveMaximum: 9 }, type: { name: "Number" } },
    dotted: { serializedName: "odata\\\\.type", type: { name: "Boolean" } },
    parts: { serializedName: "properties.parts", type: { name: "Sequence", element: { type: { name: "Composite", className: "Part" } } } },
    state: { serializedName: "properties.state", readOnly: true, type: { name: "String" } } } } };
exports.Part = { type: { name: "Composite", className: "Part", modelProperties: {
    kind: { serializedName: "kind", type: { name: "Enum", allowedValues: ["A", "B"] } },
    label: { serializedName: "label", constraints: { Pattern: /^[a-z]+$/, MaxLength: 3 }, type: { name: "String" } },
    self: { serializedName: "self", type: { name: "Composite", className: "Part" } } } } };
"""
DECLARATIONS = """
export interface Resource {
    /** words */
    mode?: Mode;
}
export interface Thing extends Resource {
    size?: number;
}
/** Known values */
export declare enum KnownMode {
    /** One */
    One = "one",
    Two = "two"
}
"""


@pytest.fixture(scope="module")
def schema(tmp_path_factory):
    models = tmp_path_factory.mktemp("derive") / "azure-arm-thing-1.2.3" / "models"
    models.mkdir(parents=True)
    (models / "mappers.js").write_text(MAPPERS)
    (models / "index.d.ts").write_text(DECLARATIONS)
    (models / "parameters.js").write_text('defaultValue: "2025-01-01"')
    source = {"package": "azure-arm-thing-1.2.3", "models": "models", "provider": "A.B", "apiVersion": "2025-01-01", "resources": {"things": "Thing"}}

    def derive(**changes):
        script = f"process.stdout.write(require('{BICEP}/schemas/derive.js').derive({json.dumps({**source, **changes})}, '{models.parents[1]}'))"
        return subprocess.run(["node", "-e", script], capture_output=True, text=True, timeout=60)
    return derive


def test_derived(schema):
    s = json.loads(schema().stdout)
    assert "@azure/arm-thing@1.2.3" in s["$comment"] and "MIT" in s["$comment"]
    thing = s["resourceDefinitions"]["things"]
    assert thing["required"] == ["type", "apiVersion", "name"] and thing["additionalProperties"] is False
    assert thing["properties"]["type"] == {"const": "A.B/things"} and thing["properties"]["apiVersion"] == {"const": "2025-01-01"}
    assert thing["properties"]["tags"] == {"type": "object", "additionalProperties": {"type": "string"}}
    assert thing["properties"]["odata.type"] == {"type": "boolean"}
    assert thing["properties"]["properties"] == {
        "type": "object", "additionalProperties": False, "required": ["mode"],
        "properties": {"mode": {"enum": ["one", "two"]}, "size": {"type": "number", "minimum": 1, "maximum": 9},
                       "parts": {"type": "array", "items": {"$ref": "#/definitions/Part"}}}}
    assert s["definitions"] == {"Part": {
        "type": "object", "additionalProperties": False,
        "properties": {"kind": {"enum": ["A", "B"]}, "label": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 3},
                       "self": {"$ref": "#/definitions/Part"}}}}


def test_another_api_version_is_refused(schema):
    r = schema(apiVersion="2024-01-01")
    assert r.returncode != 0 and "does not speak API version 2024-01-01" in r.stderr


def test_schemas_name_their_source_and_licence():
    files = sorted((BICEP / "schemas").glob("*.json"))
    assert len(files) == 3 and "MIT License" in (BICEP / "schemas/LICENSE").read_text()
    script = (BICEP / "schemas/derive.js").read_text()
    for f in files:
        comment = json.loads(f.read_text())["$comment"]
        assert "(c) Microsoft Corporation, MIT" in comment
        package = comment.split("@azure/")[1].split(",")[0].replace("@", "-")
        assert f"azure-{package}'" in script
