"""The most multiply-accumulates a second that one core of this machine can do, in float and in INT8.

python tools/studies/benchmark_peak.py

Times loops of independent multiply-accumulate instructions that read registers only, for each instruction set that the
processor has: a bound for every kernel of every engine. Needs a C compiler (`CC`, or `cc`) and an x86 processor.
"""

import argparse
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import _tools  # noqa: F401

from frostnet_mm.benchmark.measure.machine import choose_cpus, describe_line, describe_machine, pin
from frostnet_mm.cli import run_tool
from frostnet_mm.errors import UserError

ACCUMULATORS = 12  # more than latency (4 to 5 cycles) times instructions a cycle (2) of any of these processors


@dataclass(frozen=True)
class Instruction:
    """A multiply-accumulate instruction, or the sequence that does what one does elsewhere.

    Args:
        precision (str): 'float' or 'INT8', and what is special about it.
        flag (str): The processor's flag that stands for it in Linux.
        code (str): Assembly lines that add to register ``{i}``; 14 and 15 are the factors, 13 is free.
        register (str): Kind of the registers, ``xmm``, ``ymm`` or ``zmm``.
        macs (int): Multiply-accumulates of all lines.
    """

    precision: str
    flag: str
    code: str
    register: str
    macs: int


INSTRUCTIONS = (
    Instruction('float', 'avx2', 'vfmadd231ps {r}14,{r}15,{r}{i}', 'ymm', 8),
    Instruction('float', 'avx512f', 'vfmadd231ps {r}14,{r}15,{r}{i}', 'zmm', 16),
    Instruction('INT8, exact', 'avx2', 'vpmaddwd {r}14,{r}15,{r}13; vpaddd {r}13,{r}{i},{r}{i}', 'ymm', 16),
    Instruction(
        'INT8, 16 bit sums',
        'avx2',
        'vpmaddubsw {r}14,{r}15,{r}13; vpmaddwd {r}13,{r}15,{r}13; vpaddd {r}13,{r}{i},{r}{i}',
        'ymm',
        32,
    ),
    # %{ and %}: GCC takes plain braces for the alternatives of several assembler dialects
    Instruction('INT8', 'avx_vnni', '%{{vex%}} vpdpbusd {r}14,{r}15,{r}{i}', 'ymm', 32),
    Instruction('INT8', 'avx512_vnni', 'vpdpbusd {r}14,{r}15,{r}{i}', 'zmm', 64),
)
SOURCE = """
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
static double seconds(void) {{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}}
int main(int count, char **words) {{
    long rounds = atol(words[1]), loops = atol(words[2]);
    __asm__ volatile("vpxor %%ymm14,%%ymm14,%%ymm14\\n vpxor %%ymm15,%%ymm15,%%ymm15\\n" ::: "xmm14", "xmm15");
    for (long round = 0; round < rounds; round++) {{
        double begin = seconds();
        for (long loop = 0; loop < loops; loop++) __asm__ volatile({body} ::: {clobbers});
        printf("%.9f\\n", seconds() - begin);
    }}
    return 0;
}}
"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='The most multiply-accumulates a second of one core.')
    parser.add_argument('--rounds', type=int, default=15, help='the median and the fastest are printed; default 15')
    parser.add_argument('--loops', type=int, default=4_000_000, help=f'of {ACCUMULATORS} instructions a round')
    return parser.parse_args()


def write_source(instruction: Instruction) -> str:
    """C code that prints the seconds of each round."""
    kind = f'%%{instruction.register}'
    lines = (f'"{instruction.code.format(r=kind, i=index)}\\n"' for index in range(ACCUMULATORS))
    clobbers = ', '.join(f'"xmm{index}"' for index in (*range(ACCUMULATORS), 13))
    return SOURCE.format(body=' '.join(lines), clobbers=clobbers)


def compile_loop(instruction: Instruction, compiler: str, folder: Path) -> Path:
    """Compile the loop of an instruction, which this processor need not have; return the program."""
    source, program = folder / 'peak.c', folder / 'peak'
    source.write_text(write_source(instruction))
    built = subprocess.run([compiler, '-O2', str(source), '-o', str(program)], capture_output=True, text=True)
    if built.returncode:
        raise UserError(
            f"{compiler} cannot compile '{instruction.code}' ({instruction.flag}): {built.stderr.strip()[:500]} "
            'A newer compiler or assembler may know it: name it in CC.'
        )
    return program


def measure(instruction: Instruction, compiler: str, rounds: int, loops: int) -> list[float]:
    """Compile and run the loop; return GMAC/s by round."""
    with tempfile.TemporaryDirectory() as folder:
        program = compile_loop(instruction, compiler, Path(folder))
        times = subprocess.run([program, str(rounds), str(loops)], capture_output=True, text=True, check=True).stdout
    return [loops * ACCUMULATORS * instruction.macs / float(line) / 1e9 for line in times.split()]


def find_compiler() -> str:
    """The C compiler of the environment."""
    name = os.environ.get('CC') or 'cc'
    if shutil.which(name) is None:
        raise UserError(f"There is no C compiler '{name}'; install one (apt-get install gcc) or name it in CC.")
    return name


def main() -> None:
    args = parse_args()
    machine = describe_machine()
    known = [instruction for instruction in INSTRUCTIONS if instruction.flag in machine['flags']]
    if not known:
        flags = ', '.join(dict.fromkeys(instruction.flag for instruction in INSTRUCTIONS))
        raise UserError(f'This processor has none of {flags} ({describe_line(machine)}); no other can be measured.')
    compiler = find_compiler()
    print(describe_line(machine), flush=True)
    pin(choose_cpus(1))
    print('\n| precision | instruction | GMAC/s, median | fastest |\n|---|---|---:|---:|')
    for instruction in known:
        found = measure(instruction, compiler, args.rounds, args.loops)
        words = instruction.code.format(r='', i='').replace('%{vex%} ', '').split('; ')
        name = f'{" + ".join(word.split()[0] for word in words)} {instruction.register} ({instruction.flag})'
        print(f'| {instruction.precision} | {name} | {median(found):.0f} | {max(found):.0f} |', flush=True)


if __name__ == '__main__':
    run_tool(main)
