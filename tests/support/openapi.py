"""As much of JSON Schema as schema/openapi.yaml uses: whether an answer is what the document says."""

import json
import re
import uuid

from .codex import ROOT

TYPES = {
    "object": dict, "array": list, "string": str, "integer": int, "boolean": bool, "null": type(None),
}
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


class Document:
    def __init__(self, text=None):
        self.root = json.loads(text or (ROOT / "schema/openapi.yaml").read_text("utf-8"))

    def resolve(self, node):
        while "$ref" in node:
            target = self.root
            for key in node["$ref"].removeprefix("#/").split("/"):
                target = target[key]
            node = target
        return node

    def operations(self):
        """(method, path, operation) of each."""
        for path, item in self.root["paths"].items():
            for method, operation in item.items():
                if method != "parameters":
                    yield method.upper(), path, operation

    def codes(self):
        """The codes of errors, by the status that they come with."""
        return self.root["components"]["schemas"]["Error"]["properties"]["code"]["x-codes"]

    def response(self, method, path, status):
        responses = self.root["paths"][path][method.lower()]["responses"]
        found = responses.get(str(status)) or responses["default"]
        return self.resolve(found)

    def check_answer(self, method, path, status, body):
        """`path` as the document writes it."""
        content = self.response(method, path, status)["content"]["application/json"]
        self.check(content["schema"], body, f"{method} {path} {status}")
        if status >= 400:
            assert body["code"] in self.codes()[str(status)], f"{method} {path} {status}: {body['code']}"

    def check(self, schema, value, where):
        schema = self.resolve(schema)
        if "const" in schema:
            assert value == schema["const"], f"{where}: {value!r}"
        if "enum" in schema:
            assert value in schema["enum"], f"{where}: {value!r}"
        if "type" in schema:
            names = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
            assert any(type(value) is TYPES[name] for name in names), f"{where}: {value!r}"
        if isinstance(value, dict):
            self.check_object(schema, value, where)
        if isinstance(value, list):
            for n, item in enumerate(value):
                self.check(schema.get("items", {}), item, f"{where}[{n}]")
        if isinstance(value, str) and schema.get("format") == "uuid":
            assert str(uuid.UUID(value)) == value, where
        if isinstance(value, str) and schema.get("format") == "date-time":
            assert TIME.fullmatch(value), f"{where}: {value!r}"

    def check_object(self, schema, value, where):
        known = schema.get("properties", {})
        missing = set(schema.get("required", [])) - set(value)
        assert not missing, f"{where}: without {missing}"
        for key, member in value.items():
            assert key in known or not known, f"{where}: {key} is not in the document"
            self.check(known.get(key, {}), member, f"{where}.{key}")
