-- API tokens, and the keys that sign the links of reports.

-- Makes a token. Raises unique_violation where a token in force has the name, or any token has the secret.
CREATE OR REPLACE FUNCTION create_token(
    p_name text, p_role text, p_digest bytea, p_expires_at timestamptz, p_actor text,
    p_on_behalf_of text DEFAULT NULL
) RETURNS SETOF tokens
    LANGUAGE plpgsql AS $$
DECLARE
    token tokens;
BEGIN
    UPDATE access SET version = version + 1;
    INSERT INTO tokens (name, role, digest, created_at, expires_at)
    VALUES (p_name, p_role, p_digest, clock_instant(), p_expires_at)
    RETURNING * INTO token;
    PERFORM note_in_audit_log(
        p_actor, p_on_behalf_of, 'token-created', p_name, NULL, jsonb_build_object('role', p_role, 'expires_at', p_expires_at)
    );
    RETURN NEXT token;
END
$$;

-- Revokes a token. No row: no token in force has the name.
CREATE OR REPLACE FUNCTION revoke_token(p_name text, p_actor text, p_on_behalf_of text DEFAULT NULL)
    RETURNS SETOF tokens
    LANGUAGE plpgsql AS $$
DECLARE
    token tokens;
BEGIN
    UPDATE access SET version = version + 1;
    UPDATE tokens t
    SET revoked_at = greatest(clock_instant(), t.created_at)
    WHERE t.name = p_name AND t.revoked_at IS NULL
    RETURNING * INTO token;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    PERFORM note_in_audit_log(
        p_actor, p_on_behalf_of, 'token-revoked', p_name,
        jsonb_build_object('role', token.role, 'expires_at', token.expires_at), NULL
    );
    RETURN NEXT token;
END
$$;

-- Records that these tokens were used today (UTC); writes at most once a day for each token.
CREATE OR REPLACE FUNCTION note_tokens_used(p_ids bigint[]) RETURNS void
    LANGUAGE sql AS $$
    UPDATE tokens
    SET last_used_on = (clock_instant() AT TIME ZONE 'UTC')::date
    WHERE id = ANY (p_ids) AND last_used_on IS DISTINCT FROM (clock_instant() AT TIME ZONE 'UTC')::date
$$;

-- Makes a new key that signs links from now on. The older keys verify links for `p_keep` more.
CREATE OR REPLACE FUNCTION replace_signing_key(p_keep interval, p_actor text) RETURNS void
    LANGUAGE sql AS $$
    UPDATE signing_keys
    SET good_until = clock_instant() + p_keep
    WHERE good_until IS NULL OR good_until > clock_instant() + p_keep;
    INSERT INTO signing_keys (key) VALUES (uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()));
    SELECT note_in_audit_log(p_actor, NULL, 'signing-key-replaced', NULL, NULL, NULL);
$$;
