"""The task of a run: what a detection config may say, and recipes that count iterations."""

from typing import Any

import pytest

from suite.config import expand
from suite.errors import UserError
from suite.experiment import ClassificationSpec, DetectionSpec, Run
from suite.studies.spec import is_due

BASE: dict[str, dict[str, Any]] = {
    "task": {"kind": "detection", "batch_norm": ["frozen", "trained"]},
    "model": {"arch": "resnet50", "norm": [{"kind": "bn"}, {"kind": "xbn"}, {"kind": "gn"}]},
    "data": {"name": "fashion-scenes"},
    "batch": {"global_batch_size": 16, "batch_size_per_gpu": 2},
    "recipe": {"iterations": 90, "milestones": [60, 80], "warmup_iterations": 10, "lr": 0.02},
    "measure": {"every_iterations": 30},
}


def runs_of(**sections: dict[str, Any]) -> list[Run]:
    content: dict[str, Any] = {name: {**fields, **sections.get(name, {})} for name, fields in BASE.items()}
    return list(expand(content, "detection").runs)


def test_norms_and_their_state_make_the_cells() -> None:
    """Without BN nothing can be frozen, so GN is one cell."""
    runs = runs_of()
    assert [run.norm_label for run in runs] == [
        "BN-frozen", "XBN-P2-GN64-frozen", "GN32", "BN", "XBN-P2-GN64",
    ]  # fmt: skip
    assert runs[0].label == "faster_rcnn-2fc resnet50 BN-frozen nb2 seed 0"
    assert len({run.run_id for run in runs}) == 5
    assert all(Run.model_validate(run.model_dump(mode="json")) == run for run in runs)


def test_defaults_follow_the_network_the_framework_and_the_checkpoint() -> None:
    def task_of(arch: str = "resnet50", **task: Any) -> DetectionSpec:
        task = {"kind": "detection", "batch_norm": "trained", **task}
        spec = runs_of(task=task, model={"arch": arch, "norm": {"kind": "bn"}})[0].task
        assert isinstance(spec, DetectionSpec)
        return spec

    full = task_of()
    assert (full.fpn_stages, full.anchor_sizes) == ((1, 2, 3, 4), (32, 64, 128, 256, 512))
    assert (full.trained_stages, task_of(backbone_from="w.pt").trained_stages) == (5, 3)
    retina = task_of(framework="retinanet")
    assert (retina.fpn_stages, retina.head, len(retina.anchor_sizes or ())) == ((2, 3, 4), None, 5)
    small = task_of("small_resnet11")
    assert (small.fpn_stages, small.anchor_sizes) == ((2, 3), (32, 64, 128))
    assert task_of(backbone_from="/b/{arch}-{norm}").backbone_from == "/b/resnet50-bn"


def test_frozen_norms_have_no_norm_batch() -> None:
    batch = {"global_batch_size": 16, "batch_size_per_gpu": 2, "norm_batch_size": [4, 8]}
    with pytest.raises(UserError, match="two cells of the sweep are the same run"):
        runs_of(batch=batch, task={"batch_norm": "frozen"}, model={"norm": {"kind": "bn"}})
    trained = runs_of(batch=batch, task={"batch_norm": "trained"}, model={"norm": {"kind": "bn"}})
    assert [run.batch.norm for run in trained] == [4, 8]


def test_classification_is_the_default_and_leaves_the_run_id_alone() -> None:
    plain: dict[str, Any] = {"model": {"arch": "resnet18"}, "data": {"name": "fashion-mnist"}}
    (run,), (named,) = (expand({**plain, **more}, "x").runs for more in ({}, {"task": "classification"}))
    assert isinstance(run.task, ClassificationSpec)
    assert run.run_id == named.run_id
    assert run.label == "resnet18 BN nb256 seed 0"


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        (
            {"data": {"crop_area": [0.5, 1]}},
            "data.crop_area means nothing in detection: a detector",
        ),
        ({"data": {"image_size": 64}}, "data.image_size means nothing in detection"),
        ({"data": {"eval_resize": 300}}, "data.eval_resize means nothing in detection"),
        ({"recipe": {"mixup_alpha": 0.2}}, "recipe.mixup_alpha means nothing in detection: an image has no"),
        ({"recipe": {"label_smoothing": 0.1}}, "recipe.label_smoothing means nothing"),
        ({"measure": {"eval_train": True}}, "measure.eval_train means nothing in detection"),
        (
            {"data": {"name": "fashion-mnist"}},
            "fashion-mnist is not for detection; take coco or fash",
        ),
        ({"task": {"framework": "retinanet", "head": "2fc"}}, "task.head: retinanet has no head of regions"),
        ({"task": {"framework": "yolo"}}, "task.framework: expected faster_rcnn, mask_rcnn or retinanet"),
        ({"task": {"anchor_sizes": [16, 32]}}, "task.anchor_sizes has 2 sizes, but the FPN 5 levels"),
        ({"task": {"fpn_stages": [2, 5]}}, "resnet50 has stages 1 to 4, there is no 5"),
        ({"task": {"fpn_stages": [3, 2]}}, "task.fpn_stages: expected rising stages"),
        ({"task": {"trained_stages": 6}}, "task.trained_stages is 6, but resnet50 has 4 stages and a stem"),
        ({"task": {"min_size": 900, "max_size": 800}}, "task: max_size .800. is below min_size .900."),
        ({"task": {"fpn_norm": "gn", "fpn_channels": 40}}, "fpn_channels 40 is no multiple of the 32 groups"),
        ({"model": {"arch": "mobilenet_v2"}}, "model.arch: detection takes the stages of a ResNet"),
        ({"model": {"norm": "mabn"}}, "task.batch_norm: frozen is for BN, and mabn has estimates of its own"),
        ({"recipe": {"epochs": 3}}, "epochs and iterations both say how long training is"),
        ({"recipe": {"warmup_epochs": 1}}, "warmup_epochs needs epochs; give warmup_iterations"),
        ({"recipe": {"warmup_iterations": 90}}, r"warmup_iterations \(90\) must be below iterations \(90\)"),
        ({"recipe": {"swa": {}}}, "swa and federated go by epochs"),
        (
            {"measure": {"every_iterations": 7}},
            r"every_iterations 7 does not divide recipe.iterations 90: 9",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(
    sections: dict[str, dict[str, Any]], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        runs_of(**sections)


@pytest.mark.parametrize(
    ("recipe", "measure", "sentence"),
    [
        ({"iterations": 9}, {}, "milestones are missing: with iterations, they are iterations too"),
        ({"warmup_iterations": 3}, {}, "warmup_iterations needs iterations; give warmup_epochs"),
        ({}, {"every_iterations": 3}, "measure.every_iterations needs recipe.iterations"),
    ],
)
def test_iterations_and_their_fields_belong_together(
    recipe: dict[str, Any], measure: dict[str, Any], sentence: str
) -> None:
    content = {"model": {"arch": "resnet18"}, "data": {"name": "fashion-mnist"}}
    with pytest.raises(UserError, match=sentence):
        expand({**content, "recipe": recipe, "measure": measure}, "x")


def test_a_source_of_boxes_is_not_for_classification() -> None:
    with pytest.raises(UserError, match="fashion-scenes is not for classification; take "):
        expand({"model": {"arch": "resnet18"}, "data": {"name": "fashion-scenes"}}, "x")


def test_a_study_knows_which_metrics_a_task_has() -> None:
    frozen, _, _, trained, _ = runs_of()
    masks = runs_of(task={"kind": "detection", "framework": "mask_rcnn"})[0]
    (classifier,) = expand({"model": {"arch": "resnet18"}, "data": {"name": "fashion-mnist"}}, "x").runs
    expected = {
        "ap_percent": [True, True, True, False],
        "mask_ap_percent": [False, False, True, False],
        "top1_percent": [False, False, False, True],
        "ap_precise_percent": [True, False, False, False],
        "tid_mu": [True, False, False, True],
        "esm_mu": [True, True, True, True],
    }
    runs = (trained, frozen, masks, classifier)
    assert expected == {name: [is_due(run, name, run.num_epochs) for run in runs] for name in expected}


def test_the_learning_rate_follows_the_iterations() -> None:
    """Up to 0.02 over 10 iterations, ÷ 10 at 60 and at 80, whatever the steps of an epoch are."""
    run = runs_of()[0]
    recipe = run.recipe
    assert run.num_epochs == 3
    rates = [recipe.lr_at(recipe.position(step, 7)) for step in (0, 5, 10, 59, 60, 79, 80, 89)]
    assert rates == pytest.approx([0, 0.01, 0.02, 0.02, 0.002, 0.002, 0.0002, 0.0002])
    cosine = runs_of(recipe={"schedule": "cosine"})[0].recipe
    assert cosine.lr_at(50) == pytest.approx(0.01)  # half-way from 10 to 90
