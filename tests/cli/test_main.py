"""The command line's own start: what happens before a command runs."""

from __future__ import annotations

import pytest

from cli import main as entry
from cli.client import EXIT_INTERRUPTED


def test_an_interrupt_while_a_command_is_being_loaded_says_so_and_shows_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("importlib.import_module", interrupted)
    with pytest.raises(SystemExit) as ended:
        entry.main(["demo", "--for", "1s"])
    assert ended.value.code == EXIT_INTERRUPTED
    assert capsys.readouterr().err == "wattshift: interrupted\n"
