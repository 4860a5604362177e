"""The `smallmind` command. Its packages come with the extra `demo`."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of the console script; also `python -m smallmind.cli`."""
    try:
        import rich  # noqa: F401
        import typer  # noqa: F401
    except ImportError as error:
        print(
            f"smallmind: MissingExtraError: the command line needs {error.name}, which comes with "
            "the extra 'demo': pip install 'smallmind[demo]'",
            file=sys.stderr,
        )
        raise SystemExit(2) from None
    from .app import run

    run()
