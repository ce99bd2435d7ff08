"""Row selections written in a run file, ``snrg > 10 and class == 'STAR'``, without `eval`."""

import ast
import difflib
import keyword
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_STRING = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
_WORDS_OF_OURS = {"and", "or", "not", "in", "is", "True", "False", "None"}
_KEYWORDS = "|".join(sorted(set(keyword.kwlist) - _WORDS_OF_OURS))
# A column may be called class, or [Fe/H] in backticks: such names go through Python's parser as
# stand-ins. Strings are looked for first, so that nothing inside them is touched.
_ODD_NAME = re.compile(rf"{_STRING}|(?P<name>`[^`]+`|\b(?:{_KEYWORDS})\b)")
_STAND_IN = re.compile(r"\b_column_(\d+)_\b")

_FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "isnan": np.isnan,
    "isfinite": np.isfinite,
    "abs": np.abs,
    "log10": np.log10,
}
_OPERATORS: dict[type[ast.operator], Callable[[Array, Array], Array]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.true_divide,
    ast.Mod: np.mod,
    ast.LShift: np.left_shift,
    ast.RShift: np.right_shift,
    ast.BitAnd: np.bitwise_and,
    ast.BitOr: np.bitwise_or,
    ast.BitXor: np.bitwise_xor,
}
_BITWISE = (ast.BitAnd, ast.BitOr, ast.BitXor)
_INTEGER_ONLY = (*_BITWISE, ast.LShift, ast.RShift)
_COMPARISONS: dict[type[ast.cmpop], Callable[[Array, Array], Array]] = {
    ast.Eq: np.equal,
    ast.NotEq: np.not_equal,
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
}


@dataclass(frozen=True)
class _Scope:
    """An expression being read: its text, with stand-ins and as written, and its columns."""

    written: str
    text: str
    odd_names: tuple[str, ...]
    columns: Mapping[str, npt.ArrayLike]

    def column_name(self, identifier: str) -> str:
        """Return the column an identifier of the text stands for."""
        stand_in = _STAND_IN.fullmatch(identifier)
        return self.odd_names[int(stand_in[1])].strip("`") if stand_in else identifier

    def error(self, node: ast.AST, why: str) -> ValueError:
        """Return what to raise about a piece of the condition, as it was written."""
        piece = _STAND_IN.sub(lambda m: self.odd_names[int(m[1])], ast.unparse(node))
        return ValueError(f"where {self.written!r}: {piece} {why}")


def where(expression: str, columns: Mapping[str, npt.ArrayLike]) -> npt.NDArray[np.bool_]:
    """Select rows by a condition on columns.

    The language is Python's: ``and or not``, chained comparisons, ``in`` with a tuple, ``+ - * /
    %``, ``& | ^ ~ << >>`` on integers (or on conditions), numbers, strings, and `isnan`,
    `isfinite`, `abs`, `log10`. A name Python would not take stands in backticks: ```[Fe/H]` < -2``.

    Every comparison with NaN is False, ``!=`` and ``not in`` included. A constant is compared with
    a float32 column as float32, so ``TEFF != -9999.99`` finds the sentinel.

    Parameters
    ----------
    expression : str
        The condition.
    columns : mapping of str to (n,) array
        Numbers, conditions or text (str, bytes, or objects, where None and NaN are empty).

    Returns
    -------
    (n,) bool
        Whether each row is selected.

    Raises
    ------
    ValueError
        If the expression says anything else, mixes kinds, or names an unknown column; the message
        holds the piece that is wrong.

    Examples
    --------
    >>> stars = {"class": np.array(["STAR", "QSO"]), "flag": np.array([4, 3])}
    >>> where("class == 'STAR' and (flag & 1) == 0", stars)
    array([ True, False])
    """
    tree, scope = _parse(expression, columns)
    names = columns_in(expression) or tuple(columns)
    lengths = {name: np.shape(columns[name])[:1] for name in names if name in columns}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"where {expression!r}: columns differ in length: {lengths}")
    with np.errstate(all="ignore"):
        try:
            selected = _condition(tree, scope)
        except RecursionError as error:
            raise ValueError(f"where {expression!r}: is nested too deep") from error
    return np.broadcast_to(selected, next(iter(lengths.values()), ())).copy()


def columns_in(expression: str) -> tuple[str, ...]:
    """List the columns a condition names, in order of appearance.

    Examples
    --------
    >>> columns_in("snrg > 10 and not isnan(`[Fe/H]`) and class == 'STAR'")
    ('snrg', '[Fe/H]', 'class')
    """
    tree, scope = _parse(expression, {})
    functions = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    found = [n for n in ast.walk(tree) if isinstance(n, ast.Name) and id(n) not in functions]
    found.sort(key=lambda node: (node.lineno, node.col_offset))
    return tuple(dict.fromkeys(scope.column_name(node.id) for node in found))


def as_text(values: npt.ArrayLike) -> npt.NDArray[np.str_]:
    """Turn a column of text in any of NumPy's forms into str; None and NaN become empty.

    Raises
    ------
    ValueError
        If it holds anything else.

    Examples
    --------
    >>> as_text(np.array([b"STAR", None, "QSO"], dtype=object))
    array(['STAR', '', 'QSO'], dtype='<U4')
    """
    array = np.asarray(values)
    if array.dtype.kind == "S":
        return np.strings.decode(array, "utf-8")
    if array.dtype.kind == "U":
        return array
    if array.dtype.kind not in "OT":
        raise ValueError(f"wanted text, got {array.dtype}")
    return np.array([_one_text(value) for value in array.flat], dtype=np.str_).reshape(array.shape)


def _one_text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if value is None or value != value:  # NaN
        return ""
    if not isinstance(value, str):
        raise ValueError(f"wanted text, got {value!r}")  # noqa: TRY004  (a bad value of a column)
    return value


def _parse(expression: str, columns: Mapping[str, npt.ArrayLike]) -> tuple[ast.expr, _Scope]:
    odd_names: list[str] = []

    def stand_in(match: re.Match[str]) -> str:
        """Keep a name in backticks, and return an identifier in its place."""
        if match["name"] is None:
            return match[0]
        odd_names.append(match[0])
        return f"_column_{len(odd_names) - 1}_"

    text = _ODD_NAME.sub(stand_in, expression.strip())
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error) or "nested too deep"
        raise ValueError(f"where {expression!r}: is no condition: {reason}") from error
    return tree, _Scope(expression, text, tuple(odd_names), columns)


def _value(node: ast.expr, scope: _Scope) -> Array:
    rule = _RULES.get(type(node))
    if rule is None:
        raise scope.error(
            node, "is not understood here: use and, or, not, comparisons, in (...), arithmetic, "
            f"bits, or {', '.join(_FUNCTIONS)}"
        )  # fmt: skip
    return rule(node, scope)


def _condition(node: ast.expr, scope: _Scope) -> Array:
    value = _value(node, scope)
    if value.dtype.kind != "b":
        raise scope.error(node, f"is {_kind(value)}, not a condition: compare it with something")
    return value


def _number(node: ast.expr, scope: _Scope) -> Array:
    value = _value(node, scope)
    if value.dtype.kind in "bU":
        raise scope.error(node, f"is {_kind(value)}, where a number is wanted")
    return value


def _kind(value: Array) -> str:
    return {"b": "a condition", "U": "text", "f": "a float"}.get(value.dtype.kind, "an integer")


def _bool_op(node: ast.BoolOp, scope: _Scope) -> Array:
    join = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
    result = _condition(node.values[0], scope)
    for operand in node.values[1:]:
        result = join(result, _condition(operand, scope))
    return result


def _unary(node: ast.UnaryOp, scope: _Scope) -> Array:
    if isinstance(node.op, ast.Not):
        return np.logical_not(_condition(node.operand, scope))
    if isinstance(node.op, ast.Invert):
        value = _value(node.operand, scope)
        if value.dtype.kind not in "bi":
            raise scope.error(node, f"wants an integer or a condition after ~, not {_kind(value)}")
        return np.invert(value)
    value = _number(node.operand, scope)
    return np.negative(value) if isinstance(node.op, ast.USub) else value


def _binary(node: ast.BinOp, scope: _Scope) -> Array:
    operator = _OPERATORS.get(type(node.op))
    if operator is None:
        raise scope.error(node, "has an operator that is not understood here")
    if not isinstance(node.op, _INTEGER_ONLY):
        return operator(_number(node.left, scope), _number(node.right, scope))
    left, right = _value(node.left, scope), _value(node.right, scope)
    kinds = left.dtype.kind + right.dtype.kind
    if kinds != "ii" and not (kinds == "bb" and isinstance(node.op, _BITWISE)):
        raise scope.error(
            node, f"mixes {_kind(left)} and {_kind(right)}; it wants two integers. To join "
            "conditions write and / or, or put parentheses around each"
        )  # fmt: skip
    return operator(left, right)


def _compare(node: ast.Compare, scope: _Scope) -> Array:
    _refuse_loose_bits(node, scope)
    if any(isinstance(op, ast.In | ast.NotIn) for op in node.ops):
        return _member(node, scope)
    result: Array = np.bool_(True)  # type: ignore[assignment]
    left = _value(node.left, scope)
    for op, right_node in zip(node.ops, node.comparators, strict=True):
        right = _value(right_node, scope)
        result = result & _compared(op, left, right, (node, scope))
        left = right
    return result


def _member(node: ast.Compare, scope: _Scope) -> Array:
    if len(node.ops) > 1:
        raise scope.error(node, "chains in with other comparisons: join them by and")
    options = node.comparators[0]
    if not isinstance(options, ast.Tuple | ast.List):
        raise scope.error(node, "wants a tuple after in: ('a', 'b'), or ('a',) for one")
    left = _value(node.left, scope)
    found = np.zeros(left.shape, dtype=np.bool_)
    for option in options.elts:
        found = found | _compared(ast.Eq(), left, _value(option, scope), (node, scope))
    return found if isinstance(node.ops[0], ast.In) else ~found & ~_is_nan(left)


def _compared(op: ast.cmpop, left: Array, right: Array, place: tuple[ast.AST, _Scope]) -> Array:
    node, scope = place
    comparison = _COMPARISONS.get(type(op))
    if comparison is None:
        raise scope.error(node, "has a comparison that is not understood here; for missing "
                          "values use isnan(x) or x == ''")  # fmt: skip
    if (left.dtype.kind == "U") != (right.dtype.kind == "U"):
        raise scope.error(node, f"compares {_kind(left)} with {_kind(right)}")
    if right.ndim == 0 and left.dtype.kind == "f":
        right = right.astype(left.dtype)
    elif left.ndim == 0 and right.dtype.kind == "f":
        left = left.astype(right.dtype)
    result = comparison(left, right)
    return result & ~_is_nan(left) & ~_is_nan(right) if isinstance(op, ast.NotEq) else result


def _is_nan(value: Array) -> Array:
    return np.isnan(value) if value.dtype.kind == "f" else np.zeros(value.shape, dtype=np.bool_)


def _refuse_loose_bits(node: ast.Compare, scope: _Scope) -> None:
    """Refuse ``a > 1 & b < 3``, which Python reads as ``a > (1 & b) < 3``.

    ``flag & 4 == 0`` passes: Python, unlike C, reads it as it looks.
    """
    text = scope.text.encode()
    operands = [node.left, *node.comparators]
    for operand in operands[1:] if len(operands) == 2 else operands:
        if isinstance(operand, ast.BinOp) and isinstance(operand.op, _BITWISE):
            before = text[: operand.col_offset].rstrip()
            after = text[operand.end_col_offset :].lstrip()
            if not (before.endswith(b"(") and after.startswith(b")")):
                raise scope.error(
                    operand, "binds tighter than the comparison beside it: put it in parentheses "
                    "if that is meant, else join conditions by and / or"
                )  # fmt: skip


def _constant(node: ast.Constant, scope: _Scope) -> Array:
    value = np.asarray(node.value) if isinstance(node.value, bool | int | float | str) else None
    if value is None or value.dtype.kind not in "bifU":
        raise scope.error(node, "is no number or string that fits (for missing, use isnan)")
    return value


def _column(node: ast.Name, scope: _Scope) -> Array:
    name = scope.column_name(node.id)
    if name not in scope.columns:
        known = difflib.get_close_matches(name, scope.columns, n=3) or sorted(scope.columns)
        raise scope.error(node, f"is no column; did you mean one of {', '.join(known)}?")
    values = np.asarray(scope.columns[name])
    if values.ndim != 1:
        raise scope.error(node, f"has shape {values.shape}; a condition wants one value per row")
    if values.dtype.kind in "USTO":
        try:
            return as_text(values)
        except ValueError as error:
            raise ValueError(f"where {scope.written!r}: {name}: {error}") from error
    if values.dtype.kind == "u" and values.size and values.max() > np.iinfo(np.int64).max:
        raise scope.error(node, f"has values beyond int64: {values.max()}")
    if values.dtype.kind not in "biuf":
        raise scope.error(node, f"is {values.dtype}, neither number nor text")
    return values.astype(np.int64) if values.dtype.kind in "iu" else values


def _call(node: ast.Call, scope: _Scope) -> Array:
    name = node.func.id if isinstance(node.func, ast.Name) else ""
    if name not in _FUNCTIONS or len(node.args) != 1 or node.keywords:
        raise scope.error(node, f"is no call known here: {', '.join(_FUNCTIONS)}, of one value")
    return _FUNCTIONS[name](_number(node.args[0], scope))


_RULES: dict[type[ast.expr], Callable[[Any, _Scope], Array]] = {
    ast.BoolOp: _bool_op,
    ast.UnaryOp: _unary,
    ast.BinOp: _binary,
    ast.Compare: _compare,
    ast.Constant: _constant,
    ast.Name: _column,
    ast.Call: _call,
}
