"""Avro bodies of our own records, several times as fast as a general library.

A record's schema is compiled once into a tuple of small functions, one per field; what they write is plain Avro, which
any Avro library reads.  Only the types that our schemas use are known here: a record of an older or foreign schema is
the general library's (see ``codec``).

A general library spends most of its time on the map of features: for every value it tries the branches of the union
one after the other.  Here:

* writing looks the value's own type up, and the bytes of a feature's name, its length before and its branch after, are
  made once per name;
* reading knows that events look alike.  Where all values are doubles, booleans or small integers, everything but the values stands at
  the same place in every event: one ``struct`` then reads the whole map, and a comparison of the pieces between the
  values shows whether it was such a map.  With other values, the names at least come in the same order: to compare
  is cheaper than to decode.  Any other map is read name by name and value by value.
"""

from __future__ import annotations

import operator
import struct
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any, TypeAlias

Write: TypeAlias = Callable[[Any], bytes]
Read: TypeAlias = Callable[[bytes, int], tuple[Any, int]]
"""From the bytes and a position in them to a value and the position after it.

A read may run past the end, as slices do; who reads the whole compares the last position with the length.
"""
Schema: TypeAlias = str | dict[str, Any] | list[Any]

VALUE = ["null", "boolean", "long", "double", "string"]
"""The union that features and labels are of."""
NULL, BOOLEAN, LONG, DOUBLE, STRING = b"\x00", b"\x02", b"\x04", b"\x06", b"\x08"
ENOUGH_NAMES, LONG_NAME = 10_000, 200
"""Names made by the thousand, or long ones, are not names of features: they are not kept."""

MALFORMED = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)
"""What reading raises on bytes that are not what the schema says, and writing on values that do not fit it."""


class Misfit(Exception):
    """A value that its field cannot hold; the sentence names the field."""


_pack_double = struct.Struct("<d").pack
_unpack_double = struct.Struct("<d").unpack_from


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


class _Varints(dict[int, bytes]):
    """The higher bits of large integers, which repeat: those of the times of one minute, of offsets and versions."""

    def __missing__(self, number: int) -> bytes:
        if len(self) >= ENOUGH_NAMES:
            self.clear()
        written = self[number] = _varint(number)
        return written


class _Longs(dict[int, bytes]):
    """Zigzag variable-length integers: the small ones are ready, the others are put together from two halves."""

    def __missing__(self, number: int) -> bytes:
        value = operator.index(number)
        if not -(1 << 63) <= value < 1 << 63:
            raise OverflowError(f"the integer {value} does not fit 64 bits")
        zigzag = (value << 1) ^ (value >> 63)
        if zigzag < 16384:
            return _varint(zigzag)
        return _low_14_bits[zigzag & 16383] + _varints[zigzag >> 14]


_low_14_bits = [bytes((bits & 127 | 128, bits >> 7 | 128)) for bits in range(16384)]
_varints = _Varints()
_longs = _Longs()
_longs.update({number: _longs[number] for number in range(-64, 4096)})


def write_long(number: int) -> bytes:
    return _longs[number]


def write_int(number: int) -> bytes:
    if not -(1 << 31) <= number < 1 << 31:
        raise OverflowError(f"the integer {number} does not fit 32 bits")
    return _longs[number]


def write_bytes(data: bytes) -> bytes:
    return _longs[len(data)] + data


def write_string(text: str) -> bytes:
    data = text.encode()
    return _longs[len(data)] + data


def write_double(number: float) -> bytes:
    return _pack_double(number)


def write_null(nothing: None) -> bytes:
    if nothing is not None:
        raise TypeError("expected None")
    return b""


def write_boolean(truth: bool) -> bytes:
    if not isinstance(truth, bool):
        raise TypeError("expected a bool")
    return b"\x01" if truth else b"\x00"


def read_long(data: bytes, at: int) -> tuple[int, int]:
    byte = data[at]
    if byte < 128:
        return (byte >> 1) ^ -(byte & 1), at + 1
    number, shift = byte - 128, 7
    for byte in data[at + 1 : at + 10]:
        if byte < 128:
            number += byte << shift
            if number >> 64:
                break
            return (number >> 1) ^ -(number & 1), at + 1 + shift // 7
        number += byte - 128 << shift
        shift += 7
    if at + 10 > len(data):
        raise EOFError
    raise ValueError("an integer of more than 64 bits")


def read_bytes(data: bytes, at: int) -> tuple[bytes, int]:
    size, start = read_long(data, at)
    if size < 0:
        raise ValueError(f"a length of {size}")
    return data[start : start + size], start + size


def read_string(data: bytes, at: int) -> tuple[str, int]:
    size = data[at]
    if size & 0x81:
        raw, end = read_bytes(data, at)
        return raw.decode(), end
    start = at + 1
    end = start + (size >> 1)
    return data[start:end].decode(), end


def read_boolean(data: bytes, at: int) -> tuple[bool, int]:
    return data[at] != 0, at + 1


def read_double(data: bytes, at: int) -> tuple[float, int]:
    return _unpack_double(data, at)[0], at + 8


def read_null(data: bytes, at: int) -> tuple[None, int]:
    return None, at


_PLAIN: tuple[tuple[type, type, Callable[[Any], Any]], ...] = (
    (Integral, int, int),
    (Real, float, float),
    (str, str, str.__str__),
)


def _converted(convert: Callable[[Any], Any], write: Write) -> Write:
    return lambda value: write(convert(value))


class _ByType(dict[type, Write]):
    """How to write a value of the union, by its type; NumPy's numbers and subclasses are written as what they are."""

    def __missing__(self, kind: type) -> Write:
        if kind.__module__ == "numpy" and kind.__name__ in ("bool", "bool_"):
            return _converted(bool, self[bool])
        for abstract, plain, convert in _PLAIN:
            if issubclass(kind, abstract):
                return _converted(convert, self[plain])
        raise TypeError("expected a number, a string, a boolean or null")


_by_type = _ByType(
    {
        type(None): lambda _: NULL,
        bool: lambda truth: b"\x02\x01" if truth else b"\x02\x00",
        int: lambda number: LONG + _longs[number],
        float: lambda number: DOUBLE + _pack_double(number),
        str: lambda text: STRING + write_string(text),
    }
)


def write_value(value: Any) -> bytes:
    return _by_type[type(value)](value)


_branches: tuple[Read, ...] = (read_null, read_boolean, read_long, read_double, read_string)


def _read_union(branches: tuple[Read, ...]) -> Read:
    simple = {2 * number: read for number, read in enumerate(branches)}

    def read(data: bytes, at: int) -> tuple[Any, int]:
        branch = simple.get(data[at])
        if branch is not None:
            return branch(data, at + 1)
        number, after = read_long(data, at)
        if not 0 <= number < len(branches):
            raise ValueError(f"branch {number} of a union of {len(branches)}")
        return branches[number](data, after)

    return read


_read_branch = _read_union(_branches)


def read_value(data: bytes, at: int) -> tuple[Any, int]:
    branch = data[at]
    if branch == 6:
        return _unpack_double(data, at + 1)[0], at + 9
    if branch == 8:
        return read_string(data, at + 1)
    return _read_branch(data, at)


class _Heads(dict[str, bytes]):
    """The bytes of a name: its length, itself, and the branch of what follows if that is always the same."""

    def __init__(self, branch: bytes = b"") -> None:
        super().__init__()
        self.branch = branch

    def __missing__(self, name: str) -> bytes:
        head = write_string(name) + self.branch
        if len(self) < ENOUGH_NAMES and len(head) < LONG_NAME:
            self[name] = head
        return head


class _Texts(dict[bytes, str]):
    """The names, by their UTF-8."""

    def __missing__(self, raw: bytes) -> str:
        name = raw.decode()
        if len(self) < ENOUGH_NAMES and len(raw) < LONG_NAME:
            self[raw] = name
        return name


_heads, _double_heads, _texts = _Heads(), _Heads(DOUBLE), _Texts()


def write_values(values: Mapping[str, Any]) -> bytes:
    """Write a map of features."""
    if not values:
        return b"\x00"
    parts = [_longs[len(values)]]
    for name, value in values.items():
        kind = type(value)
        if kind is float:
            parts += _double_heads[name], _pack_double(value)
        else:
            parts += _heads[name], _by_type[kind](value)
    parts.append(b"\x00")
    return b"".join(parts)


def _write_map(write: Write) -> Write:
    def write_map(values: Mapping[str, Any]) -> bytes:
        if not values:
            return b"\x00"
        parts = [_longs[len(values)]]
        for name, value in values.items():
            parts += _heads[name], write(value)
        parts.append(b"\x00")
        return b"".join(parts)

    return write_map


def _blocks(data: bytes, at: int) -> tuple[int, int]:
    """The number of items in the block that starts here; 0 at the end."""
    count, at = read_long(data, at)
    if count < 0:  # the size of the block in bytes follows, for readers who skip it
        return -count, read_long(data, at)[1]
    return count, at


def _read_map(read: Read) -> Read:
    def read_map(data: bytes, at: int) -> tuple[dict[str, Any], int]:
        values: dict[str, Any] = {}
        count, at = _blocks(data, at)
        while count:
            for _ in range(count):
                size = data[at]
                if size & 0x81:
                    raw, at = read_bytes(data, at)
                else:
                    start = at + 1
                    at = start + (size >> 1)
                    raw = data[start:at]
                values[_texts[raw]], at = read(data, at)
            count, at = _blocks(data, at)
        return values, at

    return read_map


MISSES = 1000
"""After so many maps that are not as the one before, another one is taken for the one before."""


_CODES: Mapping[type, str] = {bool: "?", float: "d", int: "B"}
_SMALL: list[int | None] = [(b >> 1) ^ -(b & 1) if b < 128 else None for b in range(256)]
"""The integer that one byte holds; None if it takes more than that byte."""


class _Template:
    """A map in one block with the names of one that was seen, its values of fixed size: doubles, booleans, small integers."""

    def __init__(self, values: Mapping[str, Any], branches: Mapping[type, bytes]) -> None:
        between = [write_string(name) + branches[type(value)] for name, value in values.items()]
        codes = (_CODES[type(value)] for value in values.values())
        pieces = (f"{len(head)}s{code}" for head, code in zip(between, codes, strict=True))
        layout = struct.Struct("<B" + "".join(pieces) + "B")
        self.unpack, self.size = layout.unpack_from, layout.size
        self.names, self.between, self.misses = tuple(values), b"".join(between), 0
        self.integers = [name for name, value in values.items() if type(value) is int]


def _by_template(read_other: Read, branches: Mapping[type, bytes]) -> Read:
    """Read a map as a whole if it is like one before of as many values."""
    templates: dict[int, _Template] = {}
    patience: dict[int, int] = {}  # maps to wait for until one is looked at, by their sizes

    def learn(count: int, values: dict[str, Any], size: int) -> None:
        if all(type(value) in branches for value in values.values()):
            template = _Template(values, branches)
            if (
                template.size == size
            ):  # else it has several blocks, a name twice, or a large integer
                templates[count] = template

    def read(data: bytes, at: int) -> tuple[dict[str, Any], int]:
        count = data[at]
        if count == 0:
            return {}, at + 1
        template = templates.get(count)
        if template is None:
            values, end = read_other(data, at)
            left = patience.get(count, 0)
            patience[count] = left - 1 if left else MISSES
            if not left and not count & 0x81:
                learn(count, values, end - at)
            return values, end
        end = at + template.size
        if end <= len(data):
            found = template.unpack(data, at)
            if b"".join(found[1:-1:2]) == template.between and not found[-1]:
                values = dict(zip(template.names, found[2::2]))  # noqa: B905 (half the time without)
                for name in template.integers:
                    small = values[name] = _SMALL[values[name]]
                    if small is None:
                        break
                else:
                    return values, end
        template.misses += 1
        if template.misses == MISSES:
            templates.pop(count, None)  # another thread may have done it
        return read_other(data, at)

    return read


class _Names(list[tuple[str, bytes, int]]):
    """The names of a map that was seen, in their order: as text, as bytes, and the number of those."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__((name, _heads[name], len(_heads[name])) for name in values)
        self.misses = 0


def _by_names(read_other: Read) -> Read:
    """Read a map of features value by value, if it has the names of one before of as many values."""
    known: dict[int, _Names] = {}

    def in_order(data: bytes, at: int, names: _Names) -> tuple[dict[str, Any], int] | None:
        values: dict[str, Any] = {}
        for name, head, size in names:
            if not data.startswith(head, at):
                return None
            at += size
            branch = data[at]
            if branch == 6:
                (values[name],) = _unpack_double(data, at + 1)
                at += 9
            elif branch == 4 and (byte := data[at + 1]) < 128:
                values[name] = (byte >> 1) ^ -(byte & 1)
                at += 2
            else:
                values[name], at = read_value(data, at)
        return None if data[at] else (values, at + 1)

    def read(data: bytes, at: int) -> tuple[dict[str, Any], int]:
        count = data[at]
        names = known.get(count)
        if names is not None:
            found = in_order(data, at + 1, names)
            if found is not None:
                return found
            names.misses += 1
        values, end = read_other(data, at)
        if count == 2 * len(values) < 128 and (names is None or names.misses == MISSES):
            known[count] = _Names(values)
        return values, end

    return read


def _write_array(write: Write) -> Write:
    def write_array(items: list[Any]) -> bytes:
        if not items:
            return b"\x00"
        return b"".join([_longs[len(items)], *map(write, items), b"\x00"])

    return write_array


def _read_array(read: Read) -> Read:
    def read_array(data: bytes, at: int) -> tuple[list[Any], int]:
        items: list[Any] = []
        count, at = _blocks(data, at)
        while count:
            for _ in range(count):
                item, at = read(data, at)
                items.append(item)
            count, at = _blocks(data, at)
        return items, at

    return read_array


def _write_optional(write: Write) -> Write:
    return lambda value: NULL if value is None else b"\x02" + write(value)


def _write_record(fields: list[dict[str, Any]]) -> Write:
    names = [field["name"] for field in fields]
    writes = [writer_of(field["type"]) for field in fields]
    variables = [f"f{n}" for n in range(len(fields))]
    parts = [
        _WRITE_HERE.get(str(field["type"]), f"write_{variable}({{0}})").format(variable)
        for field, variable in zip(fields, variables, strict=True)
    ]
    source = f"""
def write(record):
    {", ".join(variables)}, = record
    return join(({", ".join(parts)},))
"""
    named = {f"write_{v}": write for v, write in zip(variables, writes, strict=True)}
    fast: Write = _define("write", source, named)

    def write_record(record: tuple[Any, ...]) -> bytes:
        try:
            return fast(record)
        except (*MALFORMED, Misfit) as error:
            raise misfit(record, error) from error

    def misfit(record: tuple[Any, ...], error: Exception) -> Misfit:
        for name, write, value in zip(names, writes, record, strict=False):
            try:
                write(value)
            except Misfit as reason:
                return Misfit(f"{name}: {reason}")
            except MALFORMED as reason:
                return Misfit(f"{name} = {_short(value)}: {reason}")
        return Misfit(str(error))

    return write_record


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _read_record(make: type, fields: list[dict[str, Any]], classes: Mapping[str, type]) -> Read:
    variables = [f"f{n}" for n in range(len(fields))]
    steps = "".join(
        _READ_HERE.get(str(field["type"]), _READ_BY_CALL).format(variable)
        for field, variable in zip(fields, variables, strict=True)
    )
    source = f"""
def read(data, at):{steps}
    return new(make, ({", ".join(variables)},)), at
"""
    named: dict[str, Any] = {
        f"read_{variable}": reader_of(field["type"], classes)
        for field, variable in zip(fields, variables, strict=True)
    }
    read: Read = _define("read", source, {**named, "make": make, "new": tuple.__new__})
    return read


def _define(name: str, source: str, names: dict[str, Any]) -> Any:
    """Compile the function of a record: a call per field would cost more than the fields themselves."""
    space = {
        "join": b"".join,
        "longs": _longs,
        "by_type": _by_type,
        "pack_double": _pack_double,
        "unpack_double": _unpack_double,
        **names,
    }
    exec(source, space)  # noqa: S102 (made of nothing but numbered variables)
    return space[name]


_WRITE_HERE: Mapping[str, str] = {
    "string": "longs[len(data := {0}.encode())], data",
    "long": "longs[{0}]",
    "double": "pack_double({0})",
    str(VALUE): "by_type[type({0})]({0})",
    str(["null", "string"]): "b'\\0' if {0} is None else write_{0}({0})",
    str(["null", "long"]): "b'\\0' if {0} is None else b'\\2' + longs[{0}]",
    str(["null", "double"]): "b'\\0' if {0} is None else b'\\2' + pack_double({0})",
}
"""Expressions for the types that cost less than a call."""

_READ_BY_CALL = """
    {0}, at = read_{0}(data, at)"""
_READ_HERE: Mapping[str, str] = {
    "string": """
    size = data[at]
    if size & 0x81:
        {0}, at = read_{0}(data, at)
    else:
        start = at + 1
        at = start + (size >> 1)
        {0} = data[start:at].decode()""",
    "long": """
    byte = data[at]
    if byte > 127:
        {0}, at = read_{0}(data, at)
    else:
        {0} = (byte >> 1) ^ -(byte & 1)
        at += 1""",
    "double": """
    ({0},) = unpack_double(data, at)
    at += 8""",
    **{
        str(["null", some]): """
    if data[at]:
        {0}, at = read_{0}(data, at)
    else:
        {0} = None
        at += 1"""
        for some in ("string", "long", "double")
    },
}
"""Statements for the types that cost less than a call."""


_WRITES: Mapping[str, Write] = {
    "null": write_null,
    "boolean": write_boolean,
    "int": write_int,
    "long": write_long,
    "double": write_double,
    "bytes": write_bytes,
    "string": write_string,
}
_READS: Mapping[str, Read] = {
    "null": read_null,
    "boolean": read_boolean,
    "int": read_long,
    "long": read_long,
    "double": read_double,
    "bytes": read_bytes,
    "string": read_string,
}


def writer_of(schema: Schema) -> Write:
    """Compile how to write: records are tuples, field for field."""
    match schema:
        case str():
            return _WRITES[schema]
        case ["null", one]:
            return _write_optional(writer_of(one))
        case list() if schema == VALUE:
            return write_value
        case {"type": "map", "values": values}:
            return write_values if values == VALUE else _write_map(writer_of(values))
        case {"type": "array", "items": items}:
            return _write_array(writer_of(items))
        case {"type": "record", "fields": fields}:
            return _write_record(fields)
    raise ValueError(f"a type that the records of Counterpoint do not use: {schema}")


def reader_of(schema: Schema, classes: Mapping[str, type]) -> Read:
    """Compile how to read: a record becomes the class of its name, made of its fields in their order."""
    match schema:
        case str():
            return _READS[schema]
        case ["null", one]:
            return _read_union((read_null, reader_of(one, classes)))
        case list() if schema == VALUE:
            return read_value
        case {"type": "map", "values": values}:
            one_by_one = _read_map(reader_of(values, classes))
            if values == VALUE:
                return _by_template(
                    _by_names(one_by_one), {bool: BOOLEAN, float: DOUBLE, int: LONG}
                )
            return _by_template(one_by_one, {float: b""}) if values == "double" else one_by_one
        case {"type": "array", "items": items}:
            return _read_array(reader_of(items, classes))
        case {"type": "record", "name": name, "fields": fields}:
            return _read_record(classes[name], fields, classes)
    raise ValueError(f"a type that the records of Counterpoint do not use: {schema}")
