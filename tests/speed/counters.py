"""CPU seconds and instructions of this process; instructions where the kernel and the processor let a program count them."""

import ctypes
import os
import platform
import struct
import time

_SYSCALLS = {"x86_64": 298, "aarch64": 241}  # perf_event_open
_HARDWARE, _INSTRUCTIONS = 0, 1  # PERF_TYPE_HARDWARE, PERF_COUNT_HW_INSTRUCTIONS
_SIZE = 64  # PERF_ATTR_SIZE_VER0: the first version of perf_event_attr, which every kernel knows
_INHERIT, _EXCLUDE_KERNEL, _EXCLUDE_HYPERVISOR = 1 << 1, 1 << 5, 1 << 6  # its flags


class Counters:
    """Read CPU seconds and, if possible, instructions in user mode; threads that start later are counted too.

    Attributes:
        has_instructions: whether instructions are counted; otherwise they are read as 0.
        explanation: a sentence that says whether, and if not, why.
    """

    def __init__(self, kind: int = _HARDWARE, event: int = _INSTRUCTIONS) -> None:
        """Open the counter of an event, by default of instructions, as perf_event_open(2) numbers them."""
        attributes = struct.pack(
            "=IIQQQQQ", kind, _SIZE, event, 0, 0, 0, _INHERIT | _EXCLUDE_KERNEL | _EXCLUDE_HYPERVISOR
        )
        self._file = -1
        why = f"perf_event_open is not known on {platform.system()} {platform.machine()}"
        if platform.system() == "Linux" and platform.machine() in _SYSCALLS:
            libc = ctypes.CDLL(None, use_errno=True)
            buffer = ctypes.create_string_buffer(attributes, _SIZE)
            self._file = libc.syscall(_SYSCALLS[platform.machine()], buffer, 0, -1, -1, 0)
            why = f"perf_event_open: {os.strerror(ctypes.get_errno())}"
        self.has_instructions = self._file >= 0
        counted = "Instructions are counted in user mode."
        self.explanation = counted if self.has_instructions else f"Instructions cannot be counted here ({why})."

    def read(self) -> tuple[float, float]:
        """Return the CPU seconds of the process, and the number of its instructions so far."""
        instructions = int.from_bytes(os.read(self._file, 8), "little") if self.has_instructions else 0
        return time.process_time(), instructions
