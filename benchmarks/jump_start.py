"""The three regimes of a jump-started run: stuck, rising, off.

    python benchmarks/jump_start.py --run runs/js --out docs/images/jump_start.svg

draws the reward, the teacher's answers and the weight of the loss from the metrics of `toddle jumpstart --out runs/js`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from toddle.reporting.jump_start import regimes, went_off
from toddle.reporting.study import standalone
from toddle.runs.metrics import read_metrics


def main() -> None:
    """Draw one run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("docs/images/jump_start.svg"))
    options = parser.parse_args()
    lines = read_metrics(options.run)
    options.out.write_text(standalone(regimes(lines)))
    print(f"{options.out}: off after {went_off(lines)} control steps")


if __name__ == "__main__":
    main()
