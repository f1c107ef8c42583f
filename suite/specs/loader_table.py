"""The loaders by name.

To add one, add an entry and a module in `suite.data` with a class that satisfies
`suite.data.loader.Loader`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

FOLDER_INDEX = "suite.data.sources:folder_index"


@dataclass(frozen=True)
class LoaderEntry:
    """A loader.

    `loader`: "module:class", called with (share, data, device=...) and `options`: keyword arguments of the
    class, each with the name of the setting that it takes (data_threads, timeout_s, dali, num_channels or
    channels_last). `boxes`: the class for images with boxes, called with (share, resize, device=...) and the
    options whose settings detection has, which are the first three; empty: the loader is for classification
    only. `index`: "module:function" that lists a split's images,
    called with (data, split). `crops`: whether it crops and mirrors; otherwise a config that asks for it is
    refused. `threads`: what `system.data_threads` counts. `shares_memory`: whether that many processes give
    their batches through shared memory. `install`: what to do if the module cannot be imported.
    """

    loader: str
    meaning: str
    boxes: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    index: str = FOLDER_INDEX
    crops: bool = True
    threads: str = ""
    shares_memory: bool = False
    install: str = "pip install 'shiftbench[train]'"

    @property
    def lists_files(self) -> bool:
        """Whether a split's images are listed by folder, unless they are in a pack."""
        return self.index == FOLDER_INDEX


LOADERS = {
    "dali": LoaderEntry(
        "suite.data.dali:DaliLoader",
        "NVIDIA DALI decodes and crops, on the CPU or the GPU",
        options={"num_threads": "data_threads", "settings": "dali", "channels_last": "channels_last"},
        boxes="suite.detection.dali:DetectionDaliLoader",
        threads="decoder threads",
        install="pip install 'shiftbench[dali]', or set data.loader=auto, which takes torchvision without it",
    ),
    "auto": LoaderEntry(
        "suite.data.auto:auto_loader",
        "dali where it is installed and the GPU is not AMD's, else torchvision; the record says which",
        options={name: name for name in ("data_threads", "timeout_s", "dali", "channels_last")},
        boxes="suite.data.auto:auto_boxes",
    ),
    "torchvision": LoaderEntry(
        "suite.data.vision:VisionLoader",
        "torchvision decodes and crops, in worker processes on the CPU",
        options={"num_workers": "data_threads", "timeout_s": "timeout_s"},
        boxes="suite.detection.vision:DetectionVisionLoader",
        threads="worker processes",
        shares_memory=True,
    ),
    "memory": LoaderEntry(
        "suite.data.memory:MemoryLoader",
        "IDX files, held in memory and given as they are",
        options={"num_channels": "num_channels"},
        index="suite.data.sources:idx_index",
        crops=False,
    ),
}

INTERPOLATIONS = {"bilinear": "INTERP_LINEAR", "bicubic": "INTERP_CUBIC"}
"""How images are resized, without aliasing: torch's and torchvision's names, with DALI's constants."""
