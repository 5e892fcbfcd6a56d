"""Packaging: three top-level folders of the checkout install as one package, `hf_mmintent`."""

import re
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent
VERSION = re.search(r'__version__ = "([^"]+)"', (ROOT / "hf_mmintent" / "__init__.py").read_text()).group(1)

PACKAGES = [
    "hf_mmintent",
    *(f"hf_mmintent.{path.parent.name}" for path in sorted(ROOT.glob("hf_mmintent/*/__init__.py"))),
]

EXTRAS = {
    "media": ["av>=14", "soxr>=0.5", "Pillow>=10"],
    "explain": ["nltk>=3.9"],
    "onnx": ["onnx>=1.17", "onnxscript>=0.5", "onnxruntime>=1.20"],
}
EXTRAS["demo"] = [*EXTRAS["media"], "gradio>=6"]  # a Space installs this extra alone
EXTRAS["dev"] = [
    *EXTRAS["media"],
    *EXTRAS["explain"],
    *EXTRAS["onnx"],
    "pytest>=9",
    "pytest-xdist>=3.6",
    "hypothesis>=6.100",
    "ruff>=0.9",
    "mypy>=1.14",
    "nox>=2024.10",
    "types-PyYAML",
]

setup(
    name="hf_mmintent",
    version=VERSION,
    description="Multimodal intent, sentiment and emotion recognition as Hugging Face models",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=[*PACKAGES, "hf_mmintent.modeling", "hf_mmintent.data_scripts"],
    package_dir={"hf_mmintent.modeling": "modeling", "hf_mmintent.data_scripts": "data_scripts"},
    package_data={
        "hf_mmintent": ["py.typed", "**/*.md"],
        "hf_mmintent.data_scripts": ["mini_clips/*", "mini_clips/*/*"],
    },
    install_requires=[
        "torch>=2.6",
        "transformers>=5.20",
        "datasets>=3.6",
        "accelerate>=1.10",
        "peft>=0.20",
        "evaluate>=0.4.3",
        "huggingface-hub>=1.0",
        "safetensors>=0.5",
        "numpy>=1.26",
        "packaging>=23",
        "pyarrow>=16",
        "scikit-learn>=1.4",
        "scipy>=1.11",
        "matplotlib>=3.8",
        "h5py>=3.10",
        "sacrebleu>=2.4",
        "rouge-score>=0.1.2",
        "PyYAML>=6",
        "tqdm>=4.66",
    ],
    extras_require=EXTRAS,
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
