"""The making of report files, where they are kept, and their signed links."""
