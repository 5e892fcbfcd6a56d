"""The dataset tests on the oldest and the newest supported release of `datasets`: `nox`."""

import nox

nox.options.sessions = ["datasets"]
OLDEST = ("datasets==3.6.0", "fsspec==2025.3.0", "dill==0.3.8")


@nox.session(venv_backend="venv")
@nox.parametrize("release", ["oldest", "newest"])
def datasets(session: nox.Session, release: str) -> None:
    """Builders, loading and collating."""
    session.install("torch==2.13.0")
    session.install("-e", ".[media]", "pytest", "hypothesis")
    session.install(*(OLDEST if release == "oldest" else ("--upgrade", "datasets")))
    session.run(
        "python", "-m", "pytest", "tests/data_scripts", "tests/hf_mmintent/test_data_loading.py", *session.posargs
    )
