"""What a feature pickle may hold, rebuilt from checked values: the vocabulary of [`hf_mmintent.data.safe_pickle`]."""

import io
import math
import re
import struct
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

_DTYPE = re.compile(r"[<>=|]?(?:[biufc]\d{1,2}|[SU]\d{1,9}|O8?)")
# What torch's own reader raises on a damaged file, beside its `UnpicklingError`: whatever its steps happen to raise.
DAMAGED = (
    RuntimeError, EOFError, ValueError, LookupError, OSError, AssertionError, TypeError, AttributeError, struct.error,
    ArithmeticError, MemoryError,
)  # fmt: skip
_SCALARS = (str, int, float, bytes, complex, bool, type(None), np.generic)


class Invalid(Exception):  # noqa: N818 - internal, always turned into a PickleFormatError that names the file
    pass


class Global:
    """A name the file may use, with the function that rebuilds its value from the arguments in the file."""

    __slots__ = ("build", "name")

    def __init__(self, name: str, build: "Callable[..., Any] | None") -> None:
        self.name, self.build = name, build


class Pending:
    """An array or dtype between REDUCE and BUILD; `keys` are the memo places that wait for the finished value."""

    __slots__ = ("build", "keys", "name")

    def __init__(self, name: str, build: Callable[[Any], Any]) -> None:
        self.name, self.build, self.keys = name, build, list[int]()


class Arguments(tuple):
    """A tuple that holds parts of an array: arguments of a call or the state of an array, not yet a value."""


INTERNAL = frozenset({Global, Pending})
_UNFINISHED = frozenset({*INTERNAL, Arguments, memoryview})


def make_tuple(items: list[Any]) -> tuple[Any, ...]:
    """A tuple of finished values, else [`Arguments`]."""
    return Arguments(items) if _UNFINISHED.intersection(map(type, items)) else tuple(items)


def tensors_to_arrays(value: Any) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        value = value.detach()
        return (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    if isinstance(value, dict):
        return {key: tensors_to_arrays(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(tensors_to_arrays(item) for item in value)
    return value


def need(condition: bool, message: str) -> None:
    if not condition:
        raise Invalid(message)


def _raw(data: Any) -> bytes | bytearray | memoryview:
    """Array contents as bytes; strings are what Python 2 wrote."""
    if isinstance(data, str):
        try:
            return data.encode("latin1")
        except UnicodeEncodeError as error:
            raise Invalid("array contents are text") from error
    need(isinstance(data, (bytes, bytearray, memoryview)), f"array contents are a {type(data).__name__}")
    return data


def _array(shape: Any, dtype: Any, fortran: Any, data: Any) -> np.ndarray:
    need(isinstance(shape, tuple) and len(shape) <= 32, f"array shape {shape!r}")
    need(all(type(n) is int and n >= 0 for n in shape), f"array shape {shape!r}")
    need(isinstance(dtype, np.dtype), "array without dtype")
    count = math.prod(shape)
    order: Any = "F" if fortran else "C"
    if dtype.hasobject:
        need(type(data) is list and len(data) == count, f"object array of shape {shape} without its objects")
        array = np.empty(count, dtype=object)
        for i, item in enumerate(plain_values(data)):
            array[i] = item
        return array.reshape(shape, order=order)
    raw = _raw(data)
    size = raw.nbytes if isinstance(raw, memoryview) else len(raw)
    need(size == count * dtype.itemsize, f"array of shape {shape} and type {dtype} holds {size} bytes")
    if size == 0:
        need(dtype.itemsize > 0 or count <= 2**20, f"array of {count} empty strings")
        return np.zeros(shape, dtype=dtype, order=order)
    array = np.frombuffer(raw, dtype=dtype).reshape(shape, order=order)
    array.flags.writeable = False
    return array


def _reconstruct(kind: Any, shape: Any, code: Any) -> Pending:
    need(type(kind) is Global and kind.name == "numpy.ndarray", "an array of another class than numpy.ndarray")

    def build(state: Any) -> np.ndarray:
        need(isinstance(state, tuple) and len(state) in (4, 5), "array state")
        return _array(*state[-4:])  # a leading version number is 1 in every numpy since 1.0

    return Pending("numpy.ndarray", build)


def _dtype(code: Any, align: Any = 0, copy: Any = 1) -> Pending:
    need(isinstance(code, str) and _DTYPE.fullmatch(code) is not None, f"dtype {code!r}: only plain types are read")
    dtype = np.dtype(code)

    def build(state: Any) -> np.dtype:
        need(isinstance(state, tuple) and len(state) >= 8 and state[1] in ("<", ">", "|", "="), "dtype state")
        plain = all(item is None for item in state[2:5]) and all(item is None for item in state[8:])
        need(plain, "dtype with fields, a sub-array or metadata: only plain types are read")
        return dtype if state[1] == "|" else dtype.newbyteorder(state[1])

    return Pending("numpy.dtype", build)


def _scalar(dtype: Any, data: Any = b"") -> Any:
    need(isinstance(dtype, np.dtype) and not dtype.hasobject, "scalar without plain dtype")
    return _array((1,), dtype, False, data)[0]


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any = "C") -> np.ndarray:
    need(order in ("C", "F"), f"array order {order!r}")
    return _array(shape, dtype, order == "F", data)


def _encode(text: Any, encoding: Any) -> bytes:
    need(isinstance(text, str) and encoding in ("latin1", "latin-1"), "text encoding other than latin-1")
    return _raw(text)  # type: ignore[return-value]


def _bytes(*args: Any) -> bytes:
    need(not args, "bytes() with arguments")
    return b""


def _bytearray(*args: Any) -> bytearray:
    if len(args) == 2:
        return bytearray(_encode(*args))
    need(len(args) == 0 or (len(args) == 1 and isinstance(args[0], (bytes, memoryview))), "bytearray() of a number")
    return bytearray(*args)


def _complex(real: Any, imag: Any) -> complex:
    need(isinstance(real, float) and isinstance(imag, float), "complex() of something else than numbers")
    return complex(real, imag)


def _container(kind: type) -> Callable[..., Any]:
    def build(*args: Any) -> Any:
        need(len(args) == 0 or (len(args) == 1 and type(args[0]) in (list, tuple)), f"{kind.__name__}() of no list")
        if args and kind in (set, frozenset):
            check_keys(args[0])
        return kind(*args)

    return build


def _ordered_dict(*args: Any) -> OrderedDict:
    result: OrderedDict = OrderedDict()
    need(len(args) <= 1, "OrderedDict with arguments")
    for pair in args[0] if args else ():  # Python 2 wrote [[key, value], ...]
        need(type(pair) in (list, tuple) and len(pair) == 2, "OrderedDict of no pairs")
        set_items(result, pair)
    return result


def _torch_storage(data: Any) -> Any:
    import torch

    raw = bytes(_raw(data))
    try:
        storage = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)  # written by torch.save
    except DAMAGED as error:
        raise Invalid(f"a broken tensor: {type(error).__name__} {error}") from error
    need(isinstance(storage, torch.storage.TypedStorage), "a storage that is none")
    return storage


def _torch_tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> np.ndarray:
    import torch

    need(isinstance(storage, torch.storage.TypedStorage), "tensor without storage")
    numbers = (offset, *size, *stride)
    need(all(type(n) is int and n >= 0 for n in numbers), f"tensor of size {size!r}, stride {stride!r}")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride)) if math.prod(size) else 0
    stored = storage._untyped_storage.nbytes() // storage._element_size()
    need(len(size) == len(stride) and last < max(stored, 1), f"tensor of size {size!r} beyond its storage")
    flat = torch.empty(0, dtype=storage.dtype).set_(storage._untyped_storage, offset, tuple(size), tuple(stride))
    return tensors_to_arrays(flat)


def _allowed() -> dict[tuple[str, str], Global]:
    """Exact (module, name) pairs; a dotted or differently spelled name is not in the table."""
    table: dict[str, Callable[..., Any] | None] = {
        "numpy.ndarray": None,
        "numpy.dtype": _dtype,
        "_codecs.encode": _encode,
        "collections.OrderedDict": _ordered_dict,
        "torch._utils._rebuild_tensor_v2": _torch_tensor,
        "torch.storage._load_from_bytes": _torch_storage,
    }
    for core in ("numpy.core", "numpy._core"):
        table[f"{core}.multiarray._reconstruct"] = _reconstruct
        table[f"{core}.multiarray.scalar"] = _scalar
        table[f"{core}.numeric._frombuffer"] = _frombuffer
    for builtins in ("builtins", "__builtin__"):
        table |= {f"{builtins}.{kind.__name__}": _container(kind) for kind in (set, frozenset, list, tuple)}
        table |= {f"{builtins}.{kind.__name__[1:]}": kind for kind in (_bytes, _bytearray, _complex)}
    return {tuple(name.rsplit(".", 1)): Global(name, build) for name, build in table.items()}  # type: ignore[misc]


GLOBALS = _allowed()


def check_keys(keys: Any) -> None:
    """Keys are scalars or tuples of scalars: hashing deeper ones can take exponential time."""
    for key in keys:
        plain = isinstance(key, _SCALARS) or (type(key) is tuple and all(isinstance(part, _SCALARS) for part in key))
        need(plain, f"a {type(key).__name__} as key")


def plain_values(values: list) -> list:
    """Values that go into a container: no half-built arrays or classes; views of the file become bytes."""
    if not _UNFINISHED.intersection(map(type, values)):
        return values
    return [_finished(value) for value in values]


def _finished(value: Any) -> Any:
    if type(value) in INTERNAL:
        raise Invalid(f"{value.name} itself as a value")
    if type(value) is Arguments:
        return tuple(plain_values(list(value)))
    return bytes(value) if type(value) is memoryview else value


def set_items(target: Any, pairs: Any) -> None:
    need(type(target) in (dict, OrderedDict), f"items for a {type(target).__name__}")
    need(len(pairs) % 2 == 0, "a key without value")
    keys = plain_values(list(pairs[::2]))
    if set(map(type, keys)) - {str, int}:
        check_keys(keys)
    target.update(zip(keys, plain_values(list(pairs[1::2]))))
