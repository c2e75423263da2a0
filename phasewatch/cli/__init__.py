"""The command `phasewatch`: runs on a server, on a terminal or as JSON. It speaks HTTP only.

    phasewatch runs                         what there is
    phasewatch show RUN                     one run: its metrics, measures and phase changes
    phasewatch train CONFIG.toml --follow   queue a run for a trainer, and watch it
    phasewatch compare RUN RUN …            when each changed, and what it learnt, against size and treatment
    phasewatch study sandwich               train treatments with several seeds, and report when each changed
    phasewatch measures                     what can be measured; `phasewatch measure RUN NAME…` asks for it
    phasewatch export RUN --out FILE        a run as Parquet tables or NumPy arrays
    phasewatch jobs list                    the queue; `show`, `retry`, `cancel`
    phasewatch token list                   who may ask; `create` shows a token once, `revoke` ends one
    phasewatch monitor list                 scheduled watches; `add`, `edit`, `fire`, `firings`, `remove`
    phasewatch channel add NAME ADDRESS     where alerts go; `list`, `test`, `remove`; `phasewatch alerts`: what went
    phasewatch send                         what a recorder could not send before its process ended
    phasewatch group add RUN NAME …         follow the loss of a set of tokens, such as closing brackets

Errors are one line on standard error and exit status 1; a wrong call is status 2.
"""

from __future__ import annotations

from phasewatch.cli.application import app


def main() -> None:
    """Runs the command with the arguments of this process."""
    app()


__all__ = ["app", "main"]
