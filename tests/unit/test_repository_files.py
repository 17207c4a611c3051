"""What the repository says of the package from outside: workflow, issue forms, citation, container, requirements."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from tools.layers import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml"))


def read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_the_workflow_tries_every_python_that_the_package_declares() -> None:
    declared = [name.rpartition(" ")[2] for name in PROJECT["classifiers"] if " 3." in name]
    jobs = read_yaml(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]
    assert jobs["linux"]["strategy"]["matrix"]["python"] == declared
    assert jobs["linux"]["steps"][-1]["run"] == ".ci/run"
    assert {declared[0], declared[-1]} == set(jobs["other-systems"]["strategy"]["matrix"]["python"])


def test_the_workflow_may_write_nothing_and_names_the_version_of_each_action() -> None:
    workflow = read_yaml(ROOT / ".github" / "workflows" / "ci.yml")
    used = [step["uses"] for job in workflow["jobs"].values() for step in job["steps"] if "uses" in step]
    assert workflow["permissions"] == {"contents": "read"}
    assert used
    assert [name for name in used if name.partition("@")[2].count(".") != 2] == []


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_an_issue_form_asks_what_it_needs(path: Path) -> None:
    form = read_yaml(path)
    ids = [part["id"] for part in form["body"]]
    assert form["name"]
    assert form["description"]
    assert len(set(ids)) == len(ids)
    assert any(part.get("validations", {}).get("required") for part in form["body"])


def test_the_citation_is_of_this_version() -> None:
    citation = read_yaml(ROOT / "CITATION.cff")
    assert str(citation["version"]) == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]


def test_the_container_copies_what_the_wheel_is_made_of() -> None:
    lines = (ROOT / "Containerfile").read_text(encoding="utf-8").splitlines()
    copied = {word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]}
    needed = {"pyproject.toml", "requirements*.txt", "README.md", "LICENSE", "studio", "assets", "presets"}
    allowed = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert copied == needed
    assert {f"!{name}" for name in needed} <= set(allowed)


def test_the_docs_requirements_have_both_bounds() -> None:
    lines = (ROOT / "requirements-docs.txt").read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    assert {requirement.name for requirement in found} >= {"mkdocs", "mkdocs-material", "mkdocstrings"}
    assert [str(r) for r in found if {bound.operator for bound in r.specifier} != {">=", "<"}] == []
