"""The messages of gRPC, written by `make proto`."""
