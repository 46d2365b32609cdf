"""How a replica's file has ids and versions: 64 bits, big-endian, as PostgreSQL sends them."""

import struct
from typing import Final, TypeAlias

import lmdb

KEY: Final = struct.Struct(">q")

# As text: at run time, lmdb has neither.
Table: TypeAlias = "lmdb._Database"  # noqa: SLF001 - the stub has no other name
Transaction: TypeAlias = "lmdb.Transaction[bytes]"
