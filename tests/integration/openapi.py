# SPDX-License-Identifier: Apache-2.0
"""docs/controlplane.openapi.yaml as a judge of real requests and answers. It knows nothing of the server: a router over the file's
paths, parameters and bodies against their schemas (python3-jsonschema), both ways."""

import json
import re
import threading
import urllib.parse

import jsonschema
import yaml

from tbsys import repo

FILE = repo / "docs" / "controlplane.openapi.yaml"
METHODS = ("get", "post", "put", "patch", "delete")
FORMATS = jsonschema.FormatChecker(formats=())


@FORMATS.checks("date-time")
def is_time(value):
    return not isinstance(value, str) or bool(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", value))


class Wrong(AssertionError):
    """A request or an answer that the file does not describe."""


class Operation:
    def __init__(self, template, method, text, shared):
        self.template, self.method, self.text = template, method.upper(), text
        self.parameters = {}
        for p in [*shared, *text.get("parameters", [])]:
            self.parameters[p["in"], p["name"].lower() if p["in"] == "header" else p["name"]] = p
        names = re.findall(r"{(\w+)}", template)
        self.pattern = re.compile("^" + re.sub(r"\\{\w+\\}", "([^/]+)", re.escape(template)) + "$")
        self.names = names

    def __str__(self):
        return f"{self.method} {self.template}"


class Spec:
    """The file. `seen` has (method, template, status) of each exchange that was checked."""

    def __init__(self, path=FILE):
        self.text = yaml.safe_load(path.read_text())
        self.resolver = jsonschema.RefResolver("", self.text)
        self.operations = []
        for template, item in self.text["paths"].items():
            shared = [self.deref(p) for p in item.get("parameters", [])]
            for method in METHODS:
                if method in item:
                    text = dict(item[method])
                    text["parameters"] = [self.deref(p) for p in text.get("parameters", [])]
                    self.operations.append(Operation(template, method, text, shared))
        self.seen, self.wrong, self.lock = set(), [], threading.Lock()

    def deref(self, node):
        while isinstance(node, dict) and "$ref" in node:
            node = {**self.resolver.resolve(node["$ref"])[1], **{k: v for k, v in node.items() if k != "$ref"}}
        return node

    def schema(self, schema, value, what):
        validator = jsonschema.Draft202012Validator(schema, resolver=self.resolver, format_checker=FORMATS)
        errors = sorted(validator.iter_errors(value), key=lambda e: list(map(str, e.path)))
        if errors:
            e = errors[0]
            raise Wrong(f"{what}: {'/'.join(map(str, e.absolute_path)) or 'the whole'}: {e.message}"[:600])

    def find(self, method, target):
        """The operation of a request, its parameters of path and query; None when the file has no such path."""
        path, _, query = target.partition("?")
        path = path.replace("/purchases//", "/purchases/")  # Azure adds its part behind whatever was entered
        method = "GET" if method == "HEAD" else method
        matches = [(op, op.pattern.match(path)) for op in self.operations if op.pattern.match(path)]
        matches.sort(key=lambda m: len(m[0].names))  # /machines/expel before /machines/{...}
        for op, m in matches:
            if op.method == method:
                return op, dict(zip(op.names, map(urllib.parse.unquote, m.groups()))), query
        return None

    @staticmethod
    def plain(schema, value):
        """A parameter's text as the type that its schema wants."""
        return int(value) if schema.get("type") == "integer" and re.fullmatch(r"-?\d+", value) else value

    def check_parameters(self, op, place, given):
        for name, value in given.items():
            p = op.parameters.get((place, name))
            if not p:
                if place == "query":
                    raise Wrong(f"{op}: the file has no parameter {name}")
                continue
            schema = self.deref(p["schema"])
            self.schema(p["schema"], self.plain(schema, value), f"{op}: {place} parameter {name}")
        for (where, name), p in op.parameters.items():
            if where == place and p.get("required") and name not in given:
                raise Wrong(f"{op}: {place} parameter {name} is missing")

    def check_request(self, method, target, headers, body):
        found = self.find(method, target)
        if not found:
            raise Wrong(f"{method} {target}: the file has no such call")
        op, path, query = found
        pairs = urllib.parse.parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
        if len(dict(pairs)) != len(pairs):
            raise Wrong(f"{op}: a parameter is given twice")
        self.check_parameters(op, "path", path)
        self.check_parameters(op, "query", dict(pairs))
        self.check_parameters(op, "header", {k.lower(): v for k, v in headers.items()})
        wanted = self.deref(op.text.get("requestBody", {}))
        if not body:
            if wanted.get("required"):
                raise Wrong(f"{op}: has no body")
            return op
        if not wanted:
            raise Wrong(f"{op}: takes no body")
        try:
            document = json.loads(body)
        except ValueError as e:
            raise Wrong(f"{op}: the body is no JSON: {e}") from None
        schema = wanted["content"]["application/json"]["schema"]
        if "admin" not in op.text["tags"]:
            document = self.without_nonsense(self.deref(schema), document)
        self.schema(schema, document, f"{op}: body")
        return op

    def without_nonsense(self, schema, document):
        """Machines, old ones too, are not refused for an optional member that makes no sense: it is as if it were not there."""
        if not isinstance(document, dict):
            return document

        def makes_sense(name, value):
            part = schema["properties"].get(name)
            return part is None or name in schema["required"] or jsonschema.Draft202012Validator(part, resolver=self.resolver).is_valid(value)
        return {k: v for k, v in document.items() if makes_sense(k, v)}

    def check_answer(self, method, target, status, headers, body):
        found = self.find(method, target)
        if not found:
            if status not in (404, 405, 429, 503):
                raise Wrong(f"{method} {target}: the file has no such call, and it was answered {status}")
            self.schema(self.text["components"]["schemas"]["Error"], json.loads(body), f"{method} {target} -> {status}")
            return
        op = found[0]
        with self.lock:
            self.seen.add((op.method, op.template, status))
        self.check_body(op, method, status, {k.lower(): v for k, v in headers.items()}, body)

    def check_body(self, op, method, status, headers, body):
        answers = op.text["responses"]
        answer = self.deref(answers.get(str(status), answers.get("default")))
        what = f"{op} -> {status}"
        if not answer:
            raise Wrong(f"{what}: the file does not have this status")
        for name, header in answer.get("headers", {}).items():
            if name.lower() not in headers:
                raise Wrong(f"{what}: has no {name}")
            schema = self.deref(self.deref(header)["schema"])
            self.schema(schema, self.plain(schema, headers[name.lower()]), f"{what}: {name}")
        kind = headers.get("content-type", "").partition(";")[0]
        content = answer["content"]
        if kind not in content:
            raise Wrong(f"{what}: is {kind or 'without a type'}, the file has {', '.join(content)}")
        if method == "HEAD":
            return
        if kind == "application/json":
            self.schema(content[kind]["schema"], json.loads(body), what)
        elif kind == "application/x-ndjson":
            for line in body.decode().splitlines():
                self.schema(self.text["components"]["schemas"]["Change"], json.loads(line), what)

    def check(self, method, target, request_headers, request_body, status, headers, body):
        """One exchange: the answer is one that the file has; what was done was asked for as the file says."""
        self.check_answer(method, target, status, headers, body)
        if status < 300:
            self.check_request(method, target, request_headers, request_body)

    def note(self, *exchange, check=None):
        """The same for a thread that nobody waits for: what is wrong is kept for the end of the test."""
        try:
            (check or self.check)(*exchange)
        except (Wrong, ValueError, KeyError) as e:
            with self.lock:
                self.wrong.append(str(e))

    def note_request(self, *request):
        """A request alone, of a program to a stand-in whose answers may be wrong on purpose."""
        self.note(*request, check=self.check_request)

    def finish(self):
        """Raises what note() kept."""
        with self.lock:
            wrong, self.wrong = self.wrong, []
        if wrong:
            raise Wrong("\n".join(wrong))

    def scopes(self):
        return {(op.method, op.template): op.text["x-scopes"] for op in self.operations if "x-scopes" in op.text}


SPEC = Spec()
