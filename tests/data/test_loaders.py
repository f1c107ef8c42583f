"""Both loaders, on real files: the same images, each once, and bit-equal after a restart."""

import itertools
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from suite.data import Batch, folder_loader, split_index, steps_per_epoch, train_loader, val_loader
from suite.data.loader import MEAN, STD, to_device
from suite.experiment import DataSpec, Run
from suite.specs.loader_table import INTERPOLATIONS

CPU = torch.device("cpu")
LOADERS = ("dali", "torchvision")
# Of one grey level in 255, after division by the smallest standard deviation. Both resize with the same
# kernel; only float rounding in the normalisation differs.
ROUNDING = 0.01 / 255 / 0.224
MakeRun = Callable[..., Run]


def some(run: Run, count: int, *, start_step: int = 0, rank: int = 0, world_size: int = 1) -> list[Batch]:
    loader = train_loader(run, start_step=start_step, rank=rank, world_size=world_size, device=CPU)
    batches = list(itertools.islice(loader, count))
    assert not loader.bad_images
    loader.close()
    return batches


def val(run: Run, images_per_batch: int, rank: int = 0, world_size: int = 1) -> list[Batch]:
    loader = val_loader(run, images_per_batch=images_per_batch, rank=rank, world_size=world_size, device=CPU)
    batches = list(loader)
    assert not loader.bad_images
    loader.close()
    return batches


def assert_equal(left: list[Batch], right: list[Batch]) -> None:
    for a, b in zip(left, right, strict=True):
        assert torch.equal(a.images_NCHW, b.images_NCHW)
        assert torch.equal(a.labels_N, b.labels_N)


def assert_close(left: list[Batch], right: list[Batch]) -> None:
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a.images_NCHW, b.images_NCHW, rtol=0, atol=ROUNDING)
        assert torch.equal(a.labels_N, b.labels_N)


def test_training_parity_on_fashion_mnist(fashion: Path, make_run: MakeRun) -> None:
    dali, vision = (
        some(make_run(fashion, 10, batch=(64, 32), image_size=28, loader=loader), 4, start_step=92)
        for loader in LOADERS
    )
    assert dali[0].images_NCHW.shape == (32, 3, 28, 28)
    assert dali[0].images_NCHW.dtype == torch.float32
    assert dali[0].labels_N.dtype == torch.int64
    assert_close(dali, vision)


def test_training_parity_on_pictures(pictures: Path, make_run: MakeRun) -> None:
    dali, vision = (some(make_run(pictures, 3, image_size=96, loader=loader), 20) for loader in LOADERS)
    assert_close(dali, vision)


def test_validation_parity(fashion: Path, pictures: Path, make_run: MakeRun) -> None:
    for folder, num_classes, size in ((fashion, 10, 28), (pictures, 3, 96)):
        dali, vision = (
            val(make_run(folder, num_classes, image_size=size, loader=loader), 64) for loader in LOADERS
        )
        assert_close(dali, vision)


def test_validation_agrees_with_torchvisions_recipe(pictures: Path, make_run: MakeRun) -> None:
    """The usual lines of code, on Pillow: sizes even, so that no rounding of the centre is in question."""
    recipe = v2.Compose(
        [
            v2.Resize(110, antialias=True),
            v2.CenterCrop(96),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    paths = sorted((pictures / "val").glob("*/*.jpg"))
    paths = [paths[place] for place in np.random.default_rng(0).permutation(len(paths))]  # the loader's order
    (batch,) = val(make_run(pictures, 3, image_size=96, eval_resize=110), 100)
    for path, image_CHW in zip(paths, batch.images_NCHW, strict=True):
        with Image.open(path) as image:
            difference_CHW = (recipe(image.convert("RGB")) - image_CHW).abs()
        # Pillow resizes in another arithmetic: a grey level here and there. A centre that is off by one
        # pixel, where the sides' parities differ, would show in the grain as tens of levels.
        assert difference_CHW.mean() < 12 / 255 / 0.224


@pytest.mark.parametrize("mode", INTERPOLATIONS)
def test_images_are_resized_by_the_interpolation_of_the_config(
    pictures: Path, make_run: MakeRun, mode: str
) -> None:
    """Alike by both loaders, and nearer to Pillow's kernel of that name than to the other one."""
    how = {"image_size": 96, "eval_resize": 110, "interpolation": mode}
    dali, vision = (make_run(pictures, 3, loader=name, **how) for name in LOADERS)
    (batch,) = val(vision, 11)
    assert_close(val(dali, 11), [batch])
    assert_close(some(dali, 2), some(vision, 2))
    index = split_index(vision.data, "val")
    mixed = index.take(np.random.default_rng(0).permutation(len(index)))
    images = [Image.open(mixed.path(number)).convert("RGB") for number in range(len(index))]
    errors = {}
    for name in INTERPOLATIONS:
        resized = [F.to_image(F.resize(image, 110, v2.InterpolationMode(name))) for image in images]
        corners = [[(side - 96) // 2 for side in image.shape[1:]] for image in resized]
        crops = [F.crop(image, *at, 96, 96) for image, at in zip(resized, corners, strict=True)]
        expected_NCHW = F.normalize(F.to_dtype(torch.stack(crops), torch.float32, scale=True), MEAN, STD)
        errors[name] = (batch.images_NCHW - expected_NCHW).abs().mean()
    (other,) = INTERPOLATIONS.keys() - {mode}
    assert errors[mode] < errors[other] / 2, errors


@pytest.mark.parametrize("loader", LOADERS)
def test_resume_in_mid_epoch_is_bit_equal(pictures: Path, make_run: MakeRun, loader: str) -> None:
    run = make_run(pictures, 3, image_size=64, loader=loader)
    assert steps_per_epoch(run) == 5
    whole = some(run, 24)  # two micro-batches a step, over two epochs
    for step in (1, 4, 7):
        assert_equal(whole[2 * step :], some(run, 24 - 2 * step, start_step=step))


@pytest.mark.parametrize("loader", LOADERS)
def test_a_step_sees_the_same_on_two_ranks(pictures: Path, make_run: MakeRun, loader: str) -> None:
    run = make_run(pictures, 3, image_size=64, loader=loader)
    ranks = [some(run, 3, rank=rank, world_size=2) for rank in range(2)]
    assert_equal(some(run, 6), [batch for step in zip(*ranks, strict=True) for batch in step])


@pytest.mark.parametrize("loader", LOADERS)
def test_each_validation_image_once(pictures: Path, make_run: MakeRun, loader: str) -> None:
    def fingerprints(batches: list[Batch]) -> Counter[tuple[bytes, int]]:
        return Counter(
            (image_CHW.numpy().tobytes(), int(label))
            for batch in batches
            for image_CHW, label in zip(batch.images_NCHW, batch.labels_N, strict=True)
        )

    run = make_run(pictures, 3, image_size=48, loader=loader)
    expected = fingerprints(val(run, 11))
    assert sorted(expected.values()) == [1] * 11
    for world_size, per_batch in ((1, 4), (2, 3), (3, 4)):
        shares = [val(run, per_batch, rank, world_size) for rank in range(world_size)]
        assert fingerprints([batch for share in shares for batch in share]) == expected
    # More ranks than images: some have nothing to do.
    counts = [sum(len(b.labels_N) for b in val(run, 4, rank, 13)) for rank in (0, 12)]
    assert counts == [0, 1]


@pytest.mark.parametrize("loader", LOADERS)
def test_validation_can_be_repeated(pictures: Path, make_run: MakeRun, loader: str) -> None:
    loader_ = val_loader(
        make_run(pictures, 3, image_size=48, loader=loader),
        images_per_batch=4,
        rank=0,
        world_size=1,
        device=CPU,
    )
    assert_equal(list(loader_), list(loader_))


def test_batches_are_not_overwritten_by_later_ones(pictures: Path, make_run: MakeRun) -> None:
    run = make_run(pictures, 3, image_size=64)
    kept: list[Batch] = []
    copies: list[Batch] = []
    for batch in itertools.islice(train_loader(run, start_step=0, rank=0, world_size=1, device=CPU), 30):
        kept.append(batch)
        copies.append(Batch(batch.images_NCHW.clone(), batch.labels_N.clone()))
    assert_equal(kept, copies)


def test_val_images_keeps_every_class(pictures: Path, make_run: MakeRun) -> None:
    (batch,) = val(make_run(pictures, 3, image_size=48, val_images=6), 8)
    assert sorted(batch.labels_N.tolist()) == [0, 0, 1, 1, 2, 2]
    assert batch.labels_N.tolist() != [0, 0, 1, 1, 2, 2]  # mixed: each batch is a sample of all classes


def test_folder_loader_reads_training_images_once(pictures: Path) -> None:
    data = DataSpec(name="test", path=str(pictures), num_classes=3, image_size=48)
    loader = folder_loader(data, "train", images_per_batch=16, device=CPU, num_images=20)
    assert [len(batch.labels_N) for batch in loader] == [16, 4]


@pytest.mark.parametrize("kind", LOADERS)
def test_a_seed_mixes_the_classes_the_same_each_time(pictures: Path, kind: str) -> None:
    data = DataSpec(name="test", path=str(pictures), num_classes=3, image_size=48, loader=kind)

    def labels(seed: int | None) -> list[int]:
        loader = folder_loader(
            data, "train", images_per_batch=4, device=CPU, num_images=18, shuffle_seed=seed
        )
        first, again = ([int(y) for batch in loader for y in batch.labels_N] for _ in range(2))
        loader.close()
        assert first == again
        return first

    assert labels(None) == [0] * 6 + [1] * 6 + [2] * 6
    assert sorted(labels(0)) == labels(None)
    assert labels(0) != labels(1)
    assert len(set(labels(0)[:6])) > 1


def test_synthetic_batches(make_run: MakeRun) -> None:
    data = DataSpec(name="synthetic", image_size=32, num_classes=5, train_images=40, val_images=10)
    run = make_run(Path("/"), 5).model_copy(update={"data": data})
    assert steps_per_epoch(run) == 5
    whole = some(run, 9)
    assert whole[0].images_NCHW.shape == (4, 3, 32, 32)
    assert not torch.equal(whole[0].images_NCHW, whole[1].images_NCHW)
    assert_equal(whole[6:], some(run, 3, start_step=3))
    for world_size in (1, 3):
        shares = [val(run, 4, rank, world_size) for rank in range(world_size)]
        assert sum(len(batch.labels_N) for share in shares for batch in share) == 10


@pytest.mark.parametrize("end", ["", "\nfrom jobs.local.process_end import exit_with; exit_with(lambda: 0)"])
def test_a_process_ends_with_unfinished_loaders(pictures: Path, make_run: MakeRun, end: str) -> None:
    """Threads, worker processes and callbacks must not hang or crash the interpreter's end, nor ours."""
    runs = [make_run(pictures, 3, image_size=64, loader=loader).model_dump_json() for loader in LOADERS]
    code = (
        # Registered first, it is called last, when the workers are killed: their deaths are no errors then.
        "import atexit, signal; atexit.register(lambda: print(signal.getsignal(signal.SIGCHLD).name))\n"
        "import torch; from suite.data import train_loader; from suite.experiment import Run\n"
        f"runs = [Run.model_validate_json(text) for text in {runs!r}]\n"
        "options = dict(start_step=0, rank=0, world_size=1, device=torch.device('cpu'))\n"
        "iterators = [iter(train_loader(run, **options)) for run in runs]\n"
        "print(*(len(next(iterator).labels_N) for iterator in iterators))"
    )
    done = subprocess.run([sys.executable, "-c", code + end], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["4", "4", "SIG_DFL"], "")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_pipeline_sees_the_same_crops(pictures: Path, make_run: MakeRun) -> None:
    run = make_run(pictures, 3, image_size=96)
    cuda = torch.device("cuda", 0)
    gpu = itertools.islice(train_loader(run, start_step=0, rank=0, world_size=1, device=cuda), 10)
    for on_gpu, on_cpu in zip(gpu, some(run, 10), strict=True):
        assert on_gpu.images_NCHW.device == cuda
        assert torch.equal(on_gpu.labels_N.cpu(), on_cpu.labels_N)
        # Another JPEG decoder and resize: on average within 4 grey levels.
        difference_NCHW = (on_gpu.images_NCHW.cpu() - on_cpu.images_NCHW).abs()
        assert difference_NCHW.mean() < 4 / 255 / 0.224


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_copying_to_the_gpu_does_not_wait_for_it() -> None:
    """CUDA's own watch for waiting calls: an ordinary copy from pageable memory trips it."""
    labels_N = torch.arange(8)
    torch.cuda.init()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with pytest.raises(RuntimeError, match="synchronizing"):
            labels_N.to("cuda")
        on_gpu_N = to_device(labels_N, torch.device("cuda", 0))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(on_gpu_N.cpu(), labels_N)
