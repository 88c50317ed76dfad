-- A round that takes no more updates is combined with what it has, also after a restart; `reason` says why it closed.
ALTER TABLE rounds ADD COLUMN closed_ms INTEGER;
ALTER TABLE rounds ADD COLUMN closed_by_operator INTEGER NOT NULL DEFAULT 0 CHECK (closed_by_operator IN (0, 1));
