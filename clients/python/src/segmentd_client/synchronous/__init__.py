"""The client for programs without asyncio, written by `make client`."""
