# SPDX-License-Identifier: Apache-2.0
"""docs/consumer-guide.md names what the template has."""

import json
import pathlib
import re

REPO = pathlib.Path(__file__).resolve().parents[2]
GUIDE = (REPO / "docs/consumer-guide.md").read_text()
TEMPLATE = json.loads((REPO / "bicep/mainTemplate.json").read_text())


def test_every_parameter_exists():
    deployed = re.findall(r"^        (\w+)=\"", GUIDE, re.M)
    table = [name for row in re.findall(r"^\| (`[^|]*) \| ", GUIDE, re.M) for name in re.findall(r"`(\w+)`", row)]
    assert {"vmSize", "contractId", "assetId", "edcEndpoint"} <= set(deployed) and len(table) >= 7
    assert set(deployed + table + re.findall(r"`(\w+)=true`", GUIDE)) <= set(TEMPLATE["parameters"])


def test_every_needed_parameter_is_given():
    needed = {name for name, p in TEMPLATE["parameters"].items() if "defaultValue" not in p}
    assert needed <= set(re.findall(r"^        (\w+)=\"", GUIDE, re.M))


def test_the_defaults_are_those_of_the_template():
    for name, default in (("apiSourcePrefix", "VirtualNetwork"), ("publicEndpoint", True), ("tlsMode", "selfSigned"), ("instanceCount", 1)):
        assert TEMPLATE["parameters"][name]["defaultValue"] == default
        assert re.search(rf"^\| `{name}` \| `?{str(default).lower() if default is True else default}`? \|", GUIDE, re.M), name


def test_outputs_exist():
    said = re.search(r"The outputs of the deployment are (.*?):\n", GUIDE, re.S)[1]
    assert set(re.findall(r"`(\w+)`", said)) <= set(TEMPLATE["outputs"])
