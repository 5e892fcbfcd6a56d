"""The library `evaluate`, found even while a script that lies beside a file `evaluate.py` is running."""

import importlib.util
import sys
from importlib.metadata import distribution
from types import ModuleType


def evaluate_library() -> ModuleType:
    """
    Import the installed `evaluate`.

    Python puts a running script's folder first on its path, and `examples/` holds an `evaluate.py` of its own: a plain
    import would find that.
    """
    loaded = sys.modules.get("evaluate")
    if loaded is not None and hasattr(loaded, "Metric"):
        return loaded
    package = distribution("evaluate").locate_file("evaluate")
    spec = importlib.util.spec_from_file_location(
        "evaluate", str(package / "__init__.py"), submodule_search_locations=[str(package)]
    )
    if spec is None or spec.loader is None:
        raise ImportError("the library `evaluate` is installed without its package: reinstall it.")
    module = importlib.util.module_from_spec(spec)
    sys.modules["evaluate"] = module
    spec.loader.exec_module(module)
    return module


evaluate = evaluate_library()
