"""Tests that need an environment of their own; every session makes one.

    nox                          # dataset tests on the oldest and the newest supported release of `datasets`
    nox -s "datasets(oldest)"
    nox -s demo                  # the page of the demo in headless Chromium (`apt-get install chromium`)
    nox -s onnx                  # every architecture exported, compared with torch on every subset of modalities

Arguments after `--` go to pytest in place of the default files: `nox -- tests/data_scripts/test_mintrec.py -x`.

The picture of the README is made by the demo's test, from a trained checkpoint and one of the embedded clips:

    HF_MMINTENT_DEMO_CHECKPOINT=runs/quickstart/seed_0/final HF_MMINTENT_SCREENSHOT=assets/demo.png \\
    HF_MMINTENT_DEMO_CLIP=data_scripts/mini_clips/clips/mini_0258.mp4 \\
    HF_MMINTENT_DEMO_TEXT="So, you cook like a hungry sailor." nox -s demo
"""

import os
import shutil

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


@nox.session(venv_backend="venv")
def demo(session: nox.Session) -> None:
    """The page, also in a browser. Nothing is skipped: a missing browser is an error."""
    browser = os.environ.get("HF_MMINTENT_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        session.error("there is no Chromium: apt-get install chromium, or name it in HF_MMINTENT_CHROMIUM.")
    _install(session, ".[demo]", "playwright")
    session.run(*_PYTEST, *(session.posargs or ("tests/hf_mmintent/test_demo.py",)), env={"OMP_NUM_THREADS": "1"})


@nox.session(venv_backend="venv")
def onnx(session: nox.Session) -> None:
    """Export of every architecture; several minutes on an idle core."""
    _install(session, ".[media,onnx]")
    session.run(*_PYTEST, *(session.posargs or ("tests/hf_mmintent/test_export.py",)), env={"OMP_NUM_THREADS": "1"})


_PYTEST = ("python", "-m", "pytest", "-q", "-m", "slow or not slow")


def _install(session: nox.Session, package: str, *others: str) -> None:
    """The package as the constraints have it."""
    session.install("-c", "constraints.txt", "torch==2.13.0")
    session.install("-c", "constraints.txt", "-e", package, "pytest", *others)
