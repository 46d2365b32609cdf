"""Report files: how they are built, where they are stored, and their signed links."""
