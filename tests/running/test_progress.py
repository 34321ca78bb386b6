"""What a run says where no bar shows how far it is."""

from lmcbench.running.progress import SILENCE, ProgressLines


def test_a_run_speaks_after_a_silence_only():
    now = [100.0]
    lines = ProgressLines(2, lambda: now[0])
    now[0] += SILENCE - 1
    assert lines.line(2.5, 10) is None
    now[0] += 1
    assert lines.line(2.5, 10) == "2.5 of 10 cells after 0:01:00, about 0:15:00 left"  # 7.5 at 0.5 a minute
    assert lines.line(3.0, 10) is None
    now[0] += SILENCE - 1
    lines.note_output()
    now[0] += 1
    assert lines.line(4.0, 10) is None
    now[0] += SILENCE
    assert lines.line(6.0, 10) == "6.0 of 10 cells after 0:03:00, about 0:03:00 left"


def test_nothing_done_has_no_time_left():
    now = [0.0]
    lines = ProgressLines(3, lambda: now[0])
    now[0] = 3600.4
    assert lines.line(3.0, 4) == "3.00 of 4 cells after 1:00:00"


def test_no_remaining_time_is_stated_while_nearly_nothing_is_done():
    """A first batch after minutes of preparation would give weeks."""
    now = [0.0]
    lines = ProgressLines(0, lambda: now[0])
    now[0] = 162.0
    assert lines.line(0.002, 288) == "0.0 of 288 cells after 0:02:42"
    now[0] = 324.0
    assert lines.line(0.3, 288) == "0.3 of 288 cells after 0:05:24, about 3 days, 14:18:36 left"


def test_a_long_run_speaks_less_often():
    now = [0.0]
    lines = ProgressLines(0, lambda: now[0])
    spoken = 0
    for _ in range(24 * 60):
        now[0] += 60
        spoken += lines.line(1.0, 2) is not None
    assert 60 < spoken < 100
