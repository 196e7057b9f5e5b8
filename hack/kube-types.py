#!/usr/bin/env python3
"""Writes crates/schema/types.txt: the facts about the Kubernetes API types.

    hack/kube-types.py DIR > crates/schema/types.txt

DIR holds the Go sources of k8s.io (api, apimachinery, apiextensions-apiserver, kube-aggregator) of one release,
as in Debian's golang-k8s-api-dev. What is taken are names, numbers, types and markers of struct fields; no comment
and no code goes into the result. Its form is told in crates/schema/build/table.rs.
"""

import pathlib
import re
import sys

# Package of Go -> its name in OpenAPI. What a 1.36 API server can serve.
API = """
core/v1 apps/v1 admissionregistration/v1 admissionregistration/v1alpha1 admissionregistration/v1beta1
apidiscovery/v2 apiserverinternal/v1alpha1 authentication/v1 authorization/v1 autoscaling/v1 autoscaling/v2
batch/v1 certificates/v1 certificates/v1alpha1 certificates/v1beta1 coordination/v1 coordination/v1alpha2
coordination/v1beta1 discovery/v1 events/v1 flowcontrol/v1 networking/v1 networking/v1beta1 node/v1 policy/v1
rbac/v1 resource/v1 resource/v1alpha3 resource/v1beta1 resource/v1beta2 scheduling/v1 scheduling/v1alpha2
storage/v1 storage/v1beta1 storagemigration/v1beta1
""".split()
PACKAGES = {f"k8s.io/api/{p}": f"io.k8s.api.{p.replace('/', '.')}" for p in API} | {
    "k8s.io/apimachinery/pkg/apis/meta/v1": "io.k8s.apimachinery.pkg.apis.meta.v1",
    "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1": "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1",
    "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1": "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1",
    "k8s.io/apimachinery/pkg/version": "io.k8s.apimachinery.pkg.version",
}
META = "k8s.io/apimachinery/pkg/apis/meta/v1"
EXTENSIONS = "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"

# Types whose JSON is not what their struct says.
SPECIAL = {
    ("k8s.io/apimachinery/pkg/api/resource", "Quantity"): "quantity",
    ("k8s.io/apimachinery/pkg/util/intstr", "IntOrString"): "int-or-string",
    ("k8s.io/apimachinery/pkg/runtime", "RawExtension"): "raw",
    ("k8s.io/apimachinery/pkg/runtime", "Object"): "json",
    (META, "Time"): "time",
    (META, "MicroTime"): "micro-time",
    (META, "Duration"): "duration",
    (META, "FieldsV1"): "fields",
    (EXTENSIONS, "JSON"): "json",
    (EXTENSIONS, "JSONSchemaPropsOrArray"): "schema-or-array",
    (EXTENSIONS, "JSONSchemaPropsOrBool"): "schema-or-bool",
    (EXTENSIONS, "JSONSchemaPropsOrStringArray"): "schema-or-strings",
}
BASIC = {
    "string": "string", "bool": "bool", "int32": "int32", "int64": "int64", "int": "int64",
    "float64": "float", "[]byte": "bytes", "uint8": "int32", "interface{}": "json", "any": "json",
}  # fmt: skip
# Helpers of Go programs that no API takes or gives.
NOT_API = {"InternalEvent", "Timestamp"}

EMPTY = re.compile(r"^type (\w+) struct ?\{\}$")
STRUCT = re.compile(r"^type (\w+) struct \{$")
NAMED = re.compile(r"^type (\w+) (=? ?)(\S.*)$")
FIELD = re.compile(r"^\t(?:(\w+(?:, \w+)*)\s+)?(\S+)\s+`([^`]*)`")
BARE = re.compile(r"^\t(\w+)\s+(\S+)\s*(?://.*)?$")
CONST = re.compile(r"^\s+\w+\s+(\w+)\s*=\s*(\"[^\"]*\")|^\s+\w+\s*=\s*(\w+)\((\"[^\"]*\")\)")


class Package:
    def __init__(self, root, path):
        self.path, self.structs, self.named, self.enums, self.values = path, {}, {}, set(), {}
        self.imports, self.kinds, self.group, self.atomic = {}, set(), "", set()
        directory = root / path.removeprefix("k8s.io/")
        for file in sorted(directory.glob("*.go")):
            name = file.name
            if name.endswith("_test.go") or name.startswith("zz_") or ".pb" in name or name == "fieldsv1_string.go":
                continue
            self.read(file.read_text())
        for model in directory.glob("zz_generated.model_name.go"):
            self.models = set(re.findall(r"^func \(in (\w+)\) OpenAPIModelName", model.read_text(), re.M))

    def read(self, text):
        imports = dict(self.read_imports(text))
        if group := re.search(r'^(?:const|var) GroupName = "(.*)"', text, re.M):
            self.group = group[1]
        for call in re.findall(r"AddKnownTypes\([^&]*((?:.|\n)*?)\)\n", text):
            self.kinds.update(re.findall(r"&(\w+)\{\}", call))
        lines, markers, i = text.split("\n"), [], 0
        while i < len(lines):
            line = lines[i]
            if line.startswith("//"):
                markers.append(line.lstrip("/ "))
            elif empty := EMPTY.match(line):
                self.structs[empty[1]] = ([], imports)
                markers = []
            elif struct := STRUCT.match(line):
                if "+structType=atomic" in markers or "+mapType=atomic" in markers:
                    self.atomic.add(struct[1])
                end = next(n for n in range(i, len(lines)) if lines[n] == "}")
                self.structs[struct[1]] = (self.read_fields(lines[i + 1 : end]), imports)
                markers, i = [], end
            elif named := NAMED.match(line):
                if "interface" not in line and "func" not in line:
                    self.named[named[1]] = (named[3].removeprefix("= "), imports)
                    if "+enum" in markers:
                        self.enums.add(named[1])
                markers = []
            elif const := CONST.match(line):
                self.values.setdefault(const[1] or const[3], []).append((const[2] or const[4]).strip('"'))
            elif line.strip():
                markers = []
            i += 1

    @staticmethod
    def read_imports(text):
        for block in re.findall(r"^import \(\n(.*?)^\)", text, re.M | re.S):
            for alias, path in re.findall(r'^\s*(\w+)?\s*"([^"]+)"', block, re.M):
                yield (alias or path.split("/")[-1], path)
        for alias, path in re.findall(r'^import (\w+)?\s*"([^"]+)"', text, re.M):
            yield (alias or path.split("/")[-1], path)

    @staticmethod
    def read_fields(lines):
        comments, fields = [], []
        for line in lines:
            text = line.strip()
            if text.startswith("//"):
                comments.append(text.lstrip("/ "))
            elif field := FIELD.match(line):
                names = field[1].split(", ") if field[1] else [None]
                tags = dict(re.findall(r'(\w+):"([^"]*)"', field[3]))
                fields.extend((name, field[2], tags, comments) for name in names)
                comments = []
            elif bare := BARE.match(line):
                fields.append((bare[1], bare[2], {}, comments))
                comments = []
            else:
                comments = []
        return fields


class Table:
    def __init__(self, root):
        self.packages = {path: Package(root, path) for path in PACKAGES}
        for path in ("k8s.io/apimachinery/pkg/types",):
            self.packages[path] = Package(root, path)
        self.used_enums = {}

    def resolve(self, package, go, imports):
        """(shape, Go's name of the type where the shape does not tell it) of a type expression of Go."""
        go = go.removeprefix("*")
        if go in BASIC:
            return BASIC[go], "int" if go == "int" else ""
        if go.startswith("[]"):
            shape, name = self.resolve(package, go[2:], imports)
            return "[" + shape, "[]" + name if name else ""
        if found := re.match(r"map\[([\w.]+)\](.*)", go):
            key_shape, key = self.resolve(package, found[1], imports)
            shape, name = self.resolve(package, found[2], imports)
            named = f"map[{key or key_shape}]{name or self.plain(shape)}" if key or name else ""
            return "{" + shape, named
        alias, _, name = go.rpartition(".")
        path = imports[alias] if alias else package
        if (path, name) in SPECIAL:
            return SPECIAL[path, name], ""
        other = self.packages[path]
        if name in other.structs:
            return f"<{PACKAGES[path]}.{name}>", ""
        if name not in other.named:
            raise KeyError(f"{path}.{name}")
        target, target_imports = other.named[name]
        shape, _ = self.resolve(path, target, target_imports)
        if shape.startswith("<"):
            # A struct by another name is a type of its own, an alias is not.
            own = name in getattr(other, "models", set())
            return (f"<{PACKAGES[path]}.{name}>" if own else shape), ""
        called = f"{path.split('/')[-1]}.{name}"
        if name in other.enums and other.values.get(name):
            self.used_enums[called, path] = sorted(set(other.values[name]))
            called = f"{called}!"
        return shape, called

    def plain(self, shape):
        if shape.startswith("<"):
            parts = shape.strip("<>").split(".")
            return f"{parts[-2]}.{parts[-1]}"
        if shape.startswith("["):
            return "[]" + self.plain(shape[1:])
        return {"quantity": "resource.Quantity", "time": "v1.Time", "bytes": "[]uint8"}.get(shape, shape)

    def struct(self, path, name):
        if name not in self.packages[path].structs:
            target, imports = self.packages[path].named[name]
            alias, _, target = target.rpartition(".")
            yield from self.struct(imports[alias] if alias else path, target)
            return
        fields, imports = self.packages[path].structs[name]
        for go_name, go, tags, comments in fields:
            json = tags.get("json")
            if json is None or json == "-":
                continue
            key, *options = json.split(",")
            proto = tags.get("protobuf", "").split(",")
            number = int(proto[1]) if len(proto) > 1 else 0
            shape, called = self.resolve(path, go, imports)
            if "inline" in options or (not key and go_name is None):
                embedded = go.split(".")[-1]
                yield ("inline", embedded, number, shape, called, [])
                continue
            if "string" in options:
                raise ValueError(f"{name}.{key}: quoted numbers are not known")
            yield ("field", key, number, shape, called, list(self.flags(go, options, tags, comments)))

    @staticmethod
    def flags(go, options, tags, comments):
        markers = {}
        for comment in comments:
            if marker := re.match(r"\+([\w:]+)(?:=(.*))?$", comment):
                if marker[1] == "listMapKey":
                    markers.setdefault("listMapKey", []).append(marker[2].strip())
                else:
                    markers[marker[1]] = (marker[2] or "").strip()
        if go.startswith("*"):
            yield "*"
        if "omitempty" not in options:
            yield "!"
        if "omitzero" in options:
            yield "z"
        optional = "omitempty" in options or "optional" in markers
        if "required" in markers or not optional:
            yield "r"
        if strategy := tags.get("patchStrategy"):
            yield f"p={strategy}"
        if key := tags.get("patchMergeKey"):
            yield f"k={key}"
        kind = markers.get("listType") or markers.get("mapType") or markers.get("structType")
        if kind:
            keys = ":" + ",".join(markers["listMapKey"]) if "listMapKey" in markers else ""
            yield f"l={kind}{keys}"
        default = markers.get("default")
        if default and not default.startswith("ref("):
            yield f"d={default}"

    def write(self):
        short = {}
        for path, name in PACKAGES.items():
            package = self.packages[path]
            version = name.rsplit(".", 1)[1]
            group = package.group or "-"
            short = lambda shape: re.sub(rf"<{re.escape(name)}\.(\w+)>", r"<\1>", shape).replace(
                "<io.k8s.apimachinery.pkg.apis.meta.v1.", "<meta.").replace("<io.k8s.api.core.v1.", "<core.")
            print(f"package {name} {group} {version}")
            for struct in sorted(getattr(package, "models", set())):
                if (path, struct) in SPECIAL or struct in NOT_API or not self.is_struct(path, struct):
                    continue
                kind = " kind" if struct in package.kinds or self.has_type_meta(path, struct) else ""
                atomic = " atomic" if struct in package.atomic else ""
                print(f"{struct}{kind}{atomic}")
                for what, key, number, shape, called, flags in self.struct(path, struct):
                    if what == "inline":
                        print(f" + {key} {number} {short(shape)}")
                        continue
                    go = f"={called}" if called else ""
                    print(" ".join([f" {key} {number} {short(shape)}{go}", *flags]))
        for (called, path), values in sorted(self.used_enums.items()):
            print(f"enum {PACKAGES.get(path, path)} {called.split('.')[1]} {'|'.join(values)}")

    def is_struct(self, path, name):
        package = self.packages[path]
        if name in package.structs:
            return True
        return name in package.named and self.resolve(path, name, {})[0].startswith("<")

    def has_type_meta(self, path, struct):
        fields, _ = self.packages[path].structs.get(struct, ([], None))
        return any(go.endswith("TypeMeta") and "inline" in tags.get("json", "") for _, go, tags, _ in fields)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    Table(pathlib.Path(sys.argv[1])).write()
