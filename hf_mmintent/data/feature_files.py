"""Features by sample key, out of the containers people publish: `.pkl`, `.npy`, `.npz`, `.h5` or a folder of `.npy`."""

import io
import math
import mmap
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_mmintent.data.checks import DataError, resolve_inside
from hf_mmintent.data.report import BuildReport
from hf_mmintent.data.safe_pickle import loads, open_pickle

_RELEASE_AFTER = 128 << 20  # bytes handed out between two calls that give mapped pages back to the system


class FeatureFile:
    """
    One modality's features, looked up by key.

    Only the container is undone: a list of frames or (T, 1, D) becomes (T, D), numbers become float32. Nothing is
    padded, cut or normalised, and NaN or ±inf stay.

    Args:
        path (`str`, `Path` or `Mapping`): A pickle, `.npz` or `.h5` that maps keys to arrays, a `.npy` file with one
            entry per key of `keys`, a folder with one `.npy` per key, or an open mapping.
        modality (`str`): Name for errors and counts, e.g. `"audio"`.
        report ([`BuildReport`], *optional*): Where missing, empty and non-finite features are counted.
        keys (`Sequence[str]`, *optional*): Keys of a `.npy` file, in its order.
        field (`str`, *optional*): Entry to take where a key leads to several, e.g. `"punchline_features"`.
        vectors (`bool`, defaults to `False`): Entries are single vectors (D,) and become (1, D).
        transpose (`bool`, defaults to `False`): Entries are (D, T).
        trust_pickle (`bool`, defaults to `False`): See [`~hf_mmintent.data.safe_pickle.load_pickle`].
        source (`str`, *optional*): What errors call an open mapping, the path of its file.

    Raises:
        DataError: The file holds no keyed features.
    """

    def __init__(
        self,
        path: str | Path | Mapping[str, Any],
        modality: str,
        report: BuildReport | None = None,
        keys: Sequence[str] | None = None,
        field: str | None = None,
        vectors: bool = False,
        transpose: bool = False,
        trust_pickle: bool = False,
        source: str = "<mapping>",
    ) -> None:
        self.modality, self.field, self.vectors, self.transpose = modality, field, vectors, transpose
        self.report = report or BuildReport(modality)
        self.source = source if isinstance(path, Mapping) else str(path)
        self._map: mmap.mmap | None = None
        self._given = 0
        self._width: int | None = None
        self._first = ""
        self.entries = path if isinstance(path, Mapping) else self._open(Path(path), keys, trust_pickle)

    def _open(self, path: Path, keys: Sequence[str] | None, trust_pickle: bool) -> Mapping[str, Any]:
        if path.is_dir():
            return _ArrayFolder(path)
        suffix = path.suffix.lower()
        if suffix == ".npz":
            return open_npz(path)
        if suffix in (".h5", ".hdf5"):
            return open_h5(path)
        if suffix == ".npy":
            rows = load_npy(path)
            if keys is None or len(keys) != len(rows):
                raise DataError(f"{path} has {len(rows)} entries but {len(keys or ())} keys: give one key per entry.")
            return dict(zip(keys, rows))
        value, self._map = open_pickle(path, trust_pickle)
        if not isinstance(value, dict):
            raise DataError(f"{path} holds a {type(value).__name__}, not a dict from keys to features.")
        self._release()
        return value

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, key: str) -> bool:
        return key in self.entries

    def keys(self) -> Iterator[str]:
        """Keys in file order."""
        return iter(self.entries)

    @property
    def width(self) -> int:
        """D of the first entry that is not empty; every other one must have it too."""
        if self._width is None:
            for key in self.entries:
                if self._read(key) is not None:
                    break
            else:
                raise DataError(f"{self.source} holds no {self.modality} features at all.")
        assert self._width is not None
        return self._width

    def get(self, key: str) -> np.ndarray | None:
        """
        Features of `key`, float32 (T, D), contiguous; `None`, and counted, where the key or its content is missing.

        Raises:
            DataError: The entry is no sequence of vectors, or as wide as no other.
        """
        if key not in self.entries:
            self.report.problem(f"{self.modality} missing", key)
            return None
        values = self._read(key)
        if values is None:
            self.report.problem(f"{self.modality} of zero length", key)
            return None
        self.report.features(self.modality, key, values)
        self._given += values.nbytes
        if self._given > _RELEASE_AFTER:
            self._release()
        return values

    def _release(self) -> None:
        """Unmap the pages that were read; they come back when they are needed, and count as our memory meanwhile."""
        if self._map is not None and hasattr(self._map, "madvise"):
            self._map.madvise(mmap.MADV_DONTNEED)
        self._given = 0

    def _read(self, key: str) -> np.ndarray | None:
        value = self.entries[key]
        if self.field is not None:
            if not isinstance(value, Mapping) or self.field not in value:
                raise DataError(f"{self.source}: the entry {key!r} has no {self.field!r}.")
            value = value[self.field]
        values = clean_features(value, f"{self.source}: the {self.modality} features of {key!r}", self.vectors)
        if values is None:
            return None
        with np.errstate(over="ignore"):  # what does not fit becomes infinite, and is counted as that
            values = np.require(values.T if self.transpose else values, np.float32, ["C_CONTIGUOUS", "ALIGNED"])
        if self._width is None:
            self._width, self._first = values.shape[1], key
        if values.shape[1] != self._width:
            raise DataError(
                f"{self.source}: the {self.modality} features of {key!r} are {values.shape[1]} wide but those of "
                f"{self._first!r} are {self._width} wide: one file holds features of one extractor."
            )
        return values


def clean_features(value: Any, where: str, vectors: bool = False) -> np.ndarray | None:
    """
    Undo the container of one sample's features.

    Args:
        value: An array (T, D) or (T, 1, D), or a list of frames (D,) or (1, D); with `vectors` also (D,).
        where: What it is, to begin an error with.
        vectors: Take one dimension as one step.

    Returns:
        float (T, D), or `None` when there is not one step.

    Raises:
        DataError: Any other shape, frames of different widths, or no numbers.
    """
    if isinstance(value, (list, tuple)) or (
        isinstance(value, np.ndarray) and value.dtype == object and value.ndim == 1
    ):
        if len(value) == 0:
            return None
        frames = [_frame(frame, where) for frame in value]
        shapes = {frame.shape for frame in frames}
        if len(shapes) > 1:
            raise DataError(f"{where} are frames of different shapes {sorted(shapes, key=str)[:4]}.")
        value = np.stack(frames)
    if value is None:
        return None
    if isinstance(value, Mapping):
        raise DataError(f"{where} are a group of {len(value)} entries, not one array.")
    array = value if isinstance(value, np.ndarray) else _frame(value, where)
    if array.dtype.kind not in "biuf":
        raise DataError(f"{where} are no numbers but {array.dtype}.")
    if array.ndim > 0 and array.shape[0] == 0:
        return None
    if array.ndim == 3 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim == 1 and vectors:
        array = array[None]
    if array.ndim != 2 or array.shape[1] == 0:
        raise DataError(f"{where} have the shape {np.shape(value)}, not (steps, width) or (steps, 1, width).")
    return array


def _frame(value: Any, where: str) -> np.ndarray:
    try:
        return np.asarray(value)
    except ValueError as error:  # lists of different lengths
        raise DataError(f"{where} are no array: {error}.") from error


class _ArrayFolder(Mapping[str, Any]):
    """One `.npy` file per key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names = {path.stem for path in folder.glob("*.npy")}

    def __getitem__(self, key: str) -> np.ndarray:
        if key not in self.names:
            raise KeyError(key)
        return load_npy(resolve_inside(self.folder, f"{key}.npy"))

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self.names))

    def __len__(self) -> int:
        return len(self.names)


class _Archive(Mapping[str, Any]):
    """Arrays of an `.npz`, read when asked for; the last one is kept."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.zip = zipfile.ZipFile(path)
        except zipfile.BadZipFile as error:
            raise DataError(f"{path} is truncated or not an .npz archive: {error}.") from error
        self.names = {name.removesuffix(".npy"): name for name in self.zip.namelist()}
        self._last: tuple[str, Any] = ("", None)

    def __getitem__(self, key: str) -> Any:
        if self._last[0] != key:
            try:
                data = self.zip.read(self.names[key])
            except (zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError, RuntimeError) as error:
                # the last two: a method of compression or an encryption that no array writer uses
                raise DataError(f"{self.path}: the array {key!r} is damaged: {error}.") from error
            self._last = (key, _parse_npy(data, f"{self.path}[{key}]"))
        return self._last[1]

    def array(self, name: str, kinds: str, dimensions: int, rows: int | None = None) -> np.ndarray:
        """
        An array that must be there.

        Args:
            name: In the archive.
            kinds: Letters of numpy's kinds of types, `"biuf"` for numbers, `"U"` for texts.
            dimensions: Number of them.
            rows: Length of the first one.

        Raises:
            DataError: It is not there, or another one; the message says what it is.
        """
        if name not in self:
            raise DataError(f"{self.path} has no array {name!r}: it holds {sorted(self.names)}.")
        array = self[name]
        if array.dtype.kind not in kinds:
            what = "texts" if kinds == "U" else "numbers"
            raise DataError(f"{self.path}: `{name}` holds {array.dtype}, not {what}.")
        if array.ndim != dimensions or (rows is not None and len(array) != rows):
            wanted = f"{dimensions} dimensions" + ("" if rows is None else f" and {rows} entries")
            raise DataError(f"{self.path}: `{name}` has the shape {array.shape}, expected {wanted}.")
        return array

    def __contains__(self, key: object) -> bool:
        return key in self.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


class _HierarchicalFile(Mapping[str, Any]):
    """Datasets and groups of an HDF5 file that lie in the file itself."""

    def __init__(self, group: Any, source: str) -> None:
        self.group, self.source = group, source

    def __getitem__(self, key: str) -> Any:
        import h5py

        item = self._item(key)
        if isinstance(item, h5py.Group):
            return _HierarchicalFile(item, f"{self.source}/{key}")
        return _read_h5(item, (), f"{self.source}: {key!r}")

    def _item(self, key: str) -> Any:
        """A group, or a dataset whose content lies in this file; nothing of it is read."""
        import h5py

        if key not in self:
            raise KeyError(key)
        if not isinstance(self.group.get(key, getlink=True), h5py.HardLink):
            raise DataError(f"{self.source}: {key!r} is a link to somewhere else, which is not followed.")
        item = self.group[key]
        if not isinstance(item, h5py.Group) and (item.external or item.is_virtual):
            raise DataError(f"{self.source}: the content of {key!r} lies in another file, which is not opened.")
        return item

    def dataset(self, key: str) -> Any:
        """The dataset `key` itself, to be read in parts."""
        import h5py

        if key not in self or not isinstance(item := self._item(key), h5py.Dataset):
            raise DataError(f"{self.source} holds no array {key!r}, only {list(self)[:8]}: not the official file.")
        return item

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and "/" not in key and key != "." and self.group.get(key, getlink=True) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self.group)

    def __len__(self) -> int:
        return len(self.group)


def open_npz(path: str | Path) -> "_Archive":
    """Arrays of an `.npz` by name, read when asked for; object arrays by the rules of `safe_pickle`."""
    return _Archive(Path(path))


def open_h5(path: str | Path) -> "_HierarchicalFile":
    """Arrays and (as further mappings) groups of an HDF5 file; links and content outside the file are refused."""
    import h5py

    try:
        return _HierarchicalFile(h5py.File(path, "r"), str(path))
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise DataError(f"{path} is truncated or not an HDF5 file: {error}.") from error


class _Rows(Mapping[str, Any]):
    """The rows of one dataset of an HDF5 file, one per key, read when asked for."""

    def __init__(self, item: Any, keys: Sequence[str], change: Callable[[np.ndarray], np.ndarray]) -> None:
        self.item, self.places, self.change = item, {key: place for place, key in enumerate(keys)}, change

    def __getitem__(self, key: str) -> Any:
        return self.change(self._read(key))

    def _read(self, key: str) -> np.ndarray:
        return _read_h5(self.item, self.places[key], f"{self.item.file.filename}: the row of {key!r}")

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


def _read_h5(item: Any, place: Any, where: str) -> Any:
    try:
        return item[place]
    except OSError as error:
        raise DataError(f"{where} is damaged: {error}.") from error


def open_h5_rows(
    path: str | Path,
    name: str,
    keys: Sequence[str],
    change: Callable[[np.ndarray], np.ndarray] = np.asarray,
    what: str = "key",
) -> Mapping[str, Any]:
    """
    Rows of one large dataset of an HDF5 file by key, read one at a time.

    Args:
        path: Of the file.
        name: Of the dataset in it.
        keys: One per row, in the order of the file.
        change: Applied to every row, e.g. to flatten it.
        what: Every row is of, for the error.

    Raises:
        DataError: No such dataset in the file itself, or another number of rows.
    """
    item = open_h5(path).dataset(name)
    if item.ndim == 0 or len(item) != len(keys):
        raise DataError(f"{path}: `{name}` has the shape {item.shape}, expected {len(keys)} rows, one per {what}.")
    return _Rows(item, keys, change)


def load_npy(path: str | Path) -> np.ndarray:
    """An `.npy` file, memory-mapped; object arrays by the rules of `safe_pickle`."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError):
        # Object arrays cannot be mapped, and a damaged file says what is wrong with it when it is parsed.
        return _parse_npy(Path(path).read_bytes(), str(path))


def _parse_npy(data: bytes, source: str) -> np.ndarray:
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = reader(file)
        if not dtype.hasobject:
            announced, held = math.prod(shape) * dtype.itemsize, len(data) - file.tell()
            if announced > held:  # before memory for it is asked for
                raise ValueError(f"shape {shape} of {dtype} needs {announced} bytes and {held} are there")
            file.seek(0)
            return np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DataError(f"{source} is truncated or not an .npy array: {error}.") from error
    array = loads(data[file.tell() :], source)
    if not isinstance(array, np.ndarray) or array.size != np.prod(shape, dtype=int):
        raise DataError(f"{source} announces objects of shape {shape} but holds something else.")
    return array.reshape(shape, order="F" if fortran else "C")
