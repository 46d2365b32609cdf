-- The clock, the locks that all writers agree on, and buckets.

-- Every time that is written comes from here, after the last lock of its transaction.
CREATE OR REPLACE FUNCTION clock_instant() RETURNS timestamptz
    LANGUAGE sql VOLATILE PARALLEL SAFE
    RETURN clock_timestamp();

-- The instant that a reading statement speaks for. Stable, so that an index can be asked with it.
CREATE OR REPLACE FUNCTION reading_instant() RETURNS timestamptz
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN statement_timestamp();

-- Where a user falls in a rollout: 0 to 2^32 - 1. The same function stands in domain/bucketing.py.
CREATE OR REPLACE FUNCTION bucket(user_id bigint, salt bigint) RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN hashint8extended(user_id, salt) & 4294967295;

-- Writers share this lock; whoever changes segments or rollouts takes it alone. So an event's `effective` is
-- judged by the rollouts that hold at its instant, and no row lock on a popular segment queues.
CREATE OR REPLACE FUNCTION catalog_lock() RETURNS bigint LANGUAGE sql IMMUTABLE RETURN 7236837901;
CREATE OR REPLACE FUNCTION partition_lock() RETURNS bigint LANGUAGE sql IMMUTABLE RETURN 7236837902;
-- Orders of reports, and builds that ask for room, come one after the other: each counts what those before it took.
CREATE OR REPLACE FUNCTION report_lock() RETURNS bigint LANGUAGE sql IMMUTABLE RETURN 7236837904;
