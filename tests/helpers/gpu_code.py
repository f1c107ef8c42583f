"""Machine code of the kernels for GPUs that are not here, and what it reads, writes and keeps."""

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from typing import Any

import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from suite.kernels.launch import OPTIONS, Launch

ARCHS = (80, 90, 100)
SHARED_BYTES = 48 * 1024  # what every GPU gives a program without being asked
_ACCESS = re.compile(r"\b(ld|st)(?:\.\w+)*?\.global(?:\.\w+(?:::\w+)?)*?(?:\.v(\d))?\.[bufs](\d+)\b")
_ATOMIC = re.compile(r"\b(?:atom|red)\.\S+")


@dataclass(frozen=True)
class Code:
    """`in_loop`: how many loads ("ld") and stores ("st") of how many bytes a thread does in each tile.

    `atomics`: operations on memory whose order is not fixed, so that sums may differ from call to call.
    """

    in_loop: Counter[tuple[str, int]]
    shared_bytes: int
    spilled_bytes: int
    atomics: list[str]

    @property
    def bytes_in_loop(self) -> int:
        """How many bytes a thread reads and writes in each tile."""
        return sum(size * count for (_, size), count in self.in_loop.items())


_known: dict[tuple[Any, ...], Code] = {}


def compiled(launch: Launch, arch: int) -> Code:
    """Compile what a launch would run, as Triton does for tensors that begin at multiples of 16 bytes.

    Launches that differ in nothing that Triton compiles, such as those of BN and IN, are compiled once.
    """
    signature: dict[str, str] = {}
    constants: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], Any] = {}
    for place, name in enumerate(launch.kernel.arg_names):
        value = launch.arguments.get(name, launch.constants.get(name))
        if isinstance(value, Tensor):
            signature[name] = triton.runtime.jit.mangle_type(value)
            attributes[(place,)] = [["tt.divisibility", 16]]
        elif name in launch.constants or value is None:
            signature[name], constants[(place,)] = "constexpr", value
        else:
            signature[name] = "i32"
    key = (launch.name, tuple(signature.items()), tuple(constants.items()), arch)
    if key not in _known:
        source = ASTSource(launch.kernel, signature, constants, attributes)
        kernel = triton.compile(source, GPUTarget("cuda", arch, 32), OPTIONS)
        ptx, spilled_bytes = kernel.asm["ptx"], _spilled_bytes(kernel.asm["cubin"])
        in_loop, atomics = _accesses(_loop(ptx)), _ATOMIC.findall(ptx)
        _known[key] = Code(in_loop, kernel.metadata.shared, spilled_bytes, atomics)
    return _known[key]


def _accesses(text: str) -> Counter[tuple[str, int]]:
    return Counter((kind, int(lanes or 1) * int(bits) // 8) for kind, lanes, bits in _ACCESS.findall(text))


def _loop(ptx: str) -> str:
    """Return the code between a label and the last jump back to it: the loop over tiles."""
    lines = ptx.splitlines()
    labels = {line.split(":")[0].strip(): at for at, line in enumerate(lines) if line.startswith("$L")}
    spans = []
    for at, line in enumerate(lines):
        jump = re.search(r"\bbra(?:\.uni)?\s+(\$L\w+)", line)
        if jump is not None and labels[jump[1]] < at:
            spans.append((labels[jump[1]], at))
    first, last = max(spans, key=lambda span: span[1] - span[0])
    return "\n".join(lines[first:last])


def _spilled_bytes(cubin: bytes) -> int:
    """Return a thread's bytes of local memory, to which registers are spilled."""
    tool = triton.knobs.nvidia.cuobjdump.path
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run([tool, "-res-usage", file.name], capture_output=True, check=True)
    text = done.stdout.decode()
    stack, local = re.search(r"STACK:(\d+)", text), re.search(r"LOCAL:(\d+)", text)
    assert stack is not None, text
    assert local is not None, text
    return int(stack[1]) + int(local[1])
