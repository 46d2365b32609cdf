"""Who is calling: API tokens and JWTs."""
