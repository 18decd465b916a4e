# SPDX-License-Identifier: Apache-2.0
"""tbpkg package: the zip of a managed application, from a small template and from the product's own."""

import copy
import hashlib
import json
import os
import pathlib
import re
import subprocess
import zipfile

import pytest

import tbsys
from tbpkg_templates import FORM, TEMPLATE, VIEW, write_templates

EDC = "https://controlplane.example.com"
PLAN = "acme:trustbridge-gpu:hidden-plan"
GALLERY = "/subscriptions/0/resourceGroups/r/providers/Microsoft.Compute/galleries/g/images/i/versions/1.0.0"
NAMES = ["mainTemplate.json", "createUiDefinition.json", "viewDefinition.json"]


def run(*args, env=None, cwd=None):
    e = {"PATH": os.environ["PATH"], **{k: v for k, v in os.environ.items() if k.endswith("SAN_OPTIONS")}, **(env or {})}
    r = subprocess.run([tbsys.program("tbpkg"), "package", *map(str, args)], env=e, cwd=cwd, stdin=subprocess.DEVNULL,
                       capture_output=True, text=True, timeout=30, check=False)
    assert "Sanitizer" not in r.stderr and "S3CRET" not in r.stdout + r.stderr
    return r


@pytest.fixture
def place(tmp_path):
    write_templates(tmp_path / "t")
    return tmp_path


def package(place, *more, image=PLAN, **kw):
    return run("--asset-id", "my-model-v1", "--edc-endpoint", EDC, *(["--vm-image", image] if image else []), "--template-dir",
               place / "t", "--output-zip", place / "app.zip", *more, **kw)


def unpack(place):
    """(template, {parameter: default}) of the package; its form and view are the ones that went in."""
    with zipfile.ZipFile(place / "app.zip") as z:
        assert z.testzip() is None and z.namelist() == NAMES
        main, form, view = (json.loads(z.read(n)) for n in NAMES)
    assert form == json.loads((place / "t" / NAMES[1]).read_text()) and view == json.loads((place / "t" / NAMES[2]).read_text())
    return main, {n: p.get("defaultValue") for n, p in main["parameters"].items()}


def fails(place, *words, rc=1, **kw):
    def check(r):
        assert r.returncode == rc and r.stdout == "", (r.returncode, r.stderr)
        for w in words:
            assert w in r.stderr, r.stderr
        assert sorted(p.name for p in place.iterdir() if p.name.startswith((".app", "app"))) == []
    return check


def test_package_has_the_values_as_defaults(place):
    r = package(place, "--set", "instanceCount=4", "--set", "secureBoot=false", "--set", 'tags={"a": "b"}', "--json")
    assert r.returncode == 0, r.stderr
    main, defaults = unpack(place)
    assert defaults["assetId"] == "my-model-v1" and defaults["edcEndpoint"] == EDC and defaults["instanceCount"] == 4
    assert [defaults[n] for n in ("imagePublisher", "imageOffer", "imagePlan", "imageVersion")] == [*PLAN.split(":"), "latest"]
    assert defaults["secureBoot"] is False and defaults["tags"] == {"a": "b"} and defaults["location"] == TEMPLATE["parameters"]["location"]["defaultValue"]
    assert list(main["parameters"]) == list(TEMPLATE["parameters"]) and "defaultValue" not in main["parameters"]["contractId"]
    doc, data = json.loads(r.stdout), (place / "app.zip").read_bytes()
    assert doc["version"] == "1.2.3" and doc["sha256"] == hashlib.sha256(data).hexdigest() and doc["bytes"] == len(data)
    assert doc["vm_image_plan"] == "hidden-plan" and doc["metering_dimension"] == "requests"
    # and what people read
    text = package(place).stdout
    assert "version              1.2.3\n" in text and "hidden-plan" in text
    assert f"bytes                {(place / 'app.zip').stat().st_size}\n" in text


def test_same_inputs_make_the_same_bytes(place):
    seen = set()
    for i, tz in enumerate(("UTC", "Asia/Tokyo")):
        assert package(place, env={"TZ": tz, "SOURCE_DATE_EPOCH": str(i)}).returncode == 0
        seen.add((place / "app.zip").read_bytes())
        for n in NAMES:
            os.utime(place / "t" / n, (i * 1e9, i * 1e9))
    assert len(seen) == 1


def test_gallery_image_version_and_old_options(place):
    r = package(place, "--vm-image", GALLERY + ":x", image=None)
    assert r.returncode == 0 and unpack(place)[1]["imageId"] == GALLERY + ":x" and unpack(place)[1]["imagePublisher"] == ""
    assert package(place, "--image", PLAN + ":1.0.1", "--package-version", "2.0.1", image=None).returncode == 0
    main, defaults = unpack(place)
    assert defaults["imageVersion"] == "1.0.1" and main["contentVersion"] == "2.0.1.0"
    # the first TrustBridge's command line, with its container image
    old = ("--asset-id", "my-model-v1", "--image", "acme.example/trustbridge-runtime:v1", "--output", place / "app.zip", "--template-dir", place / "t")
    r = run(*old, env={"TB_EDC_ENDPOINT": EDC})
    assert r.returncode == 2 and "--image acme.example/trustbridge-runtime:v1: the machines start from an image of their own" in r.stderr
    assert run(*old, "--no-image", env={"TB_EDC_ENDPOINT": EDC}).returncode == 0
    template = copy.deepcopy(TEMPLATE)
    template["parameters"]["containerImage"] = {"type": "string", "defaultValue": ""}
    write_templates(place / "t", template=template)
    assert package(place, "--image", "acme.example/trustbridge-runtime:v1").returncode == 0
    assert unpack(place)[1]["containerImage"] == "acme.example/trustbridge-runtime:v1" and unpack(place)[1]["imagePlan"] == "hidden-plan"


ASKED = "/subscriptions/5/resourceGroups/r/providers/Microsoft.Compute/galleries/g/images/i/versions/1.0.0"


def test_without_an_image_nobody_could_deploy_it(place):
    """An error, unless the package is for somebody who has an image: then the form asks for it, in its own words."""
    fails(place, "--vm-image is missing: nobody can deploy the package", "--no-image", rc=2)(package(place, image=None))
    fails(place, "--no-image: but an image is named", rc=2)(package(place, "--no-image"))
    assert package(place, "--set", "imageId=" + ASKED, image=None).returncode == 0
    assert package(place, "--no-image", image=None).returncode == 0
    with zipfile.ZipFile(place / "app.zip") as z:
        main, form = (json.loads(z.read(n)) for n in NAMES[:2])
    assert main["parameters"]["imageId"]["defaultValue"] == ""
    step = form["parameters"]["steps"][0]
    [asked] = [e for e in step["elements"] if e["name"] == "imageId"]
    assert asked["type"] == "Microsoft.Common.TextBox" and asked["constraints"]["required"] is True
    assert form["parameters"]["outputs"]["imageId"] == f"[steps('{step['name']}').imageId]"
    regex = re.compile(asked["constraints"]["regex"])
    assert regex.search(ASKED) and regex.search(ASKED.rpartition("/versions")[0]) and not regex.search("") and not regex.search("acme:offer:plan")
    # a form that asks already is left alone; one without a step cannot ask
    write_templates(place / "t", form=form)
    assert package(place, "--no-image", image=None).returncode == 0
    with zipfile.ZipFile(place / "app.zip") as z:
        assert json.loads(z.read(NAMES[1])) == form
    flat = copy.deepcopy(FORM)
    flat["parameters"]["steps"] = []
    write_templates(place / "t", form=flat)
    assert package(place, "--no-image", image=None).returncode == 0
    with zipfile.ZipFile(place / "app.zip") as z:
        assert json.loads(z.read(NAMES[1]))["parameters"]["outputs"]["imageId"] == "[basics('imageId')]"
    bad = copy.deepcopy(FORM)
    bad["parameters"]["steps"] = [{"name": "empty"}]
    write_templates(place / "t", form=bad)
    (place / "app.zip").unlink()
    (place / "app.spdx.json").unlink()
    fails(place, "has no step that could ask for 'imageId'")(package(place, "--no-image", image=None))


def test_the_bill_of_materials(place):
    """Beside the zip; it names the files, as they are in it, and the image of the machines."""
    r = package(place, "--json", env={"SOURCE_DATE_EPOCH": "1700000000"})
    assert r.returncode == 0 and json.loads(r.stdout)["sbom"] == str(place / "app.spdx.json")
    first = (place / "app.spdx.json").read_bytes()
    doc = json.loads(first)
    subject, image = doc["packages"]
    assert subject["name"] == "app.zip" and subject["versionInfo"] == "1.2.3" and subject["filesAnalyzed"] is True
    assert subject["checksums"] == [{"algorithm": "SHA256", "checksumValue": hashlib.sha256((place / "app.zip").read_bytes()).hexdigest()}]
    assert (image["name"], image["versionInfo"]) == (PLAN, "latest")
    with zipfile.ZipFile(place / "app.zip") as z:
        sums = {f["fileName"]: {c["algorithm"]: c["checksumValue"] for c in f["checksums"]} for f in doc["files"]}
        assert sums == {f"./{n}": {"SHA1": hashlib.sha1(z.read(n)).hexdigest(), "SHA256": hashlib.sha256(z.read(n)).hexdigest()} for n in NAMES}
    code = hashlib.sha1("".join(sorted(s["SHA1"] for s in sums.values())).encode()).hexdigest()
    assert subject["packageVerificationCode"] == {"packageVerificationCodeValue": code}
    assert package(place, "--json", env={"SOURCE_DATE_EPOCH": "1700000000"}).returncode == 0 and (place / "app.spdx.json").read_bytes() == first
    (place / "app.spdx.json").unlink()
    r = package(place, "--no-sbom", "--json")
    assert "sbom" not in json.loads(r.stdout) and not (place / "app.spdx.json").exists()
    before = (place / "app.zip").read_bytes()
    r = package(place, "--package-version", "9.9.9", "--sbom", place / "no" / "x.json")
    assert r.returncode == 1 and "no/x.json" in r.stderr and (place / "app.zip").read_bytes() == before


def test_a_dry_run_in_json(place):
    r = package(place, "--dry-run", "--json", "--quiet")
    assert json.loads(r.stdout) == {"valid": True, "version": "1.2.3"} and r.stderr == "" and not (place / "app.zip").exists()


def test_the_form_wins_and_that_is_said(place):
    r = package(place, "--set", "vmSize=Standard_B")
    assert r.returncode == 0 and "vmSize: the portal's form asks for it too" in r.stderr


@pytest.mark.parametrize("args,words", [
    (["--set", "nonsense=1"], "nonsense: no such parameter; there are location vmSize"),
    (["--set", "vmSize=Huge"], "vmSize: not one of the allowed values: Standard_A, Standard_B"),
    (["--set", "instanceCount=17"], "instanceCount: at most 16"),
    (["--set", "instanceCount=0"], "instanceCount: at least 1"),
    (["--set", "instanceCount=two"], "instanceCount: takes an integer"),
    (["--set", "secureBoot=yes"], "secureBoot: takes true or false"),
    (["--set", "tags=[]"], "tags: takes a JSON object"),
    (["--set", "imageOffer=[resourceGroup().id]"], "imageOffer: takes a text that does not begin with '['"),
    (["--set", "adminPassword=S3CRET"], "adminPassword: takes no default"),
    (["--set", "imageOffer=https://h/c?sv=1&sig=S3CRET"], "imageOffer: the value holds a shared access signature"),
    (["--set", "imageOffer=DefaultEndpointsProtocol=https;AccountName=a;AccountKey=S3CRET"], "an account key"),
    (["--set", "imageOffer=eyJ0.S3CRET"], "a bearer token"),
    (["--set", "imageOffer=" + "a1" * 32], "64 hex digits"),
    (["--set", "contractId=a b", "--template-dir", "/nonexistent"], "--template-dir"),
])
def test_refused_values_are_named(place, args, words):
    fails(place, words)(package(place, *args))


@pytest.mark.parametrize("args,words", [
    (["--set", "x"], "NAME=VALUE"), (["--set", "=x"], "NAME=VALUE"), (["--package-version", "1.0"], "three numbers"),
    (["--sbom", "x", "--no-sbom"], "exclude each other"), (["--output-zip", "x", "--sbom", "x"], "names the package itself"),
    (["--vm-image", "acme:offer"], "PUBLISHER:OFFER:PLAN"), (["--vm-image", "acme:offer:plan:1:2"], "PUBLISHER:OFFER:PLAN"),
    (["--vm-image", "acme::plan"], "PUBLISHER:OFFER:PLAN"),
    (["--asset-id", "a b"], "--asset-id"), (["--edc-endpoint", "http://127.0.0.1"], "https://"),
    (["--edc-endpoint", "https://h/?sig=S3CRET"], "query"), (["surplus"], "surplus"),
])
def test_usage(place, args, words):
    fails(place, words, rc=2)(package(place, *args))


def test_templates_that_do_not_fit(place):
    form = copy.deepcopy(FORM)
    form["parameters"]["outputs"]["flavour"] = "x"
    write_templates(place / "t", form=form)
    fails(place, "createUiDefinition.json: output 'flavour' is not a parameter")(package(place))
    form = copy.deepcopy(FORM)
    del form["parameters"]["outputs"]["contractId"]
    write_templates(place / "t", form=form)
    fails(place, "does not ask for parameter 'contractId'")(package(place))
    assert package(place, "--set", "contractId=c-1", "--no-sbom").returncode == 0
    (place / "app.zip").unlink()
    view = copy.deepcopy(VIEW)
    view["views"] = [{"kind": "Overview", "properties": {"header": "https://h/c?se=1&sig=S3CRET"}}]
    write_templates(place / "t", view=view)
    fails(place, "viewDefinition.json: header: holds a shared access signature")(package(place))
    write_templates(place / "t", template="{]")
    fails(place, "mainTemplate.json: is not JSON, at byte ")(package(place))
    write_templates(place / "t", template="{} x")
    fails(place, "mainTemplate.json: is not JSON")(package(place))
    write_templates(place / "t")
    (place / "t" / NAMES[2]).unlink()
    fails(place, "viewDefinition.json", "--template-dir")(package(place))


def test_unwritable_output(place):
    fails(place, "nothere")(package(place, "--output-zip", place / "nothere" / "x.zip"))
    r = package(place, "--output-zip", "/proc/x.zip")
    assert r.returncode == 1 and "/proc/x.zip" in r.stderr
    r = package(place, "--output-zip", place / "t")
    assert r.returncode == 1 and "not a regular file" in r.stderr


def test_the_product_s_own_templates(place):
    r = package(place, "--template-dir", pathlib.Path(tbsys.repo) / "bicep", "--set", "billingEnabled=true", "--set",
                "vmSize=Standard_NC40ads_H100_v5")
    assert r.returncode == 0, r.stderr
    with zipfile.ZipFile(place / "app.zip") as z:
        assert z.namelist() == NAMES
        defaults = {n: p.get("defaultValue") for n, p in json.loads(z.read(NAMES[0]))["parameters"].items()}
    assert defaults["assetId"] == "my-model-v1" and defaults["edcEndpoint"] == EDC and defaults["imagePlan"] == "hidden-plan"
    assert defaults["billingEnabled"] is True
    (place / "app.zip").unlink()
    (place / "app.spdx.json").unlink()
    fails(place, "vmSize: not one of the allowed values")(package(place, "--template-dir", pathlib.Path(tbsys.repo) / "bicep", "--set", "vmSize=x"))
