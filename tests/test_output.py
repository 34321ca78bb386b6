import pytest

from lmcbench.output import MESSAGE, escape_markdown, make_table, print_text, shorten, terminal_text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a | b", "a \\| b"),
        ("[x](y)", "\\[x\\](y)"),
        ("one\ntwo", "one two"),
        ("*_`", "\\*\\_\\`"),
        ("lmc_mlp(depth=3)", "lmc_mlp(depth=3)"),
        ("_so_ a__b", "\\_so\\_ a\\_\\_b"),
        ("https://a.b www.a.b", "https\\://a.b www\\.a.b"),
        ("&lt;", "&amp;lt;"),
        ("<script>", "&lt;script&gt;"),
        ("a\x1b[1mb", "a\\\\x1b\\[1mb"),
        ("~~@x $1$ #1", "\\~\\~\\@x \\$1\\$ \\#1"),
    ],
)
def test_markdown_shows_text_literally(text, shown):
    assert escape_markdown(text) == shown


def test_long_text_is_cut_in_the_middle():
    for cut in (shorten("a" * 5000 + "z"), escape_markdown("a" * 5000 + "z")):
        assert len(cut) == MESSAGE
        assert cut.startswith("aaa")
        assert cut.endswith("az")
    assert shorten("short") == "short"


def test_a_terminal_receives_line_ends_and_tabs_only(capsys):
    every = "".join(map(chr, range(256))) + "\u202e\u2028"
    print_text(every)
    print_text("to\x9bstderr", err=True, nl=False)
    out, err = capsys.readouterr()
    assert [c for c in out if not c.isprintable() and c not in "\xa0\xad"] == ["\t", "\n", "\n"]
    assert "\\x1b" in out
    assert "\\u202e\\u2028" in out
    assert err == "to\\x9bstderr"
    assert terminal_text("a\r\nb\tc") == "a\nb\tc"


@pytest.mark.parametrize("style", ["plain", "simple", "github"])
def test_a_cell_of_a_table_is_one_line(style):
    table = make_table([["a\nb", 1], ["x" * 9000, 22], ["<b>|\x1b", 3]], ["na\nme", "n"], style)
    lines = table.splitlines()
    assert len(lines) == {"plain": 4, "simple": 5, "github": 5}[style]
    assert max(map(len, lines)) < MESSAGE + 20
    assert "\x1b" not in table
    if style == "github":
        assert "<b>" not in table
        assert {line.replace("\\|", "").count("|") for line in lines} == {3}


def test_rows_by_column_name_the_headers():
    assert make_table([{"a": "x", "b": 1}], style="github").splitlines()[0].split() == [
        "|",
        "a",
        "|",
        "b",
        "|",
    ]
