"""YAML to Experiment: what sweeps, what is refused, and how the refusal reads."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from suite.config import load_experiment
from suite.errors import UserError
from suite.experiment import (
    BatchFreeSpec,
    BatchSpec,
    DataSpec,
    MeasureSpec,
    ModelSpec,
    RecipeSpec,
    Run,
    SystemSpec,
    VariantSpec,
    XbnSpec,
    check_batches,
)

ROOT = Path(__file__).parent.parent
YAML = """
model:
  arch: small_resnet11
  norm: [{kind: bn}, {kind: xbn, position: p2}]
data: {name: fashion-mnist-7k, image_size: 28}
batch: {global_batch_size: 64, norm_batch_size: [4, 64]}
recipe: {epochs: 2}
seeds: [0, 1]
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(YAML)
    return path


def test_lists_sweep_and_seeds_multiply(config: Path) -> None:
    runs = load_experiment(config).runs
    assert len(runs) == 2 * 2 * 2
    cells = {(run.model.norm.label, run.batch.norm, run.seed) for run in runs}
    assert cells == {(n, b, s) for n in ("BN", "XBN-P2-GN8") for b in (4, 64) for s in (0, 1)}


def test_a_list_by_nature_is_one_value_and_a_list_of_lists_sweeps(config: Path) -> None:
    one = load_experiment(config, ["recipe.milestones=[1]", "data.crop_area=[0.5, 1]"]).runs
    assert {run.recipe.milestones for run in one} == {(1.0,)}
    two = load_experiment(config, ["recipe.milestones=[[1], [1, 1.5]]"]).runs
    assert {run.recipe.milestones for run in two} == {(1.0,), (1.0, 1.5)}


def test_a_full_batch_is_as_many_as_there_are_training_images(config: Path) -> None:
    full = ["batch={global_batch_size: all}", "seeds=[0]", "model.norm={kind: bn}"]
    runs = load_experiment(config, [*full, "data.train_images=[32, 100]"]).runs
    assert [(r.batch.global_batch_size, r.batch.per_gpu, r.batch.norm) for r in runs] == [
        (32, 32, 32),
        (100, 100, 100),
    ]
    spelled = [*full[1:], "data.train_images=100", "batch={global_batch_size: 100}"]
    assert load_experiment(config, spelled).runs[0].run_id == runs[1].run_id
    with pytest.raises(
        UserError,
        match=r"small\.yaml: .*: batch\.global_batch_size: all takes data\.train_images in one step",
    ):
        load_experiment(config, full)


def test_overrides_and_environment(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHERE", "/images")
    runs = load_experiment(
        config, ["recipe.lr=0.5", "data.path=${oc.env:WHERE}", "model.norm={kind: gn}"]
    ).runs
    assert {(r.recipe.lr, r.data.path, r.model.norm.label) for r in runs} == {(0.5, "/images", "GN8")}


def test_run_id_hashes_what_decides_the_result_and_nothing_else(config: Path) -> None:
    base = load_experiment(config).runs[0]
    for same in (
        "recipe.optimizer=sgd",
        "recipe.trust_coefficient=null",
        "batch.estimates=first_rank",
        "data.path=/elsewhere",
        "measure.probe_every_epochs=1",
        "system.data_threads=7",
        "name=other",
    ):
        assert load_experiment(config, [same]).runs[0].run_id == base.run_id, same
    for other in (
        "recipe.lr=0.2",
        "data.flip=false",
        "batch.global_batch_size=128",
        "seeds=[5]",
        "recipe.optimizer=lars",
        "batch.estimates=mean",
    ):
        assert load_experiment(config, [other]).runs[0].run_id != base.run_id, other


def test_a_default_that_is_written_out_is_the_same_run(config: Path) -> None:
    lars = load_experiment(config, ["recipe.optimizer=lars"]).runs[0]
    spelled = load_experiment(config, ["recipe.optimizer=lars", "recipe.trust_coefficient=0.001"]).runs[0]
    other = load_experiment(config, ["recipe.optimizer=lars", "recipe.trust_coefficient=0.002"]).runs[0]
    assert lars.recipe.trust_coefficient == 0.001
    assert lars.run_id == spelled.run_id != other.run_id


def test_without_batch_norm_the_estimates_of_the_ranks_decide_nothing(config: Path) -> None:
    first, mean = (
        load_experiment(config, ["model.norm=gn", f"batch.estimates={rule}"]).runs[0]
        for rule in ("first_rank", "mean")
    )
    assert first.run_id == mean.run_id


def test_run_id_is_stable_across_versions_of_this_code(config: Path) -> None:
    # Recorded once. If it changes, finished runs are no longer found: that needs a reason in the changelog.
    assert load_experiment(config).runs[0].run_id == "dc6f6570cc8c"


def test_defaults_that_hang_on_the_architecture_are_hashed_as_what_is_built(config: Path) -> None:
    silent = load_experiment(config, ["model.norm={kind: xbn}"]).runs[0]
    spelled = "model.norm={kind: xbn, position: p2, bfn: gn, num_groups: 8, stem: true, downsample: false}"
    assert load_experiment(config, [spelled]).runs[0].run_id == silent.run_id


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("recipe.epochz=3", "recipe.epochz: unknown key; did you mean 'epochs'?"),
        ("recipe.trust_coefficient=0.01", "trust_coefficient means nothing to sgd: it is of lars"),
        ("modle.arch=resnet50", "modle: unknown key; did you mean 'model'?"),
        ("model.norm={kind: xbn, positon: p1}", "model.norm.positon: unknown key; did you mean 'position'?"),
        ("model.norm={kind: bn, position: p2}", "model.norm.position: unknown key; valid: kind"),
        ("model.norm={kind: batch}", "model.norm.kind: unknown kind 'batch'; valid: bn, xbn, gn"),
        (
            "model.norm={kind: xbn, position: p4}",
            "model.norm.position: expected p1, p2 or p3, got 'p4'",
        ),
        ("model.norm={kind: xbn, bfn: ln, num_groups: 4}", "num_groups has no meaning for ln"),
        ("model.arch=resnet51", "unknown arch 'resnet51'; valid: resnet18, resnet34"),
        ("recipe.epochs=ten", "recipe.epochs: expected a whole number ≥ 1, got 'ten'"),
        ("recipe.epochs=true", "recipe.epochs: expected a whole number ≥ 1, got true"),
        ("recipe.lr=-1", "recipe.lr: expected a number > 0, got -1"),
        ("recipe.warmup_epochs=2", "warmup_epochs (2) must be below epochs (2)"),
        ("batch.batch_size_per_gpu=48", "64 = 1 × 48 + 16; 32 would divide it"),
        (
            "batch.norm_batch_size=5",
            "norm_batch_size 5 must divide batch_size_per_gpu 64 (ghost groups), but 64 = 12 × 5 + 4",
        ),
        ("batch={global_batch_size: 64, batch_size_per_gpu: 8, norm_batch_size: 12}", "12 = 1 × 8 + 4"),
        ("batch.norm_batch_size=128", "norm_batch_size 128 exceeds global_batch_size 64"),
        ("data={name: birds}", "num_classes is missing for the data set 'birds'"),
        ("data={name: imagenet}", "path is missing"),
        ("data.path=${oc.env:NOT_SET_ANYWHERE}", "NOT_SET_ANYWHERE"),
        ("seeds=3", "seeds: expected a list of different whole numbers"),
        ("seeds=[1, 1]", "seeds: expected a list of different whole numbers"),
        ("model.norm=[{kind: bn}, {kind: bn}]", "two cells of the sweep are the same run"),
        ("batch.norm_batch_size=[]", "batch.norm_batch_size: an empty list sweeps nothing"),
        ("recipe", "override 'recipe': expected key=value"),
        ("model.norm.kind=bn", "model.norm.kind does not lead to a field"),
        (
            "measure.probe_every_epochs=[1, 2]",
            "measure.probe_every_epochs: expected a whole number ≥ 1, or null, got [1, 2]",
        ),
    ],
)
def test_bad_input_is_one_clear_sentence(config: Path, override: str, words: str) -> None:
    with pytest.raises(UserError) as refusal:
        load_experiment(config, [override])
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [("a: [1", ":2: not valid YAML"), ("- 1", "expected a mapping"), ("\xff\x00", "not valid YAML")],
)
def test_unreadable_files(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"bad\.yaml") as refusal:
        load_experiment(path)
    assert words in str(refusal.value)
    with pytest.raises(UserError, match="no such file"):
        load_experiment(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("world_size", "expected"),
    [
        (1, 8),
        (2, 4),
        (8, 1),
        (3, "3 ranks × batch_size_per_gpu 4 = 12 samples a pass"),
        (16, "does not divide"),
    ],
)
def test_accumulation_shows_its_arithmetic(world_size: int, expected: int | str) -> None:
    batch = BatchSpec(global_batch_size=32, batch_size_per_gpu=4)
    if isinstance(expected, int):
        assert batch.accumulation_steps(world_size) == expected
    else:
        with pytest.raises(ValueError, match=expected):
            batch.accumulation_steps(world_size)


def test_sync_statistics_need_their_ranks() -> None:
    batch = BatchSpec(global_batch_size=32, batch_size_per_gpu=4, norm_batch_size=8)
    assert batch.accumulation_steps(2) == 4
    with pytest.raises(ValueError, match="8 = 2 ranks × batch_size_per_gpu 4, but the run has 1 rank:"):
        batch.accumulation_steps(1)


def test_learning_rate_by_hand() -> None:
    step = RecipeSpec()
    assert [step.lr_at(e) for e in (0, 29.9, 30, 60, 99)] == pytest.approx([0.1, 0.1, 0.01, 0.001, 0.0001])
    cosine = RecipeSpec(epochs=12, lr=1.0, schedule="cosine", warmup_epochs=2, final_lr=0.2)
    # Half-way through warm-up; at the peak; half-way down; at the end.
    assert [cosine.lr_at(e) for e in (1, 2, 7, 12)] == pytest.approx([0.5, 1.0, 0.6, 0.2])
    assert RecipeSpec(schedule="constant", lr=0.3).lr_at(77) == 0.3


# How the code calls an instance of each part; `self` counts in the part's own methods.
RECEIVERS = {
    ModelSpec: {"model", "spec", "model_spec", "self"},
    XbnSpec: {"norm", "self"},
    BatchFreeSpec: {"norm", "self"},
    VariantSpec: {"norm", "self"},
    DataSpec: {"data", "data_spec"},
    BatchSpec: {"batch", "self"},
    RecipeSpec: {"recipe", "self"},
    MeasureSpec: {"measure", "self"},
    SystemSpec: {"system"},
    Run: {"run", "self", "one", "base"},
}


def test_every_config_field_is_read_somewhere() -> None:
    """A field counts as read where it is taken from a part by name, validators left aside."""
    read: set[tuple[str, str]] = set()
    for path in (p for room in ("suite", "jobs", "reports") for p in (ROOT / room).rglob("*.py")):
        for node in _outside_validators(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name | ast.Attribute):
                receiver = node.value.id if isinstance(node.value, ast.Name) else node.value.attr
                read.add((receiver, node.attr))
    unread = [
        f"{spec.__name__}.{name}"
        for spec, receivers in RECEIVERS.items()
        for name in spec.model_fields
        if not any((receiver, name) in read for receiver in receivers)
    ]
    assert not unread


def _outside_validators(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.FunctionDef) and any("validator" in ast.dump(d) for d in node.decorator_list):
        return
    yield node
    for child in ast.iter_child_nodes(node):
        yield from _outside_validators(child)


def test_without_batch_norm_the_norm_batch_size_decides_nothing(config: Path) -> None:
    swept = load_experiment(config, ["model.norm=[{kind: bn}, {kind: gn}]", "seeds=[0]"]).runs
    assert [(run.model.norm.label, run.batch.norm) for run in swept] == [("BN", 4), ("BN", 64), ("GN8", 64)]


def run_with(config: Path, norm: str, *others: str) -> Run:
    return load_experiment(
        config, [f"model.norm={norm}", "seeds=[0]", "batch.norm_batch_size=4", *others]
    ).runs[0]


def test_variants_of_bn_are_labelled_and_hashed_by_their_own_options(config: Path) -> None:
    run = run_with(config, "mabn")
    assert run.run_id == run_with(config, "{kind: mabn, window: 16}").run_id
    assert run.run_id != run_with(config, "{kind: mabn, window: 8}").run_id
    assert Run.model_validate(run.model_dump(mode="json")) == run
    found = ("mabn", "{kind: mabn, window: 8}", "bcbn", "brn", "{kind: brn, relax_batches: [0, 90, 60]}")
    labels = [run_with(config, one).model.norm.label for one in found]
    assert labels == ["MABN", "MABN-8", "BCBN", "BRN", "BRN-0-90-60"]
    # Recorded once, as the golden run ids are.
    assert [run_with(config, one).run_id for one in ("brn", "mabn", "bcbn")] == [
        "8dbd71d819bc",
        "ddb354a96567",
        "dc41e8fbf5ac",
    ]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("{kind: bcbn, window: 8}", "model.norm.window: has no meaning for bcbn; remove it"),
        ("{kind: brn, relax_batches: [9, 5, 10]}", "relax_batches: expected the start and then two ends"),
        ("{kind: brn, relax_batches: [1, 2]}", "model.norm.relax_batches"),
        ("{kind: mabn, window: 0}", "model.norm.window: expected a whole number ≥ 1"),
        (
            "frm",
            "model.norm.kind: unknown kind 'frm'; valid: bn, xbn, gn, ln, in, gw, frn, evonorm, dyt, brn",
        ),
    ],
)
def test_variants_of_bn_refuse_in_one_sentence(config: Path, override: str, words: str) -> None:
    with pytest.raises(UserError) as refusal:
        run_with(config, override)
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_variants_of_bn_and_ranks(config: Path) -> None:
    """None has statistics over several ranks. One that trains with its estimates is trained on one rank."""
    across = "batch={global_batch_size: 64, batch_size_per_gpu: 8, norm_batch_size: 16}"
    with pytest.raises(
        UserError, match=r"norm_batch_size is 16, but the statistics of bcbn cannot span several"
    ):
        run_with(config, "bcbn", across)
    small = "batch={global_batch_size: 64, batch_size_per_gpu: 8}"
    check_batches([run_with(config, kind, small) for kind in ("bn", "bcbn")], 2)
    for kind in ("brn", "mabn"):
        check_batches([run_with(config, kind, small)], 1)
        with pytest.raises(
            UserError, match=f"model.norm: {kind} reads its estimates in training, .* not on 2"
        ):
            check_batches([run_with(config, kind, small)], 2)
