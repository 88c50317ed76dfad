-- Whether a client has ever sent a heartbeat while it worked for a round. One that has not is awaited until the deadline, also
-- after a restart. The clients of older versions sent them, or were given up without them.
ALTER TABLE clients ADD COLUMN sends_heartbeats INTEGER NOT NULL DEFAULT 0 CHECK (sends_heartbeats IN (0, 1));
UPDATE clients SET sends_heartbeats = 1;

-- Since when the run is archived: it takes no clients and opens no rounds, and can be read. NULL: it is not.
ALTER TABLE runs ADD COLUMN archived_ms INTEGER;
