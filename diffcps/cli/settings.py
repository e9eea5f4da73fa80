"""``diffcps settings``: every setting that ``--set``, ``--vary`` and ``--search`` reach."""

from dataclasses import dataclass
from typing import Annotated

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from diffcps.algorithms import names
from diffcps.text import worded


@dataclass(frozen=True)
class Settings:
    """List the settings of an algorithm: defaults, values and meanings. Tasks and profiles change some of the defaults."""

    algorithm: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="|".join(names()))] = "diffcps"
    """Name of the algorithm."""

    def __call__(self) -> None:
        """Print them."""
        from diffcps.runs.settings import settings

        table = Table("setting", "default", "meaning and values", box=None)
        for setting in settings(self.algorithm).values():
            default = ", ".join(setting.default) if isinstance(setting.default, tuple) else worded(setting.default)
            search = f"; searched: {setting.search}" if setting.search else ""
            name = f"{setting.name} *" if setting.of_member else setting.name
            table.add_row(name, default, escape(f"{setting.help} ({setting.values}{search})"))
        console = Console(highlight=False)
        console.print(table)
        console.print("\n* may differ between the seeds of a trial; searched: by --preset search", markup=False)
