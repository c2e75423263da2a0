"""Every error phasewatch raises on purpose, as one tree.

    PhasewatchError
    ├── InvalidInput            (also a ValueError) a value that cannot be used: shape, dtype, name, range
    │   ├── UnsupportedMedia    bytes of a kind that is never read: a pickle, an array of objects
    │   ├── TooLarge            more bytes or values than the limit allows
    │   ├── AddressRefused      an address that the service may not send to: private, local, or written to deceive
    │   ├── InvalidSignature    a webhook that was not signed with the secret, or too long ago
    │   └── UnknownSlice        (also a NotFound) losses sent for a slice that the run's probe set does not have
    ├── NotFound                the thing named does not exist
    ├── Conflict                something different is already stored under the same key
    ├── Unavailable             database, disk or server out of reach; trying again later may work
    ├── AttentionNotSeen        a model computed no attention that the tap knows
    ├── ModelNotRebuilt         a checkpoint does not say how to build its model, or says it wrongly
    ├── SchemaMismatch          the database's schema is older or newer than this code
    └── RecorderClosed          a recorder was used before it was opened or after it was closed

A message names the thing, the number and what to do. HTTP statuses are the server's business (server/problems.py).
"""

from __future__ import annotations


class PhasewatchError(Exception):
    """Base of every error that phasewatch raises on purpose."""


class InvalidInput(PhasewatchError, ValueError):
    """A value that cannot be used: wrong shape, dtype, name or range."""


class UnsupportedMedia(InvalidInput):
    """Bytes of a kind that is never read, such as a pickle."""


class TooLarge(InvalidInput):
    """More bytes or values than the limit allows."""


class AddressRefused(InvalidInput):
    """An address that the service may not send to: private, local, or written to deceive."""


class InvalidSignature(InvalidInput):
    """A webhook that was not signed with the secret, or too long ago."""


class NotFound(PhasewatchError):
    """The thing named does not exist."""


class UnknownSlice(InvalidInput, NotFound):
    """Losses were sent for a slice that the run's probe set does not have."""


class Conflict(PhasewatchError):
    """Something different is already stored under the same key."""


class Unavailable(PhasewatchError):
    """Database, disk or server out of reach; trying again later may work."""


class AttentionNotSeen(PhasewatchError):
    """A model computed no attention that the tap knows."""


class ModelNotRebuilt(PhasewatchError):
    """A checkpoint does not say how to build its model, or says it wrongly."""


class SchemaMismatch(PhasewatchError):
    """The database's schema is older or newer than this code."""


class RecorderClosed(PhasewatchError):
    """A recorder was used before it was opened or after it was closed."""
