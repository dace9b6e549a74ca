"""Tables for people."""

from collections.abc import Iterable, Sequence


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows under headings; long cells fold on a screen and stay whole in a pipe."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))

    class Output(Console):
        def on_broken_pipe(self) -> None:
            """Leave it to `main`, which ends as a shell expects; rich would exit with code 1."""
            raise

    console = Output()
    if not console.is_terminal:
        console = Output(width=10_000)
    console.print(table)


def format_bytes(count: float) -> str:
    """Write a size in decimal units and three figures, such as `19.5 MB`."""
    units = ["B", "kB", "MB", "GB", "TB"]
    while count >= 999.5 and len(units) > 1:
        count /= 1000
        units.pop(0)
    return f"{count:.3g} {units[0]}"
