"""The client for asyncio and trio. The package `synchronous` is written from this one by `make client`."""
