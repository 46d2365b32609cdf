"""What a segment, a membership, a bucket and a period are: rules without I/O, clock or settings."""
