"""What commands print to."""

from rich.console import Console

console = Console()


def plain(text: str) -> str:
    """Text that is not ours, without the meaning that square brackets have for the console."""
    return text.replace("[", "\\[")
