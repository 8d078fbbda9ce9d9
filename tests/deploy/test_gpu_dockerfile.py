"""gpu.Dockerfile's argument says for which kinds of GPU the kernels are compiled."""

import re
import subprocess
from pathlib import Path

import pytest
from torch.utils.cpp_extension import _get_cuda_arch_flags

ROOT = Path(__file__).parents[2]
# In the form of what both packages' setup.py do (causal-conv1d 1.7.0, mamba-ssm 2.3.2.post1).
SETUP = """
cc_flag = ["-O3"]
if True:
    cc_flag.append("-gencode")
    cc_flag.append("arch=compute_75,code=sm_75")
if version >= 13:
    cc_flag.append("-gencode")
    cc_flag.append("arch=compute_121,code=sm_121")
"""


def flags(setup: str) -> list[str]:
    """What nvcc is asked for: by the file, then by torch."""
    told = {"version": 13}
    exec(setup, told)
    return told["cc_flag"] + _get_cuda_arch_flags(told["cc_flag"])


def test_the_kernels_are_compiled_for_what_the_argument_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dockerfile = (ROOT / "gpu.Dockerfile").read_text("utf-8")
    assert "TORCH_CUDA_ARCH_LIST=${ARCHITECTURES}" in dockerfile
    (command,) = re.findall(r"sed --in-place .*setup\.py", dockerfile)
    (tmp_path / "package").mkdir()
    setup = tmp_path / "package" / "setup.py"
    setup.write_text(SETUP)
    subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True)
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0;10.0")
    asked = flags(setup.read_text())
    assert sorted(asked) == [
        "-O3",
        "-gencode=arch=compute_100,code=sm_100",
        "-gencode=arch=compute_90,code=sm_90",
    ]
    assert not [flag for flag in flags(SETUP) if "90" in flag], "else torch passes the list over"
