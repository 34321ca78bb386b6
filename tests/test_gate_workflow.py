"""The gate for other repositories, every shell step of it in a temporary repository; and the release."""

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from builders import make_record, toy_cell, toy_suite, write_run

ROOT = Path(__file__).parents[1]
GH = """#!{python}
import json, pathlib, sys
store = pathlib.Path("{store}")
comments = json.loads(store.read_text()) if store.exists() else []
words = sys.argv[1:]
if "--jq" in words:
    marked = [c for c in comments if c["bot"] and c["body"].startswith("<!-- lmcbench gate -->")]
    print("\\n".join(str(c["id"]) for c in marked))
else:
    [file] = [word.removeprefix("body=@") for word in words if word.startswith("body=@")]
    method, path = words[words.index("--method") + 1], words[words.index("--method") + 2]
    body = pathlib.Path(file).read_text()
    if method == "POST":
        assert path == "repos/me/mine/issues/7/comments", path
        comments.append({{"id": 100 + len(comments), "bot": True, "body": body}})
    else:
        [found] = [c for c in comments if path == f"repos/me/mine/issues/comments/{{c['id']}}"]
        found["body"] = body
    store.write_text(json.dumps(comments))
"""
LMCBENCH = """#!/bin/bash
if [[ $1 == run ]]; then
    printf '%s\\n' "$@" > "{asked}"
    mkdir -p runs/head && cp -r "{head}"/. runs/head
else
    exec {python} -m lmcbench "$@"
fi
"""


def workflow(name):
    return yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text(encoding="utf-8"))


def steps(name, job):
    return {step["name"]: step["run"] for step in workflow(name)["jobs"][job]["steps"] if "run" in step}


def tool(folder, name, text):
    path = folder / name
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


class Repository:
    """A user's repository on a runner, with stand-ins for pip, gh and the training of `lmcbench run`."""

    def __init__(self, folder):
        self.folder = folder / "repository"
        self.folder.mkdir()
        self.store, self.asked, self.head = (folder / name for name in ("comments.json", "asked", "head"))
        tools = folder / "tools"
        tools.mkdir()
        tool(tools, "gh", GH.format(python=sys.executable, store=self.store))
        tool(tools, "lmcbench", LMCBENCH.format(python=sys.executable, asked=self.asked, head=self.head))
        tool(tools, "pip", f'#!/bin/bash\nprintf "%s\\n" "$@" > {folder / "pip"}\n')
        self.pip, self.summary, self.output = (folder / name for name in ("pip", "summary", "output"))
        self.env = os.environ | {
            "PATH": f"{tools}:{os.environ['PATH']}",
            "LMCBENCH": "git+https://HOST/OWNER/lmcbench@0123abc",
            "RUN": "digits --arch 'resnet18*' --fork 0",
            "BASELINE": "baseline",
            "COMPARE": "--inconclusive warn",
            "GITHUB_REPOSITORY": "me/mine",
            "GITHUB_STEP_SUMMARY": str(self.summary),
            "GITHUB_OUTPUT": str(self.output),
            "NUMBER": "7",
        }

    def push(self, records, **env):
        """Run the workflow on these records; return the exit codes of its steps and what they printed."""
        shutil.rmtree(self.head, ignore_errors=True)
        shutil.rmtree(self.folder / "runs", ignore_errors=True)
        for file in (self.summary, self.output):
            file.write_text("")
        write_run(self.head, records)
        codes, printed = {}, ""
        for name, script in steps("gate.yml", "gate").items():
            code = self.output.read_text().strip().removeprefix("code=")
            done = subprocess.run(
                ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
                cwd=self.folder,
                env=self.env | env | {"CODE": code},
                capture_output=True,
                text=True,
                timeout=120,
            )
            codes[name] = done.returncode
            printed += done.stdout + done.stderr
        return codes, printed


def records(shift):
    """Cells at 10 replicates whose barrier differs by `shift` from the baseline's."""
    suite = toy_suite(replicates=10)
    return [
        make_record(toy_cell(replicate=r, suite=suite), barrier_error=0.2 + 0.001 * r + shift)
        for r in range(10)
    ]


@pytest.fixture
def repository(tmp_path):
    found = Repository(tmp_path)
    write_run(tmp_path / "base", records(0))
    shutil.copytree(tmp_path / "base" / "records", found.folder / "baseline")
    return found


def test_the_verdict_is_one_comment_that_is_updated(repository):
    codes, printed = repository.push(records(0))
    assert set(codes.values()) == {0}, printed
    assert repository.pip.read_text().split() == ["install", "git+https://HOST/OWNER/lmcbench@0123abc"]
    asked = repository.asked.read_text().splitlines()
    assert asked == ["run", "--out", "runs/head", "digits", "--arch", "resnet18*", "--fork", "0"]
    assert "::notice title=lmcbench compare::" in printed
    [comment] = json.loads(repository.store.read_text())
    assert "identical" in comment["body"].lower()
    assert repository.summary.read_text() == comment["body"]
    # somebody else's comment with the same words stays
    repository.store.write_text(json.dumps([comment | {"id": 1, "bot": False}, comment]))

    codes, printed = repository.push(records(0.3))
    assert codes["Verdict"] == 1
    assert {code for name, code in codes.items() if name != "Verdict"} == {0}, printed
    assert "::error title=lmcbench compare::" in printed
    other, updated = json.loads(repository.store.read_text())
    assert other["body"] == comment["body"]
    assert updated["id"] == comment["id"]
    assert updated["body"] != comment["body"]


def test_a_comparison_that_cannot_be_made_fails_with_its_message(repository):
    codes, printed = repository.push(records(0), BASELINE="elsewhere")
    assert codes["Verdict"] == 2
    assert "::error title=lmcbench compare::" in printed
    assert "elsewhere" in json.loads(repository.store.read_text())[0]["body"]


def test_the_gate_writes_only_comments_and_forks_get_none():
    gate = workflow("gate.yml")
    assert gate["permissions"] == {"contents": "read", "pull-requests": "write"}
    for step in gate["jobs"]["gate"]["steps"]:
        assert "${{" not in step.get("run", "")
        assert "uses" not in step or step["uses"].startswith("actions/")
        if "GH_TOKEN" in step.get("env", {}):
            assert "head.repo.full_name == github.repository" in step["if"]


def test_the_documented_call_has_the_workflows_inputs():
    page = (ROOT / "benchmark" / "gate.md").read_text(encoding="utf-8")
    call = yaml.safe_load(page.split("```yaml\n")[1].split("```")[0])
    gate = workflow("gate.yml")
    inputs = gate[True]["workflow_call"]["inputs"]
    given = call["jobs"]["gate"]["with"]
    assert set(given) <= set(inputs)
    assert {name for name, entry in inputs.items() if entry.get("required")} <= set(given)
    assert call["permissions"] == gate["permissions"]
    assert call["jobs"]["gate"]["uses"].split("@")[0].endswith("/.github/workflows/gate.yml")


def test_a_release_is_built_from_its_tag_and_published_without_a_secret():
    release = workflow("release.yml")
    assert list(release[True]) == ["push"]
    assert list(release[True]["push"]) == ["tags"]
    assert release["permissions"] == {"contents": "read"}
    build, publish = release["jobs"]["build"], release["jobs"]["publish"]
    assert "permissions" not in build
    assert publish["permissions"] == {"id-token": "write"}
    assert publish["environment"] == "release"
    assert "run" not in str([list(step) for step in publish["steps"]])
    assert "twine check --strict" in steps("release.yml", "build")["Build and check"]


@pytest.mark.parametrize(
    ("tag", "heading", "code"),
    [
        ("v0.1.0", "## 0.1.0 (2026-12-01)", 0),
        ("v0.2.0", "## 0.1.0 (2026-12-01)", 1),
        ("v0.1.0", "## 0.1.0 (unreleased)", 1),
        ("v0.1.0", "## 0.0.9", 1),
    ],
)
def test_the_tag_must_be_the_version_of_a_finished_changelog(tmp_path, tag, heading, code):
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "0.1.0"\n')
    (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n{heading}\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    script = steps("release.yml", "build")["The tag is the version"]
    env = os.environ | {"GITHUB_REF_NAME": tag, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-eo", "pipefail", "-c", script], cwd=tmp_path, env=env, timeout=60)
    assert done.returncode == code
