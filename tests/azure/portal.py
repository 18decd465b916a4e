# SPDX-License-Identifier: Apache-2.0
"""What the portal documents of createUiDefinition.json and viewDefinition.json: the members of each control and view, which of them
must be there, and of what type. Written from the documentation of the elements that are used here; any other element is a fault."""
import re

TEXT, FLAG, LIST, ANY = str, (bool, str), list, object
NO_TOOL_TIP = {"Microsoft.Common.InfoBox", "Microsoft.Common.Section", "Microsoft.Common.TextBlock", "Microsoft.Solutions.ArmApiControl"}
# type: {member: its type or its members}; a member with * must be there.
BASE = {"name*": TEXT, "type*": TEXT, "visible": FLAG}
INPUT = {**BASE, "label*": TEXT, "toolTip": TEXT, "defaultValue": TEXT}
CHOICE = {**INPUT, "constraints*": {"required": FLAG, "allowedValues*": [{"label*": TEXT, "value*": ANY}]}}
CONTROLS = {
    "Microsoft.Common.TextBox": {**INPUT, "constraints": {"required": FLAG, "regex": TEXT, "validationMessage": TEXT}},
    "Microsoft.Common.PasswordBox": {
        **BASE, "label*": {"password*": TEXT, "confirmPassword*": TEXT}, "toolTip": TEXT, "options": {"hideConfirmation": FLAG},
        "constraints": {"required": FLAG, "regex": TEXT, "validationMessage": TEXT}},
    "Microsoft.Common.DropDown": CHOICE,
    "Microsoft.Common.OptionsGroup": CHOICE,
    "Microsoft.Common.TextBlock": {**BASE, "options*": {"text": TEXT, "link": {"label*": TEXT, "uri*": TEXT}}},
    "Microsoft.Common.InfoBox": {**BASE, "options*": {"icon*": ("None", "Info", "Warning", "Error"), "text*": TEXT, "uri": TEXT}},
    "Microsoft.Compute.SizeSelector": {
        **BASE, "label*": TEXT, "toolTip": TEXT, "recommendedSizes*": [TEXT], "osPlatform*": ("Windows", "Linux"), "count": (int, str),
        "constraints": {"allowedSizes": [TEXT], "excludedSizes": [TEXT]}, "options": {"hideDiskTypeFilter": FLAG}},
}
STEP = {"name*": TEXT, "label*": TEXT, "bladeTitle*": TEXT, "bladeSubtitle": TEXT,
        "subLabel*": {"preValidation*": TEXT, "postValidation*": TEXT}, "elements*": LIST}
UI = {"$schema*": TEXT, "handler*": TEXT, "version*": TEXT, "parameters*": {"basics*": LIST, "steps*": [STEP], "outputs*": dict}}
METRIC = {"name*": TEXT, "aggregationType*": ("none", "sum", "min", "max", "avg", "unique", "percentile", "count"), "namespace": TEXT,
          "resourceTagFilter": [TEXT], "resourceType*": TEXT}
CHART = {"displayName*": TEXT, "chartType": ("Bar", "Line", "Area", "Scatter"), "metrics*": [METRIC]}
VIEWS = {
    "Overview": {"kind*": TEXT, "properties": {"header": TEXT, "description": TEXT, "commands": LIST}},
    "Metrics": {"kind*": TEXT, "properties*": {"displayName": TEXT, "version": ("1.0.0",), "charts*": [CHART]}},
}
VIEW = {"$schema*": TEXT, "contentVersion*": TEXT, "views*": LIST}
# Functions of createUiDefinition.json, apart from those that name a control.
FUNCTIONS = {"and", "basics", "concat", "empty", "equals", "greater", "if", "location", "steps", "string"}


class Control(dict):
    """An element, with the name of its step; None is basics."""
    def __init__(self, members, step):
        super().__init__(members)
        self.step = step


def controls(ui):
    parameters = ui.get("parameters", {})
    for e in parameters.get("basics", []):
        yield Control(e, None)
    for s in parameters.get("steps", []):
        for e in s.get("elements", []):
            yield Control(e, s.get("name"))


def faults(value, shape, where):
    """What is wrong with a value of a given shape."""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            yield f"{where}: an object is expected"
            return
        known = {k.rstrip("*"): s for k, s in shape.items()}
        yield from (f"{where}: no {k.rstrip('*')}" for k in shape if k.endswith("*") and k.rstrip("*") not in value)
        for k, v in value.items():
            if k in known:
                yield from faults(v, known[k], f"{where}.{k}")
            else:
                yield f"{where}: unknown member {k}"
    elif isinstance(shape, list):
        if not isinstance(value, list) or not value:
            yield f"{where}: a list with members is expected"
            return
        for i, v in enumerate(value):
            yield from faults(v, shape[0], f"{where}[{i}]")
    elif isinstance(shape, tuple) and isinstance(shape[0], str):
        if value not in shape:
            yield f"{where}: {value!r} is none of {', '.join(shape)}"
    elif not isinstance(value, shape):
        yield f"{where}: {value!r} is of the wrong type"


def expressions(value):
    if isinstance(value, str) and value.startswith("["):
        yield value
    for v in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from expressions(v)


def ui_faults(ui):
    yield from faults(ui, UI, "createUiDefinition")
    names, known = set(), {(c.step, c.get("name")) for c in controls(ui)}
    for c in controls(ui):
        where = f"{c.step or 'basics'}.{c.get('name')}"
        if (c.step, c.get("name")) in names:
            yield f"{where} stands twice"
        names.add((c.step, c.get("name")))
        if c.get("type") not in CONTROLS:
            yield f"{where}: {c.get('type')} is not a control that is known here"
            continue
        yield from faults(dict(c), CONTROLS[c["type"]], where)
        labels = [v.get("label") for v in c.get("constraints", {}).get("allowedValues", []) if isinstance(v, dict)]
        if labels and (len(set(labels)) != len(labels) or c.get("defaultValue", labels[0]) not in labels):
            yield f"{where}: labels must differ and the default be one of them"
    for e in expressions(ui):
        for f in re.findall(r"(\w+)\(", re.sub(r"'[^']*'", "''", e)):
            if f not in FUNCTIONS:
                yield f"{e}: function {f} is not known here"
        for step, element in re.findall(r"steps\('([^']+)'\)\.(\w+)", e):
            if (step, element) not in known:
                yield f"{e}: there is no {element} in {step}"
        if e.count("(") != e.count(")") or not e.endswith("]"):
            yield f"{e}: parentheses"


def view_faults(view):
    yield from faults(view, VIEW, "viewDefinition")
    if view.get("$schema") != "https://schema.management.azure.com/schemas/viewdefinition/0.0.1-preview/ViewDefinition.json#":
        yield f"$schema {view.get('$schema')}"
    if not re.fullmatch(r"\d+\.\d+\.\d+\.\d+", str(view.get("contentVersion"))):
        yield f"contentVersion {view.get('contentVersion')}"
    for v in view.get("views", []):
        if v.get("kind") not in VIEWS:
            yield f"view {v.get('kind')} is not known here"
        else:
            yield from faults(v, VIEWS[v["kind"]], v["kind"])
