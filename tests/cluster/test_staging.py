"""Imported tars on the real cluster: each node stages their pack, and the run ends as on the folder."""

import pytest

from suite.data.importing import Labels, find_images
from suite.data.pack_writer import write_pack
from suite.data.sources import prepare
from suite.data.staging import copies_folder
from tests.helpers import imagenet_forms
from tests.helpers.bit_equal import assert_bit_equal, final_state, measured
from tests.helpers.cells import QUICK, Cells

pytestmark = pytest.mark.timeout(900)


def test_a_run_over_two_nodes_on_imported_and_staged_tars_ends_as_on_the_folder(
    training_cells: Cells,
) -> None:
    """The test cluster's nodes share a disk: the one that comes first copies, and the other waits for it."""
    staged = training_cells
    loose = Cells(staged.folder / "loose", trains=True)
    source = prepare("fashion-mnist-7k")
    tars = staged.folder / "tars"
    tars.mkdir()
    imagenet_forms.both_tars(source, tars)
    imagenet_forms.synsets_of_val(source, tars)
    found = find_images(tars, Labels(), 10)
    pack = write_pack(found.sources, found.classes, staged.folder / "pack", images_per_file=600).folder
    disk = staged.folder / "disk"
    for cells, options in (
        (staged, (f"data.path={pack}", "data.stage=$NODE_DISK")),
        (loose, (f"data.path={source}",)),
    ):
        cells.describe(nodes=2, ntasks_per_node=1, environment={"NODE_DISK": str(disk)})
        cells.submit(*QUICK, *options)
    for cells in (staged, loose):
        cells.wait_for_state("completed")
    assert staged.run.run_id == loose.run.run_id
    folders = [cells.paths().folder for cells in (staged, loose)]
    assert_bit_equal(*(final_state(folder) for folder in folders))
    assert measured(folders[0]) == measured(folders[1])
    (copy,) = (path for path in copies_folder(disk).iterdir() if path.is_dir())
    assert sorted(path.name for path in copy.glob("*.data")) == sorted(
        path.name for path in pack.glob("*.data")
    )
    assert f"data.stage: copying {pack}" in staged.logs()
