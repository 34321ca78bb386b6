"""The entry point of the command line: what ends it, and what of the environment it does not need."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys

import pytest

from lmcbench import __main__ as entry

application = importlib.import_module("lmcbench.cli.app")  # `lmcbench.cli` has an `app` of its own


def test_ctrl_c_during_the_import_ends_it_quietly(tmp_path):
    (tmp_path / "typer.py").write_text("raise KeyboardInterrupt")
    paths = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    ended = subprocess.run(
        [sys.executable, "-m", "lmcbench", "suites"],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "Error: Main memory is exhausted"),
        (ImportError("libtorch.so: failed to map segment\x1b[31m"), r"failed to map segment\x1b[31m."),
        (OSError(28, "No space left on device", "a/b"), "Error: a/b: No space left on device."),
    ],
)
def test_the_machine_is_told_in_one_message(monkeypatch, capsys, error, message):
    def fail(**_):
        raise error

    monkeypatch.setattr(application, "app", fail)
    monkeypatch.setattr(application, "handle_signals", lambda: None)
    with pytest.raises(SystemExit, match="2"):
        entry.main()
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err
    assert "Traceback" not in said.err


def test_figures_need_no_window(monkeypatch):
    """A backend that matplotlib does not know would end its import."""
    monkeypatch.setenv("MPLBACKEND", "of-another-environment")
    monkeypatch.setattr(application, "app", lambda **_: None)
    monkeypatch.setattr(application, "handle_signals", lambda: None)
    entry.main()
    assert "MPLBACKEND" not in os.environ
