"""Every closed choice is one table: an added entry is accepted, listed and built, or loudly refused."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from suite.architectures import ARCHITECTURES, FILE
from suite.data import folder_loader
from suite.data.sources import prepare
from suite.experiment import DataSpec, RecipeSpec
from suite.metrics import AVERAGES, PROBED, AverageEntry, metrics_of_average
from suite.models import build_model
from suite.models.batch_free import NORM_MODULES, Norm, batch_free_norm
from suite.models.norms.variant import BatchNormVariant
from suite.shift.probe import LayerShift
from suite.specs.choice import resolve
from suite.specs.loader_table import LOADERS
from suite.specs.norm import VariantSpec, norm_spec
from suite.specs.norm_table import BATCH_FREE_NORMS, BATCH_NORM_VARIANTS, BatchFreeNormEntry
from suite.specs.process import LOGGERS
from suite.specs.recipe import PRECISIONS, SCHEDULES, Precision
from suite.specs.source_table import SOURCES, Source
from suite.studies.study import Study, load
from suite.train.averages import KINDS, WeightAverages
from suite.train.optim import autocast, build_optimizer
from tests.helpers.generate_architectures import generate
from tests.helpers.specs import spec

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")

# Adds an entry to every table before the specs are imported, then looks at all that follows from them.
ADD_AND_LOOK = """
import json, sys
from dataclasses import replace
import suite.architectures as architectures
from suite.specs import loader_table, norm_table, source_table

gn = norm_table.BATCH_FREE_NORMS["gn"]
norm_table.BATCH_FREE_NORMS["xx"] = replace(gn, label="XX", meaning="made-up norm")
norm_table.GROUPED.append("xx")
bcbn = norm_table.BATCH_NORM_VARIANTS["bcbn"]
norm_table.BATCH_NORM_VARIANTS["yy"] = replace(bcbn, label="YY", meaning="made-up variant")
subset = source_table.SOURCES["fashion-mnist-7k"]
source_table.SOURCES["made-up-images"] = replace(subset, num_classes=10, licence="CC0")
source_table.PREPARABLE.append("made-up-images")
torchvision = loader_table.LOADERS["torchvision"]
made_up = replace(torchvision, meaning="made-up loading", threads="made-up threads")
loader_table.LOADERS["made-up-loader"] = made_up
small = architectures.ARCHITECTURES["small_resnet11"]
family = replace(small.family, groups={"small_resnet38": (4, 4)})
architectures.ARCHITECTURES["small_resnet38"] = replace(small, name="small_resnet38", family=family)

from suite.experiment import Run
run = Run.model_validate({
    "experiment": "added",
    "model": {"arch": "small_resnet38", "norm": {"kind": "xbn", "bfn": "xx"}},
    "data": {"name": "made-up-images", "loader": "made-up-loader", "image_size": 28},
    "batch": {"global_batch_size": 8}, "recipe": {},
})
variant = run.model_copy(update={"model": type(run.model)(arch="small_resnet38", norm="yy", num_classes=10)})
from rich.console import Console
from jobs.commands.schema import print_schema
from jobs.commands import data
console = Console(width=400, record=True, file=sys.stderr)
print_schema(console, None)
import torch
from suite.data import train_loader
from suite.models import build_model
with torch.device("meta"):
    norms, variants = (
        {type(m).__name__ for m in build_model(one.model).modules() if "Norm" in type(m).__name__}
        for one in (run, variant)
    )
loader = train_loader(run, start_step=0, rank=0, world_size=1, device=torch.device("cpu"))
print(json.dumps({
    "label": run.label, "schema": json.dumps(Run.model_json_schema()), "table": console.export_text(),
    "help": data._NAMES, "norms": sorted(norms), "variant": [variant.label, *variants],
    "loader": type(loader._loader).__name__,
    "batch": list(next(iter(loader)).images_NCHW.shape),
}))
"""


def test_added_entries_are_accepted_listed_and_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHIFTBENCH_DATA_DIR", str(tmp_path))
    command = [sys.executable, "-c", ADD_AND_LOOK]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["label"] == "small_resnet38 XBN-P2-XX4 nb8 seed 0"
    for text in (
        "made-up norm",
        "made-up variant",
        "made-up-images",
        "made-up loading",
        "made-up threads",
        "small_resnet38",
    ):
        assert text in found["schema"], text
        assert text in found["table"], text
    assert "model.norm (gn, ln, in, gw, frn, evonorm, dyt, xx)" in found["table"]
    assert "model.norm (brn, mabn, bcbn, yy)" in found["table"]
    assert '"xx"' in found["schema"]
    assert '"made-up-loader"' in found["schema"]
    assert "made-up-images (licence: CC0)" in found["help"]
    assert found["norms"] == ["BatchNorm2d", "GroupNorm"]
    assert found["variant"] == ["small_resnet38 YY nb8 seed 0", "BiasCorrectedBatchNorm"]
    assert (found["loader"], found["batch"]) == ("VisionLoader", [8, 3, 28, 28])


def test_every_reference_of_every_table_leads_somewhere() -> None:
    references = [e.constructor for e in (*BATCH_FREE_NORMS.values(), *BATCH_NORM_VARIANTS.values())]
    references += [one for source in SOURCES.values() for one in (source.files, source.idx, source.generator)]
    references += [one for entry in LOADERS.values() for one in (entry.loader, entry.index, entry.boxes)]
    references += [entry.logger for entry in LOGGERS.values()]
    references += [architecture.family.builder for architecture in ARCHITECTURES.values()]
    assert all(callable(resolve(reference)) for reference in references if reference)


@pytest.mark.parametrize("kind", BATCH_NORM_VARIANTS)
def test_every_option_of_a_variant_is_a_field_and_reaches_it(kind: str) -> None:
    entry = BATCH_NORM_VARIANTS[kind]
    assert entry.options.keys() <= VariantSpec.model_fields.keys() - {"kind"}
    assert norm_spec(kind).options == entry.options
    made = resolve(entry.constructor)(4, eps=1e-5, momentum=0.1, affine=True, **entry.options)
    assert isinstance(made, BatchNormVariant)
    assert {name: getattr(made, name) for name in entry.options} == entry.options
    assert made.centres is not entry.centres_weights


class MatrixNorm(Norm):
    """A made-up norm whose parameter has two axes."""

    def __init__(self, num_channels: int, affine: bool = True) -> None:
        super().__init__()
        self.mixing = nn.Parameter(torch.eye(num_channels))
        self.scale = nn.Parameter(torch.ones(num_channels))


class NotANorm(nn.Module):
    """What forgets to derive from `Norm`."""

    def __init__(self, num_channels: int, affine: bool = True) -> None:
        super().__init__()


def _entry(made: type[nn.Module]) -> BatchFreeNormEntry:
    constructor = f"{made.__module__}:{made.__name__}"
    return BatchFreeNormEntry(label="XX", meaning="made up", constructor=constructor, takes_groups=False)


def test_an_added_norm_never_decays_as_a_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, __name__, sys.modules[MatrixNorm.__module__])
    monkeypatch.setitem(BATCH_FREE_NORMS, "xx", _entry(MatrixNorm))
    norm = batch_free_norm("xx", 4, None)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), norm)
    layers, others = build_optimizer(model, RecipeSpec()).param_groups
    assert [id(p) for p in layers["params"]] == [id(model[0].weight)]
    assert {id(p) for p in others["params"]} == {id(norm.mixing), id(norm.scale), id(model[0].bias)}
    monkeypatch.setitem(BATCH_FREE_NORMS, "xx", _entry(NotANorm))
    with pytest.raises(TypeError, match=r"NotANorm.*derive it from suite\.models\.batch_free\.Norm"):
        batch_free_norm("xx", 4, None)
    with pytest.raises(KeyError):
        batch_free_norm("yy", 4, None)


@pytest.mark.parametrize(
    "arch", ["resnet50", "mobilenet_v2", "shufflenet_v2_x1_0", "small_resnet11", "mlp10"]
)
def test_optimizer_groups_are_those_of_norms_and_biases_in_the_order_of_the_model(arch: str) -> None:
    """The order decides which state of a checkpoint belongs to which parameter."""
    with torch.device("meta"):
        model = build_model(spec(arch, kind="xbn", bfn="gw"))
    named = [
        (isinstance(m, NORM_MODULES) or name == "bias", id(p))
        for m in model.modules()
        for name, p in m.named_parameters(recurse=False)
    ]
    groups = build_optimizer(model, RecipeSpec()).param_groups
    for group, is_other in zip(groups, (False, True), strict=True):
        assert [id(p) for p in group["params"]] == [i for other, i in named if other is is_other]


def test_an_added_source_is_prepared_by_its_own_function_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="either `files` or `not_prepared`"):
        Source(num_classes=100, licence="MIT")
    monkeypatch.setitem(SOURCES, "xx", Source(num_classes=100, licence="MIT", files="suite.data.sources:xx"))
    with pytest.raises(AttributeError, match="'xx'"):
        prepare("xx", tmp_path)


def test_an_added_loader_is_used_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def first_batch() -> object:
        return folder_loader(data, "val", images_per_batch=8, device=CPU)

    data = DataSpec().model_copy(update={"loader": "xx"})
    with pytest.raises(KeyError, match="xx"):
        first_batch()
    entry = replace(LOADERS["torchvision"], loader="suite.data.vision:XxLoader")
    monkeypatch.setitem(LOADERS, "xx", entry)
    with pytest.raises(AttributeError, match="XxLoader"):
        first_batch()
    monkeypatch.setitem(LOADERS, "xx", replace(LOADERS["torchvision"], options={"num_workers": "xx_threads"}))
    with pytest.raises(KeyError, match="xx_threads"):
        first_batch()


def test_an_added_schedule_or_precision_is_used_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = RecipeSpec().model_copy(update={"schedule": "xx"})
    with pytest.raises(KeyError, match="xx"):
        recipe.lr_at(1)
    monkeypatch.setitem(SCHEDULES, "xx", replace(SCHEDULES["step"], lr=lambda recipe, epoch: 7 * epoch))
    assert recipe.lr_at(2) == 14
    with pytest.raises(KeyError, match="xx"):
        autocast(CPU, "xx")
    monkeypatch.setitem(PRECISIONS, "xx", Precision("made up", "float16"))
    with autocast(CPU, "xx"):
        assert torch.get_autocast_dtype("cpu") is torch.float16


def test_an_added_average_is_kept_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    made_up = AverageEntry("XX", "made-up average", "made-up statistics")
    assert any(made_up.meaning in metric.formula for metric in metrics_of_average("xx", made_up))
    monkeypatch.setitem(AVERAGES, "xx", made_up)
    with pytest.raises(KeyError, match="xx"):
        WeightAverages(nn.Linear(2, 2), RecipeSpec(), 1, lambda network: network)
    monkeypatch.setitem(KINDS, "xx", KINDS["swa"])
    kept = WeightAverages(nn.Linear(2, 2), RecipeSpec(epochs=1, swa={"start": 0}), 1, lambda network: network)
    kept.update(nn.Linear(2, 2), 1)
    assert list(kept.networks) == ["swa", "xx"]


def test_every_probed_metric_is_measured() -> None:
    assert set(PROBED) <= set(LayerShift.__dataclass_fields__)


def test_the_file_of_architectures_is_what_the_networks_have() -> None:
    assert FILE.read_text() == generate(), "run `make architectures`"


RUN_IDS = json.loads((ROOT / "tests" / "golden" / "run_ids.json").read_text())


def test_every_shipped_config_has_its_golden_run_ids() -> None:
    shipped = [
        *(ROOT / "configs" / "experiments").rglob("*.yaml"),
        *(ROOT / "configs" / "studies").glob("*.yaml"),
    ]
    assert {str(path.relative_to(ROOT / "configs")) for path in shipped} == set(RUN_IDS)


@pytest.mark.parametrize("config", RUN_IDS)
def test_run_ids_never_change(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recorded once. With other ids, finished runs are no longer found."""
    for name in ("IMAGENET", "COCO", "BACKBONES"):
        monkeypatch.setenv(name, f"/data/{name.lower()}")
    found = load(ROOT / "configs" / config, [])
    runs = found.samples if isinstance(found, Study) else found.runs
    assert [run.run_id for run in runs] == RUN_IDS[config].split()
