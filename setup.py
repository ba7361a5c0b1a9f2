"""The distribution `pneumoseg`: what it needs, and one extra per backend.

    pip install -e '.[tf]'          TensorFlow on the CPU
    pip install -e '.[tf-gpu]'      TensorFlow with NVIDIA's libraries
    pip install -e '.[mxnet]'       Apache MXNet on the CPU
    pip install -e '.[mxnet-gpu]'   Apache MXNet for CUDA 11.7
    pip install -e '.[torch]'       PyTorch; which build of it is the choice of pip's index
    pip install -e '.[jax]'         JAX on the CPU
    pip install -e '.[jax-gpu]'     JAX with NVIDIA's libraries
    pip install -e '.[onnx]'        ONNX and ONNX Runtime on the CPU: export and prediction

Add `-c constraints.txt` for the exact versions that the tests ran with.
"""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent
PACKAGES = ("backends", "core", "data", "pneumoseg")

MXNET_NEEDS_NUMPY = "numpy>=1.26,<2"  # MXNet 1.9.1 fails to import with NumPy 2 (numpy.PZERO)

# It is kept in one place, where Python programs find it.
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
    python_requires=">=3.10,<3.12",
    packages=["configs", *find_packages(include=[*PACKAGES, *(f"{name}.*" for name in PACKAGES)])],
    py_modules=["preprocess", "run"],
    package_data={
        "configs": ["*.yaml"],
        "core.report": ["templates/*"],
        **{name: ["py.typed"] for name in PACKAGES},
    },
    install_requires=[
        MXNET_NEEDS_NUMPY,
        "h5py>=3.10",
        "highdicom>=0.25",  # DICOM Segmentation objects
        # 12-bit and lossless JPEG. BSD; the usual pylibjpeg-libjpeg is GPL and reads less. Later ones
        # need NumPy 2.
        "imagecodecs>=2025.3.30,<2026.3",
        "Jinja2>=3.1",
        "matplotlib>=3.8",
        "opencv-python-headless>=4.8,<4.12",  # 4.12 needs NumPy 2
        "pillow>=10.1",  # a default font of any size
        "pydantic>=2.7,<3",
        "pydicom>=3.0,<4",
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
        # The CPU build exists for x86-64 Linux and Windows alone.
        "tf": [
            "tensorflow-cpu==2.21.0; sys_platform != 'darwin' and platform_machine != 'aarch64'",
            "tensorflow==2.21.0; sys_platform == 'darwin' or platform_machine == 'aarch64'",
        ],
        "tf-gpu": ["tensorflow[and-cuda]==2.21.0"],
        "mxnet": ["mxnet==1.9.1"],
        "mxnet-gpu": ["mxnet-cu117==1.9.1"],
        "torch": ["torch==2.13.0"],
        "jax": ["jax==0.6.2"],  # 0.7 needs NumPy 2
        "jax-gpu": ["jax[cuda12]==0.6.2"],
        "onnx": ["onnx>=1.17,<2", "onnxruntime>=1.20,<2"],
        "test": [
            "autograd>=1.7",  # of the example in docs/example-backend, which the tests install
            "build>=1.2",
            "hypothesis>=6.100",
            "import-linter>=2.1",
            "mypy>=1.11",
            "packaging>=23",
            "pytest>=8",
            "pytest-timeout>=2.4",
            "pytest-xdist>=3.6",
            "ruff>=0.6",
            "selenium>=4.20",
            "setuptools",
            "types-PyYAML",
            "wheel",
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
