-- What a round needs to go on after a restart, and what the ingest gate holds against a client.

ALTER TABLE clients ADD COLUMN quarantined INTEGER NOT NULL DEFAULT 0 CHECK (quarantined IN (0, 1));
ALTER TABLE clients ADD COLUMN strikes INTEGER NOT NULL DEFAULT 0 CHECK (strikes >= 0);
ALTER TABLE clients ADD COLUMN late_updates INTEGER NOT NULL DEFAULT 0 CHECK (late_updates >= 0);
ALTER TABLE clients ADD COLUMN error TEXT; -- why its last update was refused

ALTER TABLE rounds ADD COLUMN target INTEGER NOT NULL DEFAULT 1 CHECK (target >= 1);
ALTER TABLE rounds ADD COLUMN mean_staleness REAL;

-- Of asynchronous runs: the client may have been asked in an earlier round, from an earlier version.
ALTER TABLE contributions ADD COLUMN asked_round INTEGER NOT NULL DEFAULT 0;
ALTER TABLE contributions ADD COLUMN asked_version INTEGER NOT NULL DEFAULT 0;
UPDATE contributions SET asked_round = round;
UPDATE contributions SET asked_version = (
    SELECT base_version FROM rounds WHERE rounds.run = contributions.run AND rounds.number = contributions.round
);
-- The update itself: L2 distance from the version it was trained from; its file under incoming/, until the round is over,
-- and how that is written: 'container', 'safetensors' or 'safetensors+zstd'.
ALTER TABLE contributions ADD COLUMN norm REAL;
ALTER TABLE contributions ADD COLUMN file TEXT;
ALTER TABLE contributions ADD COLUMN format TEXT;
CREATE INDEX contributions_by_client ON contributions (run, client, asked_round);

-- Until now updates of a round were lost with the coordinator, and so are those of the one that is open: asked for again.
UPDATE contributions SET sha256 = NULL, bytes = NULL, samples = NULL, loss = NULL, received_ms = NULL
WHERE EXISTS (
    SELECT 1 FROM rounds
    WHERE rounds.run = contributions.run AND rounds.number = contributions.round AND rounds.status = 'open'
);
