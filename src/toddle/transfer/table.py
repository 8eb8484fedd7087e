"""The table of a conversion: what was kept exactly, what is new, and how far each part is from its source."""

from __future__ import annotations

import re
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import Tensor

from toddle.transfer.convert import Conversion, Convertible
from toddle.transfer.levels import Level

__all__ = ["components", "conversion_record", "print_record"]


def _component(name: str) -> str:
    """Name the part a tensor belongs to: its module without the last layers."""
    for pattern in (
        r"^(trunk\.blocks\.\d+\.\w+)",
        r"^(trunk\.\w+)",
        r"^(tokens\.\w+\.mlps\.[^.]+)",
        r"^(tokens\.\w+)",
        r"^(out\.mlps\.[^.]+)",
        r"^(sidecar\.\w+)",
        r"^(adapter)",
    ):
        if match := re.match(pattern, name):
            return match[1]
    return name


def _distance(new: Tensor, old: Tensor | None) -> float | None:
    """Return the relative distance |new - old| / |old|, or None without a source of that shape."""
    if old is None or old.shape != new.shape:
        return None
    new, old = new.double(), old.double()
    return ((new - old).norm() / old.norm().clamp(min=1e-12)).item()


def components(policy: Convertible, made: Conversion) -> list[dict[str, Any]]:
    """Return one row a part: name, numbers in it, what it is, and its greatest relative distance from the source."""
    source = policy.expert.state_dict()
    tensors = dict(made.expert.state_dict())
    tensors |= {f"adapter.{name}": value for name, value in made.adapter.state_dict().items()}
    rows: dict[str, dict[str, Any]] = {}
    for name, value in tensors.items():
        status = made.status.get(name, "new")
        row = rows.setdefault(_component(name), {"numbers": 0, "statuses": [], "distances": []})
        row["numbers"] += value.numel()
        if status not in row["statuses"]:
            row["statuses"].append(status)
        if status.startswith("kept"):
            origin = policy.goals.null if name == "adapter.1.bias" else source.get(made.origin.get(name, ""))
            row["distances"].append(_distance(value, origin))
    table = []
    for name, row in rows.items():
        known = [distance for distance in row["distances"] if distance is not None]
        table.append(
            {
                "part": name,
                "numbers": row["numbers"],
                "status": "; ".join(row["statuses"]),
                "distance": max(known) if known else None,
            }
        )
    return table


def conversion_record(policy: Convertible, made: Conversion, levels: list[Level]) -> dict[str, Any]:
    """Return the whole record as JSON values: parts, levels, totals."""
    parts = components(policy, made)
    state = made.expert.state_dict()
    kept = sum(value.numel() for name, value in state.items() if made.status.get(name, "new").startswith("kept"))
    total = sum(value.numel() for value in state.values())
    before = sum(value.numel() for value in policy.expert.state_dict().values())
    return {
        "parts": parts,
        "levels": [
            {
                "level": level.name,
                "what": level.what,
                "deviation": level.deviation,
                "tolerance": level.tolerance,
                "kept": None if level.tolerance is None else level.kept,
            }
            for level in levels
        ],
        "numbers": {
            "source": before,
            "expert": total,
            "kept": kept,
            "removed": sum(value.numel() for value in made.removed.values()),
        },
    }


def _by_kind(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Join the same part of several blocks where status and distance agree, so that a deep trunk fits on a page."""
    joined: dict[tuple[str, str, float | None], dict[str, Any]] = {}
    for row in parts:
        match = re.match(r"^trunk\.blocks\.(\d+)\.(\w+)$", row["part"])
        kind = f"trunk.blocks.*.{match[2]}" if match else row["part"]
        found = joined.setdefault((kind, row["status"], row["distance"]), {**row, "numbers": 0, "blocks": []})
        found["numbers"] += row["numbers"]
        found["blocks"] += [match[1]] if match else []
    for (kind, _, _), row in joined.items():
        row["part"] = kind.replace("*", ",".join(row["blocks"]))
    return list(joined.values())


def print_record(record: dict[str, Any]) -> None:
    """Print the table of parts and the levels."""
    table = Table(title="what became of the policy", title_justify="left")
    for name in ("part", "numbers", "is", "distance from its source"):
        table.add_column(name, justify="right" if name == "numbers" else "left")
    for row in _by_kind(record["parts"]):
        far = "" if row["distance"] is None else "0 (exact)" if row["distance"] == 0 else f"{row['distance']:.1e}"
        table.add_row(row["part"], f"{row['numbers']:,}", row["status"], far)
    levels = Table(title="how much of its function was kept", title_justify="left")
    for name in ("level", "what", "largest deviation", "within", "kept"):
        levels.add_column(name)
    for row in record["levels"]:
        promised = row["tolerance"] is not None
        levels.add_row(
            row["level"],
            row["what"],
            f"{row['deviation']:.1e}",
            f"{row['tolerance']:.0e}" if promised else "not promised",
            ("yes" if row["kept"] else "NO") if promised else "-",
        )
    console = Console()
    console.print(table)
    console.print(levels)
    numbers = record["numbers"]
    console.print(f"{numbers['kept']:,} of {numbers['expert']:,} numbers come from the policy's {numbers['source']:,}")
