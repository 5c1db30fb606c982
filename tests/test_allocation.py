"""Memory that is freed and taken again: that a process of neroli's own keeps it."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import torch
from neroli.allocation import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16 * 2**20).sum()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(min(faults() for _ in range(16)))  # the first have no block yet that is free and large enough
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel about pages")
def test_a_large_block_that_is_freed_is_given_again_without_new_pages() -> None:
    def faults(how: str) -> int:
        command = [sys.executable, "-c", PROGRAM, how]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    pages = 64 * 2**20 / 4096
    assert faults("kept") < 0.01 * pages
    assert faults("as usual") > 0.9 * pages
