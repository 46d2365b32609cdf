"""The HTTP door: one module a resource."""
