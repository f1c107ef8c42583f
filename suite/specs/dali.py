"""How DALI decodes: what changes its speed and memory, and no pixel by more than rounding."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from suite.specs.base import Spec
from suite.specs.choice import described

PREFETCHED_BATCHES = 2


@dataclass(frozen=True)
class DaliOutput:
    """In which form images leave DALI. `is_normalised`: as float32 NCHW; else they are bytes, NHWC."""

    meaning: str
    is_normalised: bool


OUTPUTS = {
    "float32": DaliOutput("DALI normalises", is_normalised=True),
    "uint8": DaliOutput(
        "DALI gives bytes, a quarter of the memory, and torch normalises on the device in one operation",
        is_normalised=False,
    ),
}
if TYPE_CHECKING:
    OutputName = str
else:
    OutputName = Literal[tuple(OUTPUTS)]


class DaliSpec(Spec):
    """How the loader dali uses its machine. The defaults for GPUs are those of NVIDIA's MLPerf ResNet-50."""

    prefetch_queue_depth: int | None = Field(
        None,
        ge=1,
        description=f"batches that are decoded ahead; null: 5 on a GPU, {PREFETCHED_BATCHES} on a CPU",
    )
    output: OutputName | None = Field(
        None,
        description=f"how images in classes leave DALI: {described(OUTPUTS)}; the two differ by float32 "
        "rounding; null: uint8 on a GPU, float32 on a CPU",
    )
    hardware_decoder_load: float = Field(
        0.7,
        ge=0,
        le=1,
        description="on GPUs with a JPEG decoder of their own: share of the images that it may take",
    )
    device_memory_padding_mib: int = Field(
        256,
        ge=0,
        description="GPU memory that each decoder thread of each pipeline (training, evaluation) reserves "
        "for large images",
    )
    host_memory_padding_mib: int = Field(
        256, ge=0, description="pinned host memory that each decoder thread reserves twice, for a GPU"
    )
    preallocate_width: int = Field(
        5980, ge=0, description="widest image for which the hardware decoder reserves memory, pixels"
    )
    preallocate_height: int = Field(6430, ge=0, description="highest such image, pixels")

    def prefetched_batches(self, device_type: str) -> int:
        """Return how many batches are decoded ahead."""
        return self.prefetch_queue_depth or (5 if device_type == "cuda" else PREFETCHED_BATCHES)

    def output_on(self, device_type: str) -> DaliOutput:
        """Return in which form images leave DALI."""
        return OUTPUTS[self.output or ("uint8" if device_type == "cuda" else "float32")]
