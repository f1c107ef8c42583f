"""DALI's pipelines: kept from pass to pass, fed with known sizes, and built as `system.dali` says."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nvidia.dali import fn, types
from PIL import Image

from suite.config import expand
from suite.data import Batch, val_loader
from suite.data.dali import DaliLoader
from suite.data.dali_graph import Machine, build_pipeline, normalised
from suite.data.index import ImageIndex, scan
from suite.data.plan import EvalShare, TrainPlan, TrainShare
from suite.errors import UserError
from suite.experiment import Run, SystemSpec
from suite.specs.dali import DaliSpec

CPU, GPU = torch.device("cpu"), torch.device("cuda", 1)
MakeRun = Callable[..., Run]


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each pipeline takes that has been built."""
    found: list[int] = []

    def count(*arguments: Any, **options: Any) -> Any:
        found.append(options["images_per_batch"])
        return build_pipeline(*arguments, **options)

    monkeypatch.setattr("suite.data.dali.build_pipeline", count)
    return found


def pixels(batches: Iterator[Batch]) -> list[torch.Tensor]:
    """Copies, since a pipeline that goes on could write into what it has given."""
    return [torch.cat([one.images_NCHW.flatten(), one.labels_N]).clone() for one in batches]


def assert_equal(left: list[torch.Tensor], right: list[torch.Tensor]) -> None:
    assert len(left) == len(right)
    assert all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def test_one_pipeline_serves_all_passes(pictures: Path, make_run: MakeRun, built: list[int]) -> None:
    run = make_run(pictures, 3, image_size=48)
    place = {"images_per_batch": 4, "rank": 0, "world_size": 1, "device": CPU}
    loader = val_loader(run, **place)
    kept = [batch.images_NCHW for batch in loader]
    before = [images.clone() for images in kept]
    for _ in range(2):
        assert_equal(pixels(iter(loader)), pixels(iter(val_loader(run, **place))))
    assert built == [4, 4, 4]  # one of this loader, and one of each of the others
    assert_equal(kept, before)  # a pass does not write into batches of the one before
    part = next(iter(loader))  # a pass that is given up takes its pipeline along
    assert torch.equal(part.images_NCHW, before[0])
    both = zip(loader, loader, strict=True)  # two passes at once have one each
    assert all(torch.equal(a.images_NCHW, b.images_NCHW) for a, b in both)
    assert len(built) == 5
    assert_equal([batch.images_NCHW for batch in loader], before)
    loader.close()


def test_a_file_that_breaks_between_two_passes(
    pictures: Path, tmp_path: Path, make_run: MakeRun, built: list[int]
) -> None:
    folder = tmp_path / "breaking"
    shutil.copytree(pictures, folder)
    run = make_run(folder, 3, image_size=48)
    place = {"images_per_batch": 4, "rank": 0, "world_size": 1, "device": CPU}
    loader = val_loader(run, **place)
    whole = pixels(iter(loader))
    path = sorted((folder / "val").rglob("*.jpg"))[5]
    path.write_bytes(path.read_bytes()[:300])
    found = pixels(iter(loader))
    assert list(loader.bad_images) == [str(path)]
    assert sum(map(len, whole)) - sum(map(len, found)) == 3 * 48 * 48 + 1
    num_built = len(built)
    assert_equal(pixels(iter(loader)), found)
    assert len(built) == num_built  # the pipeline that came after the error is kept
    assert_equal(pixels(iter(val_loader(run, **place))), found)
    loader.close()


# ------------------------------------------------------------ known sizes


def with_sizes(index: ImageIndex) -> ImageIndex:
    sizes = [Image.open(index.path(image)).size[::-1] for image in range(len(index))]
    return replace(index, shapes_N2=np.array(sizes, np.int32))


def shares(run: Run, index: ImageIndex) -> list[Any]:
    """Random and central crops of the same images."""
    return [TrainShare(TrainPlan(index, run), 4), EvalShare(index, 7)]


def batches_of(run: Run, share: Any, count: int = 3, **settings: Any) -> list[Batch]:
    options = {"num_threads": 2, "settings": DaliSpec(**settings), "device": CPU}
    loader = DaliLoader(share, run.data, channels_last=False, **options)
    found = list(islice(loader, count))
    loader.close()
    return found


def test_sizes_of_the_index_replace_those_of_the_headers(
    pictures: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, index = make_run(pictures, 3, image_size=48), scan(pictures, "train")
    read = [pixels(iter(batches_of(run, share))) for share in shares(run, index)]
    monkeypatch.setattr(fn, "peek_image_shape", lambda *_, **__: pytest.fail("a header was read"))
    for share, expected in zip(shares(run, with_sizes(index)), read, strict=True):
        assert_equal(pixels(iter(batches_of(run, share))), expected)


def test_a_subset_of_an_index_keeps_its_sizes(pictures: Path) -> None:
    index = with_sizes(scan(pictures, "train"))
    assert index.take(np.array([7, 3])).shapes_N2.tolist() == index.shapes_N2[[7, 3]].tolist()


def test_a_size_that_is_no_longer_the_files_is_named(pictures: Path, make_run: MakeRun) -> None:
    run, index = make_run(pictures, 3, image_size=48), with_sizes(scan(pictures, "val"))
    height, width = index.shapes_N2[4].tolist()
    index.shapes_N2[4] = height + 50, width
    loader = DaliLoader(
        EvalShare(index, 4), run.data, num_threads=1, settings=DaliSpec(), channels_last=False, device=CPU
    )
    assert sum(len(batch.labels_N) for batch in loader) == 10
    says = f"has {height} × {width} pixels, but its index says {height + 50} × {width}"
    assert loader.bad_images == {index.path(4): says}
    loader.close()


# ------------------------------------------------------------ system.dali


def test_bytes_that_torch_normalises_are_the_same_pixels(pictures: Path, make_run: MakeRun) -> None:
    run, index = make_run(pictures, 3, image_size=48), scan(pictures, "train")
    for share in shares(run, index):
        for one, other in zip(batches_of(run, share), batches_of(run, share, output="uint8"), strict=True):
            assert other.images_NCHW.dtype == torch.float32
            assert other.images_NCHW.is_contiguous()
            # In units of the standard deviation: a grey level is 0.017.
            torch.testing.assert_close(one.images_NCHW, other.images_NCHW, rtol=0, atol=1e-6)
            assert torch.equal(one.labels_N, other.labels_N)


def test_normalised_bytes_by_hand() -> None:
    images_NHWC = torch.tensor([0, 255, 51], dtype=torch.uint8).expand(2, 5, 4, 3)
    for channels_last in (True, False):
        found_NCHW = normalised(images_NHWC, channels_last=channels_last)
        assert found_NCHW.shape == (2, 3, 5, 4)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        assert found_NCHW.is_contiguous(memory_format=layout)
        expected = [-0.485 / 0.229, (1 - 0.456) / 0.224, (0.2 - 0.406) / 0.225]
        assert found_NCHW[1, :, 4, 3].tolist() == pytest.approx(expected, rel=1e-6)


SETTINGS: dict[str, Any] = {
    "hardware_decoder_load": 0.25,
    "device_memory_padding_mib": 3,
    "host_memory_padding_mib": 5,
    "preallocate_width": 700,
    "preallocate_height": 800,
    "prefetch_queue_depth": 4,
    "output": "float32",
}


def test_every_setting_reaches_the_graph_of_a_gpu(
    pictures: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph for a GPU is made, though not run, without one."""
    given: dict[str, Any] = {}

    def spy(name: str, function: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            given[name] = options
            return function(*arguments, **options)

        return call

    monkeypatch.setattr(fn.decoders, "image_slice", spy("decoder", fn.decoders.image_slice))
    monkeypatch.setattr(fn, "crop_mirror_normalize", spy("normalise", fn.crop_mirror_normalize))
    run = make_run(pictures, 3)

    def graph_of(device: torch.device, **settings: Any) -> Any:
        given.clear()
        machine = Machine(device, DaliSpec(**settings), 2, None)
        options = {"random_crops": True, "with_places": False, "images_per_batch": 8}
        return build_pipeline(lambda: (), run.data, machine, **options)

    pipeline = graph_of(GPU, **SETTINGS)
    assert (pipeline.device_id, pipeline.prefetch_queue_depth) == (1, 4)
    assert given["decoder"].items() >= {
        ("device", "mixed"),
        ("hw_decoder_load", 0.25),
        ("device_memory_padding", 3 * 2**20),
        ("host_memory_padding", 5 * 2**20),
        ("preallocate_width_hint", 700),
        ("preallocate_height_hint", 800),
        ("jpeg_fancy_upsampling", True),
    }
    assert given["normalise"]["dtype"] == types.FLOAT
    assert set(SETTINGS) == set(DaliSpec.model_fields)
    # As MLPerf has it on GPUs, and on CPUs what has always been.
    assert graph_of(GPU).prefetch_queue_depth == 5
    assert "normalise" not in given
    assert graph_of(CPU).prefetch_queue_depth == 2
    assert "normalise" in given
    assert given["decoder"]["jpeg_fancy_upsampling"] is True
    assert "hw_decoder_load" not in given["decoder"]


def test_settings_change_no_run_id(pictures: Path, make_run: MakeRun) -> None:
    run = make_run(pictures, 3)
    changed = run.model_copy(update={"system": SystemSpec(dali=DaliSpec(**SETTINGS))})
    assert changed.run_id == run.run_id


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"output": "float16"}, "system.dali.output"),
        ({"prefetch_queue_depth": 0}, "system.dali.prefetch_queue_depth"),
        ({"hardware_decoder_load": 1.5}, "system.dali.hardware_decoder_load"),
        ({"jpeg_fancy_upsampling": False}, "system.dali.jpeg_fancy_upsampling"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(setting: dict[str, Any], says: str) -> None:
    content = {"batch": {"global_batch_size": 8}, "model": {"arch": "small_resnet11"}}
    with pytest.raises(UserError, match=says):
        expand({**content, "system": {"dali": setting}}, "x")
