"""The workflows: read-only, without secrets, and submitted code runs only after a maintainer's label."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOWS = ROOT / ".github" / "workflows"
SCRIPT = ROOT / ".github" / "submissions.sh"


def read(name):
    text = (WORKFLOWS / name).read_text(encoding="utf-8")
    table = yaml.safe_load(text)
    return text, table, table[True]  # YAML 1.1 reads the key `on` as true


GATE, RELEASE = "gate.yml", "release.yml"
"""Workflows with a write token: for one comment in the caller's repository, and to publish."""
NAMES = ["docs.yml", "statement.yml", "tests.yml", "verify.yml"]


def test_there_are_no_other_workflows():
    assert sorted(p.name for p in WORKFLOWS.iterdir()) == sorted([*NAMES, GATE, RELEASE])


@pytest.mark.parametrize("name", NAMES)
def test_tokens_are_read_only_and_there_are_no_secrets(name):
    text, table, on = read(name)
    assert table["permissions"] == {"contents": "read"}
    assert not any("permissions" in job for job in table["jobs"].values())
    assert not re.search(r"\bsecrets\s*[.\[]", text)
    assert "github.token" not in text
    assert "pull_request_target" not in on
    assert "workflow_run" not in on
    for job in table["jobs"].values():
        assert job["timeout-minutes"] <= 120
        for step in job["steps"]:
            if "uses" in step:
                assert re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"])
            if "checkout" in step.get("uses", ""):
                assert step["with"]["persist-credentials"] is False
            # untrusted text reaches a shell as a variable, never as a part of the script
            assert "${{" not in step.get("run", "")


def test_tests_run_the_readmes_command_on_both_ends():
    _, table, on = read("tests.yml")
    job = table["jobs"]["tests"]
    assert job["strategy"]["matrix"]["python"] == ["3.11", "3.13"]
    commands = [step.get("run") for step in job["steps"]]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [c for c in commands if c and c.endswith("&& pytest") and c in readme.splitlines()]
    assert "pull_request" in on


def test_submissions_are_verified_by_the_bases_program():
    _, table, on = read("verify.yml")
    assert list(on) == ["pull_request"]
    assert set(on["pull_request"]["paths"]) == {
        "leaderboard/submissions/**",
        "leaderboard/results/*/verified.json",
        "leaderboard/results/*/rerun-*.json",
    }
    for job in table["jobs"].values():
        program, data = (s for s in job["steps"] if "checkout" in s.get("uses", ""))
        assert program["with"]["ref"] == "${{ github.event.pull_request.base.sha }}"
        assert data["with"]["ref"] == "${{ github.event.pull_request.head.sha }}"
        assert data["with"]["path"] == "submitted"
        assert data["with"]["sparse-checkout"] == "leaderboard"
        installs = "\n".join(s["run"] for s in job["steps"] if "pip install" in s.get("run", ""))
        assert "submitted" not in installs


def test_submitted_code_runs_on_the_label_alone():
    _, table, on = read("verify.yml")
    verify, rerun = table["jobs"]["verify"], table["jobs"]["rerun"]
    assert "labeled" in on["pull_request"]["types"]
    assert verify["if"] == "github.event.action != 'labeled'"
    assert rerun["if"] == "github.event.action == 'labeled' && github.event.label.name == 'allow-code'"
    assert not any("allow-code" in step.get("run", "") for step in verify["steps"])
    assert not any("torch" in step.get("run", "").replace("no torch", "") for step in verify["steps"])
    assert any("--allow-code" in step.get("run", "") for step in rerun["steps"])


def test_the_statement_is_written_by_maintainers_from_the_main_branch():
    _, table, on = read("statement.yml")
    assert list(on) == ["workflow_dispatch"]
    job = table["jobs"]["statement"]
    assert job["if"] == "github.ref == 'refs/heads/main'"
    [command] = [s["run"] for s in job["steps"] if "lmcbench verify" in s.get("run", "")]
    assert "--record" in command
    assert "--rerun" not in command
    assert not any(
        "--record" in s.get("run", "") for j in read("verify.yml")[1]["jobs"].values() for s in j["steps"]
    )


def test_a_released_readme_has_no_relative_link(tmp_path):
    """A package index shows the README alone: the release workflow makes its links absolute."""
    [command] = [
        s["run"] for s in read("release.yml")[1]["jobs"]["build"]["steps"] if "sed " in s.get("run", "")
    ]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    site = {"GITHUB_SERVER_URL": "https://example.org", "GITHUB_REPOSITORY": "us/it", "GITHUB_REF_NAME": "v9"}
    subprocess.run(["bash", "-ec", command], cwd=tmp_path, check=True, env=os.environ | site)
    links = re.findall(r"(!?)\[[^]]*\]\(([^)\s]+)\)", (tmp_path / "README.md").read_text(encoding="utf-8"))
    before = re.findall(r"\[[^]]*\]\(([^)\s]+)\)", text)
    assert len(links) == len(before) > 20
    for (is_image, link), original in zip(links, before, strict=True):
        if not original.startswith("http"):
            assert link == f"https://example.org/us/it/{'raw' if is_image else 'blob'}/v9/{original}"
            assert (ROOT / original).exists()
    assert all(link.startswith("http") for _, link in links)


# --- which folders -------------------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
        done = subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    git("init", "-q")
    write(tmp_path, "leaderboard/submissions/old/submission.toml")
    git("add", ".")
    git("commit", "-qm", "base")
    return tmp_path, git, git("rev-parse", "HEAD")


def write(root, name):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(f"{name}\n")


def changed(repository, *names):
    root, git, base = repository
    for name in names:
        write(root, name)
    git("add", ".")
    git("commit", "-qm", "change")
    done = subprocess.run(["bash", str(SCRIPT), str(root), base], capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def test_new_submissions_are_listed_once(repository):
    names = ["new/submission.toml", "new/records.jsonl.gz", "tiny-mlp/submission.toml"]
    found = changed(repository, *(f"leaderboard/submissions/{n}" for n in names))
    assert found == (0, "leaderboard/submissions/new\nleaderboard/submissions/tiny-mlp\n", "")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("README.md", "changes nothing else; this one changes README.md."),
        (".github/workflows/verify.yml", "changes nothing else"),
        ("leaderboard/results/new/verified.json", "which only the maintainers write"),
        ("leaderboard/results/new/summary.json", "changes nothing else"),
        ("leaderboard/submissions/new/verified.json", "which only the maintainers write"),
        ("leaderboard/submissions/new/rerun-0.json", "which only the maintainers write"),
        ("leaderboard/submissions/new/predictions.safetensors", "attach it to the pull request instead"),
        ("leaderboard/submissions/loose.json", "changes nothing else"),
        ("leaderboard/submissions/$(touch x)/a", "changes nothing else"),
        ("leaderboard/submissions/old/submission2.toml", "old is merged already and never edited."),
    ],
)
def test_anything_else_is_refused(repository, name, message):
    code, out, err = changed(repository, "leaderboard/submissions/new/submission.toml", name)
    assert (code, out) == (1, "")
    assert message in err
