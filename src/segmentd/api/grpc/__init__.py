"""The gRPC door: one module a service."""
