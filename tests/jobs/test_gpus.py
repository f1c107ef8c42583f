"""GPUs shared out among the runs at a time, worked out by hand."""

from pathlib import Path

import pytest

from jobs.local.gpus import VisibleGpus, share_out, visible_gpus
from suite.errors import UserError


def test_what_a_process_would_see(tmp_path: Path) -> None:
    driver = tmp_path / "gpus"
    nothing = tmp_path / "none"

    def seen(**env: str) -> list[str]:
        found = visible_gpus(env, driver, nothing, nothing)
        assert found.variable == "CUDA_VISIBLE_DEVICES"
        return found.names

    assert seen() == []
    for bus in ("0000:01:00.0", "0000:02:00.0", "0000:03:00.0"):
        (driver / bus).mkdir(parents=True)
    assert seen() == ["0", "1", "2"]
    assert seen(CUDA_VISIBLE_DEVICES="3, GPU-8a5f") == ["3", "GPU-8a5f"]
    assert seen(CUDA_VISIBLE_DEVICES="1,-1,2") == ["1"]
    assert seen(CUDA_VISIBLE_DEVICES="") == []


def amd_machine(folder: Path) -> tuple[Path, Path]:
    """Two CPUs and four GPUs as AMD's driver lists them; of the last one there is no device file."""
    nodes, devices = folder / "nodes", folder / "dri"
    devices.mkdir()
    (devices / "renderD0").touch()
    for node in range(6):
        (nodes / str(node)).mkdir(parents=True)
        is_gpu = node >= 2
        lines = ["cpu_cores_count " + str(0 if is_gpu else 96), "simd_count " + str(1216 if is_gpu else 0)]
        lines += [f"drm_render_minor {128 + 8 * (node - 2) if is_gpu else 0}", "vendor_id 4098"]
        (nodes / str(node) / "properties").write_text("\n".join(lines) + "\n")
        if is_gpu and node < 5:
            (devices / f"renderD{128 + 8 * (node - 2)}").touch()
    return nodes, devices


CUDA, HIP = "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"


@pytest.mark.parametrize(
    ("env", "names", "variable"),
    [
        ({}, ["0", "1", "2"], HIP),
        ({HIP: "2,0"}, ["2", "0"], HIP),
        ({CUDA: "1,2"}, ["1", "2"], CUDA),
        ({CUDA: "1,2", HIP: "0"}, ["0"], HIP),
        # ROCr leaves two GPUs, which HIP numbers anew.
        ({"ROCR_VISIBLE_DEVICES": "1,2"}, ["0", "1"], HIP),
        ({"ROCR_VISIBLE_DEVICES": "1,2", HIP: "1"}, ["1"], HIP),
        ({"ROCR_VISIBLE_DEVICES": ""}, [], HIP),
        ({HIP: ""}, [], HIP),
    ],
)
def test_amds_gpus_are_counted_and_shared_out_as_nvidias(
    env: dict[str, str], names: list[str], variable: str, tmp_path: Path
) -> None:
    gpus = visible_gpus(env, tmp_path / "none", *amd_machine(tmp_path))
    assert (gpus.names, gpus.variable) == (names, variable)
    slots = share_out(gpus, jobs=len(names), ranks=1)
    assert slots == [{variable: name} for name in names]


def test_nvidias_gpus_come_first(tmp_path: Path) -> None:
    (tmp_path / "gpus" / "0000:01:00.0").mkdir(parents=True)
    gpus = visible_gpus({HIP: "0,1"}, tmp_path / "gpus", *amd_machine(tmp_path))
    assert (gpus.names, gpus.variable) == (["0"], CUDA)


def test_each_run_gets_gpus_of_its_own() -> None:
    slots = share_out(VisibleGpus(["4", "5", "6", "7", "8"]), jobs=2, ranks=2)
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in slots] == ["4,5", "6,7"]
    assert share_out(VisibleGpus([]), jobs=3, ranks=2) == [{}, {}, {}]


def test_too_few() -> None:
    with pytest.raises(UserError, match=r"2 jobs × 2 ranks need 4 GPUs, but there are 3 \(0, 1, 2\)"):
        share_out(VisibleGpus(["0", "1", "2"]), jobs=2, ranks=2)
