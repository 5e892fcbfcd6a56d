"""The reader of feature pickles: reads data of every kind, executes nothing, says what it refused."""

import io
import pickle
import pickletools
import struct
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_mmintent.data.safe_pickle import PickleFormatError, UnsafePickleError, load_pickle, loads

CALLS: list[str] = []  # what a payload managed to run


def record(*args: object) -> np.ndarray:
    CALLS.append(repr(args))
    return np.zeros(1)


class Recorder:
    """Every hook the pickle protocol can reach."""

    def __init__(self, *args: object):
        record("init")

    def __setstate__(self, state: object) -> None:
        record("setstate")

    def __setitem__(self, key: object, value: object) -> None:
        record("setitem")

    def append(self, value: object) -> None:
        record("append")

    def __hash__(self) -> int:
        record("hash")
        return 0


HERE = __name__.encode()
TOUCH = b"Vtouch SENTINEL\n"  # the path is filled in


def glob(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def stack_glob(module: str, name: str) -> bytes:
    return b"".join(b"\x8c" + bytes([len(x)]) + x.encode() for x in (module, name)) + b"\x93"


RECORD = b"c" + HERE + b"\nrecord\n"
RECORDER = b"c" + HERE + b"\nRecorder\n"
ARRAY = glob("numpy", "ndarray")
RECONSTRUCT = glob("numpy._core.multiarray", "_reconstruct")
EMPTY = RECONSTRUCT + b"(" + ARRAY + b"(I0\ntC\x01btR"  # an array that waits for its state
F4 = glob("numpy", "dtype") + b"(Vf4\nI00\nI01\ntR(I3\nV<\nNNNI-1\nI-1\nI0\ntb"
OBJECT = glob("numpy", "dtype") + b"(VO8\nI00\nI01\ntR(I3\nV|\nNNNI-1\nI-1\nI63\ntb"
SUBPROCESS = b"\x80\x02" + glob("subprocess", "call") + b"((lVtouch\naVSENTINEL\natR."

# name -> (payload, part of the message). Every one is refused; those of LIVE run under Python's own unpickler.
MALICIOUS: dict[str, tuple[bytes, str]] = {
    "os.system": (glob("os", "system") + b"(" + TOUCH + b"tR.", "os.system"),
    "posix.system": (glob("posix", "system") + b"(" + TOUCH + b"tR.", "posix.system"),
    "stack global": (b"\x80\x04" + stack_glob("os", "system") + b"(" + TOUCH + b"tR.", "os.system"),
    "subprocess": (SUBPROCESS, "subprocess.call"),
    "eval": (glob("builtins", "eval") + b"(V__import__('os').system('touch SENTINEL')\ntR.", "builtins.eval"),
    "exec": (glob("builtins", "exec") + b"(Vimport os; os.system('touch SENTINEL')\ntR.", "builtins.exec"),
    "eval of Python 2": (glob("__builtin__", "eval") + b"(Vopen('SENTINEL', 'w')\ntR.", "__builtin__.eval"),
    "open": (glob("builtins", "open") + b"(VSENTINEL\nVw\ntR.", "builtins.open"),
    "io.open": (glob("io", "open") + b"(VSENTINEL\nVw\ntR.", "io.open"),
    "getattr": (
        glob("builtins", "getattr") + b"(" + glob("os", "path") + b"Vjoin\ntR.",
        "builtins.getattr",
    ),
    "__import__": (glob("builtins", "__import__") + b"(Vantigravity\ntR.", "builtins.__import__"),
    "dotted attribute": (b"\x80\x04" + stack_glob("numpy", "os.system") + b"(" + TOUCH + b"tR.", "numpy.os.system"),
    "dotted method": (b"\x80\x04" + stack_glob("builtins", "dict.update") + b"(tR.", "builtins.dict.update"),
    "module behind numpy": (
        b"\x80\x04" + stack_glob("numpy._core.multiarray", "os.system") + b"(" + TOUCH + b"tR.",
        "numpy._core.multiarray.os.system",
    ),
    "numpy sibling": (
        glob("numpy._core.multiarray", "fromfile") + b"(V/etc/hostname\nVu1\ntR.",
        "numpy._core.multiarray.fromfile",
    ),
    "numpy.load": (glob("numpy", "load") + b"(VSENTINEL\ntR.", "numpy.load"),
    "numpy.testing": (glob("numpy.testing._private.utils", "runstring") + b"(Vx=1\n}tR.", "runstring"),
    "numpy.f2py": (glob("numpy.f2py", "compile") + b"(Vx\ntR.", "numpy.f2py.compile"),
    "memmap": (glob("numpy", "memmap") + b"(VSENTINEL\nVu1\nVw+\nI0\n(I4\nttR.", "numpy.memmap"),
    "ctypes": (glob("ctypes", "CDLL") + b"(Vlibc.so.6\ntR.", "ctypes.CDLL"),
    "function of a module": (RECORD + b"(tR.", "record"),
    "instance by REDUCE": (RECORDER + b"(tR.", "Recorder"),
    "INST": (b"(i" + HERE + b"\nRecorder\n.", "Recorder"),
    "INST os.system": (b"(" + TOUCH + b"ios\nsystem\n.", "os.system"),
    "OBJ": (b"(" + RECORDER + b"o.", "Recorder"),
    "OBJ of an allowed name": (b"(" + ARRAY + b"(I4\nto.", "numpy.ndarray"),
    "NEWOBJ": (b"\x80\x02" + RECORDER + b")\x81.", "Recorder"),
    "NEWOBJ of an allowed name": (b"\x80\x02" + ARRAY + b"(I4\nt\x81.", "numpy.ndarray"),
    "NEWOBJ_EX": (b"\x80\x04" + RECORDER + b")}\x92.", "Recorder"),
    "copyreg": (glob("copyreg", "_reconstructor") + b"(" + RECORDER + b"tR.", "copyreg._reconstructor"),
    "copy_reg": (glob("copy_reg", "_reconstructor") + b"(tR.", "copy_reg._reconstructor"),
    "__newobj__": (glob("copyreg", "__newobj__") + b"(" + RECORDER + b"tR.", "copyreg.__newobj__"),
    "setstate": (b"\x80\x02" + RECORDER + b")\x81}b.", "Recorder"),
    "setstate of a dict": (b"}(V__class__\nI1\ndb.", "dict.__setstate__"),
    "setstate of an OrderedDict": (glob("collections", "OrderedDict") + b"(tR}b.", "OrderedDict.__setstate__"),
    "setstate of a class": (ARRAY + b"}b.", "numpy.ndarray.__setstate__"),
    "setstate of a module": (glob("os", "environ") + b"}b.", "os.environ"),
    "call of a class without builder": (ARRAY + b"((I4\nttR.", "numpy.ndarray"),
    "call of a string": (b"Vos.system\n(" + TOUCH + b"tR.", "str"),
    "call of an array": (EMPTY + b"(I1\n(I1\nt" + F4 + b"I00\nC\x04\0\0\0\0tb(tR.", "ndarray"),
    "memo trick": (RECORD + b"p0\n0(g0\ng0\n(ttR.", "record"),
    "extension registry": (b"\x80\x02\x82\x01.", "extension registry"),
    "extension registry, 2 bytes": (b"\x80\x02\x83\x01\x00.", "extension registry"),
    "extension registry, 4 bytes": (b"\x80\x02\x84\x01\x00\x00\x00.", "extension registry"),
    "persistent id": (b"Pos.system\n.", "persistent"),
    "persistent id, binary": (b"Vos.system\nQ.", "persistent"),
    "buffer outside the file": (b"\x80\x05\x97.", "persistent"),
    "array subclass": (RECONSTRUCT + b"(" + glob("numpy", "memmap") + b"(I0\ntC\x01btR.", "numpy.memmap"),
    "callable in an object array": (
        EMPTY + b"(I1\n(I1\nt" + OBJECT + b"I00\n(l" + RECORD + b"(tRatb.",
        "record",
    ),
    "codec": (glob("_codecs", "decode") + b"(Vx\nVrot13\ntR.", "_codecs.decode"),
    "nested pickle": (glob("pickle", "loads") + b"(C\x04crap" + b"tR.", "pickle.loads"),
    "nested numpy pickle": (glob("numpy._core._methods", "_loads") + b"(tR.", "numpy._core._methods._loads"),
    "torch.load": (glob("torch", "load") + b"(VSENTINEL\ntR.", "torch.load"),
    "torch storage": (glob("torch.storage", "_load_from_bytes") + b"(B", ""),  # filled in below
    "dill": (glob("dill._dill", "_create_code") + b"(tR.", "dill._dill._create_code"),
    "partial": (glob("functools", "partial") + b"(" + RECORD + b"tR.", "functools.partial"),
    "operator": (glob("operator", "methodcaller") + b"(Vsystem\ntR.", "operator.methodcaller"),
    "second stream": (b"I1\n0" + RECORD + b"(tR.", "record"),
    "name with a line break": (b"\x80\x04" + stack_glob("os\n", "system") + b")R.", "system"),
    "name that is no text": (b"\x80\x04I1\nI2\n\x93.", "computed name"),
    "pathlib": (glob("pathlib", "PosixPath") + b"(VSENTINEL\ntR.", "pathlib.PosixPath"),
}
LIVE = ["os.system", "stack global", "subprocess", "eval", "exec", "open", "INST os.system", "memmap"]

LEGACY = io.BytesIO()
torch.save({"x": Recorder.__new__(Recorder)}, LEGACY, _use_new_zipfile_serialization=False)
MALICIOUS["torch storage"] = (
    glob("torch.storage", "_load_from_bytes")
    + b"(B" + struct.pack("<I", len(LEGACY.getvalue())) + LEGACY.getvalue() + b"tR.",
    "torch.storage._load_from_bytes",
)  # fmt: skip


@pytest.fixture
def write(tmp_path: Path):
    def write(payload: bytes, name: str = "features.pkl") -> Path:
        path = tmp_path / name
        path.write_bytes(payload.replace(b"SENTINEL", str(tmp_path / "ran").encode()))
        return path

    return write


@pytest.mark.parametrize("name", MALICIOUS)
def test_malicious_pickle_is_refused_and_runs_nothing(name, write, tmp_path):
    payload, named = MALICIOUS[name]
    path = write(payload)
    CALLS.clear()
    with pytest.raises(UnsafePickleError) as error:
        load_pickle(path)
    assert str(path) in str(error.value)
    assert named in str(error.value)
    assert not (tmp_path / "ran").exists()
    assert CALLS == []
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("name", LIVE)
def test_the_payloads_are_live_ammunition(name, write, tmp_path):
    """Otherwise the test above would pass with any reader."""
    path = write(MALICIOUS[name][0])
    load_pickle(path, trust_pickle=True)
    assert (tmp_path / "ran").exists()


def test_trust_pickle_runs_code(write):
    CALLS.clear()
    load_pickle(write(RECORD + b"(tR."), trust_pickle=True)
    assert CALLS == ["()"]


def huge(opcode: bytes, size: bytes) -> bytes:
    return opcode + size + b"x."


BROKEN: dict[str, bytes] = {
    "empty": b"",
    "text": b"season\tepisode\tclip\n",
    "git lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "random bytes": bytes(range(256)) * 4,
    "truncated": pickle.dumps({"a": np.zeros((20, 3), np.float32)})[:-200],
    "truncated in a frame": pickle.dumps(["x" * 100] * 100, protocol=4)[:50],
    "no stop": b"\x80\x02}q\x00",
    "stop at once": b".",
    "two values": b"I1\nI2\n.",
    "only a mark": b"(.",
    "list of a mark": b"(((l.",
    "huge bytes": huge(b"\x8e", struct.pack("<Q", 2**62)),
    "huge text": huge(b"\x8d", struct.pack("<Q", 2**62)),
    "huge binary text": huge(b"X", struct.pack("<I", 2**32 - 1)),
    "negative string": huge(b"T", struct.pack("<i", -5)),
    "huge int": huge(b"\x8b", struct.pack("<i", 2**31 - 1)),
    "negative int size": huge(b"\x8b", struct.pack("<i", -2)),
    "int of 100,000 digits": b"I" + b"9" * 100_000 + b"\n.",
    "huge bytearray": glob("builtins", "bytearray") + b"(J\xff\xff\xff\x7ftR.",
    "huge bytes call": glob("builtins", "bytes") + b"(J\xff\xff\xff\x7ftR.",
    "huge array": EMPTY + b"(I1\n(L1000000000000L\nt" + F4 + b"I00\nC\x04\0\0\0\0tb.",
    "huge object array": EMPTY + b"(I1\n(L1000000000000L\nt" + OBJECT + b"I00\n(ltb.",
    "negative shape": EMPTY + b"(I1\n(I-1\nI-1\nt" + F4 + b"I00\nC\x04\0\0\0\0tb.",
    "empty strings without end": EMPTY
    + b"(I1\n(L1000000000000L\nt"
    + F4.replace(b"Vf4", b"VU0")
    + b"I00\nC\x00tb.",
    "array never filled": EMPTY + b".",
    "array filled with itself": EMPTY + b"p0\n(I1\n(I1\nt" + OBJECT + b"I00\n(lg0\natb.",
    "half an array in a list": b"(" + EMPTY + b"l.",
    "two copies of half an array": EMPTY + b"2.",
    "class as value": b"(V a\n" + ARRAY + b"d.",
    "class in a tuple in a list": b"((" + ARRAY + b"tl.",
    "dtype with metadata": F4.replace(b"I-1\nI-1\nI0\nt", b"I-1\nI-1\nI0\n}t") + b".",
    "dtype with fields": F4.replace(b"NNNI-1", b"N(Va\nt}I-1") + b".",
    "dtype by comma text": F4.replace(b"Vf4", b"Vf4,f4") + b".",
    "dtype void": F4.replace(b"Vf4", b"VV8") + b".",
    "object array from bytes": EMPTY + b"(I1\n(I1\nt" + OBJECT + b"I00\nC\x08\0\0\0\0\0\0\0\0tb.",
    "object scalar": glob("numpy._core.multiarray", "scalar") + b"(" + OBJECT + b"C\x08\0\0\0\0\0\0\0\0tR.",
    "unhashable key": b"}(lI1\ns.",
    "deep key": b"}(((I1\ntttI1\ns.",
    "missing memo entry": b"g7\n.",
    "append to a number": b"I1\nI2\na.",
    "items of a list": b"]I1\nI2\ns.",
    "odd dict": b"(I1\nd.",
    "text that is not UTF-8": b"X\x02\x00\x00\x00\xff\xfe.",
    "other codec": glob("_codecs", "encode") + b"(Vx\nVrot13\ntR.",
    "unquoted string": b"Sabc\n.",
    "too deep": b"(" * 20_000 + ARRAY + b"t" * 20_000 + b"\x85" + b"\x85.",
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_file_is_named(name, write):
    path = write(BROKEN[name])
    with pytest.raises(PickleFormatError) as error:
        load_pickle(path)
    assert not isinstance(error.value, UnsafePickleError)
    assert str(path) in str(error.value)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.pkl"):
        load_pickle(tmp_path / "absent.pkl")


@given(st.binary(max_size=60), st.integers(0, 200), st.integers(0, 255))
@settings(max_examples=300, deadline=None)
def test_damaged_bytes_never_run_code_or_crash(tail, position, byte):
    good = pickle.dumps({"k": [np.arange(6, dtype=np.float32).reshape(2, 3), ("a", 1.5)]}, protocol=4)
    position %= len(good)
    for data in (tail, good[:position] + bytes([byte]) + good[position + 1 :], good[:position] + tail):
        try:
            loads(data)
        except PickleFormatError:
            continue


def equal(a: object, b: object) -> bool:
    if isinstance(b, np.ndarray):
        assert isinstance(a, np.ndarray)
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        same = a == b
        return bool(np.all(same | ((a != a) & (b != b)))) if b.dtype != object else a.tolist() == b.tolist()
    if isinstance(b, dict):
        return type(a) is type(b) and list(a) == list(b) and all(equal(a[k], b[k]) for k in b)
    if isinstance(b, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    return type(a) is type(b) and a == b


ARRAYS = {
    "float32": np.arange(12, dtype=np.float32).reshape(3, 4),
    "large": np.random.default_rng(0).normal(size=(40, 64)),
    "frames": np.ones((5, 1, 6)),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big endian": np.arange(4, dtype=">i4"),
    "float16": np.ones((2, 2), np.float16),
    "bool": np.array([True, False]),
    "complex": np.array([1 + 2j]),
    "inf": np.array([[np.inf, -np.inf, np.nan]], np.float32),
    "empty": np.zeros((0, 5), np.float32),
    "scalar array": np.array(3.5),
    "text": np.array(["a", "longer", "é"]),
    "bytes": np.array([b"a", b"bc"]),
    "objects": np.array(["a", None, 3, [1.5]], dtype=object),
    "read-only": np.frombuffer(b"\1\2\3\4", np.uint8),
    "view": np.arange(20.0)[::2],
}
VALUES = {
    **ARRAYS,
    "nested": {"train": {"id": [("a", np.ones(2)), [np.zeros(3)]], "n": 3}, "x": OrderedDict(b=1, a=np.ones(1))},
    "scalars": [1, -1, 2**70, -(2**70), 0, 255, 65536, 1.5, float("inf"), True, False, None, "é", "x" * 70_000,
                b"\xff" * 5],
    "long bytes": b"\x00\xff" * 40_000,
    "bytes in tuples": ((b"\x01" * 9000,), (1, 2, 3, 4)),
    "sets": [{1, 2}, frozenset({"a"}), (), [], {}],
    "complex": 1 + 2j,
    "numpy scalars": [np.float32(1.5), np.int64(3), np.bool_(True), np.str_("ab"), np.float64(2.0)],
    "keys": {1: "a", ("a", 2): "b", 1.5: "c", None: "d", np.int64(3): "e"},
    "dtypes": [np.dtype("float32"), np.dtype(">i2"), np.dtype("U3")],
    "surrogate": "\ud800",
}  # fmt: skip


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", VALUES)
def test_data_of_every_protocol(name, protocol, write):
    value = VALUES[name]
    assert equal(load_pickle(write(pickle.dumps(value, protocol=protocol))), value)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
def test_names_of_numpy_1_and_2(core, protocol, write):
    data = pickle.dumps({"a": ARRAYS["large"], "s": np.float32(2)}, protocol=protocol)
    mine = "numpy._core" if b"numpy._core" in data else "numpy.core"
    swapped = _rename(data, mine, core)
    assert core.encode() in swapped
    assert equal(load_pickle(write(swapped)), {"a": ARRAYS["large"], "s": np.float32(2)})


def _rename(data: bytes, old: str, new: str) -> bytes:
    """Rewrite module names; the frames of protocol 4 are dropped since their lengths would be wrong."""
    out, ends = [], [*(at for _, _, at in pickletools.genops(data)), len(data)]
    for (code, arg, at), end in zip(pickletools.genops(data), ends[1:]):
        piece = data[at:end]
        if code.name == "FRAME":
            continue
        if isinstance(arg, str) and arg.startswith(old + "."):
            text = new + arg.removeprefix(old)
            piece = (
                f"c{text.replace(' ', chr(10))}\n".encode()
                if code.name == "GLOBAL"
                else b"X" + struct.pack("<I", len(text)) + text.encode()
            )
        out.append(piece)
    return b"".join(out)


def test_python_2_pickle(write):
    """Written by hand as Python 2 wrote it: byte strings for keys and array contents."""
    raw = np.array([[1.5, -2.0]], np.float32).tobytes()
    payload = (
        b"\x80\x02}U\x03a\xe9b" + glob("numpy.core.multiarray", "_reconstruct") + ARRAY + b"K\x00\x85U\x01b\x87R"
        + b"(K\x01K\x01K\x02\x86" + glob("numpy", "dtype") + b"U\x02f4K\x00K\x01\x87R"
        + b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        + b"\x89U\x08" + raw + b"tbs."
    )  # fmt: skip
    ((key, value),) = load_pickle(write(payload)).items()
    assert key == "aéb"
    assert value.tolist() == [[1.5, -2.0]]
    assert pickle.loads(payload, encoding="latin1")[key].tolist() == value.tolist()


def test_shared_arrays_stay_shared(write):
    array = np.ones((3, 2))
    value = load_pickle(write(pickle.dumps({"a": array, "b": array, "c": [array]})))
    assert value["a"] is value["b"] is value["c"][0]


def test_arrays_are_views_of_the_file(write):
    """A large file costs address space, not memory."""
    path = write(pickle.dumps({str(i): np.full((500, 100), i, np.float32) for i in range(20)}))
    value = load_pickle(path)
    assert not any(array.flags.owndata or array.flags.writeable for array in value.values())
    assert all((array == int(key)).all() for key, array in value.items())


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_save(zipped, tmp_path):
    path = tmp_path / "x.pkl"
    torch.save(
        {"a": torch.arange(6.0).view(2, 3), "b": [torch.ones(2, dtype=torch.bfloat16)]},
        path,
        _use_new_zipfile_serialization=zipped,
    )
    value = load_pickle(path)
    assert value["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert value["b"][0].tolist() == [1, 1]


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_save_of_code_is_refused(zipped, tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"a": Recorder.__new__(Recorder)}, path, _use_new_zipfile_serialization=zipped)
    CALLS.clear()
    with pytest.raises(UnsafePickleError, match="Recorder") as error:
        load_pickle(path)
    assert str(path) in str(error.value)
    assert CALLS == []


def torch_files() -> dict[str, bytes]:
    value = {"a": torch.arange(6.0).view(2, 3), "b": [torch.ones(2, dtype=torch.bfloat16)]}
    files = {"plain": pickle.dumps(value)}
    for zipped in (True, False):
        buffer = io.BytesIO()
        torch.save(value, buffer, _use_new_zipfile_serialization=zipped)
        files[f"zipped={zipped}"] = buffer.getvalue()
    return files


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
@pytest.mark.parametrize("name", torch_files())
def test_damaged_torch_files_are_named(name, write):
    """Torch's reader raises errors of many kinds; a user needs the name of the file."""
    data, generator, refused = torch_files()[name], np.random.default_rng(0), 0
    for _ in range(200):
        bad = bytearray(data)
        for place in generator.integers(len(bad), size=4):
            bad[place] = generator.integers(256)
        path = write(bytes(bad[: generator.integers(len(bad))] if generator.random() < 0.3 else bad))
        try:
            load_pickle(path)
        except PickleFormatError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 100


def test_tensors_in_a_plain_pickle(write):
    value = {"a": torch.arange(6.0).view(2, 3).T, "b": torch.ones(0)}
    read = load_pickle(write(pickle.dumps(value)))
    assert read["a"].tolist() == value["a"].tolist()
    assert read["b"].shape == (0,)


def test_tensor_beyond_its_storage(write):
    data = pickle.dumps(torch.arange(4.0), protocol=2)
    wider = data.replace(b"K\x04\x85", b"M\x00\x7f\x85")
    assert wider != data
    with pytest.raises(PickleFormatError, match="beyond its storage"):
        load_pickle(write(wider))


def test_broken_torch_file(tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"a": torch.ones(100)}, path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(PickleFormatError, match=r"x\.pt"):
        load_pickle(path)
