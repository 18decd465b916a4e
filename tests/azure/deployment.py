# SPDX-License-Identifier: Apache-2.0
"""What the tests of bicep/ share."""
import functools
import json
import os
import pathlib
import subprocess

REPO = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("TB_BUILD", REPO / "build"))
BICEP = REPO / "bicep"
TEMPLATE = BICEP / "mainTemplate.json"
# What the consumer guide gives, and nothing more; and what tbpkg fills in for a Marketplace image.
GUIDE = {"vmSize": "Standard_NC24ads_A100_v4", "contractId": "contract-123", "assetId": "my-model-v1",
         "edcEndpoint": "https://controlplane.example.com"}
IMAGE = {"imagePublisher": "contoso", "imageOffer": "model", "imagePlan": "vm-hidden"}
GALLERY = "/subscriptions/s/resourceGroups/r/providers/Microsoft.Compute/galleries/g/images/i/versions/1.0.0"
APP = "/subscriptions/s/resourceGroups/r/providers/Microsoft.Solutions/applications/app"


def validate(template, parameters, *flags):
    """Runs validate.js; returns (exit status, what it printed, its stderr)."""
    argv = ["node", str(BICEP / "validate.js"), str(template), "-", *flags]
    r = subprocess.run(argv, input=json.dumps(parameters), capture_output=True, text=True, timeout=60)
    return r.returncode, r.stdout, r.stderr


@functools.cache
def _deploy(parameters, managed_by):
    rc, out, err = validate(TEMPLATE, json.loads(parameters), "--print", *(["--managed-by", managed_by] if managed_by else []))
    assert rc == 0, err
    return out


class Deployed:
    def __init__(self, managed_by=None, **parameters):
        self.all = json.loads(_deploy(json.dumps({**GUIDE, **IMAGE, **parameters}, sort_keys=True), managed_by))
        self.outputs = self.all["outputs"]
        self.types = [r["type"].split("/")[1] for r in self.all["resources"]]

    def __getitem__(self, kind):
        """The only resource of a type."""
        found = [r for r in self.all["resources"] if r["type"].split("/")[1] == kind]
        assert len(found) == 1, f"{len(found)} {kind}"
        return found[0]

    @property
    def vm(self):
        return self["virtualMachines"]["properties"]
