"""The table of measurements, each beside its raw probe."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.pinned import Memory
from benchmarks.traffic import Rate

HEAD = ("measure", "service", "raw probe", "probe", "ratio")
IS_NUMBER = (False, True, False, True, True)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    measure: str
    service: str
    probe_name: str
    probe: str
    ratio: str


def rate_row(measure: str, service: float, probe_name: str, probe: float) -> Row:
    return Row(measure, f"{service:,.0f}", probe_name, f"{probe:,.0f}", f"{service / probe:.2f}")


def latency_row(measure: str, service: Rate, probe_name: str, probe: Rate) -> Row:
    return Row(
        measure,
        f"{service.p50_ms:.2f} / {service.p99_ms:.2f} ms",
        probe_name,
        f"{probe.p50_ms:.2f} / {probe.p99_ms:.2f} ms",
        f"{service.p50_ms / probe.p50_ms:.1f} / {service.p99_ms / probe.p99_ms:.1f}",
    )


def seconds_row(measure: str, service: float, probe_name: str, probe: float) -> Row:
    return Row(measure, f"{service * 1000:,.0f} ms", probe_name, f"{probe * 1000:,.0f} ms", f"{service / probe:.2f}")


def memory_row(measure: str, memory: Memory) -> Row:
    return Row(
        measure,
        f"{memory.service:,.0f} MiB",
        "PostgreSQL / Valkey",
        f"{memory.postgres:,.0f} / {memory.valkey:,.0f} MiB",
        "",
    )


def layout(rows: Sequence[Row]) -> str:
    """Lay the rows out as Markdown, with columns that are aligned in terminals as well."""
    cells = [HEAD, *((row.measure, row.service, row.probe_name, row.probe, row.ratio) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEAD))]
    columns = list(zip(widths, IS_NUMBER, strict=True))
    rule = "|".join("-" * (width + 1) + (":" if is_number else "-") for width, is_number in columns)
    lines = [
        " | ".join(
            cell.rjust(width) if is_number else cell.ljust(width)
            for cell, (width, is_number) in zip(line, columns, strict=True)
        )
        for line in cells
    ]
    return "\n".join([f"| {lines[0]} |", f"|{rule}|", *(f"| {line} |" for line in lines[1:])])
