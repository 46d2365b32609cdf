"""The doors to the use cases."""
