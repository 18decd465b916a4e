# SPDX-License-Identifier: Apache-2.0
"""A small ARM template with its form and view, for tests of tbpkg package and publish."""

import json

TEMPLATE = {
    "$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#",
    "contentVersion": "1.2.3.0",
    "parameters": {
        "location": {"type": "string", "defaultValue": "[resourceGroup().location]"},
        "vmSize": {"type": "string", "defaultValue": "Standard_A", "allowedValues": ["Standard_A", "Standard_B"]},
        "instanceCount": {"type": "int", "defaultValue": 1, "minValue": 1, "maxValue": 16},
        "contractId": {"type": "string"},
        "assetId": {"type": "string", "minLength": 1, "maxLength": 100},
        "edcEndpoint": {"type": "string"},
        "imageId": {"type": "string", "defaultValue": ""},
        "imagePublisher": {"type": "string", "defaultValue": ""},
        "imageOffer": {"type": "string", "defaultValue": ""},
        "imagePlan": {"type": "string", "defaultValue": ""},
        "imageVersion": {"type": "string", "defaultValue": "latest"},
        "secureBoot": {"type": "bool", "defaultValue": True},
        "tags": {"type": "object", "defaultValue": {}},
        "billingDimension": {"type": "string", "defaultValue": "requests"},
        "providerKey": {"type": "string", "defaultValue": "", "maxLength": 1000},
        "adminPassword": {"type": "securestring", "defaultValue": "[newGuid()]"},
    },
    "resources": [],
    "outputs": {"endpoint": {"type": "string", "value": "x"}},
}
FORM = {
    "$schema": "https://schema.management.azure.com/schemas/0.1.2-preview/CreateUIDefinition.MultiVm.json#",
    "handler": "Microsoft.Azure.CreateUIDef", "version": "0.1.2-preview",
    "parameters": {"basics": [], "steps": [{"name": "s", "elements": [{"name": "providerKeyText", "options": {"text": "none"}}]}], "outputs": {"location": "[location()]", "contractId": "[steps('c').id]",
                                                          "vmSize": "[steps('c').size]"}},
}
VIEW = {"$schema": "https://schema.management.azure.com/schemas/viewdefinition/0.0.1-preview/ViewDefinition.json#",
        "contentVersion": "0.0.0.1", "views": []}


def write_templates(directory, template=TEMPLATE, form=FORM, view=VIEW):
    directory.mkdir(parents=True, exist_ok=True)
    for name, doc in (("mainTemplate.json", template), ("createUiDefinition.json", form), ("viewDefinition.json", view)):
        (directory / name).write_text(doc if isinstance(doc, str) else json.dumps(doc, indent=2))
    return directory
