"""The distribution `pneumoseg`: what it needs, and one extra per backend.

    pip install -e '.[tf]'          TensorFlow on the CPU
    pip install -e '.[tf-gpu]'      TensorFlow with NVIDIA's libraries
    pip install -e '.[mxnet]'       Apache MXNet on the CPU
    pip install -e '.[mxnet-gpu]'   Apache MXNet for CUDA 11.7
    pip install -e '.[torch]'       PyTorch; which build of it is the choice of pip's index
    pip install -e '.[jax]'         JAX on the CPU
    pip install -e '.[jax-gpu]'     JAX with NVIDIA's libraries
    pip install -e '.[onnx]'        ONNX and ONNX Runtime on the CPU: export and prediction
    pip install -e '.[completion]'  completion of command lines in bash, zsh and fish: docs/completion.md

Add `-c constraints.txt` for the exact versions that the tests ran with.
"""

from __future__ import annotations

from setuptools import setup

MXNET_NEEDS_NUMPY = "numpy>=1.26,<2"  # MXNet 1.9.1 fails to import with NumPy 2 (numpy.PZERO)

setup(
    name="pneumoseg",
    version="0.1.0",
    description="Pneumothorax segmentation: one network specification, every framework, the same numbers",
    python_requires=">=3.10,<3.12",
    packages=[
        "backends",
        "backends.jax",
        "backends.mxnet",
        "backends.onnx",
        "backends.reference",
        "backends.tf",
        "backends.torch",
        "configs",
        "core",
        "core.commands",
        "core.conformance",
        "core.parity",
        "core.report",
        "data",
    ],
    py_modules=["preprocess", "run"],
    package_data={"configs": ["*.yaml"], "core.report": ["templates/*"]},
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
        "completion": ["argcomplete>=3.5"],
        "test": [
            "argcomplete>=3.5",
            "autograd>=1.7",  # of the example in docs/example-backend, which the tests install
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
