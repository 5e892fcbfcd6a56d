"""Read feature pickles without running anything that is written in them.

A pickle is a program for a small stack machine, and the standard machine imports and calls whatever the file names.
The machine below knows only data: numbers, text, bytes, containers, and the handful of names in `GLOBALS`, each bound
to a function of this file that rebuilds an array from checked values. It never imports, looks up an attribute or calls
an object that came from the file, so there is nothing to escape from. Array contents are views of the memory-mapped
file: opening a pickle of several gigabytes takes little memory.
"""

import codecs
import io
import mmap
import pickle
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from hf_mmintent.data.pickle_values import (
    DAMAGED,
    GLOBALS,
    Global,
    Invalid,
    Pending,
    check_keys,
    make_tuple,
    need,
    plain_values,
    set_items,
    tensors_to_arrays,
)

_VIEW_FROM = 4096  # bytes objects at least this long stay views of the file; they are array contents
_TORCH_MAGIC = 0x1950A86A20F9469CFC6C  # first object of a file written by torch.save before the zip format
_BYTE, _SHORT, _UNSIGNED, _SIGNED, _LONG, _DOUBLE = map(struct.Struct, ("<B", "<H", "<I", "<i", "<Q", ">d"))


class PickleFormatError(pickle.UnpicklingError):
    """The file is not a complete pickle of plain data."""


class UnsafePickleError(PickleFormatError):
    """The pickle asks for something other than arrays and plain containers; nothing of it was executed."""


def load_pickle(path: str | Path, trust_pickle: bool = False) -> Any:
    """Read a pickle of arrays and plain containers; nothing in it is executed.

    Admitted are numbers, strings, bytes, lists, tuples, dicts, sets, `OrderedDict`, numpy arrays, scalars and dtypes
    (of booleans, numbers, strings and objects; written by numpy 1 or 2, Python 2 or 3, protocols 0 to 5) and torch
    tensors, which are returned as arrays. Files of `torch.save` are read by `torch.load(weights_only=True)`.
    Strings of Python 2 are decoded as latin-1.

    Args:
        path (`str` or `Path`): The file. It stays memory-mapped as long as one of the returned arrays lives.
        trust_pickle (`bool`, defaults to `False`): Use Python's own unpickler, **which runs any code in the file**.

    Returns:
        The stored object. Arrays are read-only; torch tensors become arrays, bytearrays of protocol 5 bytes.

    Raises:
        UnsafePickleError: The file names any other class or function; the message gives both.
        PickleFormatError: The file is empty, truncated or not a pickle.
        FileNotFoundError: There is no such file.
    """
    return open_pickle(path, trust_pickle)[0]


def open_pickle(path: str | Path, trust_pickle: bool = False) -> tuple[Any, mmap.mmap | None]:
    """As [`load_pickle`], and the map of the file under the arrays (`None` when there is none)."""
    path = Path(path)
    with path.open("rb") as file:
        head = file.read(64)
        if not head:
            raise PickleFormatError(f"{path} is empty, not a pickle: copy or download it again.")
        if head.startswith(b"version https://git-lfs"):
            raise PickleFormatError(f"{path} is a Git LFS pointer, not the data: run `git lfs pull` beside it.")
        file.seek(0)
        if trust_pickle:
            return _load_trusted(file, path), None
        if head.startswith(b"PK\x03\x04"):
            return _load_torch(path, zipped=True), None
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    value = loads(data, str(path))
    if type(value) is int and value == _TORCH_MAGIC:
        return _load_torch(path, zipped=False), None
    return value, data


def loads(data: bytes | mmap.mmap, source: str = "<bytes>") -> Any:
    """Read a pickle from memory by the rules of [`load_pickle`]; `source` names it in errors."""
    return _Machine(data, source).run()


def _load_trusted(file: io.BufferedReader, path: Path) -> Any:
    try:
        return pickle.load(file)
    except UnicodeDecodeError:  # written by Python 2
        file.seek(0)
        return pickle.load(file, encoding="latin1")
    except EOFError as error:
        raise PickleFormatError(f"{path} is truncated: {error}") from error


def _load_torch(path: Path, zipped: bool) -> Any:
    import torch

    try:
        value = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        found = re.search(r"(?:GLOBAL|Unsupported class|function) ([\w.]+)", str(error))
        name = found[1] if found else f"something torch refuses ({str(error)[:200]})"
        raise UnsafePickleError(_refusal(str(path), name)) from error
    except DAMAGED as error:
        raise PickleFormatError(f"{path} is not a complete torch file: {type(error).__name__} {error}") from error
    return tensors_to_arrays(value)


def _refusal(source: str, name: str) -> str:
    return (
        f"{source} asks for `{name}`, which is neither an array nor a plain container; nothing was executed. "
        "If you know who wrote the file and trust it, pass trust_pickle=True; otherwise do not open it."
    )


# ---- the machine ----------------------------------------------------------------------------------------------------

_MARK = object()


class _Machine:
    """Interpreter of the pickle opcodes that stand for data; one method per opcode family."""

    def __init__(self, data: bytes | mmap.mmap, source: str) -> None:
        self.data, self.source = data, source
        self.view, self.end, self.at = memoryview(data), len(data), 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.open: set[int] = set()  # ids of arrays that wait for their contents

    def run(self) -> Any:
        view, end, table = self.view, self.end, _OPCODES
        try:
            while self.at < end:
                code = view[self.at]
                self.at += 1
                if code == 0x2E:  # STOP
                    return self.finish()
                operation = table.get(code)
                if operation is None:
                    raise Invalid(f"byte {code:#04x} is no opcode")
                operation(self)
        except UnsafePickleError:
            raise
        except (Invalid, ValueError, TypeError, IndexError, KeyError, OverflowError, struct.error) as error:
            what = f"{type(error).__name__} {error}" if not isinstance(error, Invalid) else str(error)
            raise PickleFormatError(
                f"{self.source} is not a readable pickle of arrays and plain containers: {what} (byte {self.at})."
            ) from error
        except RecursionError as error:
            raise PickleFormatError(f"{self.source} nests its values too deeply to be data.") from error
        except RuntimeError as error:  # torch, on a storage that is no torch file
            raise PickleFormatError(f"{self.source} holds a broken tensor: {error}") from error
        except pickle.UnpicklingError as error:  # torch.load(weights_only=True) inside a tensor
            raise UnsafePickleError(_refusal(self.source, f"torch.storage._load_from_bytes ({error})")) from error
        raise PickleFormatError(f"{self.source} is truncated or not a pickle: it ends after {end} bytes without STOP.")

    def finish(self) -> Any:
        need(len(self.stack) == 1 and not self.open, "unfinished values at the end")
        return plain_values([self.pop()])[0]

    def refuse(self, name: str) -> NoReturn:
        raise UnsafePickleError(_refusal(self.source, name))

    # -- stack and bytes
    def pop(self) -> Any:
        value = self.stack.pop()
        need(value is not _MARK, "a value is missing")
        return value

    def pop_to_mark(self) -> list[Any]:
        stack = self.stack
        for i in range(len(stack) - 1, -1, -1):
            if stack[i] is _MARK:
                items = stack[i + 1 :]
                del stack[i:]
                return items
        raise Invalid("no mark on the stack")

    def top(self) -> Any:
        value = self.stack[-1]
        need(value is not _MARK, "a value is missing")
        return value

    def take(self, count: int) -> memoryview:
        need(0 <= count <= self.end - self.at, f"{count} bytes announced, {self.end - self.at} left: truncated")
        start, self.at = self.at, self.at + count
        return self.view[start : self.at]

    def number(self, code: struct.Struct) -> int | float:
        value = code.unpack_from(self.view, self.at)[0]
        self.at += code.size
        return value

    def integer(self, code: struct.Struct) -> int:
        return int(self.number(code))

    def line(self) -> bytes:
        stop = self.data.find(b"\n", self.at)
        need(stop >= 0, "a line without end: truncated")
        return bytes(self.take(stop + 1 - self.at)[:-1])

    # -- names from the file
    def push_global(self, module: Any, name: Any) -> None:
        known = GLOBALS.get((module, name)) if type(module) is str and type(name) is str else None
        if known is None:
            self.refuse(f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else "a computed name")
        self.stack.append(known)

    def load_global(self) -> None:
        module = self.line().decode("utf-8", "replace")
        self.push_global(module, self.line().decode("utf-8", "replace"))

    def load_stack_global(self) -> None:
        name = self.pop()
        self.push_global(self.pop(), name)

    def load_instance(self) -> None:
        module = self.line().decode("utf-8", "replace")
        self.refuse(f"{module}.{self.line().decode('utf-8', 'replace')} (an instance)")

    def load_object(self) -> None:
        """NEWOBJ, NEWOBJ_EX, OBJ: make an instance of a class; arrays never need it."""
        names = [item.name for item in self.stack if type(item) is Global]
        self.refuse(f"{names[-1] if names else 'an unknown class'} (an instance)")

    def load_extension(self) -> None:
        self.refuse("an entry of the copyreg extension registry")

    def load_persistent(self) -> None:
        self.refuse("a persistent object outside the file")

    def load_reduce(self) -> None:
        args, function = self.pop(), self.pop()
        if type(function) is not Global or function.build is None:
            self.refuse(f"a call of {function.name if type(function) is Global else type(function).__name__}")
        need(isinstance(args, tuple), f"arguments of {function.name}")
        need(Pending not in set(map(type, args)), f"unfinished argument of {function.name}")
        value = function.build(*args)
        if type(value) is Pending:
            self.open.add(id(value))
        self.stack.append(value)

    def load_build(self) -> None:
        state, target = self.pop(), self.pop()
        if type(target) is not Pending:
            self.refuse(f"{target.name if type(target) is Global else type(target).__name__}.__setstate__")
        value = target.build(state)
        self.open.discard(id(target))
        self.memo.update(dict.fromkeys(target.keys, value))
        self.stack.append(value)

    # -- memo
    def remember(self, key: int) -> None:
        value = self.top()
        if type(value) is Pending:
            value.keys.append(key)
        self.memo[key] = value

    def recall(self, key: int) -> None:
        value = self.memo[key]
        need(type(value) is not Pending, "an array inside itself")
        self.stack.append(value)

    # -- containers
    def load_append(self) -> None:
        value, target = self.pop(), self.top()
        need(type(target) is list, f"append to a {type(target).__name__}")
        target.extend(plain_values([value]))

    def load_appends(self) -> None:
        items, target = self.pop_to_mark(), self.top()
        need(type(target) is list, f"append to a {type(target).__name__}")
        target.extend(plain_values(items))

    def load_set_item(self) -> None:
        value, key = self.pop(), self.pop()
        set_items(self.top(), [key, value])

    def load_set_items(self) -> None:
        pairs = self.pop_to_mark()
        set_items(self.top(), pairs)

    def load_dict(self) -> None:
        pairs = self.pop_to_mark()
        self.stack.append({})
        set_items(self.top(), pairs)

    def load_add_items(self) -> None:
        items, target = self.pop_to_mark(), self.top()
        need(type(target) is set, f"set items for a {type(target).__name__}")
        check_keys(items)
        target.update(plain_values(items))

    def load_frozenset(self) -> None:
        items = self.pop_to_mark()
        check_keys(items)
        self.stack.append(frozenset(plain_values(items)))

    def load_tuple(self, size: int | None = None) -> None:
        items = self.pop_to_mark() if size is None else [self.pop() for _ in range(size)][::-1]
        self.stack.append(make_tuple(items))

    def load_pop(self) -> None:
        self.stack.pop()

    def load_duplicate(self) -> None:
        value = self.top()
        need(type(value) is not Pending, "an unfinished array twice")
        self.stack.append(value)

    # -- plain values
    def load_int_line(self) -> None:
        text = self.line()
        self.stack.append({b"00": False, b"01": True}[text] if text in (b"00", b"01") else int(text))

    def load_long_line(self) -> None:
        self.stack.append(int(self.line().removesuffix(b"L")))

    def load_long(self, code: struct.Struct) -> None:
        self.stack.append(int.from_bytes(self.take(self.integer(code)), "little", signed=True))

    def load_bytes(self, code: struct.Struct) -> None:
        view = self.take(self.integer(code))
        self.stack.append(view if len(view) >= _VIEW_FROM else bytes(view))

    def load_string_line(self) -> None:
        text = self.line()
        need(len(text) >= 2 and text[:1] == text[-1:] and text[:1] in (b"'", b'"'), "a string without quotes")
        self.stack.append(codecs.escape_decode(text[1:-1])[0].decode("latin1"))

    def load_text(self, code: struct.Struct, encoding: str = "utf-8") -> None:
        self.stack.append(
            str(self.take(self.integer(code)), encoding, "surrogatepass" if encoding == "utf-8" else "strict")
        )


def _push(make: Callable[[_Machine], Any]) -> Callable[[_Machine], None]:
    return lambda machine: machine.stack.append(make(machine))


_OPCODES: dict[int, Callable[[_Machine], object]] = {
    pickle.PROTO[0]: lambda m: m.take(1),
    pickle.FRAME[0]: lambda m: m.take(8),
    pickle.MARK[0]: _push(lambda m: _MARK),
    pickle.POP[0]: _Machine.load_pop,
    pickle.POP_MARK[0]: lambda m: m.pop_to_mark(),
    pickle.DUP[0]: _Machine.load_duplicate,
    pickle.NONE[0]: _push(lambda m: None),
    pickle.NEWTRUE[0]: _push(lambda m: True),
    pickle.NEWFALSE[0]: _push(lambda m: False),
    pickle.INT[0]: _Machine.load_int_line,
    pickle.BININT[0]: _push(lambda m: m.number(_SIGNED)),
    pickle.BININT1[0]: _push(lambda m: m.number(_BYTE)),
    pickle.BININT2[0]: _push(lambda m: m.number(_SHORT)),
    pickle.LONG[0]: _Machine.load_long_line,
    pickle.LONG1[0]: lambda m: m.load_long(_BYTE),
    pickle.LONG4[0]: lambda m: m.load_long(_SIGNED),
    pickle.FLOAT[0]: _push(lambda m: float(m.line())),
    pickle.BINFLOAT[0]: _push(lambda m: m.number(_DOUBLE)),
    pickle.STRING[0]: _Machine.load_string_line,
    pickle.BINSTRING[0]: lambda m: m.load_text(_SIGNED, "latin1"),
    pickle.SHORT_BINSTRING[0]: lambda m: m.load_text(_BYTE, "latin1"),
    pickle.BINBYTES[0]: lambda m: m.load_bytes(_UNSIGNED),
    pickle.SHORT_BINBYTES[0]: lambda m: m.load_bytes(_BYTE),
    pickle.BINBYTES8[0]: lambda m: m.load_bytes(_LONG),
    pickle.BYTEARRAY8[0]: lambda m: m.load_bytes(_LONG),  # numpy writes writable arrays so in protocol 5
    pickle.UNICODE[0]: _push(lambda m: str(m.line(), "raw-unicode-escape")),
    pickle.BINUNICODE[0]: lambda m: m.load_text(_UNSIGNED),
    pickle.SHORT_BINUNICODE[0]: lambda m: m.load_text(_BYTE),
    pickle.BINUNICODE8[0]: lambda m: m.load_text(_LONG),
    pickle.EMPTY_LIST[0]: _push(lambda m: []),
    pickle.EMPTY_TUPLE[0]: _push(lambda m: ()),
    pickle.EMPTY_DICT[0]: _push(lambda m: {}),
    pickle.EMPTY_SET[0]: _push(lambda m: set()),
    pickle.APPEND[0]: _Machine.load_append,
    pickle.APPENDS[0]: _Machine.load_appends,
    pickle.LIST[0]: _push(lambda m: plain_values(m.pop_to_mark())),
    pickle.TUPLE[0]: _Machine.load_tuple,
    pickle.TUPLE1[0]: lambda m: m.load_tuple(1),
    pickle.TUPLE2[0]: lambda m: m.load_tuple(2),
    pickle.TUPLE3[0]: lambda m: m.load_tuple(3),
    pickle.DICT[0]: _Machine.load_dict,
    pickle.SETITEM[0]: _Machine.load_set_item,
    pickle.SETITEMS[0]: _Machine.load_set_items,
    pickle.ADDITEMS[0]: _Machine.load_add_items,
    pickle.FROZENSET[0]: _Machine.load_frozenset,
    pickle.GET[0]: lambda m: m.recall(int(m.line())),
    pickle.BINGET[0]: lambda m: m.recall(m.integer(_BYTE)),
    pickle.LONG_BINGET[0]: lambda m: m.recall(m.integer(_UNSIGNED)),
    pickle.PUT[0]: lambda m: m.remember(int(m.line())),
    pickle.BINPUT[0]: lambda m: m.remember(m.integer(_BYTE)),
    pickle.LONG_BINPUT[0]: lambda m: m.remember(m.integer(_UNSIGNED)),
    pickle.MEMOIZE[0]: lambda m: m.remember(len(m.memo)),
    pickle.GLOBAL[0]: _Machine.load_global,
    pickle.STACK_GLOBAL[0]: _Machine.load_stack_global,
    pickle.REDUCE[0]: _Machine.load_reduce,
    pickle.BUILD[0]: _Machine.load_build,
    pickle.INST[0]: _Machine.load_instance,
    **dict.fromkeys((code[0] for code in (pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX)), _Machine.load_object),
    **dict.fromkeys((code[0] for code in (pickle.EXT1, pickle.EXT2, pickle.EXT4)), _Machine.load_extension),
    **dict.fromkeys(
        (code[0] for code in (pickle.PERSID, pickle.BINPERSID, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER)),
        _Machine.load_persistent,
    ),
}
