"""What Ray imports and pickles for a study: only what a study uses, whatever else is installed."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from ray import cloudpickle

from jobs.cluster.clusters import LocalCluster
from jobs.tune.runners import TrialContext
from jobs.tune.trial import run_of, trial_of
from suite.studies.study import Study, load_study
from tests.helpers.study_files import write

LOOKING = """
import sys
from jobs.tune.engine import import_ray
import_ray()
import jobs.tune.driver
from ray.air._internal.usage import _count_callbacks  # called by Tune for every study
_count_callbacks([])
print(sorted({"torch", "mlflow", "wandb"} & sys.modules.keys()))  # None would forbid to import them later
"""


def test_a_study_imports_neither_torch_nor_loggers() -> None:
    done = subprocess.run([sys.executable, "-c", LOOKING], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


def test_a_trials_class_does_not_grow_with_the_study(tmp_path: Path) -> None:
    """Tune reads its pickle twice for each trial."""

    def pickle_of(study: Study) -> bytes:
        context = TrialContext(study, tmp_path, LocalCluster(name="local"), 1, None, "token")
        return cloudpickle.dumps(trial_of(context))

    study = load_study(write(tmp_path, seeds=list(range(8))))
    small = pickle_of(study)
    points = study.points * 100
    assert len(pickle_of(replace(study, points=points, samples=study.samples * 100))) == len(small)
    trial = cloudpickle.loads(small)
    for point in study.points:
        for run in point.runs:
            assert run_of(trial.context.study, {"point": dict(point.values), "seed": run.seed}) == run
