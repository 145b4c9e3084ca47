"""What fills a field reaches the program as it is, and is never code."""

from __future__ import annotations

import os
import pickle
import subprocess
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dask_limits import command
from dask_limits.commands.output import Output
from dask_limits.commands.shell import ShellTemplate
from dask_limits.commands.template import Template

VALUES = st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    st.text(st.sampled_from("'\"`$(){}[]<>|&;\\\n\t *?~#!=-%@,.:0129az")),
    st.sampled_from(["-rf", "--", "a=b", "2", "if", "time", "$HOME", "$(id)", "`id`", "a'b\"c"]),
)
SHELLS = ["/bin/sh", *(["/bin/bash"] if os.path.exists("/bin/bash") else [])]  # noqa: PTH110
NO_FIELD_HERE = [
    "echo '{x}'",
    'echo "{x}"',
    'echo "a $(date) {x}"',
    "echo `ls {x}`",
    "echo `date` {x}",
    "cat <<EOF\n{x}\nEOF",
    "cat <<'EOF' {x}\nEOF",
    "# it's\necho '{x}'",
    "true # {x}",
    "(#'\necho '{x}')",
    "echo \\{x}",
    'echo "$(echo "{x}")"',
    'echo "${A:-"}" {x} "',
    "echo $'\\'' {x} '",
    "echo ${{{x}}}",
    'echo "it\'s" "{x}"',
    *("echo $\\\n{x}", '"$\\\n(echo " {x} ")"', "echo $(\\\n( {x} ))", "ls >\\\n&{x}"),
    *("cat <\\\n<E\n{x}\nE", "[\\\n[ {x} -gt 3 ]]", "echo $\\\n[ {x} ]"),
]
EVALUATED_BY_BASH = [
    *("echo $(( {x} * 2 ))", "(( {x} ))", "echo $[ {x} ]", "for ((i=0; i < {x}; i++)); do :; done"),
    *("[[ {x} -gt 3 ]]", "[[\t-v {x} ]]", "[[(3 -gt {x})]]", "true&&[[ -n $A && 3 -lt {x} ]]"),
    *("[[\\\n {x} -gt 3 ]]", "! [[ ']]' > {x} ]]", '[[ "$(ls ]] )" -gt {x} ]]'),
    *("a[{x}]=5", "a[1 + {x}]+=5", "true; a\\\n[{x}]=5", "a=([{x}]=5)", "a=(1 [ {x} ]=5)"),
    *("ls >&{x}", "ls 2>& {x}", "ls >&a{x}", "ls <&{x}", "ls >&\\\n{x}"),
]


def said_by(shell: str, line: str) -> bytes:
    run = subprocess.run([shell, "-c", line], stdout=subprocess.PIPE, check=True, timeout=60)
    return run.stdout


@pytest.mark.parametrize("shell", SHELLS)
@settings(deadline=None)
@given(value=VALUES)
def test_any_text_is_one_argument(shell, value):
    template = command(
        "set -- {x} a{x}b --x={x} $(printf '%s\\n' >&2) {x}; printf '%s\\0' $# \"$@\""
    )
    words = [value, f"a{value}b", f"--x={value}", value]
    expected = b"".join(os.fsencode(word) + b"\0" for word in ["4", *words])
    assert said_by(shell, template.line(x=value)) == expected


@settings(deadline=None)
@given(values=st.lists(VALUES))
def test_a_list_is_as_many_arguments(values):
    line = command("set -- {} end; printf '%s\\0' \"$@\"").line(values)
    assert said_by("/bin/sh", line) == b"".join(os.fsencode(v) + b"\0" for v in [*values, "end"])


PIECES = [
    *("'", '"', "`", "\\", "$", "$(", ")", "(", "#", "\n", " ", ";", "<<", "EOF", "((", "))"),
    *("${A}", "${A:-", "}", "{{", "}}", "$'", "$[", "]", "echo ", "it's", "{x}", "{x}", "{x}", "1"),
    *("{none}", "{none}", "{some}", "{none}#{x}", "{some}#", "A=", "A={some}", "A={none}{x}", ">"),
    *("{none};", ";{none}", "&{none}&", "({none})", "|", "[[ ", " -gt ", " ]]", "[", "a[", "=("),
    *("\\\n", ">&", "&>", "]=", "=", "~", "!"),
]
RUNS = ["a", "touch", "pwned"]
"""As a list it runs only if it is taken for a command after something else."""
ATTACKS = [
    "$(>pwned)",
    "`>pwned`",
    "\n>pwned\n",
    ";>pwned;",
    "';>pwned;'",
    '";>pwned;"',
    "a[$(>pwned)]",
    "\nEOF\n>pwned\n",
    ")\n>pwned\n(",
    "'\n>pwned\n'",
    "'$(>pwned)'",
]


@settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200
)
@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join), st.sampled_from(ATTACKS))
@example("{none}#{x}", "\n>pwned\n")
@example("; A={some}", "1")
def test_no_value_runs_as_code_in_any_template_that_is_accepted(tmp_path, text, attack):
    try:
        template = command(f"echo {text}")
        values = {"x": attack, "none": [], "some": RUNS}
        line = template.line(
            **{name: value for name, value in values.items() if name in template.fields}
        )
    except (ValueError, TypeError):
        return
    for shell in SHELLS:
        subprocess.run(
            [shell, "-c", line],
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=60,
        )
        assert not (tmp_path / "pwned").exists(), (shell, line)


@pytest.mark.parametrize("text", NO_FIELD_HERE)
def test_a_field_where_quotes_are_not_read_is_refused(text):
    with pytest.raises(
        ValueError, match=r"where its own quotes would be undone\. Leave the quotes"
    ):
        command(text)


@pytest.mark.parametrize("text", EVALUATED_BY_BASH)
def test_a_field_where_bash_evaluates_what_is_quoted_is_refused(text):
    """There `'a[$(command)]'` runs the command."""
    with pytest.raises(ValueError, match=r"so that a value could run as code\. (Write|Compute)"):
        command(text)


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("awk '{{print $1}}' {x}", "awk '{print $1}' v"),
        ("echo ${HOME} ${A:-b} $A {x}", "echo ${HOME} ${A:-b} $A v"),
        ('d="$(date +%s)"; echo {x} "$d"', 'd="$(date +%s)"; echo v "$d"'),
        ("echo $((1 + 2)) {x}", "echo $((1 + 2)) v"),
        ('[[ "${A:-]]}" == b* ]] && ls {x}', '[[ "${A:-]]}" == b* ]] && ls v'),
        ("[ {x} -gt 3 ] && ls [a-z]* >f 2>&1", "[ v -gt 3 ] && ls [a-z]* >f 2>&1"),
        ("a[0]=5; b=({x}); run p=[{x},1] >&2 {x}", "a[0]=5; b=(v); run p=['v',1] >&2 v"),
        ("run \\\n  --lr {x} \\\n  --a#b", "run \\\n  --lr v \\\n  --a#b"),
        ("cat {x} <<EOF\n${{A}} it's\nEOF", "cat v <<EOF\n${A} it's\nEOF"),
        ("find . -exec ls {{}} \\; {x}", "find . -exec ls {} \\; v"),
        ("cd {x} && ls | wc -l > {x}.n", "cd v && ls | wc -l > v.n"),
    ],
)
def test_what_is_the_shells_stays(text, filled):
    assert ShellTemplate.of(text).fill([], {"x": "v"}) == filled


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("c", ["", "\\\n"])
def test_a_plain_value_is_no_part_of_what_is_around_it(shell, c, tmp_path):
    """Neither of a variable's name, the number of a file, a home, a pattern, nor an assignment."""
    text = "D=d; set -- 1; echo $D%{x}/* $1%{n} ~%{root} {n}%>&2 [{r}]; {x}%=5 2>&-; echo ${{x-no}}"
    text = text.replace("%", c).replace("${{x-no}}", "${x-no}")
    line = command(text).line(x="x", n=2, root="root", r="a-z")
    run = subprocess.run([shell, "-c", line], cwd=tmp_path, capture_output=True, timeout=60)
    assert run.stderr == b"dx/* 12 ~root 2 [a-z]\n", line
    assert run.stdout == b"no\n"


def test_plain_values_in_plain_words_have_no_quotes():
    run = command("A={x} train --lr={x} {x}/{x}.csv >{x}.log \\\n {x}\\\n -v")
    assert run.line(x=1) == "A=1 train --lr=1 1/1.csv >1.log \\\n 1\\\n -v"
    assert command("ls {x}\\\n -v").line(x=["a", "b"]) == "ls a b\\\n -v"


@pytest.mark.parametrize("text", ["a {", "a }", "{a b}", "{a,b}", "{x!r}", "{x.y}", "{1a}"])
@pytest.mark.parametrize("kind", [Template, ShellTemplate])
def test_a_brace_of_no_field_is_an_error_that_says_what_to_write(kind, text):
    with pytest.raises(ValueError, match=r"Write {{|Write }}"):
        kind.of(text)


def test_fields_with_and_without_numbers_do_not_mix():
    with pytest.raises(ValueError, match="use one kind"):
        command("cp {} {0}.bak")
    assert command("cp {0} {0}.bak").line("a") == "cp a a.bak"
    assert command("cp {} {}").line("a", "b") == "cp a b"


@pytest.mark.parametrize("value", ["a\0b", "\ud800", Path("a\0")])
def test_what_no_argument_can_be_is_a_clear_error(value):
    with pytest.raises(ValueError, match=r"NUL|cannot be encoded"):
        command("echo {}").line(value)
    with pytest.raises(ValueError, match=r"NUL|cannot be encoded"):
        command(["echo", "{}"]).line([value])


@pytest.mark.parametrize(
    "value", [{"a"}, {"a": 1}, (n for n in "ab"), b"a", None, np.array([True])]
)
def test_a_value_of_another_type_is_an_error_that_says_what_works(value):
    for run in (command("echo {}"), command(["echo", "{}"])):
        for argument in (value, [value]):
            with pytest.raises(TypeError, match="Use a str, a number, a Path or a bool, or a list"):
                run.line(argument)


def test_text_numbers_paths_and_booleans_are_words():
    values = ["a", 1, 0.5, Decimal("1e-3"), Path("b"), True]
    assert command("echo {}").line(values) == "echo a 1 0.5 0.001 b True"
    assert command(["echo", "{}"]).line(values) == ["echo", "a", "1", "0.5", "0.001", "b", "True"]
    of_numpy = [np.str_("a"), np.int8(1), np.float32(0.5), np.bool_(True)]
    assert command("echo {}").line(of_numpy) == "echo a 1 0.5 True"
    assert command(["cat", "{}"]).line(Path(os.fsdecode(b"\xff"))) == ["cat", "\udcff"]


NOT_A_WORD = [
    *("echo a{x}", "echo {x}b", "echo {x}{x}", "echo --a={x}", "A={x}", "A={x} env", 'echo ""{x}'),
    *("echo $A{x}", "echo ${A}{x}", "echo $(date){x}", "A=$(date){x}", "echo }}{x}", "A=\\\n{x}"),
    *("echo \\ {x}", "echo \\;{x}", "echo {x}\\\nb", "echo {x}#", "echo {x}(", "echo {x}'a'"),
    *("true;{x};", "true&{x}&", "true|{x}|", "({x})", "echo > {x}", "cat <\\\n {x}", "a >| {x}"),
    *("a 2>{x}", "echo $A\\\n{x}"),
]


@pytest.mark.parametrize("text", NOT_A_WORD)
def test_a_list_where_the_field_is_not_a_word_of_its_own_is_an_error(text):
    run = command(text)
    for several in ([], ["a"], ["a", "b"], ()):
        with pytest.raises(TypeError, match=r"several words, where only one fits\. A list fits"):
            run.line(x=several)
    assert "v" in run.line(x="v")


@pytest.mark.parametrize(
    ("text", "filled", "empty"),
    [
        ("{x}", "a b", ""),
        ("{x} c", "a b c", " c"),
        ("ls {x}|wc", "ls a b|wc", "ls |wc"),
        ("(ls\t{x})", "(ls\ta b)", "(ls\t)"),
        ("ls {x}>f", "ls 'a' 'b'>f", "ls >f"),
        ("ls > f {x}; ls 2>&1 {x}", "ls > f a b; ls 2>&1 a b", "ls > f ; ls 2>&1 "),
        ("for n in \\\n{x}; do echo; done", "for n in \\\na b; do echo; done", None),
        ("true && {x} 'it' # c", "true && a b 'it' # c", None),
    ],
)
def test_a_list_is_several_words_or_none_where_the_field_is_a_word(text, filled, empty):
    assert command(text).line(x=("a", "b")) == filled
    if empty is not None:
        assert command(text).line(x=[]) == empty


def test_a_comment_may_begin_after_a_field():
    with pytest.raises(ValueError, match="a comment, #"):
        command("echo {opts}#{tag}")
    assert command("echo a{x}#{y}").line(x=1, y=2) == "echo a'1'#'2'"


def test_a_program_of_no_words_is_an_error():
    with pytest.raises(ValueError, match="The command is empty"):
        command(["{}"]).line([])


@pytest.mark.parametrize(
    "wrong",
    [
        {"x": "../../x"},
        {"x": "a/b"},
        {"x": "/"},
        {"x": ".."},
        {"x": "."},
        {"x": ""},
        {"x": "a.err"},
        {"x": "", "name": "{x}/f"},
        {"x": ".", "name": "o/.{x}/f"},
        {"x": ".", "name": "o/{x}{x}/f"},
    ],
)
def test_a_value_does_not_lead_output_to_another_folder(wrong):
    run = command("true", output=wrong.pop("name", "o/{x}"))
    with pytest.raises(ValueError, match=r"in output it must not have|from an argument|\.err"):
        run(**wrong)
    assert not os.path.lexists("o")


def test_a_path_in_output_is_one():
    output = Output(Template.of("{}.{n}.out"))
    assert output.files([Path("../a/b")], {"n": 1})[0] == Path("../a/b.1.out")
    with pytest.raises(ValueError, match=r"use a pathlib\.Path"):
        output.files(["../a/b"], {"n": 1})


def test_different_outputs_have_different_files():
    assert Output(Template.of("../o/{}..")).files(["."], {})[0] == Path("../o/...")
    for name in ("o/{}", "o/{}.out", "o/{}.log", "{}out"):
        output = Output(Template.of(name))
        files = [f for v in ("a", "a.out", "a.", "a.log") for f in output.files([v], {})]
        assert len(set(files)) == 8, files


def test_without_a_shell_elements_are_filled_as_they_are():
    run = command(["prog", "--x={x}", "{files}", Path("d") / "{x}", 5])
    assert run.line(x="a b", files=["1", "2 3"]) == ["prog", "--x=a b", "1", "2 3", "d/a b", "5"]
    with pytest.raises(TypeError, match="several words"):
        run.line(x=["a", "b"], files=[])


def test_missing_and_unknown_arguments_are_named():
    with pytest.raises(
        TypeError, match=r"no argument for \{a\}, \{b\} and no field .* \{0\}, \{c\}"
    ):
        command("echo {a} {b}").line(1, c=2)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"template": 5}, TypeError),
        ({"template": b"ls"}, TypeError),
        ({"template": ["ls", None]}, TypeError),
        ({"template": " "}, ValueError),
        ({"template": []}, ValueError),
        ({"template": "a\0"}, ValueError),
        ({"cwd": 1}, TypeError),
        ({"cwd": ""}, ValueError),
        ({"env": "A=1"}, TypeError),
        ({"env": {"A": 1}}, TypeError),
        ({"env": {"A=": "1"}}, ValueError),
        ({"stdin": 1}, TypeError),
        ({"output": b"f"}, TypeError),
        ({"output": "{"}, ValueError),
        ({"output": "{x}.err"}, ValueError),
    ],
)
def test_a_wrong_argument_is_an_error_at_once(wrong, error):
    with pytest.raises(error):
        command(**{"template": "ls"} | wrong)


def test_a_command_can_be_pickled():
    run = command("echo {x}", cwd="/{x}", env={"A": "{x}"}, stdin=b"1", output="{x}.out")
    again = pickle.loads(pickle.dumps(run))
    assert again.line(x=1) == run.line(x=1) and again.fields == run.fields
    assert vars(vars(again).pop("_output")) == vars(vars(run).pop("_output"))
    assert vars(again) == vars(run)
