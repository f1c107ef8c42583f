"""The options with which `shiftbench probe` and `diagnose` name a network, its weights and its data."""

from enum import StrEnum

from typer import Option


class Weights(StrEnum):
    """Which weights of a checkpoint that keeps averages of them too."""

    RAW = "raw"
    EMA = "ema"
    SWA = "swa"


class Split(StrEnum):
    """The two folders of a data set."""

    TRAIN = "train"
    VAL = "val"


CHECKPOINT = Option(help="A state dict, or a checkpoint of a run, whose network and data are the defaults.")
SOUP = Option(help="Average these checkpoints' weights and estimates with --checkpoint's; may be repeated.")
ALPHA = Option(min=0, max=1, help="With one --soup: (1 − α) of --checkpoint and α of it; default: the mean.")
WEIGHTS = Option(help="Of a checkpoint with several: raw weights, or an average; default: ema, else raw.")
MODEL = Option(help="Any network: torchvision:NAME, timm:NAME, or module:function, also from this folder.")
ARCH = Option(help="An architecture of the suite; without a checkpoint it has its initial weights.")
NORM = Option(help="Norms as YAML, such as '{kind: xbn, position: p2}'; default: BN.")
DATA = Option(help="A known data set, or a folder that holds train/ and val/; default: the run's.")
IMAGE_SIZE = Option(help="Side of the network's input, pixels; default: the run's, the network's, or 224.")
MEAN = Option(help="Channel means of the network's input; default: the network's own, else ImageNet's.")
STD = Option(help="Channel standard deviations of the network's input; default: as for --mean.")
NUM_CLASSES = Option(min=1, help="Outputs of the network; default: the classes of the data.")
AS_JSON = Option("--json", help="Print the results as JSON.")
