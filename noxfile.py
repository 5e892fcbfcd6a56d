"""The dataset tests on the oldest and the newest supported release of `datasets`: `nox`, or `nox -s "datasets(oldest)"`.

Arguments after `--` go to pytest in place of the default files: `nox -- tests/data_scripts/test_mintrec.py -x`.
"""

import nox

nox.options.sessions = ["datasets"]
OLDEST = ("datasets==3.6.0", "fsspec==2025.3.0", "dill==0.3.8")
FILES = (
    "tests/data_scripts",
    "tests/hf_mmintent/test_data_files.py",
    "tests/hf_mmintent/test_safe_pickle.py",
    "tests/hf_mmintent/test_data_loading.py",
    "tests/hf_mmintent/test_validation.py",
    "tests/hf_mmintent/test_publish_dataset.py",
    "tests/hf_mmintent/test_collator.py",
    "tests/hf_mmintent/test_reading.py",
    "tests/hf_mmintent/test_extraction.py",
    "tests/examples/test_extract_features.py",
)


@nox.session(venv_backend="venv")
@nox.parametrize("release", ["oldest", "newest"])
def datasets(session: nox.Session, release: str) -> None:
    """Builders, readers of files, loading, checking, publishing, collating, reading and extraction."""
    session.install("torch==2.13.0")  # an open range would bring a CUDA build
    session.install("-e", ".[media]", "pytest", "hypothesis")
    session.install(*(OLDEST if release == "oldest" else ("--upgrade", "datasets")))
    session.run("python", "-c", "import datasets; print('datasets', datasets.__version__)")
    arguments = session.posargs or ("-m", "not slow", *FILES)
    session.run("python", "-m", "pytest", "-q", *arguments, env={"OMP_NUM_THREADS": "1"})
