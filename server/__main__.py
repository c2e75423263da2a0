"""`python -m server`: the service in one process, or one of its parts; `python -m server --help` lists them.

Nothing is imported or done when this file is only imported, which every child process of the executor does.
"""

from __future__ import annotations

if __name__ == "__main__":
    from server.commands import main

    main()
