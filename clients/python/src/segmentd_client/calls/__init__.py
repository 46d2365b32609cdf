"""Every call of the service as a pure function: from its arguments to the request and the answer's reader."""
