"""The errors and warnings of the package, by the words of their messages, as its code has them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import dask_limits

PACKAGE = Path(dask_limits.__file__).parent
LOGS = {"warning", "error", "exception", "critical"}
"""The methods of a logger that users see by default."""
MAKES = {
    "_give_up",
    "add_note",
    "BREACHES[limit]",
    "ExecutionTimeout",
    "kind",
    "make",
    "MemoryLimitExceeded",
    "refused",
    "type(error)",
}
"""What else is called with the text of a message."""
TEXTS = {
    "batch_systems/slurm_reasons.py": (
        "_TEXTS",
        "_LESS",
        "_MORE",
        "explain",
        "_about_time",
        "_about_nodes",
    ),
    "dask/compat/dropped_annotations.py": ("LOCAL", "LOSES"),
    "limits/breaches.py": ("_share", "_imports"),
    "limits/limits.py": ("_NOT_IN_A_THREAD",),
    "limits/packed_outcome.py": ("_PICKLING",),
    "limits/owner/answers.py": ("_ENDS", "_crash_error"),
}
"""Functions and tables with texts that become messages, or parts of them, elsewhere."""
FEWEST_WORDS = 4
"""By so many words in a row a message is found; by its longest row if none is that long."""
WORD = re.compile(r"[A-Za-z']{2,}")
FORMAT = re.compile(r"%[srd]|\{\w+\}")
"""Where a text of a logger, or of `format_map`, has a figure."""


@dataclass(frozen=True)
class Message:
    """A message: where it is made, and words of it that stand in a row."""

    file: str
    line: int
    words: str


def messages() -> list[Message]:
    """All messages of the package, each once."""
    found: dict[str, Message] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = str(path.relative_to(PACKAGE))
        for line, words in _of_file(path):
            found.setdefault(words, Message(name, line, words))
    return list(found.values())


def normal(text: str) -> str:
    """Text as it is compared: without marks of code, and each white space as one blank."""
    return re.sub(r"\s+", " ", re.sub(r"[`*\\]", "", text)).strip()


def _of_file(path: Path) -> Iterator[tuple[int, str]]:
    tree = ast.parse(path.read_text())
    for name in TEXTS.get(str(path.relative_to(PACKAGE)), ()):
        for text in _named(name, tree, None):
            words = _words(text)
            if len(WORD.findall(words)) > 1:
                yield text.lineno, words
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Module):
            for node in _inside(function):
                if isinstance(node, ast.Call) and _makes_a_message(node):
                    for text in _texts(node, function, tree):
                        if words := _words(text):
                            yield node.lineno, words


def _inside(function: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a function, or of a module, without those of the functions in it."""
    for node in ast.iter_child_nodes(function):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
            yield from _inside(node)


def _makes_a_message(call: ast.Call) -> bool:
    name = ast.unparse(call.func)
    last = name.rpartition(".")[2]
    if name == "warnings.warn" or last in MAKES:
        return True
    if isinstance(call.func, ast.Attribute) and last in LOGS:
        return name.startswith("logger.")
    return last in _exceptions() or (last[:1].isupper() and last.endswith("Error"))


@cache
def _exceptions() -> frozenset[str]:
    """The names of all exception classes of the package that do not end with "Error"."""
    names = {"BadInput", "ClickException", "GraceWarning", "TrialPruned"}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and node.name.endswith(("Exception", "Breach")):
                names.add(node.name)
    return frozenset(names)


def _texts(call: ast.Call, function: ast.AST, tree: ast.Module) -> Iterator[ast.expr]:
    """The expressions with the text of a message: the arguments, or what these names stand for."""
    for argument in call.args[:2] if ast.unparse(call.func).endswith("OSError") else call.args[:1]:
        yield from _resolved(argument, function, tree)


def _resolved(expr: ast.AST, function: ast.AST, tree: ast.Module) -> Iterator[ast.expr]:
    """The texts that an expression may stand for, and those that are put into them by name."""
    if isinstance(expr, ast.Name):
        yield from _named(expr.id, function, tree)
    elif isinstance(expr, ast.Call) and isinstance(expr.func, ast.Name):
        yield from _named(expr.func.id, tree, tree)
    elif isinstance(expr, ast.expr):
        for text in _parts(expr):
            yield text
            for inside in ast.walk(text):
                if isinstance(inside, ast.FormattedValue):
                    yield from filter(_is_a_sentence, _put_in(inside.value, function, tree))


def _put_in(value: ast.expr, function: ast.AST, tree: ast.Module) -> Iterator[ast.expr]:
    """The texts that a name, or a function of the file, puts into another text."""
    if isinstance(value, ast.Name):
        yield from _named(value.id, function, None)
    elif isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
        yield from _named(value.func.id, tree, None)


def _is_a_sentence(text: ast.expr) -> bool:
    """Whether it says something by itself: "the result" and "more than 0" do not."""
    return len(WORD.findall(_words(text))) >= FEWEST_WORDS


def _named(name: str, scope: ast.AST, tree: ast.Module | None) -> Iterator[ast.expr]:
    """The texts of a variable or of a function of this scope, or else of the file."""
    texts: list[ast.expr] = []
    for node in ast.walk(scope) if isinstance(scope, ast.Module) else _inside(scope):
        if isinstance(node, ast.FunctionDef) and node.name == name:
            for part in _inside(node):
                if isinstance(part, ast.Return | ast.Assign) and part.value is not None:
                    texts.extend(_parts(part.value))
        elif name in _set_by(node):
            texts.extend(_parts(node.value))  # type: ignore[attr-defined]
    if not texts and tree is not None and scope is not tree:
        texts.extend(_named(name, tree, None))
    yield from texts


def _set_by(node: ast.AST) -> set[str]:
    """The names of the variables that this sets, if it is an assignment of a value."""
    if not isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign) or node.value is None:
        return set()
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    inside = (part for target in targets for part in ast.walk(target))
    return {part.id for part in inside if isinstance(part, ast.Name)}


def _parts(value: ast.expr) -> Iterator[ast.expr]:
    """The texts in a value: of each branch, of each entry of a table."""
    if isinstance(value, ast.Dict):
        for one in value.values:
            yield from _parts(one)
    elif isinstance(value, ast.Tuple):
        for one in value.elts:
            yield from _parts(one)
    elif isinstance(value, ast.IfExp):
        yield from _parts(value.body)
        yield from _parts(value.orelse)
    elif isinstance(value, ast.BinOp | ast.JoinedStr | ast.Constant):
        yield value


def _words(text: ast.expr) -> str:
    """The words by which a message is found: the first row of enough words, up to a full stop."""
    rows: list[str] = []
    for part in _constants(text):
        for row in re.split(r"(?<=[a-z)])[.:;] |\n", FORMAT.sub("\n", part)):
            cleaned = normal(row).strip(" .,:;'\"=(){}")
            if WORD.search(cleaned):
                rows.append(cleaned)
    enough = (row for row in rows if len(WORD.findall(row)) >= FEWEST_WORDS)
    return next(enough, max(rows, key=len, default=""))


def _constants(text: ast.expr) -> Iterator[str]:
    """The constant parts of a text, with those on either side of a figure apart."""
    if isinstance(text, ast.Constant):
        if isinstance(text.value, str):
            yield text.value
    elif isinstance(text, ast.JoinedStr):
        for part in text.values:
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                yield part.value
    elif isinstance(text, ast.BinOp):
        yield from _constants(text.left)
        yield from _constants(text.right)
